// Package google signs people in with their Google account: the connector of
// connectors/oidc, and what Google does in its own way. A Workspace is known by
// the hd claim of the verified ID token, never by an address (docs/security.md
// UP-6); its groups come from the Directory API.
package google

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/oidc"
)

const issuer = "https://accounts.google.com"

// Config is the `google` section.
type Config struct {
	ClientID     string        `yaml:"client_id"`
	ClientSecret redact.String `yaml:"client_secret"`
	RedirectURI  string        `yaml:"redirect_uri"`
	Scopes       []string      `yaml:"scopes"` // openid is added
	// HostedDomains limits who may sign in to accounts of these Workspaces.
	HostedDomains []string `yaml:"hosted_domains,some"`
	// Prompt is sent with every departure. The default is the choice of the
	// account; with hosted_domains also consent, without which Google gives a
	// refresh token at the very first sign-in only.
	Prompt string `yaml:"prompt"`
	// Directory reads the groups of Workspace accounts.
	Directory Directory `yaml:"directory"`

	Proxy  string `yaml:"proxy"`
	CAFile string `yaml:"ca_file"`

	// What stands in for Google: an issuer with a discovery document of its own,
	// or single endpoints.
	Issuer       string `yaml:"issuer"`
	AuthorizeURL string `yaml:"authorize_url"`
	TokenURL     string `yaml:"token_url"`
	JWKSURL      string `yaml:"jwks_url"`
	UserInfoURL  string `yaml:"userinfo_url"`
}

// Problems complains about what Google would refuse.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	if c.ClientID == "" {
		add("ClientID", "google.client_id", "client_id is missing: it names this installation at Google.", "the client ID of an OAuth client of type Web application")
	}
	if c.ClientSecret.IsZero() {
		add("ClientSecret", "google.client_secret", "client_secret is missing: Google gives no token without it.", "the client secret of the OAuth client")
	}
	for i, d := range c.HostedDomains {
		if !domainShape(d) {
			add(fmt.Sprintf("HostedDomains[%d]", i), "google.hosted_domain", fmt.Sprintf("%q cannot be the domain of a Workspace, so nobody would be of it.", d), "the primary domain: acme.com")
		}
	}
	for _, f := range []struct{ field, value string }{
		{"RedirectURI", c.RedirectURI}, {"Issuer", c.Issuer}, {"AuthorizeURL", c.AuthorizeURL}, {"TokenURL", c.TokenURL},
		{"JWKSURL", c.JWKSURL}, {"UserInfoURL", c.UserInfoURL},
	} {
		if f.value != "" {
			ps = append(ps, oidc.AddressProblems(f.field, "google.url", f.value)...)
		}
	}
	if slices.Contains(strings.Fields(c.Prompt), "none") {
		add("Prompt", "google.prompt", "prompt: none would let nobody in who is not signed in at Google already.", "leave it out, or select_account")
	}
	ps = append(ps, oidc.ScopeProblems(c.Scopes)...)
	return append(ps, problem.Under("Directory", c.Directory.problems())...)
}

func domainShape(d string) bool {
	return strings.Contains(d, ".") && !strings.HasPrefix(d, ".") && !strings.HasSuffix(d, ".") &&
		!strings.ContainsFunc(d, func(r rune) bool { return r <= ' ' || r == '@' || r == '/' || r == '*' })
}

// Open makes the connector. It calls nobody.
func Open(env connectors.Env, cfg Config) (connectors.Connector, error) {
	for _, p := range cfg.Problems() {
		if !p.Warning {
			return nil, p
		}
	}
	g := &rules{domains: cfg.HostedDomains}
	var trusted []string
	if cfg.Directory.on() {
		d, err := openDirectory(cfg.Directory)
		if err != nil {
			return nil, fmt.Errorf("google: directory: %w", err)
		}
		g.directory, trusted = d, d.trusted(cfg.Proxy != "")
	}
	if cfg.Proxy != "" && cfg.Issuer == "" {
		// It is the proxy that resolves names there, and the outgoing client gives
		// it only hosts that it was told.
		trusted = append(trusted, "oauth2.googleapis.com", "www.googleapis.com", "openidconnect.googleapis.com")
	}
	f := oidc.Flavour{
		// A refresh token is asked for by a parameter, not by a scope.
		Scopes: []string{"openid", "email", "profile"}, Params: url.Values{"access_type": {"offline"}},
		Prompt: "select_account", FreshPrompt: "select_account", NoAuthTime: true, Trusted: trusted, Accept: g.accept,
	}
	if g.directory != nil {
		f.Check = g.directory.check
	}
	if len(cfg.HostedDomains) > 0 {
		f.Prompt = "select_account consent"
		// What people see first; who may is decided by the claim.
		f.Params.Set("hd", "*")
		if len(cfg.HostedDomains) == 1 {
			f.Params.Set("hd", cfg.HostedDomains[0])
		}
	}
	c, err := oidc.New(env, oidc.Config{
		Issuer: cmp.Or(cfg.Issuer, issuer), ClientID: cfg.ClientID, ClientSecret: cfg.ClientSecret, RedirectURI: cfg.RedirectURI,
		Scopes: cfg.Scopes, AuthMethod: "client_secret_post", Prompt: cfg.Prompt, Proxy: cfg.Proxy, CAFile: cfg.CAFile,
		AuthorizeURL: cfg.AuthorizeURL, TokenURL: cfg.TokenURL, JWKSURL: cfg.JWKSURL, UserInfoURL: cfg.UserInfoURL,
	}, f)
	if err != nil {
		return nil, fmt.Errorf("google: %w", err)
	}
	return c, nil
}

// rules are what is asked of a Google account beyond its proof.
type rules struct {
	domains   []string
	directory *directory
}

func (g *rules) accept(ctx context.Context, p oidc.Proof, id *connectors.Identity) error {
	hd, _ := p.IDToken["hd"].(string)
	if len(g.domains) > 0 && (hd == "" || !slices.ContainsFunc(g.domains, func(d string) bool { return strings.EqualFold(d, hd) })) {
		return &connectors.Refusal{Code: "hosted_domain", Err: fmt.Errorf("google: the account is of none of hosted_domains: %w", connectors.ErrNotAllowed)}
	}
	// Google speaks for an address only if it is its own, or the account is of a
	// Workspace. Any other account can carry a foreign address.
	_, domain, _ := strings.Cut(id.Email, "@")
	if hd == "" && !strings.EqualFold(domain, "gmail.com") {
		id.EmailVerified = false
	}
	// Google has no groups in its tokens.
	id.Groups = nil
	delete(id.Claims, "groups")
	if g.directory == nil || hd == "" {
		return nil
	}
	groups, err := g.directory.groups(ctx, p.HTTP, hd, id.Subject)
	switch {
	case errors.Is(err, errNoAdmin):
		return nil // a Workspace that we were told nothing of
	case err != nil:
		return fmt.Errorf("google: directory: %w", err)
	}
	id.Groups = groups
	id.Claims["groups"] = groups
	return nil
}
