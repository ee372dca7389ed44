package portal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

// OAuth scopes of /api/v1. A bearer token needs the endpoint's scope, and the
// person behind it the endpoint's role.
const (
	ScopeAccount  = "gatehouse:account"  // one's own sessions and data
	ScopeConsoles = "gatehouse:consoles" // tickets for framed consoles (part C)
	ScopeSupport  = "gatehouse:support"  // users and their sessions
	ScopeAudit    = "gatehouse:audit"    // read everything
	ScopeAdmin    = "gatehouse:admin"    // everything
)

// maxAPIBody bounds the body of an API request, in bytes (docs/security.md G9).
const maxAPIBody = 1 << 20

// permission says who may call an endpoint (docs/security.md AD-1). Exactly one of
// public, self and roles is set; an endpoint without an entry does not start.
type permission struct {
	public bool
	self   bool   // anybody signed in, for their own objects
	roles  []Role // admin is always included
	scope  string // what a bearer token must carry; ScopeAdmin includes all
	// fresh demands that the person signed in within this time (AD-2); the
	// operator's own token is exempt.
	fresh time.Duration
}

func (p permission) set() bool {
	n := 0
	for _, b := range []bool{p.public, p.self, len(p.roles) > 0} {
		if b {
			n++
		}
	}
	return n == 1 && (p.public || p.scope != "")
}

// endpoint is one line of the API: what openapi.json lists and what may call it.
type endpoint struct {
	method, path string
	summary      string
	needs        permission
	serve        func(ctx context.Context, c *caller, r *http.Request) (any, error)
}

// caller is who asks.
type caller struct {
	operator bool // data/admin.token
	sess     session.Session
	roles    []Role
	scopes   []string // of a bearer token; nil for a cookie
	bearer   bool
}

func (c *caller) has(role Role) bool {
	return c.operator || slices.Contains(c.roles, RoleAdmin) || slices.Contains(c.roles, role)
}

// actor is how events name the caller.
func (c *caller) actor() string {
	if c.operator {
		return "operator"
	}
	return c.sess.UserID
}

// API returns the handler of /api/v1. On the private listener (admin true) it
// also takes the operator's token, and no cookies.
func (p *Portal) API(admin bool) (http.Handler, error) {
	r := chi.NewRouter()
	seen := map[string]bool{}
	for _, e := range p.endpoints() {
		name := e.method + " " + e.path
		if !e.needs.set() {
			return nil, fmt.Errorf("api: %s has no entry in the permission table", name)
		}
		if seen[name] {
			return nil, fmt.Errorf("api: %s is there twice", name)
		}
		seen[name] = true
		r.Method(e.method, "/api/v1"+e.path, p.edge.Handle("api "+e.path, p.guard(e, admin)))
	}
	r.NotFound(p.edge.Handle("api", func(http.ResponseWriter, *http.Request) error {
		return web.Fail(http.StatusNotFound, "api.not_found", "error.not_found", nil)
	}).ServeHTTP)
	r.MethodNotAllowed(p.edge.Handle("api", func(http.ResponseWriter, *http.Request) error {
		return web.Fail(http.StatusMethodNotAllowed, "api.method", "error.method", nil)
	}).ServeHTTP)
	return r, nil
}

func (p *Portal) guard(e endpoint, admin bool) web.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		// Every answer of the API is JSON, errors included.
		r.Header.Set("Accept", "application/json")
		c := &caller{}
		if !e.needs.public {
			var err error
			if c, err = p.authenticate(r, admin); err != nil {
				return err
			}
			if err := p.permit(e.needs, c); err != nil {
				return err
			}
		}
		if r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch {
			if r.ContentLength != 0 {
				if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
					return web.Fail(http.StatusUnsupportedMediaType, "api.content_type", "error.json_needed", err)
				}
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxAPIBody)
		}
		v, err := e.serve(r.Context(), c, r)
		if err != nil {
			return apiError(err)
		}
		w.Header().Set("Cache-Control", "no-store")
		if v == nil {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		return p.edge.JSON(w, http.StatusOK, v)
	}
}

// authenticate finds out who calls: the operator's token (private listener
// only), a bearer access token, or the portal's own session cookie from its own
// origin (docs/security.md AD-3, AD-11).
func (p *Portal) authenticate(r *http.Request, admin bool) (*caller, error) {
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, raw, _ := strings.Cut(h, " ")
		raw = strings.TrimSpace(raw)
		if !strings.EqualFold(scheme, "Bearer") || raw == "" {
			return nil, unauthorized("invalid_request", "the Authorization header must be: Bearer TOKEN")
		}
		if admin && p.adminToken.matches(raw) {
			return &caller{operator: true}, nil
		}
		return p.bearer(r.Context(), raw)
	}
	if admin {
		return nil, unauthorized("", "send the content of data/admin.token as a bearer token")
	}
	s, ok, err := p.signIn.Current(r)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, unauthorized("", "sign in, or send an access token for this issuer")
	}
	// A page of another site can make a browser send the cookie; it cannot make
	// it claim to be us.
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
	case "":
		if o := r.Header.Get("Origin"); o != "" && o != p.origin {
			return nil, web.Fail(http.StatusForbidden, "api.cross_origin", "error.cross_origin", nil)
		}
		if r.Header.Get("Origin") == "" && r.Method != http.MethodGet && r.Method != http.MethodHead {
			return nil, web.Fail(http.StatusForbidden, "api.cross_origin", "error.cross_origin", nil)
		}
	default:
		return nil, web.Fail(http.StatusForbidden, "api.cross_origin", "error.cross_origin", nil)
	}
	return &caller{sess: s, roles: p.roles.Of(s)}, nil
}

