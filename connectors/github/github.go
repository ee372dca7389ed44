package github

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
)

const (
	// patience bounds all calls of one sign-in or one renewal together.
	patience = 25 * time.Second
	// revokePatience is short: the person waits for it, and nothing depends on it.
	revokePatience = 3 * time.Second
	checkPatience  = 5 * time.Second
)

// Connector signs people in at one GitHub.
type Connector struct {
	id     string
	cfg    *Config
	ends   endpoints
	client *http.Client
	log    *slog.Logger
	// wantOrgs: organizations and teams are read at all.
	wantOrgs bool
}

var (
	_ connectors.RedirectConnector = (*Connector)(nil)
	_ connectors.Renewer           = (*Connector)(nil)
)

// Open makes the connector. It calls nobody.
func Open(env connectors.Env, cfg Config) (connectors.Connector, error) {
	for _, p := range cfg.Problems() {
		if !p.Warning {
			return nil, p
		}
	}
	hc, err := env.HTTP(cfg.Proxy, cfg.CAFile, cfg.trusted()...)
	if err != nil {
		return nil, fmt.Errorf("github: outgoing client: %w", err)
	}
	// A redirect would take the client secret or somebody's token along.
	own := *hc
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	log := env.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Connector{
		id: env.ID, cfg: &cfg, ends: cfg.endpoints(), client: &own, log: log,
		wantOrgs: grants(cfg.scopes(), "read:org"),
	}, nil
}

// Check asks for the one resource that needs no token and is not counted
// against the limit of 60 calls an hour. Whatever the answer says, there was
// one: a private server wants a token first, or has no limits to tell.
func (c *Connector) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	req, err := c.request(ctx, http.MethodGet, c.ends.api+"/rate_limit", "", nil)
	if err != nil {
		return err
	}
	_, err = c.send(req)
	return err
}

// Begin sends the browser to GitHub's page, with PKCE. GitHub cannot be made to
// ask for the password again; the nearest it has is the choice of accounts.
func (c *Connector) Begin(_ context.Context, a connectors.Attempt) (connectors.Departure, error) {
	u, err := url.Parse(c.ends.authorize)
	if err != nil {
		return connectors.Departure{}, fmt.Errorf("github: authorize_url: %w", err)
	}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	verifier := base64.RawURLEncoding.EncodeToString(raw)
	sum := sha256.Sum256([]byte(verifier))

	q := u.Query()
	q.Set("response_type", "code")
	q.Set("client_id", c.cfg.ClientID)
	q.Set("redirect_uri", c.redirectURI(a))
	q.Set("scope", strings.Join(c.cfg.scopes(), " "))
	q.Set("state", a.ID)
	q.Set("code_challenge", base64.RawURLEncoding.EncodeToString(sum[:]))
	q.Set("code_challenge_method", "S256")
	if a.LoginHint != "" {
		q.Set("login", a.LoginHint)
	}
	if a.ForceAuthn {
		q.Set("prompt", "select_account")
	}
	u.RawQuery = q.Encode()
	return connectors.Departure{URL: u.String(), Secret: []byte(verifier)}, nil
}

func (c *Connector) redirectURI(a connectors.Attempt) string {
	return cmp.Or(c.cfg.RedirectURI, a.CallbackURL)
}

