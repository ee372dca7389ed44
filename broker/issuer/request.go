package issuer

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/web"
)

// authRequest is an authorization request (RFC 6749 section 4.1.1, OpenID
// Connect Core section 3.1.2.1), parsed once.
type authRequest struct {
	client      *grant.Client
	redirectURI string
	state       string
	hasState    bool
	scopes      []string
	nonce       string
	challenge   string
	prompt      []string
	silent      bool          // prompt=none: no page of ours, whatever happens
	maxAge      time.Duration // negative: not asked for
	loginHint   string
	connector   string
	domainHint  string
	uiLocales   string
	hintSub     string // sub of id_token_hint
	audience    string
	mark        mark
	marked      bool
	query       string // as it came, without our own marker
}

const (
	maxQuery = 8 << 10
	maxForm  = 64 << 10 // of a POST, whose parameters are mostly others'
	maxState = 2048
	maxNonce = 512
)

// authorizeParams are the parameters that parseTarget and parseRest read.
func authorizeParams() []string {
	return []string{"client_id", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce", "code_challenge", "code_challenge_method", "prompt", "max_age",
		"resource", "id_token_hint", "login_hint", "ui_locales", "connector_id", "domain_hint", "request", "request_uri", "registration", markParam}
}

// parseTarget finds client and redirect URI. Until both are right nothing may be
// sent anywhere: the errors are pages of ours (docs/security.md ISS-2).
func (is *Issuer) parseTarget(raw string) (*authRequest, url.Values, error) {
	page := func(code, text string, err error) error { return web.Fail(http.StatusBadRequest, code, text, err) }
	if len(raw) > maxQuery {
		return nil, nil, page(errInvalidRequest, "error.bad_request", fmt.Errorf("query of %d bytes", len(raw)))
	}
	params, err := url.ParseQuery(raw)
	if err != nil {
		return nil, nil, page(errInvalidRequest, "error.bad_request", err)
	}
	if len(params["client_id"]) != 1 {
		return nil, nil, page("client.missing", "error.client_missing", nil)
	}
	c, ok := is.cfg.Clients.Get(params.Get("client_id"))
	if !ok {
		return nil, nil, page("client.unknown", "error.client_unknown", nil)
	}
	if len(params["redirect_uri"]) != 1 || !c.RedirectAllowed(params.Get("redirect_uri")) {
		e := web.Fail(http.StatusBadRequest, "client.redirect", "error.client_redirect", nil)
		e.Args = map[string]any{"name": c.Name()}
		return nil, nil, e
	}
	req := &authRequest{client: c, redirectURI: params.Get("redirect_uri"), maxAge: -1, silent: slices.Contains(scopesOf(params.Get("prompt")), "none")}
	if s := params["state"]; len(s) == 1 && s[0] != "" && len(s[0]) <= maxState {
		req.state, req.hasState = s[0], true
	}
	return req, params, nil
}

// withoutEmpty leaves out what was sent without a value: it counts as not sent
// (RFC 6749 section 3.1).
func withoutEmpty(p url.Values) {
	for k, vs := range p {
		if p[k] = slices.DeleteFunc(vs, func(v string) bool { return v == "" }); len(p[k]) == 0 {
			delete(p, k)
		}
	}
}

// prompts are the values that prompt may hold (OpenID Connect Core section
// 3.1.2.1); another is refused, since a client that means one would be misled.
func prompts() []string { return []string{"none", "login", "consent", "select_account"} }