func (p *Portal) bearer(ctx context.Context, raw string) (*caller, error) {
	claims, err := p.keys.Verify(ctx, token.TypeAccess, raw)
	if err != nil {
		return nil, unauthorized("invalid_token", "the access token is not valid here")
	}
	if aud := claims.Strings("aud"); len(aud) != 1 || aud[0] != p.issuer {
		return nil, unauthorized("invalid_token", "the access token is for another audience; ask for resource="+p.issuer)
	}
	if claims.String("gatehouse:kind") != "user" {
		return nil, forbidden("insufficient_scope", "service accounts may not call this")
	}
	s, err := p.sessions.Get(ctx, claims.String("sid"))
	if errors.Is(err, session.ErrNoSession) || errors.Is(err, session.ErrEnded) {
		return nil, unauthorized("invalid_token", "the session of this token has ended")
	}
	if err != nil {
		return nil, err
	}
	scopes := strings.Fields(claims.String("scope"))
	if !slices.ContainsFunc(scopes, func(s string) bool { return strings.HasPrefix(s, "gatehouse:") }) {
		return nil, forbidden("insufficient_scope", "the access token has no scope gatehouse:…")
	}
	return &caller{sess: s, roles: p.roles.Of(s), scopes: scopes, bearer: true}, nil
}

func (p *Portal) permit(need permission, c *caller) error {
	if c.operator {
		if need.self {
			return forbidden("operator", "data/admin.token is nobody's account; call this as a user")
		}
		return nil
	}
	if c.bearer && !slices.Contains(c.scopes, need.scope) && !slices.Contains(c.scopes, ScopeAdmin) {
		return forbidden("insufficient_scope", "the access token needs the scope "+need.scope)
	}
	if !need.self && !slices.ContainsFunc(need.roles, c.has) {
		return forbidden("policy.role_missing", "this needs the role "+string(need.roles[0]))
	}
	if need.fresh > 0 && p.now().Sub(c.sess.AuthTime) > need.fresh {
		return forbidden("policy.stepup", fmt.Sprintf("this needs a sign-in within the last %s; sign in again (prompt=login)", need.fresh))
	}
	return nil
}

func unauthorized(code, message string) error {
	challenge := "Bearer"
	if code != "" {
		challenge = fmt.Sprintf(`Bearer error=%q, error_description=%q`, code, message)
	}
	e := web.Fail(http.StatusUnauthorized, "api.unauthorized", "error.api_unauthorized", errors.New(message))
	e.Header = http.Header{"Www-Authenticate": {challenge}}
	e.Args = map[string]any{"detail": message}
	return e
}

func forbidden(code, message string) error {
	e := web.Fail(http.StatusForbidden, code, "error.api_forbidden", errors.New(message))
	e.Args = map[string]any{"detail": message}
	return e
}

func badRequest(message string) error {
	e := web.Fail(http.StatusBadRequest, "api.bad_request", "error.api_bad_request", errors.New(message))
	e.Args = map[string]any{"detail": message}
	return e
}

// apiError gives the domain's errors their status.
func apiError(err error) error {
	var known *web.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, store.ErrNotFound), errors.Is(err, session.ErrNoSession), errors.Is(err, session.ErrEnded), errors.Is(err, user.ErrNotFound):
		return web.Fail(http.StatusNotFound, "api.not_found", "error.not_found", err)
	case errors.Is(err, store.ErrUnavailable):
		return web.Fail(http.StatusServiceUnavailable, "store.unavailable", "error.store", err)
	case errors.Is(err, store.ErrConflict):
		return web.Fail(http.StatusConflict, "api.conflict", "error.conflict", err)
	}
	return err
}

// decode reads a JSON body of exactly the members that into has (AD-3).
func decode(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return badRequest("the body is not the JSON object expected: " + jsonComplaint(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badRequest("there is something after the JSON object")
	}
	return nil
}

// jsonComplaint keeps what helps and drops what could echo a secret.
func jsonComplaint(err error) string {
	if s := err.Error(); strings.HasPrefix(s, "json: unknown field") {
		return s
	}
	if typeErr, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("%s must be a %s", typeErr.Field, typeErr.Type)
	}
	if errors.Is(err, io.EOF) {
		return "it is empty"
	}
	return "it cannot be read"
}

// page is the form of every list.
type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}
