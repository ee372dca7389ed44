package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/alecthomas/kong"

	"github.com/remotegpu/gatehouse/cmd/gatehouse/internal/userclient"
)

// ordinary are the scopes that a sign-in asks for without being told: who one is,
// and what everybody may do with their own account.
var ordinary = []string{"openid", "profile", "email", "groups", "offline_access", "gatehouse:account", "gatehouse:consoles", "gatehouse:storage"}

type loginCmd struct {
	account
	Device     bool     `help:"Sign in by a code that is entered in any browser: for machines without one." xor:"way"`
	Browser    bool     `help:"Sign in by the browser of this machine." xor:"way"`
	NoBrowser  bool     `help:"Open no browser; print the address alone."`
	Fresh      bool     `help:"Have the browser ask anew who you are: for what needs a recent sign-in."`
	Scope      []string `help:"Ask for this beside what is usual, such as gatehouse:admin; repeatable." placeholder:"SCOPE"`
	TokenStore string   `help:"Where tokens are kept: keyring, file, or auto: the keyring if there is one." enum:"auto,keyring,file" default:"auto" env:"GATEHOUSE_TOKEN_STORE"`
	JSON       bool     `help:"Print JSON, a line each: what to open, then what became of it."`
}

// Validate is kong's: what does not fit together is a mistake of usage.
func (c loginCmd) Validate() error {
	if c.Device && c.Fresh {
		return errors.New("--fresh is for the browser of this machine, not for --device")
	}
	return nil
}

// Run signs in.
func (c loginCmd) Run(e env, _ *kong.Kong) error {
	w := speak()
	return e.fail(w, c.JSON, c.login(e, w))
}

func (c loginCmd) login(e env, w words) error {
	store, err := c.store()
	if err != nil {
		return err
	}
	s, ca, err := c.begin(store, w)
	if err != nil {
		return err
	}
	t, err := c.ask(e, w, s.Client)
	if err != nil {
		return err
	}
	ends := s.Client.Ends(e.ctx, t.Access)
	if t.Who.Subject == "" { // no ID token came
		if t.Who, err = s.Client.UserInfo(e.ctx, t.Access); err != nil {
			return err
		}
	}
	useKeyring := c.TokenStore == "keyring" || c.TokenStore == "auto" && store.Keyring.Chosen
	p, why, err := s.SignIn(e.ctx, t, ca, ends, useKeyring)
	if err != nil {
		return err
	}
	if why != nil {
		if c.TokenStore == "keyring" {
			return errors.Join(why, s.SignOut(e.ctx))
		}
		e.note(w.say("keyring", why))
	}
	if os.Getenv("GATEHOUSE_TOKEN") != "" {
		e.note(w.say("token wins"))
	}
	return c.done(e, w, store, p)
}

// begin finds out where to sign in and under which name.
func (c loginCmd) begin(store *userclient.Store, w words) (s *userclient.Session, ca string, err error) {
	issuer, name := c.Issuer, c.Profile
	var p *userclient.Profile
	if issuer != "" {
		if issuer, err = userclient.Normal(issuer); err != nil {
			return nil, "", err
		}
	}
	switch p, err = store.Find(name, issuer); {
	case err == nil && issuer != "" && p.Issuer != issuer:
		return nil, "", errors.New(w.say("other issuer", p.Name, p.Issuer, p.Name))
	case err == nil:
		issuer, name = p.Issuer, p.Name
	case !errors.Is(err, userclient.ErrSignedOut):
		return nil, "", err
	case issuer == "":
		return nil, "", errors.New(w.say("no issuer"))
	case name == "":
		name = userclient.NameFor(issuer)
		if other, err := store.Load(name); err == nil && other.Issuer != issuer {
			return nil, "", errors.New(w.say("other issuer", name, other.Issuer, name))
		}
	}
	if ca, err = absolute(c.CAFile); err != nil {
		return nil, "", err
	}
	if ca == "" && p != nil {
		ca = p.CAFile
	}
	client, err := userclient.New(userclient.Options{Issuer: issuer, CAFile: ca, Version: version})
	if err != nil {
		return nil, "", err
	}
	return &userclient.Session{Store: store, Client: client, Name: name}, ca, nil
}

// errNoBrowser means that another way is to be gone.
var errNoBrowser = errors.New("no browser")

// ask gets the tokens: by the browser of this machine where somebody sits in
// front of it, else by a code, which is also what a browser that does not open
// ends in.
func (c loginCmd) ask(e env, w words, client *userclient.Client) (userclient.Tokens, error) {
	none := userclient.Tokens{}
	viaBrowser, viaDevice, err := client.Offers(e.ctx)
	if err != nil {
		return none, err
	}
	scopes, err := client.Scopes(e.ctx, ordinary)
	if err != nil {
		return none, err
	}
	for _, s := range c.Scope {
		if !slices.Contains(scopes, s) {
			scopes = append(scopes, s)
		}
	}
	screen := !c.NoBrowser && !userclient.Headless(os.Getenv)
	if c.Browser || !c.Device && viaBrowser && (screen || !viaDevice) {
		pages := userclient.Pages{Lang: string(w), Title: w.say("page title"), Done: w.say("page done"), Failed: w.say("page failed")}
		t, err := client.InBrowser(e.ctx, userclient.Wanted{Scopes: scopes, Fresh: c.Fresh}, pages, func(p userclient.Prompt) error {
			return c.show(e, w, p, !c.NoBrowser && (screen || c.Browser), !c.Browser && viaDevice)
		})
		if !errors.Is(err, errNoBrowser) && (c.Browser || !viaDevice || !errors.Is(err, userclient.ErrNoListener)) {
			return t, err
		}
		if !c.JSON {
			fmt.Fprint(e.stdout, w.say("by code"))
		}
		screen = false
	}
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return client.ByDevice(e.ctx, scopes, host, func(p userclient.Prompt) error { return c.show(e, w, p, screen, false) })
}

// show says where to go, and then opens it if that is wanted. A browser that does
// not open is errNoBrowser where there is another way, else it is said.
func (c loginCmd) show(e env, w words, p userclient.Prompt, open, otherWay bool) error {
	if c.JSON {
		v := map[string]any{"authorization_uri": p.URL, "expires_at": p.Expires.UTC().Format(time.RFC3339)}
		if p.Code != "" {
			v = map[string]any{"verification_uri": p.URL, "user_code": p.Code, "expires_at": p.Expires.UTC().Format(time.RFC3339)}
			if p.Complete != "" {
				v["verification_uri_complete"] = p.Complete
			}
		}
		if err := e.printLine(v); err != nil {
			return err
		}
	} else {
		fmt.Fprint(e.stdout, w.say("open", p.URL))
		if p.Code != "" {
			fmt.Fprint(e.stdout, w.say("code", p.Code, int(time.Until(p.Expires).Round(time.Minute)/time.Minute)))
		}
	}
	if open {
		if !c.JSON {
			fmt.Fprint(e.stdout, w.say("opening"))
		}
		to := p.URL
		if p.Complete != "" {
			to = p.Complete
		}
		if err := userclient.OpenBrowser(e.ctx, os.Getenv, to); err != nil {
			if e.ctx.Err() != nil {
				return e.ctx.Err()
			}
			if otherWay {
				return errNoBrowser
			}
			if !c.JSON {
				fmt.Fprint(e.stdout, w.say("not opened"))
			}
		}
	}
	if !c.JSON {
		fmt.Fprint(e.stdout, w.say("waiting"))
	}
	return nil
}

// done says who is signed in and where the tokens are.
func (c loginCmd) done(e env, w words, store *userclient.Store, p *userclient.Profile) error {
	if c.JSON {
		return e.printLine(profileView(store, p, "signed_in"))
	}
	who := p.Who.Label()
	if p.Who.Connector != "" {
		who += " (" + p.Who.Connector + ")"
	}
	fmt.Fprint(e.stdout, w.say("signed in", who), w.say("kept", keptIn(store, p)))
	if !p.Ends.Last.IsZero() {
		fmt.Fprint(e.stdout, w.say("until", w.life(p.Ends)))
	}
	_, err := fmt.Fprintln(e.stdout)
	return err
}

// signInView is a sign-in in --json.
type signInView struct {
	Result  string `json:"result"`
	Profile string `json:"profile,omitempty"`
	Issuer  string `json:"issuer,omitempty"`
	userclient.Identity
	Scope   string    `json:"scope,omitempty"`
	KeptIn  string    `json:"kept_in,omitempty"`
	Token   time.Time `json:"access_token_expires_at,omitzero"`
	Unused  time.Time `json:"session_expires_unused_at,omitzero"`
	Last    time.Time `json:"session_expires_at,omitzero"`
	Checked *bool     `json:"checked,omitempty"` // whoami: the server was asked
}

func profileView(store *userclient.Store, p *userclient.Profile, result string) signInView {
	return signInView{Result: result, Profile: p.Name, Issuer: p.Issuer, Identity: p.Who, Scope: p.Scope, KeptIn: keptIn(store, p), Unused: p.Ends.Unused, Last: p.Ends.Last}
}

// printLine writes one line of JSON.
func (e env) printLine(v any) error { return json.NewEncoder(e.stdout).Encode(v) }
