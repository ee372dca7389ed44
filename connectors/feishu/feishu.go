package feishu

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/appapi"
)

const (
	// patience bounds all calls of one sign-in or one renewal together.
	patience = 25 * time.Second

	tokenPath = "/open-apis/auth/v3/tenant_access_token/internal"
)

// Connector signs people in by one application at Feishu.
type Connector struct {
	id     string
	cfg    *Config
	client *appapi.Client
	app    *appapi.Token
	log    *slog.Logger
}

var (
	_ connectors.RedirectConnector = (*Connector)(nil)
	_ connectors.Renewer           = (*Connector)(nil)
)

// Open makes the connector. It calls nobody.
func Open(env connectors.Env, cfg Config) (connectors.Connector, error) {
	if err := appapi.Refuse(cfg.Problems()); err != nil {
		return nil, err
	}
	hc, err := env.HTTP(cfg.Proxy, cfg.CAFile, appapi.Trusted(cfg.Proxy, cfg.token(), cfg.api())...)
	if err != nil {
		return nil, fmt.Errorf("feishu: outgoing client: %w", err)
	}
	log := env.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Connector{id: env.ID, cfg: &cfg, client: appapi.NewClient("feishu", hc), log: log}
	c.app = &appapi.Token{Now: env.Now, Fetch: c.appToken}
	return c, nil
}

// Check gets the application's token, which is all that can be asked without a
// person; while there is one, it only asks whether Feishu answers.
func (c *Connector) Check(ctx context.Context) error {
	return c.app.Check(ctx, c.client, c.cfg.api().Used()+tokenPath)
}

// Begin sends the browser to Feishu's page, with PKCE. Inside Feishu's own app
// the same address answers without a word.
func (c *Connector) Begin(_ context.Context, a connectors.Attempt) (connectors.Departure, error) {
	u, err := url.Parse(c.cfg.authorize().Used())
	if err != nil {
		return connectors.Departure{}, fmt.Errorf("feishu: authorize_url: %w", err)
	}
	secret := appapi.NewSecret(a)
	q := url.Values{
		"response_type": {"code"}, "client_id": {c.cfg.AppID}, "redirect_uri": {c.redirectURI(a)}, "state": {a.ID},
		"code_challenge": {appapi.Challenge(secret)}, "code_challenge_method": {"S256"},
	}
	if len(c.cfg.Scopes) > 0 {
		q.Set("scope", strings.Join(c.cfg.Scopes, " "))
	}
	if a.ForceAuthn {
		q.Set("prompt", "consent") // the nearest that Feishu has
	}
	u.RawQuery = q.Encode()
	return connectors.Departure{URL: u.String(), Secret: secret}, nil
}

func (c *Connector) redirectURI(a connectors.Attempt) string {
	return cmp.Or(c.cfg.RedirectURI, a.CallbackURL)
}

