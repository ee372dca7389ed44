package portal

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/web"
)

// OAuth scopes of /api/v1. A bearer token needs the endpoint's scope, and the
// person behind it the endpoint's role.
const (
	ScopeAccount  = "gatehouse:account"  // one's own sessions and data
	ScopeConsoles = "gatehouse:consoles" // lending consoles, by admins and the platform's service account
	ScopeStorage  = "gatehouse:storage"  // borrowing storage credentials
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
	self   bool     // anybody signed in, for their own objects
	roles  []Role   // admin is always included
	scopes []string // a bearer token must carry one of them; ScopeAdmin includes all
	// fresh demands that the person signed in within this time (AD-2); the
	// operator's own token is exempt.
	fresh time.Duration
	// service lets a service account call whose token carries one of the scopes:
	// the operator gave them to it.
	service bool
}

func (p permission) set() bool {
	n := 0
	for _, b := range []bool{p.public, p.self, len(p.roles) > 0} {
		if b {
			n++
		}
	}
	return n == 1 && (p.public || len(p.scopes) > 0)
}

// endpoint is one line of the API: what openapi.json lists and what may call it.
type endpoint struct {
	method, path string
	summary      string
	needs        permission
	query        []string // parameters that it takes; any other is refused
	body         any      // zero value of the JSON object that serve decodes; nil: none is taken
	answer       any      // zero value of what serve returns; nil: 204 No Content
	serve        func(ctx context.Context, c *caller, r *http.Request) (any, error)
}

// stream is what serve returns to answer by itself. still says whether the caller
// may go on: who answers for long asks it now and then (docs/security.md SE-3).
type stream func(w http.ResponseWriter, r *http.Request, still func() error) error

// caller is who asks.
type caller struct {
	operator bool   // data/admin.token
	service  string // id of a service account
	keyed    bool   // by an API key, or as a CI job by a token that stands for one
	client   string // that a token was issued to
	sess     session.Session
	roles    []Role
	scopes   []string // of a bearer token
	bearer   bool
	cookie   bool
}

func (c *caller) has(role Role) bool {
	return c.operator || slices.Contains(c.roles, RoleAdmin) || slices.Contains(c.roles, role)
}

// actor is how events name the caller.
func (c *caller) actor() string {
	switch {
	case c.operator:
		return "operator"
	case c.service != "":
		return c.service
	}
	return c.sess.UserID
}

// API returns the handler of /api/v1. On the private listener (admin true) it
// also takes the operator's token, and no cookies.
func (p *Portal) API(admin bool) (http.Handler, error) { return p.api(p.endpoints(), admin) }

const apiPrefix = "/api/v1"

// methods are those that the table may use, in the order of an Allow header.
func methods() []string {
	return []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
}

func (p *Portal) api(table []endpoint, admin bool) (http.Handler, error) {
	r := chi.NewRouter()
	seen := map[string]bool{}
	for _, e := range table {
		name := e.method + " " + e.path
		if !e.needs.set() {
			return nil, fmt.Errorf("api: %s has no entry in the permission table", name)
		}
		if e.serve == nil || !slices.Contains(methods(), e.method) {
			return nil, fmt.Errorf("api: %s has no handler or an odd method", name)
		}
		if seen[name] {
			return nil, fmt.Errorf("api: %s is there twice", name)
		}
		seen[name] = true
		r.Method(e.method, apiPrefix+e.path, p.edge.Handle("api "+e.path, p.guard(e, admin)))
	}
	r.NotFound(p.edge.Handle("api", func(http.ResponseWriter, *http.Request) error {
		return notFound(nil)
	}).ServeHTTP)
	r.MethodNotAllowed(p.edge.Handle("api", func(_ http.ResponseWriter, q *http.Request) error {
		e := web.Fail(http.StatusMethodNotAllowed, "api.method", "error.method", nil)
		var allow []string
		for _, m := range methods() {
			if r.Match(chi.NewRouteContext(), m, q.URL.Path) {
				allow = append(allow, m)
			}
		}
		e.Header = http.Header{"Allow": {strings.Join(allow, ", ")}}
		return e
	}).ServeHTTP)
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		// Every answer of the API is JSON, errors included, whoever looks at it.
		q.Header.Set("Accept", "application/json")
		q.Header.Set("Sec-Fetch-Mode", "cors")
		r.ServeHTTP(w, q)
	}), nil
}

