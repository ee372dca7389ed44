// Package oidc signs people in at any OpenID Connect provider: the code flow
// with PKCE and nonce, by github.com/coreos/go-oidc with the checks around it
// that the library leaves to its caller (docs/security.md, section 8). Google
// and GitLab are this connector with a Flavour.
package oidc

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/jwks"
)

const (
	// patience bounds all calls of one sign-in or one renewal together.
	patience = 25 * time.Second
	// checkPatience bounds the question whether the provider is there.
	checkPatience = 8 * time.Second
	// skew is how far the provider's clock may be from ours.
	skew = time.Minute
)

// Flavour is what a provider does in its own way. The zero value is a provider
// that keeps to the specification.
type Flavour struct {
	// Scopes replaces the default ones.
	Scopes []string
	// Params are added to the departure.
	Params url.Values
	// Prompt is the default of the key of that name.
	Prompt string
	// FreshPrompt is what asks for a fresh proof; default "login".
	FreshPrompt string
	// NoAuthTime: the provider does not say when it asked for a proof, so that
	// a fresh one cannot be told from an old one.
	NoAuthTime bool
	// Trusted are more hosts that the operator wrote.
	Trusted []string
	// Accept is called with all that was proved, before anybody is signed in or
	// renewed. It may change the identity or refuse it.
	Accept func(ctx context.Context, p Proof, id *connectors.Identity) error
	// Check asks whether what Accept needs is there; may be nil.
	Check func(ctx context.Context, hc *http.Client) error
}

// Proof is what a provider said about somebody.
type Proof struct {
	// IDToken are the claims of a verified ID token: of this one, or at a
	// renewal without any, of the last.
	IDToken map[string]any
	// UserInfo are the claims of the userinfo endpoint; nil if it was not asked.
	UserInfo map[string]any
	// AccessToken is good for the provider's API.
	AccessToken string
	// HTTP is the connector's outgoing client.
	HTTP *http.Client
}

// Connector signs people in at one provider.
type Connector struct {
	id      string
	cfg     *Config
	flavour Flavour
	client  *http.Client
	log     *slog.Logger
	now     func() time.Time
	mapping map[string]connectors.Mapping
	key     redact.Box[crypto.Signer] // of private_key_jwt; nil for another method
	lazy    lazy
	keys    *jwks.Keys
}

var (
	_ connectors.RedirectConnector = (*Connector)(nil)
	_ connectors.Renewer           = (*Connector)(nil)
	_ connectors.LogoutConnector   = (*Connector)(nil)
	_ connectors.LogoutReceiver    = (*Connector)(nil)
)

// Open makes the connector. It calls nobody.
func Open(env connectors.Env, cfg Config) (connectors.Connector, error) {
	c, err := New(env, cfg, Flavour{})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// New makes the connector of a provider that is like others in most.
func New(env connectors.Env, cfg Config, f Flavour) (*Connector, error) {
	for _, p := range cfg.Problems() {
		if !p.Warning {
			return nil, p
		}
	}
	hc, err := env.HTTP(cfg.Proxy, cfg.CAFile, append(cfg.trusted(), f.Trusted...)...)
	if err != nil {
		return nil, fmt.Errorf("oidc: outgoing client: %w", err)
	}
	// A redirect would take the client's secret or somebody's token along.
	own := *hc
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Connector{id: env.ID, cfg: &cfg, flavour: f, client: &own, log: env.Log, now: env.Now, mapping: map[string]connectors.Mapping{}}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	for _, e := range cfg.Expressions() {
		if env.Mapping == nil {
			return nil, errors.New("oidc: claims: there is nothing here that compiles expressions")
		}
		name := strings.TrimSuffix(strings.TrimPrefix(e.Field, "Claims["), "]")
		if c.mapping[name], err = env.Mapping(e.Source); err != nil {
			return nil, fmt.Errorf("oidc: claims.%s: %w", name, err)
		}
	}
	if !cfg.PrivateKey.IsZero() {
		key, err := ParsePrivateKey(cfg.PrivateKey.Reveal())
		if err != nil {
			return nil, fmt.Errorf("oidc: private_key: %w", err)
		}
		c.key = redact.Hide(key)
	}
	c.lazy.init()
	c.keys = jwks.New(jwks.Config{Name: "oidc", Now: c.now, Log: c.log, Fetch: func(ctx context.Context, address string) ([]byte, error) {
		return c.fetch(ctx, address, "", jwks.MaxBody)
	}})
	return c, nil
}

// Check asks for the discovery document and the keys afresh.
func (c *Connector) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	p, err := c.lazy.ask(ctx, c)
	if err != nil {
		return err
	}
	if _, err := c.keys.Get(ctx, p.JWKS); err != nil || c.flavour.Check == nil {
		return err
	}
	return c.flavour.Check(ctx, c.client)
}

