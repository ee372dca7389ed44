package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/tracing"
	"github.com/remotegpu/gatehouse/broker/web"
)

// ServeHTTP answers a request of a gateway host.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	pg := &passage{answer: answer{ResponseWriter: w, out: outlet{rc: http.NewResponseController(w)}}}
	defer pg.answer.out.leave()
	defer func() {
		web.RequestOf(r).Over(func() {
			g.cfg.Observe(pg.name(), pg.answer.code(), time.Since(start))
			if err := pg.from.err; err != nil {
				g.cfg.Log.DebugContext(r.Context(), "the answer of an upstream broke off", "route", pg.name(), "err", err)
			}
			if span := web.RequestOf(r).Span; span.On() {
				pg.describe(span, r.Method)
			}
		})
	}()
	if err := g.serve(pg, r); err != nil {
		g.cfg.Edge.RenderError(&pg.answer, r, err)
	}
}

// passage is one request on its way through the gateway. It is also the context
// of what goes upstream, so that the proxy's hooks find it.
type passage struct {
	context.Context
	activity
	answer answer
	pass   *pass
	body   *requestBody
	from   answerBody
	leave  func()   // gives up what goes on with the upstream; nil for sockets
	idle   *idle    // nil where the route has no timeouts.idle
	server *url.URL // of a WebSocket whose upstream is one of several
	host   string   // without port
	label  string   // its first, which {node} stands for
	own    string   // what else than a route answered, for metrics
	span   tracing.Span
}

type passageKey struct{}

// Value finds the passage itself.
func (pg *passage) Value(key any) any {
	if key == (passageKey{}) {
		return pg
	}
	return pg.Context.Value(key)
}

func (pg *passage) name() string {
	if pg.route != nil {
		return pg.route.Name
	}
	return pg.own
}

