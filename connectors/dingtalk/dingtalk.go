package dingtalk

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/appapi"
)

const (
	// patience bounds all calls of one sign-in or one renewal together.
	patience = 25 * time.Second

	tokenPath = "/v1.0/oauth2/accessToken"
)

// Connector signs people in by one application at DingTalk.
type Connector struct {
	id     string
	cfg    *Config
	client *appapi.Client
	app    *appapi.Token
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
	hc, err := env.HTTP(cfg.Proxy, cfg.CAFile, appapi.Trusted(cfg.Proxy, cfg.api(), cfg.oapi())...)
	if err != nil {
		return nil, fmt.Errorf("dingtalk: outgoing client: %w", err)
	}
	c := &Connector{id: env.ID, cfg: &cfg, client: appapi.NewClient("dingtalk", hc)}
	c.app = &appapi.Token{Now: env.Now, Fetch: c.appToken}
	return c, nil
}

// Check gets the application's token, which is all that can be asked without a
// person; while there is one, it only asks whether DingTalk answers.
func (c *Connector) Check(ctx context.Context) error {
	return c.app.Check(ctx, c.client, c.cfg.api().Used()+tokenPath)
}

// Begin sends the browser to DingTalk's page, which shows a QR code on a desk
// and asks for consent in DingTalk's own browser. It documents no PKCE; the
// challenge is sent all the same (docs/security.md UP-3).
func (c *Connector) Begin(_ context.Context, a connectors.Attempt) (connectors.Departure, error) {
	u, err := url.Parse(c.cfg.authorize().Used())
	if err != nil {
		return connectors.Departure{}, fmt.Errorf("dingtalk: authorize_url: %w", err)
	}
	secret := appapi.NewSecret(a)
	q := url.Values{
		"response_type": {"code"}, "client_id": {c.cfg.ClientID}, "redirect_uri": {cmp.Or(c.cfg.RedirectURI, a.CallbackURL)},
		"scope": {"openid"}, "state": {a.ID}, "prompt": {"consent"}, // without prompt the page shows nothing
		"code_challenge": {appapi.Challenge(secret)}, "code_challenge_method": {"S256"},
	}
	if c.cfg.CorpID != "" {
		// The person chooses the company; the answer to the code names it.
		q.Set("scope", "openid corpid")
		q.Set("corpId", c.cfg.CorpID)
	}
	u.RawQuery = q.Encode()
	return connectors.Departure{URL: u.String(), Secret: secret}, nil
}

