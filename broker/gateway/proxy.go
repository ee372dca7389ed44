package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/web"
)

// ServeHTTP answers a request of a gateway host.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	rec := &answer{ResponseWriter: w}
	name, err := g.serve(rec, r)
	if err != nil {
		g.cfg.Edge.RenderError(rec, r, err)
	}
	g.cfg.Observe(name, rec.code(), time.Since(start))
}

// answer remembers the status and drops informational answers of upstreams,
// which carry hop-by-hop headers through ReverseProxy (GW-10).
type answer struct {
	http.ResponseWriter
	status int
}

// WriteHeader passes final statuses on.
func (a *answer) WriteHeader(code int) {
	if code >= 100 && code < 200 && code != http.StatusSwitchingProtocols {
		return
	}
	if a.status == 0 {
		a.status = code
	}
	a.ResponseWriter.WriteHeader(code)
}

// Write implies 200.
func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(b)
}

// ReadFrom keeps the server's own fast copy.
func (a *answer) ReadFrom(src io.Reader) (int64, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	if rf, ok := a.ResponseWriter.(io.ReaderFrom); ok {
		return rf.ReadFrom(src)
	}
	return io.Copy(struct{ io.Writer }{a.ResponseWriter}, src)
}

// Flush sends what is buffered.
func (a *answer) Flush() { _ = http.NewResponseController(a.ResponseWriter).Flush() }

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) code() int {
	if a.status == 0 {
		return http.StatusOK
	}
	return a.status
}

// serve returns the route's name for metrics.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) (string, error) {
	q := web.RequestOf(r)
	switch r.URL.Path { // ours, before any route, by exact path
	case "/.gatehouse/callback":
		return "gatehouse", g.callback(w, r)
	case "/.gatehouse/signout":
		g.cfg.Edge.Redirect(w, r, g.cfg.Issuer.String()+"/signout")
		return "gatehouse", nil
	}
	routes, label := g.routes.host(q.Host)
	if routes == nil {
		return "none", web.Fail(http.StatusMisdirectedRequest, "route.host", "error.not_found", nil)
	}
	rt := pick(routes, r.URL.Path)
	if rt == nil {
		return "none", web.Fail(http.StatusNotFound, "route.path", "error.not_found", nil)
	}
	if err := g.refuse(r, rt); err != nil {
		return rt.Name, err
	}
	if done := g.cors(w, r, rt); done {
		return rt.Name, nil
	}
	c, err := g.authenticate(r, rt, q.Host)
	if errors.Is(err, errNobody) {
		return rt.Name, g.unauthenticated(w, r, rt)
	}
	if err != nil {
		return rt.Name, err
	}
	if c.cookie && !g.sameSite(r, rt) {
		return rt.Name, web.Fail(http.StatusForbidden, "request.cross_origin", "error.cross_origin", nil)
	}
	var l Lease
	if rt.Lease {
		if l, err = g.leases.get(r.Context(), label); err != nil {
			if errors.Is(err, ErrNoLease) {
				return rt.Name, g.denied(r, rt, c, label, "no lease")
			}
			return rt.Name, err
		}
	}
	var pr *policy.Request
	if rt.allow != nil && rt.allow.ReadsRequest() {
		pr = &policy.Request{Method: r.Method, Path: r.URL.Path, Host: q.Host, IP: q.IP.String(), Time: g.cfg.Now()}
	}
	p, err := g.pass(r.Context(), rt, c, l, pr)
	if err != nil {
		return rt.Name, err
	}
	if !p.allowed {
		return rt.Name, g.denied(r, rt, c, label, p.reason)
	}
	act := &activity{caller: c, route: rt, lease: l, request: pr, began: time.Now()}
	if isUpgrade(r) {
		return rt.Name, g.websocket(w, r, act, p)
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	act.end = func(int) { cancel() }
	s := g.active.add(act)
	defer s.remove(act)
	return rt.Name, g.forward(w, r.WithContext(context.WithValue(ctx, passageKey{}, &passage{activity: act, pass: p})), act)
}

