package wecom

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
	// patience bounds all calls of one sign-in together.
	patience = 25 * time.Second

	visitorPath = "/cgi-bin/auth/getuserinfo"
)

// Connector signs people in by one application at WeCom. It has no Renew: what
// was proved is proved once, and a session by it lasts 12 hours at most.
type Connector struct {
	id     string
	cfg    *Config
	client *appapi.Client
	app    *appapi.Token
	log    *slog.Logger
}

var _ connectors.RedirectConnector = (*Connector)(nil)

// Open makes the connector. It calls nobody.
func Open(env connectors.Env, cfg Config) (connectors.Connector, error) {
	if err := appapi.Refuse(cfg.Problems()); err != nil {
		return nil, err
	}
	hc, err := env.HTTP(cfg.Proxy, cfg.CAFile, appapi.Trusted(cfg.Proxy, cfg.api())...)
	if err != nil {
		return nil, fmt.Errorf("wecom: outgoing client: %w", err)
	}
	log := env.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Connector{id: env.ID, cfg: &cfg, client: appapi.NewClient("wecom", hc), log: log}
	c.app = &appapi.Token{Now: env.Now, Fetch: c.appToken}
	return c, nil
}

// Check gets the application's token, which is all that can be asked without a
// person; while there is one, it only asks whether WeCom answers: calls for a
// token are counted.
func (c *Connector) Check(ctx context.Context) error {
	return c.app.Check(ctx, c.client, c.cfg.api().Used()+visitorPath)
}

// inApp reports whether a browser is the one inside WeCom's own app. WeChat's
// has no "wxwork" and cannot sign a member in.
func inApp(userAgent string) bool {
	return strings.Contains(strings.ToLower(userAgent), "wxwork/")
}

// Begin sends the browser to the page with the QR code, or, inside WeCom's own
// app, to the address that the app answers by itself. That address is matched
// against a pattern there: its parameters stand in the documented order, no
// other is added, and the fragment belongs to it. So there is no PKCE, which
// WeCom does not know; state, cookie and secret bind the answer to the attempt
// (docs/security.md UP-1, UP-3).
func (c *Connector) Begin(_ context.Context, a connectors.Attempt) (connectors.Departure, error) {
	if !stateShape(a.ID) {
		return connectors.Departure{}, errors.New("wecom: a state may hold letters and digits alone")
	}
	back := url.QueryEscape(cmp.Or(c.cfg.RedirectURI, a.CallbackURL))
	d := connectors.Departure{Secret: appapi.NewSecret(a)}
	if inApp(a.UserAgent) {
		scope := "snsapi_base"
		if c.cfg.PrivateInfo {
			scope = "snsapi_privateinfo"
		}
		d.URL = c.cfg.authorize().Used() + "?appid=" + url.QueryEscape(c.cfg.CorpID) + "&redirect_uri=" + back +
			"&response_type=code&scope=" + scope + "&state=" + a.ID + "&agentid=" + c.cfg.AgentID + "#wechat_redirect"
		return d, nil
	}
	d.URL = c.cfg.qr().Used() + "?login_type=CorpApp&appid=" + url.QueryEscape(c.cfg.CorpID) + "&agentid=" + c.cfg.AgentID +
		"&redirect_uri=" + back + "&state=" + a.ID
	return d, nil
}

// stateShape: WeCom takes at most 128 of [a-zA-Z0-9].
func stateShape(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	})
}

