package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/gateway/upstream"
	"github.com/remotegpu/gatehouse/broker/web"
)

// proxies are one ReverseProxy and one transport for each upstream.
type proxies struct {
	g        *Gateway
	byRoute  map[*route]*httputil.ReverseProxy
	tls      *upstream.TLS // to consoles
	mu       sync.RWMutex
	consoles map[string]*httputil.ReverseProxy                                 // by the name that their certificates have; "": their address
	dial     func(ctx context.Context, network, addr string) (net.Conn, error) // to consoles
}

func newProxies(g *Gateway, networks []netip.Prefix, caFile string) (*proxies, error) {
	p := &proxies{g: g, byRoute: map[*route]*httputil.ReverseProxy{}}
	var err error
	if p.tls, err = upstream.NewTLS(upstream.TLSConfig{CAFile: caFile}, g.cfg.Now, func(err error) {
		g.cfg.Log.Error("the changed certificates of consoles cannot be read; those from before stay in use", "err", err)
	}); err != nil {
		return nil, fmt.Errorf("consoles.%w", err)
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil || !console.Within(networks, ap.Addr()) {
			return fmt.Errorf("%s is in none of consoles.networks", address)
		}
		return nil
	}}
	p.dial = dialer.DialContext
	for _, rt := range g.all {
		if rt.upstream == nil {
			continue
		}
		tr, err := p.toRoute(rt)
		if err != nil {
			return nil, err
		}
		p.byRoute[rt] = p.proxy(tr, rt)
	}
	p.consoles = map[string]*httputil.ReverseProxy{}
	p.console("")
	return p, nil
}