// refuse is what no upstream gets (GW-4, GW-7).
func (g *Gateway) refuse(r *http.Request, rt *route) error {
	if !rt.raw {
		if err := checkPath(rawPath(r)); err != nil {
			return web.Fail(http.StatusBadRequest, "request.path", "error.bad_request", err)
		}
	}
	if up := r.Header["Upgrade"]; len(up) > 0 {
		if isUpgrade(r) && r.Method != http.MethodGet {
			return web.Fail(http.StatusBadRequest, "request.upgrade", "error.bad_request", nil)
		}
	}
	return nil
}

// denied says 403 and to whom; consoles are audited.
func (g *Gateway) denied(r *http.Request, rt *route, c caller, label, why string) error {
	q := web.RequestOf(r)
	g.cfg.Log.Info("denied", "request_id", q.ID, "route", rt.Name, "user", c.userID, "reason", why)
	if rt.Lease {
		if err := g.cfg.Events.Record(r.Context(), event.Event{Name: event.ConsoleDenied, Actor: c.userID, Target: label, Connector: c.session.Connector, IP: q.IP.String(), Agent: q.Agent, RequestID: q.ID}); err != nil {
			return err
		}
	}
	e := web.Fail(http.StatusForbidden, "policy.denied", "error.denied", nil)
	e.Args = map[string]any{"name": rt.Name}
	if c.cookie {
		if u, err := g.cfg.Users.Profile(r.Context(), c.userID); err == nil {
			e.Who = cmp.Or(u.Email, u.Username, u.Name)
		}
	}
	if rt.Lease {
		e.Text, e.Args = "error.denied_console", map[string]any{"name": label}
	}
	e.Actions = []web.Action{{Text: "error.to_portal", URL: g.cfg.Issuer.String() + "/"}, {Text: "error.other_account", URL: g.cfg.Issuer.String() + "/signout"}}
	return e
}

// cors answers preflights and allows the route's listed origins to read.
func (g *Gateway) cors(w http.ResponseWriter, r *http.Request, rt *route) bool {
	if len(rt.CORS.Origins) == 0 {
		return false
	}
	origin := r.Header.Get("Origin")
	w.Header().Add("Vary", "Origin")
	if origin == "" || !slices.Contains(rt.CORS.Origins, origin) {
		return false
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE")
	if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" && len(asked) < 1024 {
		h.Set("Access-Control-Allow-Headers", asked)
	}
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}

type passageKey struct{}

// passage carries the decision to the proxy's hooks.
type passage struct {
	*activity
	pass *pass
	body *requestBody
}

// proxies are one ReverseProxy and one transport for each upstream.
type proxies struct {
	g        *Gateway
	byRoute  map[*route]*httputil.ReverseProxy
	consoles *httputil.ReverseProxy
	tls      *tls.Config
	dial     func(ctx context.Context, network, addr string) (net.Conn, error) // to consoles
}

func newProxies(g *Gateway, networks []netip.Prefix, caFile string) (*proxies, error) {
	p := &proxies{g: g, byRoute: map[*route]*httputil.ReverseProxy{}, tls: &tls.Config{MinVersion: tls.VersionTLS12}}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("consoles.ca_file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("consoles.ca_file: there is no PEM certificate in %s", caFile)
		}
		p.tls.RootCAs = pool
	}
	console := &net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil || !slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(ap.Addr().Unmap()) }) {
			return fmt.Errorf("%s is in none of consoles.networks", address)
		}
		return nil
	}}
	p.dial = console.DialContext
	for _, rt := range g.all {
		if rt.Lease {
			continue
		}
		connect := rt.Timeouts.Connect
		if connect == 0 {
			connect = 5 * time.Second
		}
		d := &net.Dialer{Timeout: connect}
		p.byRoute[rt] = p.proxy(p.transport(d.DialContext, rt.Timeouts.ResponseHeader, &tls.Config{MinVersion: tls.VersionTLS12}), rt)
	}
	p.consoles = p.proxy(p.transport(p.dial, 0, p.tls), nil)
	return p, nil
}