// Finish redeems the code and asks the API who came. The broker has compared
// the state: it found the attempt by it.
func (c *Connector) Finish(ctx context.Context, a connectors.Attempt, secret []byte, r connectors.Return) (connectors.Identity, error) {
	code, err := returnedCode(r.Params)
	if err != nil {
		return connectors.Identity{}, err
	}
	if len(secret) == 0 {
		return connectors.Identity{}, errors.New("github: the attempt has no PKCE verifier")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	g, err := c.exchange(ctx, code, c.redirectURI(a), string(secret))
	if err != nil {
		return connectors.Identity{}, err
	}
	id, err := c.vouch(ctx, g)
	// Only the membership is ever asked for again; for anybody else the token
	// would lie about for a year (docs/security.md UP-9).
	if err != nil || id.Renewal == nil {
		c.revoke(ctx, g.Token)
	}
	if err != nil {
		return connectors.Identity{}, err
	}
	return id, nil
}

// Renew asks again whether the account exists and the membership holds. What is
// neither a yes nor a no keeps the sessions for a while.
func (c *Connector) Renew(ctx context.Context, id connectors.Identity) (connectors.Identity, error) {
	var g grant
	if json.Unmarshal(id.Renewal, &g) != nil || !opaque(g.Token) {
		return connectors.Identity{}, fmt.Errorf("github: there is no token to renew %s with: %w", id.Subject, connectors.ErrNotAllowed)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	fresh, err := c.vouch(ctx, g)
	switch {
	case errors.Is(err, connectors.ErrNotAllowed), errors.Is(err, connectors.ErrUnavailable):
		return connectors.Identity{}, err
	case err != nil:
		return connectors.Identity{}, fmt.Errorf("%w: %w", err, connectors.ErrUnavailable)
	case fresh.Subject != id.Subject:
		return connectors.Identity{}, fmt.Errorf("github: the token of %s is that of %s: %w", id.Subject, fresh.Subject, connectors.ErrNotAllowed)
	}
	fresh.AuthTime, fresh.Session, fresh.SessionEnds = id.AuthTime, id.Session, id.SessionEnds
	fresh.ACR, fresh.AMR = id.ACR, id.AMR
	return fresh, nil
}

// vouch asks the API for all that a token tells, and applies the configured
// organizations.
func (c *Connector) vouch(ctx context.Context, g grant) (connectors.Identity, error) {
	ans, err := c.get(ctx, g.Token, "/user", nil)
	if err != nil {
		return connectors.Identity{}, err
	}
	u, claims, err := parseUser(ans.body)
	if err != nil {
		return connectors.Identity{}, err
	}
	// What the token may do today, which need not be what it could do when it
	// was given. A server that does not tell is taken at its first word.
	if h, told := ans.header["X-Oauth-Scopes"]; told {
		g.Scope = strings.Join(h, ",")
	}
	granted := parseScopes(g.Scope)
	if c.wantOrgs && !grants(granted, "read:org") {
		return connectors.Identity{}, c.refuse("scope_missing", c.settingsURL(), "read:org was not granted, so that no membership can be seen")
	}
	id := connectors.Identity{
		Connector: c.id, Subject: strconv.FormatInt(u.ID, 10), Username: u.Login, Name: cmp.Or(u.Name, u.Login), Claims: claims,
	}
	if strings.HasPrefix(u.AvatarURL, "https://") {
		id.Picture = u.AvatarURL
	}
	if grants(granted, "user:email") {
		if id.Email, id.EmailVerified, err = c.email(ctx, g.Token); err != nil {
			return connectors.Identity{}, err
		}
	}
	// The profile's own e-mail is whatever the person likes to show.
	claims["email"], claims["email_verified"] = id.Email, id.EmailVerified
	claims["id"], claims["scopes"] = u.ID, granted
	if c.wantOrgs {
		m, err := c.memberships(ctx, g.Token)
		if err != nil {
			return connectors.Identity{}, err
		}
		claims["organizations"], claims["teams"] = m.orgNames(), m.teamNames()
		if id.Groups, err = c.groups(m); err != nil {
			return connectors.Identity{}, err
		}
	}
	if len(c.cfg.Organizations) > 0 {
		if id.Renewal, err = json.Marshal(g); err != nil {
			return connectors.Identity{}, fmt.Errorf("github: renewal: %w", err)
		}
		id.OneRenewal = true // GitHub drops the oldest of more than ten tokens
	}
	return id, nil
}

func (c *Connector) refuse(code, help, why string) error {
	return &connectors.Refusal{Code: code, Help: help, Err: fmt.Errorf("github: %s: %w", why, connectors.ErrNotAllowed)}
}

// settingsURL is GitHub's page about this application, where a person sees what
// it may do and asks an organization to let it in.
func (c *Connector) settingsURL() string {
	u, err := url.Parse(c.ends.authorize)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host + "/settings/connections/applications/" + url.PathEscape(c.cfg.ClientID)
}