// toRoute is the way to the upstreams of a route, which are fixed.
func (p *proxies) toRoute(rt *route) (http.RoundTripper, error) {
	dial := (&net.Dialer{Timeout: rt.connect()}).DialContext
	tr := p.transport(dial, rt.Timeouts.ResponseHeader)
	if rt.H2C {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	if rt.TLS != (upstream.TLSConfig{}) {
		var err error
		if rt.tls, err = upstream.NewTLS(rt.TLS, p.g.cfg.Now, func(err error) {
			p.g.cfg.Log.Error("the changed certificates of a route cannot be read; those from before stay in use", "route", rt.Name, "err", err)
		}); err != nil {
			return nil, fmt.Errorf("route %q: tls.%w", rt.Name, err)
		}
		tr.DialTLSContext = rt.tls.Dialer(tr.DialContext, "", "h2", "http/1.1") // gRPC needs HTTP/2
	}
	if !rt.grouped() {
		return tr, nil
	}
	if err := p.g.openGroup(rt, tr); err != nil {
		return nil, err
	}
	return rt.group, nil
}

// maxConsoleNames is for how many names of certificates connections are kept.
const maxConsoleNames = 256

// console is the proxy to consoles whose certificates have a name of their own.
// One pool of connections serves one name: the pool tells connections apart by
// address alone.
func (p *proxies) console(serverName string) *httputil.ReverseProxy {
	p.mu.RLock()
	rp, ok := p.consoles[serverName]
	p.mu.RUnlock()
	if ok {
		return rp
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if rp, ok := p.consoles[serverName]; ok {
		return rp
	}
	if len(p.consoles) >= maxConsoleNames {
		for name, old := range p.consoles {
			if name == "" {
				continue
			}
			delete(p.consoles, name)
			if t, ok := old.Transport.(*http.Transport); ok {
				t.CloseIdleConnections()
			}
			break
		}
	}
	tr := p.transport(p.dial, 0)
	tr.DialTLSContext = p.tls.Dialer(tr.DialContext, serverName, "h2", "http/1.1")
	rp = p.proxy(tr, nil)
	p.consoles[serverName] = rp
	return rp
}

func (p *proxies) transport(dial func(context.Context, string, string) (net.Conn, error), headerTimeout time.Duration) *http.Transport {
	if headerTimeout == 0 {
		headerTimeout = 60 * time.Second
	}
	return &http.Transport{
		DialContext: hearing(dial), TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: headerTimeout,
		MaxIdleConns: 1024, MaxIdleConnsPerHost: 256, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		DisableCompression: true, ExpectContinueTimeout: time.Second, WriteBufferSize: 16 << 10, ReadBufferSize: 16 << 10,
		// Own dialers switch HTTP/2 off unless asked. One connection carries many
		// requests there, so a dead one must be noticed.
		ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
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
		ErrorLog: log.New(io.Discard, "", 0), // it knows no request; see passage.from
	}
}

// target is where the request goes: the route's upstream, or the lease's. Which
// of several it is, their group says later.
func (pg *passage) target() *url.URL {
	switch {
	case pg.route.Lease:
		return pg.pass.target
	case pg.server != nil:
		return pg.server
	}
	return pg.route.target(pg.label)
}

// forward hands the request to the upstream.
func (g *Gateway) forward(w http.ResponseWriter, r *http.Request, pg *passage) {
	if pg.body != nil {
		r.Body = pg.body
		// An upstream may answer while it is still being sent to; otherwise
		// net/http would read the whole body before the answer's first byte.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	// WebSockets have their own relay; h2c and the like would carry requests
	// past the policy (GW-7).
	delete(r.Header, "Upgrade")
	rp := g.proxy.byRoute[pg.route]
	if pg.route.Lease {
		rp = g.proxy.console(pg.lease.TLS.ServerName)
	}
	rp.ServeHTTP(w, r)
}

// rewrite makes the upstream's request. It runs after hop-by-hop headers were
// removed, so that nothing of ours can be named in Connection (GW-1).
func (p *proxies) rewrite(pr *httputil.ProxyRequest) {
	pg := pr.In.Context().Value(passageKey{}).(*passage)
	p.g.prepare(pr.In, pr.Out, pg)
	if pg.body != nil {
		pg.body.out = pr.Out
	}
}

// Values of headers that are the same for every request; net/http reads them.
var (
	protoHTTP  = []string{"http"}
	protoHTTPS = []string{"https"}
	noAgent    = []string{""} // keeps net/http from speaking for the client
)

// prepare sets URL and headers of what goes upstream; WebSockets use it too.
func (g *Gateway) prepare(in, out *http.Request, pg *passage) {
	rt := pg.route
	rt.setTarget(out.URL, in.URL, rawPath(in), pg.target())
	out.Host = ""
	if rt.Lease {
		out.Host = in.Host // consoles compare Origin with Host
	}
	cleanRequest(out)
	cleanCookies(out.Header)
	rt.request.apply(out.Header, pg.label)
	rt.request.remove(out.Trailer)
	h := out.Header
	// A credential of ours is not for upstreams, and the client's own one only
	// for a console (GW-11).
	if auth := h["Authorization"]; len(auth) > 0 && !(rt.Lease && pg.caller.cookie && !slices.ContainsFunc(auth, g.isOurs)) {
		delete(h, "Authorization")
	}
	if pg.pass.bearer != nil {
		h["Authorization"] = pg.pass.bearer
	}
	pg.pass.identity.set(h, !rt.Lease || rt.Identity != "")
	q := web.RequestOf(in)
	values := [3]string{q.ID, in.Host, ""}
	h["X-Gatehouse-Request-Id"] = values[0:1:1]
	h["X-Forwarded-Host"] = values[1:2:2]
	if q.IP.IsValid() {
		values[2] = q.IP.String()
		h["X-Forwarded-For"] = values[2:3:3]
	}
	if q.HTTPS {
		h["X-Forwarded-Proto"] = protoHTTPS
	} else {
		h["X-Forwarded-Proto"] = protoHTTP
	}
	if !rt.Lease { // a stranger's code, which may have traces of its own
		pg.span.Inject(h)
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = noAgent
	}
}

func (p *proxies) modify(resp *http.Response) error {
	pg, ok := resp.Request.Context().Value(passageKey{}).(*passage)
	if !ok {
		return errors.New("no passage")
	}
	p.g.sawUp(pg)
	pg.clean(resp)
	// Over HTTP/2 trailers may come after any body, announced or not.
	if len(resp.TransferEncoding) > 0 || len(resp.Trailer) > 0 || (resp.ProtoMajor == 2 && resp.Body != http.NoBody) {
		cleanTrailer(resp.Trailer)
		resp.Body = &responseBody{ReadCloser: resp.Body, resp: resp, pg: pg}
	}
	if resp.Body = pg.idle.answer(resp.Body); resp.Body != http.NoBody {
		pg.from.ReadCloser = resp.Body
		resp.Body = &pg.from
	}
	return nil
}

// clean removes from an answer what the upstream must not say.
func (pg *passage) clean(resp *http.Response) {
	h := resp.Header
	pg.route.response.apply(h, pg.label) // first: nor may a rule say what an upstream must not
	cleanResponse(h, pg.host)
	if len(pg.route.CORS.Origins) > 0 { // the route's word is the only one, see answer.announce
		for name := range h {
			if strings.HasPrefix(name, "Access-Control-Allow-") || name == "Access-Control-Expose-Headers" && pg.route.cors.expose != "" {
				delete(h, name)
			}
		}
	}
	if pg.route.Lease || len(pg.route.FrameAncestors) > 0 {
		frame(h, pg.route.FrameAncestors)
	}
}

// frame says who may frame an answer: those that the route names, else itself.
func frame(h http.Header, ancestors []string) {
	const header = "Content-Security-Policy"
	if len(ancestors) == 0 {
		h.Add(header, "frame-ancestors 'self'")
		return
	}
	h.Del("X-Frame-Options")
	policies := h[header]
	delete(h, header)
	for _, csp := range policies {
		// A comma begins another policy (Content Security Policy Level 3, section 2.2.2).
		for one := range strings.SplitSeq(csp, ",") {
			var keep []string
			for d := range strings.SplitSeq(one, ";") {
				name, _, _ := strings.Cut(strings.TrimSpace(d), " ")
				if d = strings.TrimSpace(d); d != "" && !strings.EqualFold(name, "frame-ancestors") {
					keep = append(keep, d)
				}
			}
			if len(keep) > 0 {
				h.Add(header, strings.Join(keep, "; "))
			}
		}
	}
	h.Add(header, "frame-ancestors "+strings.Join(ancestors, " "))
}

// failed answers for an upstream that did not.
func (p *proxies) failed(w http.ResponseWriter, r *http.Request, err error) {
	g := p.g
	pg, _ := r.Context().Value(passageKey{}).(*passage)
	var over ended
	switch {
	case pg == nil:
	case errors.As(context.Cause(r.Context()), &over):
		err = g.overError(r, pg, int(over))
	case errors.Is(pg.body.err(), errTooLarge):
		err = tooLarge(pg.route)
	case errors.Is(context.Cause(r.Context()), errIdle):
		err = web.Fail(http.StatusRequestTimeout, "request.idle", "error.bad_request", errIdle)
	case pg.body.err() != nil:
		err = web.Fail(http.StatusBadRequest, "request.body", "error.bad_request", pg.body.err())
	default: // of a client that went away, nobody reads the answer
		err = g.upstreamError(r, &pg.activity, err)
	}
	g.cfg.Edge.RenderError(w, r, err)
}

// sawUp notes that an upstream answers.
func (g *Gateway) sawUp(pg *passage) {
	pg.route.health.saw(upstreamUp)
	if pg.lease != nil {
		g.waking.answered(pg.lease.ID)
	}
}

func (g *Gateway) upstreamError(r *http.Request, a *activity, err error) error {
	a.route.health.saw(upstreamDown)
	status, code := http.StatusBadGateway, "upstream.unreachable"
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		status, code = http.StatusGatewayTimeout, "upstream.timeout"
	}
	e := web.Fail(status, code, "error.upstream_down", err)
	e.Args, e.Down = map[string]any{"name": a.route.Name}, a.route.Name
	e.Header = http.Header{"Retry-After": {"10"}}
	if l := a.lease; l != nil {
		e.Down = cmp.Or(l.Node, l.ID)
		e.Code, e.Text, e.Args = "node.offline", "error.node_down", map[string]any{"name": e.Down}
		if since := g.notYet(l, err); since >= 0 {
			again := strconv.Itoa(int(retryAfter(since) / time.Second))
			e.Status, e.Code, e.Text, e.Args = http.StatusServiceUnavailable, "node.waking", "error.node_waking", map[string]any{"name": cmp.Or(l.Title, l.ID)}
			e.Header = http.Header{"Retry-After": {again}}
			if r.Method == http.MethodGet && web.Navigates(r) && !isUpgrade(r) {
				e.Header.Set("Refresh", again) // the page asks again by itself, without scripts too
			}
		}
	}
	return e
}

// notYet is for how long a console that may be about to start does not listen;
// negative if it is no such console.
func (g *Gateway) notYet(l *console.Lease, err error) time.Duration {
	if !notListening(err) {
		return -1
	}
	if d := g.waking.failed(l.ID, g.cfg.Now()); d < wakeFor {
		return d
	}
	return -1
}