// Finish redeems the code and asks the API who came.
func (c *Connector) Finish(ctx context.Context, a connectors.Attempt, secret []byte, r connectors.Return) (connectors.Identity, error) {
	code, err := appapi.ReturnedCode(a, r.Params, "authCode", "code")
	if err != nil {
		return connectors.Identity{}, fmt.Errorf("dingtalk: %w", err)
	}
	verifier, err := appapi.Verifier(secret, a)
	if err != nil {
		return connectors.Identity{}, fmt.Errorf("dingtalk: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	g, err := c.exchange(ctx, code, verifier)
	if err != nil {
		return connectors.Identity{}, err
	}
	me, err := c.me(ctx, g.AccessToken)
	if err != nil {
		return connectors.Identity{}, err
	}
	if c.cfg.CorpID == "" {
		return connectors.Identity{
			Connector: c.id, Subject: me.UnionID, Name: appapi.Name(me.Nick), Username: appapi.Name(me.Nick),
			Email: appapi.Email(me.Email), Picture: appapi.Picture(me.AvatarURL), Claims: appapi.Claims(me.raw),
		}, nil
	}
	// Which company the person chose is DingTalk's word about this code; the
	// membership below is the application's own company's about the person.
	if g.CorpID != c.cfg.CorpID {
		return connectors.Identity{}, c.refuse("not_member", "another company, or none, was chosen at the sign-in")
	}
	return c.member(ctx, me.UnionID)
}

// Renew asks the company whether somebody is still a member, with the
// application's own token: nobody's token is kept. What is neither a yes nor a
// no keeps the sessions for a while.
func (c *Connector) Renew(ctx context.Context, id connectors.Identity) (connectors.Identity, error) {
	var kept renewal
	if json.Unmarshal(id.Renewal, &kept) != nil || kept.UnionID == "" || kept.UnionID != id.Subject {
		return connectors.Identity{}, fmt.Errorf("dingtalk: there is nothing to renew %s with: %w", id.Subject, connectors.ErrNotAllowed)
	}
	if c.cfg.CorpID == "" || kept.CorpID != c.cfg.CorpID {
		return connectors.Identity{}, fmt.Errorf("dingtalk: the company in the configuration is another one now: %w", connectors.ErrNotAllowed)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	fresh, err := c.member(ctx, kept.UnionID)
	switch {
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
	CorpID  string `json:"corp"`
	UnionID string `json:"union"`
}

// member asks the company's address book for somebody. Departments are named
// by their number: the name of one can be given to another.
func (c *Connector) member(ctx context.Context, unionID string) (connectors.Identity, error) {
	var userID string
	if err := c.company(ctx, "/topapi/user/getbyunionid", map[string]string{"unionid": unionID}, func(body []byte) (err error) {
		userID, err = parseUserID(body)
		return err
	}); err != nil {
		return connectors.Identity{}, err
	}
	var p person
	if err := c.company(ctx, "/topapi/v2/user/get", map[string]string{"userid": userID, "language": "zh_CN"}, func(body []byte) (err error) {
		p, err = parsePerson(body)
		return err
	}); err != nil {
		return connectors.Identity{}, err
	}
	if p.UnionID != unionID {
		return connectors.Identity{}, fmt.Errorf("dingtalk: /topapi/v2/user/get: somebody else's entry: %w", appapi.ErrShape)
	}
	kept, err := json.Marshal(renewal{c.cfg.CorpID, unionID})
	if err != nil {
		return connectors.Identity{}, fmt.Errorf("dingtalk: renewal: %w", err)
	}
	claims := appapi.Claims(p.raw)
	claims["corpId"] = c.cfg.CorpID
	return connectors.Identity{
		Connector: c.id, Subject: unionID, Username: userID, Name: appapi.Name(p.Name), Email: appapi.Email(p.OrgEmail, p.Email),
		Picture: appapi.Picture(p.Avatar), Groups: p.groups(), Claims: claims, Renewal: kept,
	}, nil
}

func (c *Connector) refuse(code, why string) error {
	return &connectors.Refusal{Code: code, Err: fmt.Errorf("dingtalk: %s: %w", why, connectors.ErrNotAllowed)}
}

// appToken gets the application's own token.
func (c *Connector) appToken(ctx context.Context) (string, time.Duration, error) {
	ans, err := c.client.Do(ctx, appapi.Call{Method: http.MethodPost, URL: c.cfg.api().Used() + tokenPath,
		JSON: map[string]string{"appKey": c.cfg.ClientID, "appSecret": c.cfg.ClientSecret.Reveal()}})
	if err != nil {
		return "", 0, err
	}
	return parseAppToken(ans)
}

// exchange redeems the code. The answer is not that of RFC 6749.
func (c *Connector) exchange(ctx context.Context, code, verifier string) (grant, error) {
	ans, err := c.client.Do(ctx, appapi.Call{Method: http.MethodPost, URL: c.cfg.api().Used() + "/v1.0/oauth2/userAccessToken",
		JSON: map[string]string{"clientId": c.cfg.ClientID, "clientSecret": c.cfg.ClientSecret.Reveal(), "code": code, "grantType": "authorization_code", "codeVerifier": verifier}})
	if err != nil {
		return grant{}, err
	}
	return parseGrant(ans)
}

func (c *Connector) me(ctx context.Context, token string) (me, error) {
	ans, err := c.client.Do(ctx, appapi.Call{Method: http.MethodGet, URL: c.cfg.api().Used() + "/v1.0/contact/users/me",
		Header: http.Header{"X-Acs-Dingtalk-Access-Token": {token}}})
	if err != nil {
		return me{}, err
	}
	return parseMe(ans)
}

// company asks the older half of the API in the application's name.
func (c *Connector) company(ctx context.Context, path string, body any, read func([]byte) error) error {
	return c.app.Use(ctx, func(token string) (bool, error) {
		ans, err := c.client.Do(ctx, appapi.Call{Method: http.MethodPost, URL: c.cfg.oapi().Used() + path, Query: url.Values{"access_token": {token}}, JSON: body})
		if err != nil {
			return false, err
		}
		if ans.Status != http.StatusOK {
			return false, fmt.Errorf("dingtalk: %s: unexpected status %d", path, ans.Status)
		}
		switch code, err := parseErrcode(ans.Body); {
		case err != nil:
			return false, fmt.Errorf("%s: %w", path, err)
		case code == 0:
			return false, read(ans.Body)
		case stale(code):
			return true, fmt.Errorf("dingtalk: %s: errcode %d: the application's token is not taken: %w", path, code, connectors.ErrUnavailable)
		case code == noSuchUser:
			return false, c.refuse("not_member", fmt.Sprintf("%s: errcode %d: not in the application's company", path, code))
		case busy(code):
			return false, fmt.Errorf("dingtalk: %s: errcode %d: %w", path, code, connectors.ErrUnavailable)
		default:
			return false, fmt.Errorf("dingtalk: %s: errcode %d", path, code)
		}
	})
}
