package gateway

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/apikey"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

// ConsoleCookie names the gateway's cookie, which every host has of its own.
const ConsoleCookie = "gatehouse-console"

// caller is who asks, and by what.
type caller struct {
	session  session.Session // ID "" for a service and for an API key
	userID   string
	groups   []string // of the session, or what the operator gave a service account
	kind     string   // browser, offline, device, api_key, service
	service  bool     // nobody's but a program's own
	keyID    string   // of an API key
	act      any      // who acts for the person, as the token says
	workload bool     // a CI job, which has a token of a service account
	from     netip.Addr
	clientID string
	scope    []string
	tokenID  string // jti; "" by cookie
	expires  time.Time
	cookie   bool
	frame    bool // by the cookie of a frame, which another site shows
}

var errNobody = errors.New("not authenticated")

// authenticate finds the caller by cookie or bearer token. On a lease route the
// client's own Authorization belongs to the console when a cookie is there.
func (g *Gateway) authenticate(r *http.Request, rt *route, host string) (caller, error) {
	h, hasCookie := g.cfg.Edge.Cookie(r, ConsoleCookie)
	// Of a console that another site frames the browser keeps the Lax cookie back.
	frame := false
	if len(rt.FrameAncestors) > 0 && rt.Lease && (!hasCookie || framed(r)) {
		if f, ok := g.cfg.Edge.Cookie(r, FrameCookie); ok {
			h, hasCookie, frame = f, true, true
		}
	}
	auth := r.Header["Authorization"]
	if (rt.bearer || rt.apiKey) && len(auth) > 0 && !(rt.Lease && hasCookie) {
		if len(auth) > 1 {
			return caller{}, challenge(http.StatusBadRequest, "invalid_request", "More than one Authorization header.", nil)
		}
		if scheme, raw, ok := strings.Cut(auth[0], " "); ok && strings.EqualFold(scheme, "Bearer") {
			raw = strings.TrimSpace(raw)
			switch {
			case rt.apiKey && apikey.Looks(raw):
				return g.byKey(r, rt, raw)
			case rt.bearer:
				return g.byToken(r, rt, raw)
			}
			return caller{}, challenge(http.StatusUnauthorized, "invalid_token", "This service does not take credentials of that kind.", nil)
		}
		if !rt.session {
			return caller{}, errNobody
		}
	}
	if !rt.session || !hasCookie {
		return caller{}, errNobody
	}
	s, err := g.cfg.Sessions.LookupHost(r.Context(), session.Handle(h), host)
	if errors.Is(err, session.ErrNoSession) || errors.Is(err, session.ErrEnded) {
		return caller{}, errNobody
	}
	if err != nil {
		return caller{}, err
	}
	c := bySession(s)
	c.frame = frame
	return c, nil
}

// bySession is who a browser's session is.
func bySession(s session.Session) caller {
	return caller{session: s, userID: s.UserID, groups: s.Groups, kind: string(s.Kind), cookie: true}
}

// byKey takes an API key (docs/security.md AD-4).
func (g *Gateway) byKey(r *http.Request, rt *route, raw string) (caller, error) {
	from := web.RequestOf(r).IP
	k, err := g.cfg.Keys.Verify(r.Context(), raw, from)
	switch {
	case errors.Is(err, apikey.ErrMalformed):
		return caller{}, challenge(http.StatusUnauthorized, "invalid_token", "This is no whole API key.", err)
	case errors.Is(err, apikey.ErrUnknown), errors.Is(err, apikey.ErrOwner):
		return caller{}, challenge(http.StatusUnauthorized, "invalid_token", "The API key is not valid or has expired.", err)
	case errors.Is(err, apikey.ErrNetwork):
		return caller{}, challenge(http.StatusForbidden, "invalid_token", "The API key may not be used from this address.", err)
	case err != nil:
		return caller{}, err
	}
	for _, need := range rt.Scopes {
		if !slices.Contains(k.Scopes, need) {
			return caller{}, challenge(http.StatusForbidden, "insufficient_scope", "The API key lacks a scope.", nil)
		}
	}
	c := caller{userID: k.Owner, kind: "api_key", scope: k.Scopes, tokenID: "key:" + k.ID, keyID: k.ID, expires: k.Expires, from: from, service: k.Service}
	if k.Service {
		c.kind = "service"
		if c.groups, err = g.cfg.Keys.Groups(r.Context(), k.Owner); err != nil {
			return caller{}, err
		}
	}
	return c, nil
}