func (p *proxies) transport(dial func(context.Context, string, string) (net.Conn, error), headerTimeout time.Duration, tc *tls.Config) *http.Transport {
	if headerTimeout == 0 {
		headerTimeout = 60 * time.Second
	}
	return &http.Transport{
		DialContext: dial, TLSClientConfig: tc, TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: headerTimeout,
		MaxIdleConns: 1024, MaxIdleConnsPerHost: 256, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		DisableCompression: true, ExpectContinueTimeout: time.Second, WriteBufferSize: 16 << 10, ReadBufferSize: 16 << 10,
	}
}

// buffers are what bodies are copied through.
type buffers struct{ pool sync.Pool }

func newBuffers(size int) *buffers {
	return &buffers{pool: sync.Pool{New: func() any { b := make([]byte, size); return &b }}}
}

// Get returns a buffer.
func (b *buffers) Get() []byte { return *(b.pool.Get().(*[]byte)) }

// Put takes a buffer back.
func (b *buffers) Put(x []byte) { b.pool.Put(&x) }

func (p *proxies) proxy(tr http.RoundTripper, rt *route) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: p.rewrite, Transport: tr, BufferPool: newBuffers(32 << 10), ModifyResponse: p.modify, ErrorHandler: p.failed,
		ErrorLog: log.New(logWriter{p.g}, "", 0),
	}
}

type logWriter struct{ g *Gateway }

func (l logWriter) Write(b []byte) (int, error) {
	l.g.cfg.Log.Debug("proxy", "message", strings.TrimSpace(string(b)))
	return len(b), nil
}

// forward hands the request to the upstream.
func (g *Gateway) forward(w http.ResponseWriter, r *http.Request, act *activity) error {
	pg := r.Context().Value(passageKey{}).(*passage)
	if r.Body != nil && r.Body != http.NoBody {
		pg.body = &requestBody{ReadCloser: r.Body}
		r.Body = pg.body
	}
	rp := g.proxy.consoles
	if !act.route.Lease {
		rp = g.proxy.byRoute[act.route]
	}
	rp.ServeHTTP(w, r)
	return nil
}

// requestBody remembers that the client's body broke off: that is the client's
// fault, not the upstream's (GW-17).
type requestBody struct {
	io.ReadCloser
	mu     sync.Mutex
	broken error
}

// Read reads on.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.mu.Lock()
		b.broken = err
		b.mu.Unlock()
	}
	return n, err
}

func (b *requestBody) err() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

// target is where the request goes: the route's fixed upstream, or the lease's.
func (a *activity) target() (*url.URL, error) {
	if !a.route.Lease {
		return a.route.upstream, nil
	}
	return url.Parse(a.lease.Upstream)
}

// rewrite makes the upstream's request. It runs after hop-by-hop headers were
// removed, so that nothing of ours can be named in Connection (GW-1).
func (p *proxies) rewrite(pr *httputil.ProxyRequest) {
	pg := pr.In.Context().Value(passageKey{}).(*passage)
	p.g.prepare(pr.In, pr.Out, pg)
	// WebSockets have their own relay; h2c and the like would carry requests
	// past the policy (GW-7).
	delete(pr.Out.Header, "Upgrade")
	delete(pr.Out.Header, "Connection")
}

