package issuer

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
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
	maxState = 2048
	maxNonce = 512
)

// Authorize is GET and POST /oauth2/authorize. A POST reads no cookie: it is
// answered with a redirect to its own GET (docs/security.md SE-4).
func (is *Issuer) Authorize(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPost {
		form, err := web.Form(w, r, maxQuery)
		if err != nil {
			return err
		}
		is.cfg.Edge.Redirect(w, r, "/oauth2/authorize?"+form.Encode())
		return nil
	}
	req, params, err := is.parseTarget(r.URL.RawQuery)
	if err != nil {
		return err
	}
	if err := is.parseRest(r, req, params); err != nil {
		return is.redirectError(w, r, req, err)
	}
	err = is.authorize(w, r, req)
	if err != nil {
		return is.redirectError(w, r, req, err)
	}
	return nil
}

// parseTarget finds client and redirect URI. Until both are right nothing may be
// sent anywhere: the errors are pages of ours (docs/security.md ISS-2).
func (is *Issuer) parseTarget(raw string) (*authRequest, url.Values, error) {
	page := func(code, text string, err error) error {
		e := web.Fail(http.StatusBadRequest, code, text, err)
		return e
	}
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
	req := &authRequest{client: c, redirectURI: params.Get("redirect_uri"), maxAge: -1}
	if s := params["state"]; len(s) == 1 && len(s[0]) <= maxState {
		req.state, req.hasState = s[0], true
	}
	return req, params, nil
}

// parseRest reads everything else; its errors go back to the client.
func (is *Issuer) parseRest(r *http.Request, req *authRequest, p url.Values) error {
	for k, vs := range p {
		if len(vs) > 1 && k != "resource" {
			return oauth(errInvalidRequest, "A parameter is there more than once.", nil)
		}
	}
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
	if slices.Contains(req.prompt, "none") && len(req.prompt) > 1 {
		return oauth(errInvalidRequest, "prompt=none stands alone.", nil)
	}
	if p.Has("max_age") {
		n, err := strconv.ParseUint(p.Get("max_age"), 10, 31)
		if err != nil {
			return oauth(errInvalidRequest, "max_age is not a number of seconds.", err)
		}
		req.maxAge = time.Duration(n) * time.Second
	}
	var err error
	if req.audience, err = is.cfg.Clients.Audience(req.client, p["resource"]); err != nil {
		return oauth(errInvalidTarget, "The resource is unknown, not allowed for this client, or there is more than one.", err)
	}
	if raw := p.Get("id_token_hint"); raw != "" {
		c, err := is.cfg.Keys.VerifyIDTokenHint(r.Context(), raw)
		if err != nil || !slices.Contains(c.Strings("aud"), req.client.ClientID) {
			return oauth(errInvalidRequest, "id_token_hint is not an ID token of ours for this client.", err)
		}
		req.hintSub = c.String("sub")
	}
	req.nonce, req.loginHint, req.uiLocales = p.Get("nonce"), p.Get("login_hint"), p.Get("ui_locales")
	req.connector, req.domainHint = p.Get("connector_id"), p.Get("domain_hint")
	req.mark, req.marked = is.openMark(p.Get(markParam), r.URL.RawQuery)
	req.query = withoutMark(r.URL.RawQuery)
	return nil
}

// parsePKCE is RFC 7636 section 4.3 with S256 alone (RFC 9700 section 2.1.1).
func parsePKCE(req *authRequest, p url.Values) error {
	challenge, method := p.Get("code_challenge"), p.Get("code_challenge_method")
	switch {
	case challenge == "" && method != "":
		return oauth(errInvalidRequest, "code_challenge is missing.", nil)
	case challenge == "" && req.client.PKCERequired():
		return oauth(errInvalidRequest, "This client must use PKCE: send code_challenge with code_challenge_method=S256.", nil)
	case challenge == "":
		return nil
	case method != "S256": // absent means plain
		return oauth(errInvalidRequest, "Only code_challenge_method=S256 is supported.", nil)
	case !grant.ValidChallenge(challenge):
		return oauth(errInvalidRequest, "code_challenge is not the base64url of a SHA-256.", nil)
	}
	req.challenge = challenge
	return nil
}