// byToken takes an access token whose aud is the route's (docs/security.md
// ISS-6, GW-11).
func (g *Gateway) byToken(r *http.Request, rt *route, raw string) (caller, error) {
	c, err := g.cfg.Signer.Verify(r.Context(), token.TypeAccess, raw)
	if err != nil {
		return caller{}, challenge(http.StatusUnauthorized, "invalid_token", "The token is not valid or has expired.", err)
	}
	if c.Has(viaClaim) {
		return caller{}, challenge(http.StatusUnauthorized, "invalid_token", "The token was made for a service behind the gateway.", nil)
	}
	aud := c.Strings("aud")
	if rt.Audience == "" || len(aud) != 1 || aud[0] != rt.Audience {
		return caller{}, challenge(http.StatusForbidden, "invalid_token", "The token is for another audience.", nil)
	}
	out := caller{userID: c.String("sub"), clientID: c.String("client_id"), scope: strings.Fields(c.String("scope")), tokenID: c.String("jti"), expires: c.Time("exp"), kind: "service", service: true, act: c["act"]}
	for _, need := range rt.Scopes {
		if !slices.Contains(out.scope, need) {
			return caller{}, challenge(http.StatusForbidden, "insufficient_scope", "The token lacks a scope.", nil)
		}
	}
	sid := c.String("sid")
	if sid == "" {
		if out.workload = c.Has("gatehouse:workload"); out.workload {
			out.groups, err = g.cfg.Keys.Groups(r.Context(), out.userID)
			if errors.Is(err, user.ErrNotFound) {
				return caller{}, challenge(http.StatusUnauthorized, "invalid_token", "The service account of the token is not there any more.", err)
			}
			return out, err
		}
		if c.String("gatehouse:kind") != "service" || out.userID != out.clientID {
			return caller{}, challenge(http.StatusUnauthorized, "invalid_token", "The token names no session.", nil)
		}
		return out, nil
	}
	if err := g.cfg.Grants.Alive(r.Context(), grant.OfToken(out.tokenID)); err != nil {
		if errors.Is(err, grant.ErrInvalidGrant) {
			return caller{}, challenge(http.StatusUnauthorized, "invalid_token", "The token was revoked.", err)
		}
		return caller{}, err
	}
	s, err := g.cfg.Sessions.Get(r.Context(), sid)
	switch {
	case errors.Is(err, session.ErrNoSession), errors.Is(err, session.ErrEnded):
		return caller{}, challenge(http.StatusUnauthorized, "invalid_token", "The session has ended.", err)
	case err != nil:
		return caller{}, err
	case s.UserID != out.userID:
		return caller{}, challenge(http.StatusUnauthorized, "invalid_token", "The token is another person's.", nil)
	}
	out.session, out.kind, out.groups, out.service = s, string(s.Kind), s.Groups, false
	return out, nil
}

// challenge is RFC 6750 section 3.
func challenge(status int, code, text string, err error) *web.Error {
	e := web.Fail(status, code, "error.api_unauthorized", err)
	if status == http.StatusForbidden {
		e.Text = "error.api_forbidden"
	}
	e.Args = map[string]any{"detail": text}
	e.Header = http.Header{"Www-Authenticate": {`Bearer realm="gatehouse", error="` + code + `", error_description="` + text + `"`}}
	return e
}

// origin is what the browser calls this host.
func (g *Gateway) origin(r *http.Request) string {
	return g.cfg.Issuer.Scheme + "://" + strings.ToLower(r.Host)
}

// sameSite applies GW-15 to a request that a cookie authenticates: same-origin,
// a listed origin, or a top-level navigation by GET.
func (g *Gateway) sameSite(r *http.Request, rt *route, c caller) bool {
	origin := r.Header.Get("Origin")
	if origin != "" && slices.Contains(rt.CORS.Origins, origin) {
		return true
	}
	site := r.Header.Get("Sec-Fetch-Site")
	switch site {
	case "same-origin", "none":
		return true
	case "":
		if origin != "" {
			return origin == g.origin(r)
		}
		return r.Method == http.MethodGet || r.Method == http.MethodHead
	}
	dest := r.Header.Get("Sec-Fetch-Dest")
	return r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && (dest == "document" && !c.frame || dest == "iframe" && c.frame)
}

// unauthenticated answers who is not signed in: a navigation goes to sign-in, an
// API call is told (docs/security.md GW, ux F5).
func (g *Gateway) unauthenticated(w http.ResponseWriter, r *http.Request, rt *route) error {
	if rt.session && begins(r) {
		return g.startHandoff(w, r, 0)
	}
	if rt.Lease && framed(r) {
		return g.unframed(w, r, rt)
	}
	e := web.Fail(http.StatusUnauthorized, "session.required", "error.sign_in", errNobody)
	h := http.Header{"Www-Authenticate": {`Bearer realm="gatehouse"`}}
	e.Header = h
	e.Actions = []web.Action{{Text: "error.sign_in_action", URL: g.origin(r) + "/"}}
	if !web.Navigates(r) {
		word := "unauthorized"
		if _, had := g.cfg.Edge.Cookie(r, ConsoleCookie); had {
			word = "session_expired"
		}
		e.JSON = map[string]string{"error": word, "code": "session.required", "message": "Sign in first, or send a bearer token for this service.",
			"login_url": g.cfg.Issuer.String() + "/gateway/start?rd=" + url.QueryEscape(g.origin(r)+"/"), "ref": web.RequestOf(r).Ref()}
	}
	return e
}