// Finish redeems the code and asks about the member.
func (c *Connector) Finish(ctx context.Context, a connectors.Attempt, secret []byte, r connectors.Return) (connectors.Identity, error) {
	code, err := appapi.ReturnedCode(a, r.Params, "code")
	if err != nil {
		return connectors.Identity{}, fmt.Errorf("wecom: %w", err)
	}
	if len(code) > maxCode {
		return connectors.Identity{}, errors.New("wecom: the answer of the sign-in page has no code")
	}
	if _, err := appapi.Verifier(secret, a); err != nil {
		return connectors.Identity{}, fmt.Errorf("wecom: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var who visitor
	if err := c.call(ctx, http.MethodGet, visitorPath, url.Values{"code": {code}}, nil, func(body []byte) (err error) {
		who, err = parseVisitor(body)
		return err
	}); err != nil {
		return connectors.Identity{}, err
	}
	if who.UserID == "" {
		// An openid is somebody who is known to WeChat and no member.
		return connectors.Identity{}, c.refuse("not_member", "not a member of the company")
	}
	m, err := c.member(ctx, who.UserID)
	if err != nil {
		return connectors.Identity{}, err
	}
	var d detail
	if who.Ticket != "" && c.cfg.PrivateInfo {
		if d, err = c.detail(ctx, who); err != nil {
			return connectors.Identity{}, err
		}
	}
	claims := appapi.Claims(d.raw, m.raw)
	claims["userid"], claims["corpid"] = who.UserID, c.cfg.CorpID
	return connectors.Identity{
		// An id is one in a company without regard to case.
		Connector: c.id, Subject: c.cfg.CorpID + "/" + strings.ToLower(who.UserID), Username: who.UserID, Name: appapi.Name(cmp.Or(m.Name, who.UserID)),
		Email: appapi.Email(d.BizMail, m.BizMail, d.Email, m.Email), Picture: appapi.Picture(cmp.Or(d.Avatar, m.Avatar)),
		Groups: m.groups(), Claims: claims,
	}, nil
}

// member reads the member's entry: the name, the state and the departments,
// which are named by their number, since the name of one can be given to
// another. An application that may not read the address book still knows who
// came.
func (c *Connector) member(ctx context.Context, userID string) (member, error) {
	var m member
	err := c.call(ctx, http.MethodGet, "/cgi-bin/user/get", url.Values{"userid": {userID}}, nil, func(body []byte) (err error) {
		m, err = parseMember(body)
		return err
	})
	if errors.Is(err, errForbidden) {
		c.log.WarnContext(ctx, "wecom: the application may not read the address book: no departments", "connector", c.id, "err", err)
		return member{}, nil
	}
	switch {
	case err != nil:
		return member{}, err
	case !strings.EqualFold(m.UserID, userID):
		return member{}, fmt.Errorf("wecom: /cgi-bin/user/get: somebody else's entry: %w", appapi.ErrShape)
	case m.Status == disabled || m.Status == left:
		return member{}, c.refuse("account_disabled", fmt.Sprintf("the member's status is %d", m.Status))
	}
	return m, nil
}

// detail reads what the person agreed to show.
func (c *Connector) detail(ctx context.Context, who visitor) (detail, error) {
	var d detail
	err := c.call(ctx, http.MethodPost, "/cgi-bin/auth/getuserdetail", url.Values{}, map[string]string{"user_ticket": who.Ticket}, func(body []byte) (err error) {
		d, err = parseDetail(body)
		return err
	})
	if err == nil && !strings.EqualFold(d.UserID, who.UserID) {
		err = fmt.Errorf("wecom: /cgi-bin/auth/getuserdetail: somebody else's entry: %w", appapi.ErrShape)
	}
	if err != nil {
		return detail{}, err
	}
	return d, nil
}

func (c *Connector) refuse(code, why string) error {
	return &connectors.Refusal{Code: code, Err: fmt.Errorf("wecom: %s: %w", why, connectors.ErrNotAllowed)}
}

// appToken gets the application's own token. The secret travels in the address.
func (c *Connector) appToken(ctx context.Context) (string, time.Duration, error) {
	const path = "/cgi-bin/gettoken"
	ans, err := c.client.Do(ctx, appapi.Call{Method: http.MethodGet, URL: c.cfg.api().Used() + path,
		Query: url.Values{"corpid": {c.cfg.CorpID}, "corpsecret": {c.cfg.Secret.Reveal()}}})
	if err != nil {
		return "", 0, err
	}
	code, err := parseErrcode(ans)
	switch {
	case err != nil:
		return "", 0, fmt.Errorf("wecom: %s: %w", path, err)
	case code != 0:
		return "", 0, failed(path, code)
	}
	return parseToken(ans.Body)
}

// call asks the API in the application's name.
func (c *Connector) call(ctx context.Context, method, path string, q url.Values, body any, read func([]byte) error) error {
	return c.app.Use(ctx, func(token string) (bool, error) {
		q.Set("access_token", token)
		ans, err := c.client.Do(ctx, appapi.Call{Method: method, URL: c.cfg.api().Used() + path, Query: q, JSON: body})
		if err != nil {
			return false, err
		}
		switch code, err := parseErrcode(ans); {
		case err != nil:
			return false, fmt.Errorf("wecom: %s: %w", path, err)
		case code == 0:
			return false, read(ans.Body)
		case code == noSuchMember || code == outOfRange:
			return false, c.refuse("not_member", fmt.Sprintf("%s: errcode %d: not a member whom the application may see", path, code))
		default:
			return stale(code), failed(path, code)
		}
	})
}

// user is what the two answers about a member share.
type user struct {
	UserID  string `json:"userid"`
	Name    string `json:"name"`
	Avatar  string `json:"avatar"`
	Email   string `json:"email"`
	BizMail string `json:"biz_mail"`
	raw     json.RawMessage
}