// parseRest reads everything else; its errors go back to the client. What it
// does not know it does not look at (RFC 6749 section 3.1).
func (is *Issuer) parseRest(ctx context.Context, req *authRequest, p url.Values, raw string) error {
	for k, vs := range p {
		if len(vs) > 1 && k != "resource" {
			return oauth(errInvalidRequest, "A parameter is there more than once.", nil)
		}
	}
	withoutEmpty(p)
	if len(p.Get("state")) > maxState || len(p.Get("nonce")) > maxNonce {
		return oauth(errInvalidRequest, "state or nonce is too long.", nil)
	}
	switch {
	case p.Has("request"):
		return oauth(errRequestNotSupported, "Request objects are not supported.", nil)
	case p.Has("request_uri"):
		return oauth(errRequestURINotSupported, "request_uri is not supported.", nil)
	case p.Has("registration"):
		return oauth(errRegistrationUnsupported, "registration is not supported.", nil)
	}
	switch rt := p.Get("response_type"); {
	case rt == "":
		return oauth(errInvalidRequest, "response_type is missing.", nil)
	case rt != "code":
		return oauth(errUnsupportedResponseType, "Only response_type=code is supported.", nil)
	}
	if !req.client.HasGrant(grant.AuthorizationCode) {
		return oauth(errUnauthorizedClient, "This client may not use the authorization code grant.", nil)
	}
	if m := p.Get("response_mode"); m != "" && m != "query" {
		return oauth(errInvalidRequest, "Only response_mode=query is supported.", nil)
	}
	allowed := req.client.Scopes()
	for _, s := range scopesOf(p.Get("scope")) {
		// A scope that the client may not have is left out; the answer says
		// which were given (RFC 6749 section 3.3).
		if slices.Contains(allowed, s) && (s != "offline_access" || req.client.HasGrant(grant.RefreshToken)) {
			req.scopes = append(req.scopes, s)
		}
	}
	if len(req.scopes) == 0 {
		return oauth(errInvalidScope, "No scope was asked for that this client may have.", nil)
	}
	if err := parsePKCE(req, p); err != nil {
		return err
	}
	req.prompt = scopesOf(p.Get("prompt"))
	if req.silent && len(req.prompt) > 1 {
		return oauth(errInvalidRequest, "prompt=none stands alone.", nil)
	}
	if slices.ContainsFunc(req.prompt, func(v string) bool { return !slices.Contains(prompts(), v) }) {
		return oauth(errInvalidRequest, "prompt holds a value that is not supported.", nil)
	}
	if p.Has("max_age") {
		n, err := strconv.ParseUint(p.Get("max_age"), 10, 31)
		if err != nil {
			return oauth(errInvalidRequest, "max_age is not a number of seconds.", nil)
		}
		req.maxAge = time.Duration(n) * time.Second
	}
	var err error
	if req.audience, err = is.cfg.Clients.Audience(req.client, p["resource"]); err != nil {
		return oauth(errInvalidTarget, "The resource is unknown, not allowed for this client, or there is more than one.", err)
	}
	if hint := p.Get("id_token_hint"); hint != "" {
		// One that has expired is good for signing out alone (ISS-11).
		c, err := is.cfg.Keys.Verify(ctx, token.TypeID, hint)
		if err != nil || !slices.Contains(c.Strings("aud"), req.client.ClientID) {
			return oauth(errInvalidRequest, "id_token_hint is not an ID token of ours for this client.", err)
		}
		req.hintSub = c.String("sub")
	}
	req.nonce, req.loginHint, req.uiLocales = p.Get("nonce"), p.Get("login_hint"), p.Get("ui_locales")
	req.connector, req.domainHint = p.Get("connector_id"), p.Get("domain_hint")
	req.mark, req.marked = is.openMark(p.Get(markParam), raw)
	req.query = withoutMark(raw)
	return nil
}

// parsePKCE is RFC 7636 section 4.3, for clients that must use it and others.
func parsePKCE(req *authRequest, p url.Values) (err error) {
	if req.challenge, err = challengeOf(p); err != nil {
		return err
	}
	if req.challenge == "" && req.client.PKCERequired() {
		return oauth(errInvalidRequest, "This client must use PKCE: send code_challenge with code_challenge_method=S256.", nil)
	}
	return nil
}

// challengeOf reads a code challenge, with S256 alone (RFC 9700 section 2.1.1);
// "" where none was sent.
func challengeOf(p url.Values) (string, error) {
	challenge, method := p.Get("code_challenge"), p.Get("code_challenge_method")
	switch {
	case challenge == "" && method != "":
		return "", oauth(errInvalidRequest, "code_challenge is missing.", nil)
	case challenge == "":
		return "", nil
	case method != "S256": // absent means plain
		return "", oauth(errInvalidRequest, "Only code_challenge_method=S256 is supported.", nil)
	case !grant.ValidChallenge(challenge):
		return "", oauth(errInvalidRequest, "code_challenge is not the base64url of a SHA-256.", nil)
	}
	return challenge, nil
}
