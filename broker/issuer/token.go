package issuer

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/web"
)

// maxTokenBody bounds a request to the token endpoint (docs/security.md G9).
const maxTokenBody = 64 << 10

type tokenRequest struct {
	client *grant.Client
	form   url.Values
	r      *http.Request
}

type tokenResponse struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	RefreshToken string `json:"refresh_token,omitempty"`
	IDToken      string `json:"id_token,omitempty"`
	Scope        string `json:"scope,omitempty"`
	// IssuedTokenType is of token exchanges alone (RFC 8693 section 2.2.1).
	IssuedTokenType string `json:"issued_token_type,omitempty"`
}

// grantHandler is one way to get a token.
type grantHandler struct {
	name   string
	redeem func(t tokenRequest) (tokenResponse, error)
}

// Token is POST /oauth2/token (RFC 6749 section 3.2). The query is not looked at.
func (is *Issuer) Token(w http.ResponseWriter, r *http.Request) error {
	if is.cors(w, r) {
		return nil
	}
	gt := "other" // what strangers write is no label of a metric
	err := is.endpoint(func(w http.ResponseWriter, r *http.Request) error { return is.token(w, r, &gt) })(w, r)
	if is.cfg.Observe != nil {
		code := ""
		if we, ok := errors.AsType[*web.Error](err); ok {
			code = we.Code
		}
		is.cfg.Observe(gt, code)
	}
	return err
}

func (is *Issuer) token(w http.ResponseWriter, r *http.Request, grantType *string) error {
	if r.Method != http.MethodPost {
		return methodNotAllowed("POST")
	}
	form, err := is.form(w, r)
	if err != nil {
		return err
	}
	gt := form.Get("grant_type")
	if raw, job := is.foreign(r, form); job {
		*grantType = gt
		resp, err := is.workload(r, form, raw)
		if err != nil {
			return err
		}
		return writeJSON(w, resp)
	}
	client, err := is.authenticate(r, form)
	if err != nil {
		return err
	}
	if gt == "" {
		return oauth(errInvalidRequest, "grant_type is missing.", nil)
	}
	i := slices.IndexFunc(is.grants, func(g grantHandler) bool { return g.name == gt })
	if i < 0 {
		return oauth(errUnsupportedGrantType, "This grant type is not supported.", nil)
	}
	*grantType = gt
	if !client.HasGrant(gt) {
		return oauth(errUnauthorizedClient, "This client may not use this grant type.", nil)
	}
	resp, err := is.grants[i].redeem(tokenRequest{client, form, r})
	if err != nil {
		return err
	}
	return writeJSON(w, resp)
}

// posted reads a form that a client posts, and finds out which client it is.
func (is *Issuer) posted(w http.ResponseWriter, r *http.Request) (*grant.Client, url.Values, error) {
	if r.Method != http.MethodPost {
		return nil, nil, methodNotAllowed("POST")
	}
	form, err := is.form(w, r)
	if err != nil {
		return nil, nil, err
	}
	client, err := is.authenticate(r, form)
	return client, form, err
}

// form reads a form body; resource and a token exchange's audience may be there
// more than once (RFC 8707 section 2, RFC 8693 section 2.1), so that two are
// answered with the error of those RFCs.
func (is *Issuer) form(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	form, err := web.FormRepeating(w, r, maxTokenBody, "resource", "audience")
	if err == nil && len(form["audience"]) > 1 && form.Get("grant_type") != grant.TokenExchange {
		err = errors.New("audience is there more than once")
	}
	if err != nil {
		return nil, oauth(errInvalidRequest, "The body is not a form (application/x-www-form-urlencoded) with each parameter once.", err)
	}
	withoutEmpty(form)
	return form, nil
}

// authenticate finds out which client asks, by exactly one method, and that the
// one it registered (RFC 6749 section 2.3, RFC 7591 section 2).
func (is *Issuer) authenticate(r *http.Request, form url.Values) (*grant.Client, error) {
	id, secret, method := form.Get("client_id"), form.Get("client_secret"), grant.AuthNone
	auth := r.Header.Values("Authorization")
	methods := len(auth)
	assertion := form.Has("client_assertion") || form.Has("client_assertion_type")
	if assertion {
		methods++
	}
	if form.Has("client_secret") {
		methods++
		method = grant.AuthPost
	}
	switch {
	case methods > 1:
		return nil, oauth(errInvalidRequest, "More than one client authentication.", nil)
	case assertion:
		return is.byAssertion(r.Context(), form)
	}
	if len(auth) == 1 {
		bid, bsecret, ok := basic(auth[0])
		if !ok {
			return nil, oauth(errInvalidClient, "The Authorization header is not HTTP Basic of form-encoded client_id and secret.", nil)
		}
		if id != "" && id != bid {
			return nil, oauth(errInvalidRequest, "client_id in the body is another than in the Authorization header.", nil)
		}
		id, secret, method = bid, bsecret, grant.AuthBasic
	}
	if id == "" {
		return nil, oauth(errInvalidClient, "Client authentication is missing.", nil)
	}
	c, ok := is.cfg.Clients.Get(id)
	if method == grant.AuthNone {
		if !ok || !c.Public() {
			return nil, oauth(errInvalidClient, "Client authentication failed.", nil)
		}
		return c, nil
	}
	c, err := is.cfg.Clients.Authenticate(id, secret)
	if err != nil {
		return nil, oauth(errInvalidClient, "Client authentication failed.", err)
	}
	if !c.Accepts(method) {
		return nil, oauth(errInvalidClient, "This client authenticates by another method.", nil)
	}
	return c, nil
}

// basic decodes HTTP Basic as RFC 6749 section 2.3.1 wants it: both parts are
// form-encoded.
func basic(header string) (id, secret string, ok bool) {
	scheme, rest, found := strings.Cut(header, " ")
	if !found || !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
	if err != nil {
		return "", "", false
	}
	id, secret, found = strings.Cut(string(raw), ":")
	if !found {
		return "", "", false
	}
	if id, err = url.QueryUnescape(id); err != nil {
		return "", "", false
	}
	if secret, err = url.QueryUnescape(secret); err != nil {
		return "", "", false
	}
	return id, secret, true
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }
