package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"

	"github.com/remotegpu/gatehouse/broker/apikey"
	"github.com/remotegpu/gatehouse/cmd/gatehouse/internal/userclient"
)

type whoamiCmd struct {
	account
	JSON bool `help:"Print JSON."`
}

// Run says who is signed in, as the server sees it.
func (c whoamiCmd) Run(e env, _ *kong.Kong) error {
	w := speak()
	v, err := c.view(e, w)
	if err != nil {
		return e.fail(w, c.JSON, err)
	}
	if c.JSON {
		return e.printLine(v)
	}
	tw := tabwriter.NewWriter(e.stdout, 2, 4, 2, ' ', 0)
	line := func(key, text string) {
		if text != "" {
			fmt.Fprintf(tw, "%s\t%s\n", w.say(key), text)
		}
	}
	who := v.Label()
	if v.Name != "" && v.Name != who {
		who += " (" + v.Name + ")"
	}
	line("user", who)
	line("issuer", v.Issuer)
	line("method", v.Connector)
	line("scopes", v.Scope)
	if !v.Token.IsZero() {
		line("token", w.say("good until", w.clock(v.Token)))
	}
	if !v.Last.IsZero() {
		line("session", w.life(userclient.Ends{Unused: v.Unused, Last: v.Last}))
	}
	line("kept in", v.KeptIn)
	line("profile", v.Profile)
	return tw.Flush()
}

func (c whoamiCmd) view(e env, w words) (signInView, error) {
	client, bearer, s, err := c.bearer()
	if err != nil {
		return signInView{}, err
	}
	checked := true
	if s == nil {
		v := signInView{Result: "signed_in", Issuer: client.Issuer(), KeptIn: "GATEHOUSE_TOKEN", Checked: &checked}
		v.Identity, err = given(e.ctx, client)
		return v, err
	}
	t, err := bearer(e.ctx)
	var who userclient.Identity
	if err == nil {
		who, err = client.UserInfo(e.ctx, t.Value)
	}
	if err != nil && !errors.Is(err, userclient.ErrUnreachable) {
		return signInView{}, ended(err)
	}
	p, lerr := s.Store.Load(s.Name)
	if lerr != nil {
		return signInView{}, lerr
	}
	v := profileView(s.Store, p, "signed_in")
	v.Token, v.Checked = t.Expires, &checked
	if err != nil {
		e.note(w.say("unchecked", err))
		checked = false
		return v, nil
	}
	v.Identity = who
	if ends := client.Ends(e.ctx, t.Value); !ends.Last.IsZero() {
		v.Unused, v.Last = ends.Unused, ends.Last
	}
	return v, nil
}

// ended has a token that the server does not take any more count as signed out.
func ended(err error) error {
	if a, ok := errors.AsType[*userclient.AnswerError](err); ok && a.Status == http.StatusUnauthorized {
		return fmt.Errorf("%w: %w", userclient.ErrSignedOut, err)
	}
	return err
}

// given asks whose the environment's token is: an API key's owner by the API, an
// access token's by userinfo.
func given(ctx context.Context, c *userclient.Client) (userclient.Identity, error) {
	token := strings.TrimSpace(os.Getenv("GATEHOUSE_TOKEN"))
	if !apikey.Looks(token) {
		who, err := c.UserInfo(ctx, token)
		return who, ended(err)
	}
	var me struct {
		ID       string `json:"id"`
		Name     string `json:"name"`
		Email    string `json:"email"`
		Username string `json:"username"`
	}
	if err := c.API(ctx, token, http.MethodGet, "/me", nil, &me); err != nil {
		return userclient.Identity{}, ended(err)
	}
	return userclient.Identity{Subject: userclient.Printable(me.ID, 200), Name: userclient.Printable(me.Name, 200),
		Email: userclient.Printable(me.Email, 320), Username: userclient.Printable(me.Username, 200)}, nil
}