func (g *Gateway) serve(pg *passage, r *http.Request) error {
	q := web.RequestOf(r)
	w := &pg.answer
	pg.host, pg.answer.id = q.Host, q.ID
	raw := rawPath(r)
	if own := g.ownPath(raw); own != nil { // ours, before any route, by exact path
		pg.own = "gatehouse"
		return own(w, r)
	}
	pg.own = "none"
	if err := g.match(pg, r, raw); err != nil {
		return err
	}
	if pg.route.ForwardAuth {
		return web.Fail(http.StatusNotFound, "route.forward_auth", "error.not_found", errors.New("another proxy serves this host, and asks us at /.gatehouse/auth"))
	}
	if done, err := g.cors(w, r, pg.route); done || err != nil {
		return err
	}
	err := g.admit(pg, r)
	switch {
	case errors.Is(err, errNobody):
		return g.unauthenticated(w, r, pg.route)
	case err != nil:
		return err
	case pg.pass.stepUp > 0:
		return g.stepUp(w, r, pg.pass.stepUp)
	case pg.route.maxBody > 0 && r.ContentLength > pg.route.maxBody:
		return tooLarge(pg.route)
	}
	pg.began = time.Now()
	if isUpgrade(r) {
		return g.websocket(r, pg)
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	pg.takeBody(r)
	give := func(why error) {
		cancel(why)
		pg.answer.out.interrupt(pg.body)
	}
	pg.end = func(code int) { give(ended(code)) }
	pg.leave = func() { cancel(nil) }
	if after := pg.route.Timeouts.Idle; after > 0 {
		pg.idle = newIdle(after, r.ContentLength != 0, func() { give(errIdle) })
		defer pg.idle.stop()
	}
	s, ok := g.active.add(&pg.activity)
	if !ok {
		return tooMany()
	}
	defer s.remove(&pg.activity)
	pg.Context = pg.trace(ctx, q.Span)
	defer func() { pg.traced(pg.answer.code(), nil) }() // an upstream that breaks off is a panic
	g.forward(w, r.WithContext(pg), pg)
	return nil
}

// ownPath is what answers a path of ours on a gateway host; nil for all others.
func (g *Gateway) ownPath(raw string) func(http.ResponseWriter, *http.Request) error {
	if !strings.HasPrefix(raw, "/.gatehouse/") {
		return nil
	}
	switch {
	case raw == "/.gatehouse/callback":
		return g.callback
	case raw == "/.gatehouse/signout":
		return func(w http.ResponseWriter, r *http.Request) error {
			g.cfg.Edge.Redirect(w, r, g.cfg.Issuer.String()+"/signout")
			return nil
		}
	case raw == "/.gatehouse/auth":
		return g.ForwardAuth
	case strings.HasPrefix(raw, envoyPrefix):
		return g.envoyAuth
	}
	return nil
}

// match finds the route of a request, and refuses what no upstream may get.
func (g *Gateway) match(pg *passage, r *http.Request, raw string) error {
	routes, label := g.routes.host(pg.host)
	if routes == nil {
		return web.Fail(http.StatusMisdirectedRequest, "route.host", "error.not_found", nil)
	}
	rt, err := choose(routes, r)
	if err != nil {
		return err
	}
	pg.by, pg.route, pg.in, pg.label = g, rt, r, label
	q := web.RequestOf(r)
	q.Route, q.Pattern = rt.Name, rt.Path
	if (rt.Lease || len(rt.FrameAncestors) > 0) && framed(r) { // a console that wakes up in a frame must be able to say so there
		q.Ancestors = rt.ancestors()
	}
	return refuse(r, rt, raw)
}

// admit finds out who asks and decides. It returns errNobody for a stranger;
// whose sign-in is too old has a pass that says so.
func (g *Gateway) admit(pg *passage, r *http.Request) (err error) {
	rt := pg.route
	if err := g.limited(r, pg, false); err != nil {
		return err
	}
	if pg.caller, err = g.authenticate(r, rt, pg.host); err != nil {
		return err
	}
	q := web.RequestOf(r)
	q.User, q.Session = pg.caller.userID, pg.caller.session.ID
	if pg.caller.cookie && !g.sameSite(r, rt, pg.caller) {
		return web.Fail(http.StatusForbidden, "request.cross_origin", "error.cross_origin", nil)
	}
	if err := g.limited(r, pg, true); err != nil {
		return err
	}
	if rt.Lease {
		if pg.lease, err = g.cfg.Leases.Get(r.Context(), pg.label); err != nil {
			if errors.Is(err, console.ErrNoLease) {
				return g.denied(r, &pg.activity, pg.label, &refusal{log: "no lease"})
			}
			return err
		}
	}
	if rt.rules.readsRequest(pg.lease) {
		pg.request = &policy.Request{Method: r.Method, Path: r.URL.Path, Host: pg.host, IP: web.RequestOf(r).IP.String(), Time: g.cfg.Now()}
	}
	if pg.pass, err = g.pass(r.Context(), rt, pg.caller, pg.lease, pg.request); err != nil {
		return err
	}
	switch {
	case pg.pass.stepUp > 0: // the caller leads there
	case !pg.pass.allowed:
		return g.denied(r, &pg.activity, pg.label, pg.pass.refusal)
	case looksOnly(pg.lease, pg.caller) && !looking(r.Method):
		return g.denied(r, &pg.activity, pg.label, &refusal{rule: "read_only", log: "the lease is read-only for guests"})
	}
	return nil
}

// ended is why a request of ours was cut: a close code of WebSockets.
type ended int

// Error names the code.
func (e ended) Error() string {
	if e == closeSession {
		return "the session has ended"
	}
	return "the lease or the permission has ended"
}

// overError tells somebody whose request was cut before the upstream answered.
func (g *Gateway) overError(r *http.Request, pg *passage, code int) error {
	if code == closeSession {
		e := web.Fail(http.StatusUnauthorized, "session.ended", "error.sign_in", ended(code))
		e.Header = http.Header{"Www-Authenticate": {`Bearer realm="gatehouse"`}}
		return e
	}
	return g.denied(r, &pg.activity, leaseID(pg.lease), &refusal{log: ended(code).Error()})
}

// tooMany refuses one that has too much open (GW-14).
func tooMany() error {
	e := web.Fail(http.StatusTooManyRequests, "limit.open", "error.too_many_open", nil)
	e.Header = http.Header{"Retry-After": {"1"}}
	return e
}

// refuse is what no upstream gets (GW-4, GW-6, GW-7).
func refuse(r *http.Request, rt *route, raw string) error {
	bad := func(code string, err error) error {
		return web.Fail(http.StatusBadRequest, code, "error.bad_request", err)
	}
	// "*", and what HTTP/2 can carry and a request line of HTTP/1 cannot.
	if !strings.HasPrefix(raw, "/") || strings.ContainsFunc(r.RequestURI, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return bad("request.target", nil)
	}
	if !rt.raw {
		if err := checkPath(raw); err != nil {
			return bad("request.path", err)
		}
	}
	if r.ProtoMajor == 2 && r.TLS == nil && !rt.H2C {
		return web.Fail(http.StatusHTTPVersionNotSupported, "request.h2c", "error.bad_request", errors.New("the route does not say h2c"))
	}
	if isUpgrade(r) && (r.Method != http.MethodGet || r.ContentLength != 0 || r.ProtoMajor != 1) {
		return bad("request.upgrade", errors.New("a WebSocket is opened by GET over HTTP/1.1 without a body"))
	}
	return nil
}