// secret is a Departure's: what proves later that the answer belongs to it.
type secret struct {
	Verifier string `json:"v"`
	Nonce    string `json:"n"`
	// Fresh is when a fresh proof was asked for, in Unix seconds; 0 is never.
	Fresh int64 `json:"f,omitempty"`
}

// Begin sends the browser to the provider, with PKCE and a nonce
// (docs/security.md UP-3).
func (c *Connector) Begin(ctx context.Context, a connectors.Attempt) (connectors.Departure, error) {
	p, err := c.lazy.get(ctx, c)
	if err != nil {
		return connectors.Departure{}, err
	}
	s := secret{Verifier: oauth2.GenerateVerifier(), Nonce: rand.Text()}
	opts := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(s.Verifier), oauth2.SetAuthURLParam("nonce", s.Nonce)}
	add := func(k, v string) {
		if v != "" {
			opts = append(opts, oauth2.SetAuthURLParam(k, v))
		}
	}
	for k, v := range c.flavour.Params {
		add(k, strings.Join(v, " "))
	}
	add("login_hint", a.LoginHint)
	prompt := strings.Fields(c.cfg.Prompt)
	if len(prompt) == 0 {
		prompt = strings.Fields(c.flavour.Prompt)
	}
	if a.ForceAuthn {
		s.Fresh = c.now().Unix()
		fresh := c.flavour.FreshPrompt
		if fresh == "" {
			fresh = "login"
		}
		if prompt = slices.DeleteFunc(prompt, func(w string) bool { return w == "none" }); !slices.Contains(prompt, fresh) {
			prompt = append(prompt, fresh)
		}
		if !c.flavour.NoAuthTime {
			add("max_age", "0")
		}
	}
	add("prompt", strings.Join(prompt, " "))
	sealed, err := json.Marshal(s)
	if err != nil {
		return connectors.Departure{}, fmt.Errorf("oidc: %w", err)
	}
	oc := c.oauth(p, a.CallbackURL)
	return connectors.Departure{URL: oc.AuthCodeURL(a.ID, opts...), Secret: sealed}, nil
}

// Finish checks what came back and redeems the code. The broker has compared
// the state: it found the attempt by it.
func (c *Connector) Finish(ctx context.Context, a connectors.Attempt, sealed []byte, r connectors.Return) (connectors.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p, err := c.lazy.get(ctx, c)
	if err != nil {
		return connectors.Identity{}, err
	}
	code, err := returned(r.Params, p)
	if err != nil {
		return connectors.Identity{}, err
	}
	var s secret
	if json.Unmarshal(sealed, &s) != nil || s.Verifier == "" || s.Nonce == "" {
		return connectors.Identity{}, errors.New("oidc: the attempt has no PKCE verifier and no nonce")
	}
	t, err := c.exchange(ctx, p, code, s.Verifier, a.CallbackURL)
	if err != nil {
		return connectors.Identity{}, err
	}
	it, err := c.verify(ctx, p, t.idToken, expect{nonce: s.Nonce, mustNonce: true, access: t.access, fresh: s.Fresh})
	if err != nil {
		return connectors.Identity{}, err
	}
	return c.identify(ctx, p, t, it, nil, s.Nonce)
}

// returned reads what the browser brought back. Every answer names its issuer
// where the provider does so, an error too (RFC 9207, docs/security.md UP-2).
func returned(v url.Values, p *provider) (string, error) {
	switch iss := v["iss"]; {
	case len(iss) > 1:
		return "", errors.New("oidc: the answer names several issuers")
	case len(iss) == 1 && iss[0] != p.Issuer:
		return "", errors.New("oidc: the answer is of another issuer (RFC 9207)")
	case len(iss) == 0 && p.IssParameter:
		return "", errors.New("oidc: the answer does not name its issuer, and this provider's always do (RFC 9207)")
	}
	if e := v.Get("error"); e == "access_denied" {
		return "", fmt.Errorf("oidc: %w", connectors.ErrCancelled)
	} else if e != "" {
		// Anybody can write this address, so that its words stay out of the log.
		return "", fmt.Errorf("oidc: the provider's page answered %s", word(e))
	}
	code := v["code"]
	if len(code) != 1 || !opaque(code[0]) {
		return "", errors.New("oidc: the answer of the provider's page has no code")
	}
	return code[0], nil
}

// opaque reports whether s can be a token or a code: printable and of sane size.
func opaque(s string) bool {
	return s != "" && len(s) <= maxToken && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// word returns an error code as it may stand in a log.
func word(s string) string {
	if s == "" || len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != ' '
	}) {
		return "an unreadable error"
	}
	return s
}
