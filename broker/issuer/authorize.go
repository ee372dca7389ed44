package issuer

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/web"
)

// Authorize is GET and POST /oauth2/authorize. A POST reads no cookie: it is
// answered with a redirect to its own GET (docs/security.md SE-4), where a
// parameter that is there twice is found as in any other request.
func (is *Issuer) Authorize(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPost {
		raw, err := web.FormBody(w, r, maxForm)
		if err != nil {
			return err
		}
		params, err := url.ParseQuery(raw)
		if err != nil {
			return web.Fail(http.StatusBadRequest, errInvalidRequest, "error.bad_request", err)
		}
		query := params.Encode()
		if len(query) > maxQuery { // what nobody reads need not be carried
			maps.DeleteFunc(params, func(name string, _ []string) bool { return !slices.Contains(authorizeParams(), name) })
			if query = params.Encode(); len(query) > maxQuery {
				return web.Fail(http.StatusBadRequest, errInvalidRequest, "error.bad_request", fmt.Errorf("parameters of %d bytes", len(query)))
			}
		}
		is.cfg.Edge.Redirect(w, r, "/oauth2/authorize?"+query)
		return nil
	}
	req, params, err := is.parseTarget(r.URL.RawQuery)
	if err != nil {
		return err
	}
	if err := is.parseRest(r.Context(), req, params, r.URL.RawQuery); err != nil {
		return is.redirectError(w, r, req, err)
	}
	if err := is.authorize(w, r, req); err != nil {
		return is.redirectError(w, r, req, err)
	}
	return nil
}

// authorize decides on a request that is well formed: sign in, ask for consent,
// or give a code.
func (is *Issuer) authorize(w http.ResponseWriter, r *http.Request, req *authRequest) error {
	s, signedIn, err := is.cfg.SignIn.Current(r)
	if err != nil {
		return err
	}
	if !signedIn || is.needsProof(req, s) {
		if req.silent {
			return oauth(errLoginRequired, "Nobody is signed in, or not freshly enough.", nil)
		}
		if signedIn && req.marked && !s.AuthTime.Before(req.mark.At) {
			// A fresh proof, and still not whom the client wants.
			return oauth(errAccessDenied, "Somebody else signed in than was asked for, or by a method that this client does not take.", nil)
		}
		// What was agreed to is not asked again because the proof grew too old
		// meanwhile.
		m := mark{At: is.cfg.Now(), Consent: req.mark.Consent}
		return is.cfg.SignIn.StartWith(w, r, SignInRequest{
			ReturnTo: "/oauth2/authorize?" + req.query + "&" + markParam + "=" + is.sealMark(m, req.query), LoginHint: req.loginHint,
			Connector: is.connector(req), DomainHint: req.domainHint, App: req.client.Name(), UILocales: req.uiLocales,
			// Nobody's being signed in here does not mean that the upstream
			// will ask: it may know the person (ISS-11).
			Force: signedIn || req.maxAge >= 0 || slices.Contains(req.prompt, "login"),
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
		if req.silent {
			return oauth(errConsentRequired, "The person has not agreed to this yet.", nil)
		}
		began := is.cfg.Now()
		if req.marked {
			began = req.mark.At
		}
		id, err := is.cfg.Ledger.NewPending(r.Context(), grant.Pending{Began: began, UserID: s.UserID, SessionID: s.ID, ClientID: req.client.ClientID, Query: req.query, Scopes: req.scopes, Audience: req.audience})
		if err != nil {
			return err
		}
		is.cfg.Edge.Redirect(w, r, "/consent/"+id)
		return nil
	}
	code, err := is.cfg.Ledger.NewCode(r.Context(), grant.CodeRequest{
		ClientID: req.client.ClientID, UserID: s.UserID, UserEpoch: s.UserEpoch, SessionID: s.ID, SID: s.BrowserID(), Connector: s.Connector,
		RedirectURI: req.redirectURI, Nonce: req.nonce, Challenge: req.challenge, Scopes: req.scopes, Audience: req.audience,
		AuthTime: s.AuthTime, ACR: s.ACR, AMR: s.AMR,
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
	return !takes(req.client, s.Connector)
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
	return !ok || !subset(req.scopes, c.Scopes), nil
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
// comes here. Of a fault of ours a person is told by a page of ours, with "try
// again"; where no page may be shown, the client is (RFC 6749 section 4.1.2.1).
func (is *Issuer) redirectError(w http.ResponseWriter, r *http.Request, req *authRequest, err error) error {
	var oe *oauthError
	var we *web.Error
	switch {
	case errors.As(err, &oe):
	case errors.As(err, &we): // a page of ours: too many attempts
		return err
	case !req.silent:
		return err
	case errors.Is(err, store.ErrUnavailable):
		oe = oauth(errTemporarilyUnavailable, "Try again in a moment.", err)
	default:
		oe = oauth(errServerError, "Something went wrong here.", err)
	}
	level := slog.LevelInfo
	if oe.code == errServerError || oe.code == errTemporarilyUnavailable {
		level = slog.LevelError
	}
	is.cfg.Log.Log(r.Context(), level, "authorization refused", "client", req.client.ClientID, "error", oe.code, "err", oe.Error())
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