// authorize decides on a request that is well formed: sign in, ask for consent,
// or give a code.
func (is *Issuer) authorize(w http.ResponseWriter, r *http.Request, req *authRequest) error {
	silent := slices.Contains(req.prompt, "none")
	s, signedIn, err := is.cfg.SignIn.Current(r)
	if err != nil {
		return err
	}
	if !signedIn || is.needsProof(req, s) {
		if silent {
			return oauth(errLoginRequired, "Nobody is signed in, or not freshly enough.", nil)
		}
		if signedIn && req.marked && !s.AuthTime.Before(req.mark.At) {
			// A fresh proof, and still not whom the client wants.
			return oauth(errAccessDenied, "Somebody else signed in than was asked for.", nil)
		}
		return is.cfg.SignIn.StartWith(w, r, SignInRequest{
			ReturnTo: "/oauth2/authorize?" + req.query + "&" + markParam + "=" + is.sealMark(mark{At: is.cfg.Now()}, req.query), LoginHint: req.loginHint,
			Connector: is.connector(req), DomainHint: req.domainHint, App: req.client.Name(), UILocales: req.uiLocales, Force: signedIn,
		})
	}
	// What this person may not do is not asked consent for, and is in no token.
	if req.scopes, err = is.cfg.Grantable(r.Context(), s, req.scopes); err != nil {
		return err
	}
	if len(req.scopes) == 0 {
		return oauth(errInvalidScope, "No scope was asked for that this person may have.", nil)
	}
	if ask, err := is.needsConsent(r, req, s); err != nil {
		return err
	} else if ask {
		if silent {
			return oauth(errConsentRequired, "The person has not agreed to this yet.", nil)
		}
		id, err := is.cfg.Ledger.NewPending(r.Context(), grant.Pending{UserID: s.UserID, SessionID: s.ID, ClientID: req.client.ClientID, Query: req.query, Scopes: req.scopes, Audience: req.audience})
		if err != nil {
			return err
		}
		is.cfg.Edge.Redirect(w, r, "/consent/"+id)
		return nil
	}
	code, err := is.cfg.Ledger.NewCode(r.Context(), grant.CodeRequest{
		ClientID: req.client.ClientID, UserID: s.UserID, UserEpoch: s.UserEpoch, SessionID: s.ID, SID: s.BrowserID(), Connector: s.Connector,
		RedirectURI: req.redirectURI, Nonce: req.nonce, Challenge: req.challenge, Scopes: req.scopes, Audience: req.audience,
		AuthTime: s.AuthTime, ACR: s.ACR, AMR: s.AMR, WantTime: req.maxAge >= 0,
	})
	if err != nil {
		return err
	}
	is.back(w, r, req, url.Values{"code": {code}})
	return nil
}

// connector is the method that the client wants: what it asked for, else the
// only one that it allows.
func (is *Issuer) connector(req *authRequest) string {
	if req.connector != "" {
		return req.connector
	}
	if len(req.client.AllowedConnectors) == 1 {
		return req.client.AllowedConnectors[0]
	}
	return ""
}

// needsProof reports whether the session is not good enough: another sign-in
// was asked for, it is too old, or it is somebody else's. A sign-in that
// happened since this very request began satisfies prompt and max_age.
func (is *Issuer) needsProof(req *authRequest, s session.Session) bool {
	freshly := req.marked && !s.AuthTime.Before(req.mark.At)
	if (slices.Contains(req.prompt, "login") || slices.Contains(req.prompt, "select_account")) && !freshly {
		return true
	}
	if req.maxAge >= 0 && !freshly && is.cfg.Now().Sub(s.AuthTime) > req.maxAge {
		return true
	}
	if req.hintSub != "" && req.hintSub != s.UserID {
		return true
	}
	return len(req.client.AllowedConnectors) > 0 && !slices.Contains(req.client.AllowedConnectors, s.Connector)
}

func (is *Issuer) needsConsent(r *http.Request, req *authRequest, s session.Session) (bool, error) {
	if req.marked && req.mark.Consent != "" {
		p, err := is.cfg.Ledger.Approved(r.Context(), req.mark.Consent, s.UserID, s.ID, req.client.ClientID)
		if err == nil && p.Query == req.query {
			return false, nil
		}
		if err != nil && !errors.Is(err, grant.ErrNoPending) {
			return false, err
		}
		// Used before: ask again, as for any other request.
	}
	if slices.Contains(req.prompt, "consent") {
		return true, nil
	}
	if req.client.Trusted {
		return false, nil
	}
	if req.client.Public() && slices.Contains(req.scopes, "offline_access") {
		return true, nil // nothing proves that this is the program that was agreed to (ISS-12)
	}
	c, ok, err := is.cfg.Ledger.Consent(r.Context(), s.UserID, req.client.ClientID)
	if err != nil {
		return false, err
	}
	return !ok || slices.ContainsFunc(req.scopes, func(s string) bool { return !slices.Contains(c.Scopes, s) }), nil
}

// back sends the browser to the client: state verbatim, and iss (RFC 9207).
func (is *Issuer) back(w http.ResponseWriter, r *http.Request, req *authRequest, v url.Values) {
	is.cfg.Edge.Redirect(w, r, is.backURL(req, v))
}

func (is *Issuer) backURL(req *authRequest, v url.Values) string {
	if req.hasState {
		v.Set("state", req.state)
	}
	v.Set("iss", is.cfg.Issuer)
	sep := "?"
	if strings.Contains(req.redirectURI, "?") {
		sep = "&"
	}
	return req.redirectURI + sep + v.Encode()
}

// redirectError tells the client; only a fault before any redirect was decided
// comes here.
func (is *Issuer) redirectError(w http.ResponseWriter, r *http.Request, req *authRequest, err error) error {
	var oe *oauthError
	var we *web.Error
	switch {
	case errors.As(err, &oe):
	case errors.As(err, &we): // a page of ours: too many attempts
		return err
	case errors.Is(err, store.ErrUnavailable):
		return err // a page with "try again" helps more than a client's error page
	default:
		return err
	}
	is.cfg.Log.Info("authorization refused", "request_id", web.RequestOf(r).ID, "client", req.client.ClientID, "error", oe.code, "err", oe.Error())
	is.back(w, r, req, url.Values{"error": {oe.code}, "error_description": {oe.text}})
	return nil
}

// idTokenAlg is the algorithm that the client registered.
func idTokenAlg(c *grant.Client) token.Alg {
	if c.IDTokenSignedResponseAlg == "ES256" {
		return token.ES256
	}
	return token.RS256
}