// prepare sets URL and headers of what goes upstream; WebSockets use it too.
func (g *Gateway) prepare(in, out *http.Request, pg *passage) {
	base, err := pg.target()
	if err != nil {
		base = &url.URL{Scheme: "http", Host: "invalid.invalid"} // PutLease checked it
	}
	rt := pg.route
	out.URL.Scheme, out.URL.Host = base.Scheme, base.Host
	path, raw := in.URL.Path, in.URL.RawPath
	if rt.StripPath && rt.Path != "/" {
		path, raw = strings.TrimPrefix(path, strings.TrimSuffix(rt.Path, "/")), strings.TrimPrefix(raw, strings.TrimSuffix(rt.Path, "/"))
		if path == "" {
			path = "/"
		}
	}
	if bp := strings.TrimSuffix(base.Path, "/"); bp != "" {
		path = bp + path
		if raw != "" {
			raw = base.EscapedPath() + raw
		}
	}
	out.URL.Path, out.URL.RawPath, out.URL.RawQuery = path, raw, in.URL.RawQuery
	out.Host = ""
	if rt.Lease {
		out.Host = in.Host // consoles compare Origin with Host
	}
	cleanRequest(out)
	cleanCookies(out.Header)
	h := out.Header
	q := web.RequestOf(in)
	if !(rt.Lease && pg.caller.cookie) {
		delete(h, "Authorization") // a credential of ours is not for upstreams
	}
	if pg.pass.bearer != "" {
		h["Authorization"] = []string{pg.pass.bearer}
	}
	pg.pass.identity.set(h, !rt.Lease || rt.Identity != "")
	h["X-Gatehouse-Request-Id"] = []string{q.ID}
	proto := "http"
	if q.HTTPS {
		proto = "https"
	}
	h["X-Forwarded-For"] = []string{q.IP.String()}
	h["X-Forwarded-Proto"] = []string{proto}
	h["X-Forwarded-Host"] = []string{in.Host}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{""} // do not let net/http speak for the client
	}
}

func (p *proxies) modify(resp *http.Response) error {
	pg, ok := resp.Request.Context().Value(passageKey{}).(*passage)
	if !ok {
		return errors.New("no passage")
	}
	pg.route.health.saw(upstreamUp)
	host := web.HostName(pg.hostOf(resp.Request))
	cleanResponse(resp.Header, host)
	for name := range resp.Trailer {
		if http.CanonicalHeaderKey(name) == "Set-Cookie" {
			delete(resp.Trailer, name)
		}
	}
	if pg.route.Lease {
		frame(resp.Header, pg.route.FrameAncestors)
	}
	return nil
}

func (pg *passage) hostOf(out *http.Request) string { return out.Header.Get("X-Forwarded-Host") }

// frame says who may frame a console: those that the route names, else itself.
func frame(h http.Header, ancestors []string) {
	if len(ancestors) > 0 {
		h.Del("X-Frame-Options")
		csp := h.Get("Content-Security-Policy")
		var keep []string
		for d := range strings.SplitSeq(csp, ";") {
			if d = strings.TrimSpace(d); d != "" && !strings.HasPrefix(strings.ToLower(d), "frame-ancestors") {
				keep = append(keep, d)
			}
		}
		h.Set("Content-Security-Policy", strings.Join(append(keep, "frame-ancestors "+strings.Join(ancestors, " ")), "; "))
		return
	}
	h.Add("Content-Security-Policy", "frame-ancestors 'self'")
}

// failed answers for an upstream that did not.
func (p *proxies) failed(w http.ResponseWriter, r *http.Request, err error) {
	pg, _ := r.Context().Value(passageKey{}).(*passage)
	g := p.g
	if pg == nil {
		g.cfg.Edge.RenderError(w, r, err)
		return
	}
	if broken := pg.body.err(); broken != nil {
		g.cfg.Edge.RenderError(w, r, web.Fail(http.StatusBadRequest, "request.body", "error.bad_request", broken))
		return
	}
	if errors.Is(err, context.Canceled) { // the client went away, or lost the right to stay
		if r.Context().Err() != nil {
			g.cfg.Edge.RenderError(w, r, web.Fail(http.StatusUnauthorized, "session.ended", "error.sign_in", err))
			return
		}
	}
	g.cfg.Edge.RenderError(w, r, g.upstreamError(pg.activity, err))
}

func (g *Gateway) upstreamError(a *activity, err error) error {
	a.route.health.saw(upstreamDown)
	status, code := http.StatusBadGateway, "upstream.unreachable"
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		status, code = http.StatusGatewayTimeout, "upstream.timeout"
	}
	e := web.Fail(status, code, "error.upstream_down", err)
	e.Args, e.Down = map[string]any{"name": a.route.Name}, a.route.Name
	if a.route.Lease {
		e.Code, e.Text, e.Args, e.Down = "node.offline", "error.node_down", map[string]any{"name": a.lease.ID}, a.lease.ID
	}
	e.Header = http.Header{"Retry-After": {"10"}}
	return e
}