// plainID is what ids in a path look like; what does not is the id of nothing.
var plainID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

func (p *Portal) guard(e endpoint, admin bool) web.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		q := web.RequestOf(r)
		q.Pattern = apiPrefix + e.path // chi's own has the prefix of the mount twice
		c := &caller{}
		if !e.needs.public {
			var err error
			if c, err = p.authenticate(r, admin); err != nil {
				return err
			}
			q.User, q.Session = c.actor(), c.sess.ID
			if err := p.permit(e.needs, c); err != nil {
				return err
			}
		}
		if err := e.accepts(w, r, c); err != nil {
			return err
		}
		v, err := e.serve(r.Context(), c, r)
		if err != nil {
			return apiError(err)
		}
		if s, ok := v.(stream); ok {
			return s(w, r, func() error {
				c, err := p.authenticate(r, admin)
				if err != nil {
					return err
				}
				return p.permit(e.needs, c)
			})
		}
		w.Header().Set("Cache-Control", "no-store")
		if v == nil {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		return p.edge.JSON(w, http.StatusOK, v)
	}
}

// accepts refuses what the endpoint does not take: odd ids, unknown parameters,
// a body that is not JSON, is too large, or is there although none is wanted.
func (e endpoint) accepts(w http.ResponseWriter, r *http.Request, c *caller) error {
	params := chi.RouteContext(r.Context()).URLParams
	for i, name := range params.Keys {
		if name != "*" && !plainID.MatchString(params.Values[i]) { // * is where we are mounted
			return notFound(errors.New("the id in the path is none"))
		}
	}
	q, err := web.ParseValues(r.URL.RawQuery)
	if err != nil {
		return err
	}
	for k := range q {
		if !slices.Contains(e.query, k) {
			return badRequest("there is no such parameter; known here: " + cmp.Or(strings.Join(e.query, ", "), "none"))
		}
	}
	changes := r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch
	// Demanding the type of a cookie's request even without a body keeps HTML
	// forms out a second time (AD-3).
	if r.ContentLength != 0 || changes && c.cookie {
		if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
			return web.Fail(http.StatusUnsupportedMediaType, "api.content_type", "error.json_needed", err)
		}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxAPIBody)
	if e.body == nil && r.ContentLength != 0 {
		if err := decode(r, &struct{}{}); err != nil {
			return err
		}
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

// insufficient is RFC 6750 section 3.1's insufficient_scope.
func insufficient(message, scope string) error {
	e := web.Fail(http.StatusForbidden, "insufficient_scope", "error.api_forbidden", errors.New(message))
	e.Args = map[string]any{"detail": message}
	challenge := `Bearer error="insufficient_scope"`
	if scope != "" {
		challenge += fmt.Sprintf(`, scope=%q`, scope)
	}
	e.Header = http.Header{"Www-Authenticate": {challenge}}
	return e
}

func notFound(err error) error {
	return web.Fail(http.StatusNotFound, "api.not_found", "error.not_found", err)
}

func badRequest(message string) error {
	e := web.Fail(http.StatusBadRequest, "api.bad_request", "error.api_bad_request", errors.New(message))
	e.Args = map[string]any{"detail": message}
	return e
}

// decode reads a JSON body of exactly the members that into has (AD-3).
func decode(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return web.Fail(http.StatusRequestEntityTooLarge, "api.too_large", "error.too_large", err)
		}
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