// Finish redeems the code and asks the API who came.
func (c *Connector) Finish(ctx context.Context, a connectors.Attempt, secret []byte, r connectors.Return) (connectors.Identity, error) {
	code, err := appapi.ReturnedCode(a, r.Params, "code")
	if err != nil {
		return connectors.Identity{}, fmt.Errorf("feishu: %w", err)
	}
	verifier, err := appapi.Verifier(secret, a)
	if err != nil {
		return connectors.Identity{}, fmt.Errorf("feishu: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	token, err := c.exchange(ctx, code, c.redirectURI(a), verifier)
	if err != nil {
		return connectors.Identity{}, err
	}
	u, err := c.userInfo(ctx, token)
	if err != nil {
		return connectors.Identity{}, err
	}
	if c.cfg.TenantKey == "" {
		return c.identity(u.TenantKey, u.UnionID, u, appapi.Claims(u.raw)), nil
	}
	if u.TenantKey != c.cfg.TenantKey {
		return connectors.Identity{}, c.refuse("not_member", "a member of another company")
	}
	id, err := c.member(ctx, u.UnionID)
	if errors.Is(err, errForbidden) {
		// Who signed in and of which company is proved; without the address
		// book there are no departments, and nothing to ask again.
		c.log.WarnContext(ctx, "feishu: the application may not read this entry of the address book: no departments, and a session of 12 hours at most", "connector", c.id, "err", err)
		return c.identity(u.TenantKey, u.UnionID, u, appapi.Claims(u.raw)), nil
	}
	if err != nil {
		return connectors.Identity{}, err
	}
	id.Name, id.Email, id.Picture = cmp.Or(id.Name, appapi.Name(u.Name)), cmp.Or(id.Email, appapi.Email(u.EnterpriseEmail, u.Email)), cmp.Or(id.Picture, appapi.Picture(u.AvatarURL))
	return id, nil
}

// Renew asks the company's address book whether somebody is still there, with
// the application's own token: nobody's token is kept. What is neither a yes
// nor a no keeps the sessions for a while.
func (c *Connector) Renew(ctx context.Context, id connectors.Identity) (connectors.Identity, error) {
	var kept renewal
	if json.Unmarshal(id.Renewal, &kept) != nil || kept.UnionID == "" || subject(kept.TenantKey, kept.UnionID) != id.Subject {
		return connectors.Identity{}, fmt.Errorf("feishu: there is nothing to renew %s with: %w", id.Subject, connectors.ErrNotAllowed)
	}
	if kept.TenantKey != c.cfg.TenantKey {
		return connectors.Identity{}, fmt.Errorf("feishu: the company in the configuration is another one now: %w", connectors.ErrNotAllowed)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	fresh, err := c.member(ctx, kept.UnionID)
	switch {
	case errors.Is(err, errOutOfSight):
		// It was in sight at the sign-in: somebody took it away.
		return connectors.Identity{}, c.refuse("not_member", "no longer in the part of the company that the application may see")
	case errors.Is(err, connectors.ErrNotAllowed), errors.Is(err, connectors.ErrUnavailable):
		return connectors.Identity{}, err
	case err != nil:
		return connectors.Identity{}, fmt.Errorf("%w: %w", err, connectors.ErrUnavailable)
	}
	fresh.AuthTime, fresh.Session, fresh.SessionEnds = id.AuthTime, id.Session, id.SessionEnds
	fresh.ACR, fresh.AMR = id.ACR, id.AMR
	return fresh, nil
}

// renewal is an Identity's Renewal.
type renewal struct {
	TenantKey string `json:"tenant"`
	UnionID   string `json:"union"`
}

// subject is the person in the company: a union_id is one for all applications
// of a developer, an open_id for one application alone, and a user_id can be
// given to another.
func subject(tenant, union string) string { return tenant + "/" + union }

func (c *Connector) identity(tenant, union string, u user, claims map[string]any) connectors.Identity {
	claims["tenant_key"] = tenant
	return connectors.Identity{
		Connector: c.id, Subject: subject(tenant, union), Username: cmp.Or(u.UserID, appapi.Name(u.Name)), Name: appapi.Name(u.Name),
		Email: appapi.Email(u.EnterpriseEmail, u.Email), Picture: appapi.Picture(cmp.Or(u.AvatarURL, u.Avatar.URL)), Claims: claims,
	}
}

// member asks the address book. Departments are named by their
// open_department_id: the name of one can be given to another.
func (c *Connector) member(ctx context.Context, unionID string) (connectors.Identity, error) {
	var u user
	path := "/open-apis/contact/v3/users/" + url.PathEscape(unionID)
	err := c.app.Use(ctx, func(token string) (bool, error) {
		ans, err := c.client.Do(ctx, appapi.Call{Method: http.MethodGet, URL: c.cfg.api().Used() + path,
			Query: url.Values{"user_id_type": {"union_id"}, "department_id_type": {"open_department_id"}}, Header: bearer(token)})
		if err != nil {
			return false, err
		}
		code, data, err := parseEnvelope(ans)
		switch {
		case err != nil:
			return false, fmt.Errorf("feishu: contact/v3/users: %w", err)
		case code == 0:
			u, err = parseEntry(data)
			return false, err
		case code == noSuchUser:
			return false, c.refuse("not_member", fmt.Sprintf("contact/v3/users: code %d: nobody in the company", code))
		default:
			return stale(code), failed("contact/v3/users", code)
		}
	})
	switch {
	case err != nil:
		return connectors.Identity{}, err
	case u.UnionID != unionID:
		return connectors.Identity{}, fmt.Errorf("feishu: contact/v3/users: somebody else's entry: %w", appapi.ErrShape)
	case u.Status.Frozen || u.Status.Resigned || u.Status.Exited:
		return connectors.Identity{}, c.refuse("account_disabled", "the account is frozen, or has left")
	}
	kept, err := json.Marshal(renewal{c.cfg.TenantKey, unionID})
	if err != nil {
		return connectors.Identity{}, fmt.Errorf("feishu: renewal: %w", err)
	}
	id := c.identity(c.cfg.TenantKey, unionID, u, appapi.Claims(u.raw))
	id.Groups, id.Renewal = u.groups(), kept
	return id, nil
}

func (c *Connector) refuse(code, why string) error {
	return &connectors.Refusal{Code: code, Err: fmt.Errorf("feishu: %s: %w", why, connectors.ErrNotAllowed)}
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// appToken gets the application's own token for its company.
func (c *Connector) appToken(ctx context.Context) (string, time.Duration, error) {
	ans, err := c.client.Do(ctx, appapi.Call{Method: http.MethodPost, URL: c.cfg.api().Used() + tokenPath,
		JSON: map[string]string{"app_id": c.cfg.AppID, "app_secret": c.cfg.AppSecret.Reveal()}})
	if err != nil {
		return "", 0, err
	}
	return parseAppToken(ans)
}

// exchange redeems the code by RFC 6749. The second version of the endpoint,
// which Lark still has, takes JSON instead of a form.
func (c *Connector) exchange(ctx context.Context, code, redirectURI, verifier string) (string, error) {
	p := map[string]string{
		"grant_type": "authorization_code", "client_id": c.cfg.AppID, "client_secret": c.cfg.AppSecret.Reveal(),
		"code": code, "redirect_uri": redirectURI, "code_verifier": verifier,
	}
	call := appapi.Call{Method: http.MethodPost, URL: c.cfg.token().Used()}
	if strings.HasSuffix(call.URL, "/authen/v2/oauth/token") {
		call.JSON = p
	} else {
		call.Form = url.Values{}
		for k, v := range p {
			call.Form.Set(k, v)
		}
	}
	ans, err := c.client.Do(ctx, call)
	if err != nil {
		return "", err
	}
	token, refused, err := parseToken(ans)
	if refused == notOpen {
		return "", c.refuse("app_not_open", fmt.Sprintf("code exchange: code %d: the application is not open to this person", refused))
	}
	return token, err
}

func (c *Connector) userInfo(ctx context.Context, token string) (user, error) {
	const what = "authen/v1/user_info"
	ans, err := c.client.Do(ctx, appapi.Call{Method: http.MethodGet, URL: c.cfg.api().Used() + "/open-apis/" + what, Header: bearer(token)})
	if err != nil {
		return user{}, err
	}
	code, data, err := parseEnvelope(ans)
	switch {
	case err != nil:
		return user{}, fmt.Errorf("feishu: %s: %w", what, err)
	case code == 0:
		return parseUser(data)
	case gone(code):
		return user{}, c.refuse("account_disabled", fmt.Sprintf("%s: code %d", what, code))
	}
	return user{}, failed(what, code)
}
