package web

import (
	"context"
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/tracing"
)

// Request is what the edge found out about a request.
type Request struct {
	// ID is in the log, in events and in the answer's X-Gatehouse-Request-Id.
	ID     string
	IP     netip.Addr
	HTTPS  bool
	Host   string // lower case, without port; "" when it is no host name
	Locale string
	Theme  string // "", "light" or "dark"
	Agent  string
	// Country and City are a trusted proxy's word about where the client is, as it
	// was sent; "" where there is none.
	Country, City string

	// What answered, for the access log: the label and the pattern of the handler,
	// or the gateway's route and its path; who asked, once that is known; and
	// whether the connection became a WebSocket. Written by whoever serves the
	// request, read when it is over.
	Handler, Pattern, Route string
	User, Session           string
	Switched                bool

	// Ancestors are the origins that may frame a page of ours, where the gateway
	// found that a frame asks and its route allows it: "'self'" or origins. Such a
	// page links only into new tabs, since the broker is never framed.
	Ancestors []string

	// Span is the request's in its trace; the zero Span where nothing is traced.
	Span tracing.Span

	chosen bool // the reader chose Locale

	ending ending
}

// ending is what happens when a request is over.
type ending struct {
	mu             sync.Mutex
	detached, over bool
	then           []func()
}

// Over calls f when the request is over. That is now, for who asks as its handler
// returns, unless what it began goes on without one.
func (q *Request) Over(f func()) {
	e := &q.ending
	e.mu.Lock()
	if e.detached && !e.over {
		e.then = append(e.then, f)
		e.mu.Unlock()
		return
	}
	e.mu.Unlock()
	f()
}

// Detach says that what the request began goes on when its handler has returned,
// as a WebSocket does whose connection was taken over. Whoever detaches it calls
// over at its end.
func (q *Request) Detach() (over func()) {
	e := &q.ending
	e.mu.Lock()
	e.detached = true
	e.mu.Unlock()
	return func() {
		e.mu.Lock()
		e.over = true
		then := e.then
		e.then = nil
		e.mu.Unlock()
		for _, f := range then {
			f()
		}
	}
}

// refLetters leave out what is mistaken for something else when read aloud.
const refLetters = "23456789ABCDEFGHJKMNPQRSTVWXYZ"

// Ref is the ID in a form that a person can read to somebody: GH-XXXX-XXXX.
func (q *Request) Ref() string { return RequestRef(q.ID) }

// RequestRef is the Ref of a request's id, for finding it by either.
func RequestRef(id string) string {
	h := fnv.New64a()
	h.Write([]byte(id))
	n := h.Sum64()
	var b [8]byte
	for i := range b {
		b[i] = refLetters[n%uint64(len(refLetters))]
		n /= uint64(len(refLetters))
	}
	return "GH-" + string(b[:4]) + "-" + string(b[4:])
}

type requestKey struct{}

// RequestFrom returns the edge's Request; never nil.
func RequestFrom(ctx context.Context) *Request {
	if q, ok := ctx.Value(requestKey{}).(*Request); ok {
		return q
	}
	return &Request{Locale: "en"}
}

// RequestID returns the id of the request that a context belongs to, or "".
func RequestID(ctx context.Context) string {
	if q, ok := ctx.Value(requestKey{}).(*Request); ok {
		return q.ID
	}
	return ""
}

// RequestIP returns the client's address of the request that a context belongs
// to, or the zero Addr.
func RequestIP(ctx context.Context) netip.Addr {
	if q, ok := ctx.Value(requestKey{}).(*Request); ok {
		return q.IP
	}
	return netip.Addr{}
}

// WithRequest makes RequestFrom return q.
func WithRequest(ctx context.Context, q *Request) context.Context {
	return context.WithValue(ctx, requestKey{}, q)
}

// RequestOf returns the edge's Request of r; never nil.
func RequestOf(r *http.Request) *Request { return RequestFrom(r.Context()) }

// RequestIDHeader carries Request.ID in answers.
const RequestIDHeader = "X-Gatehouse-Request-Id"

// Middleware finds out who asks, refuses what no handler may see, and turns a
// panic into an answer.
func (e *Edge) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		q := &Request{ID: rand.Text(), Host: HostName(r.Host), Agent: cutText(r.UserAgent(), 256)}
		q.IP, q.HTTPS = e.client(r)
		e.place(r, q)
		q.Locale, q.Theme, q.chosen = e.preferences(r)
		ctx := WithRequest(r.Context(), q)
		if e.cfg.Tracer != nil && !forMonitors(r.URL.Path) {
			ctx, q.Span = e.cfg.Tracer.Begin(ctx, r.Header, e.Trusted(r), "request")
			q.Span.Set("gatehouse.request_id", q.ID)
			defer func() { q.Over(q.Span.End) }()
		}
		r = r.WithContext(ctx)
		w.Header().Set(RequestIDHeader, q.ID)
		if e.access != nil {
			c := &counter{ResponseWriter: w}
			w = c
			defer func() {
				if q.Switched {
					c.ResponseWriter = nil // the connection is another's, and its buffers are not kept for it
				}
				q.Over(func() { e.access.write(r, q, c, time.Since(start)) })
			}()
		}
		w, done := framed(w, r)
		defer func() { done() }()
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				done = func() {} // it is to end at once
				panic(v)
			}
			e.cfg.Log.ErrorContext(r.Context(), "panic", "handler", q.Handler, "route", q.Route, "value", quote(fmt.Sprint(v)), "stack", string(debug.Stack()))
			e.RenderError(w, r, Fail(http.StatusInternalServerError, "internal", "error.internal", fmt.Errorf("panic: %v", v)))
		}()
		if !e.fits(w, r) {
			e.RenderError(w, r, Fail(http.StatusRequestHeaderFieldsTooLarge, "request.header", "error.bad_request", nil))
			return
		}
		if !KnownMethod(r.Method) { // CONNECT and TRACE among them (GW-7)
			e.RenderError(w, r, Fail(http.StatusMethodNotAllowed, "request.method", "error.method", nil))
			return
		}
		if q.Host == "" {
			e.RenderError(w, r, Fail(http.StatusBadRequest, "request.host", "error.bad_request", nil))
			return
		}
		if r.ProtoMajor == 2 && !oneLength(r.Header["Content-Length"]) {
			e.RenderError(w, r, Fail(http.StatusBadRequest, "request.length", "error.bad_request", nil))
			return
		}
		if r.URL.IsAbs() || r.URL.Host != "" { // absolute-form target (GW-6)
			e.RenderError(w, r, Fail(http.StatusBadRequest, "request.target", "error.bad_request", nil))
			return
		}
		if slices.ContainsFunc(r.Header["Expect"], func(s string) bool { return s != "" && !strings.EqualFold(s, "100-continue") }) {
			e.RenderError(w, r, Fail(http.StatusExpectationFailed, "request.expect", "error.bad_request", nil))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// oneLength reports whether a request of HTTP/2 says its length once, in digits, or
// not at all. net/http takes anything else for a body of nothing or believes the
// first (RFC 9113 section 8.1.1).
func oneLength(values []string) bool {
	return len(values) == 0 || len(values) == 1 && values[0] != "" && strings.Trim(values[0], "0123456789") == ""
}

// forMonitors are paths that are asked all the time and tell nothing of us.
func forMonitors(path string) bool {
	return path == "/healthz" || path == "/readyz" || path == "/metrics"
}

// KnownMethod reports whether a method may pass: those of HTTP but CONNECT and
// TRACE, and those of WebDAV.
func KnownMethod(m string) bool {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
		"PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH":
		return true
	}
	return false
}

// HostName returns the host of a Host header in lower case without its port, or
// "" when it is not a host name or IP literal (GW-6: a trailing dot is refused).
func HostName(hostport string) string {
	host := hostport
	if strings.HasPrefix(host, "[") || strings.Count(host, ":") == 1 {
		h, port, err := net.SplitHostPort(hostport)
		switch {
		case err == nil && strings.Trim(port, "0123456789") == "":
			host = h
		case strings.HasPrefix(hostport, "[") && strings.HasSuffix(hostport, "]"):
			host = hostport[1 : len(hostport)-1]
		default:
			return ""
		}
	}
	if len(host) == 0 || len(host) > 253 || strings.HasSuffix(host, ".") {
		return ""
	}
	lower := true
	for i := range len(host) {
		switch c := host[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.', c == '_', c == ':':
		case c >= 'A' && c <= 'Z':
			lower = false
		default:
			return ""
		}
	}
	if strings.Contains(host, ":") || strings.HasPrefix(hostport, "[") { // brackets are for IPv6 alone (RFC 3986 section 3.2.2)
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() {
			return ""
		}
	}
	if !lower {
		host = strings.ToLower(host)
	}
	return host
}

// Trusted reports whether the peer of the connection is a trusted proxy.
func (e *Edge) Trusted(r *http.Request) bool {
	peer, ok := peerOf(r)
	return ok && e.trusts(peer)
}

func (e *Edge) trusts(ip netip.Addr) bool {
	return slices.ContainsFunc(e.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(ip) })
}

func peerOf(r *http.Request) (netip.Addr, bool) {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, false
	}
	return ap.Addr().Unmap().WithZone(""), true
}

// client returns the rightmost hop that is not one of our proxies, and whether
// the client came by https (SE-9).
func (e *Edge) client(r *http.Request) (netip.Addr, bool) {
	peer, ok := peerOf(r)
	https := r.TLS != nil
	if !ok || !e.trusts(peer) {
		return peer, https
	}
	if protos := r.Header.Values("X-Forwarded-Proto"); len(protos) == 1 {
		https = strings.EqualFold(strings.TrimSpace(protos[0]), "https")
	}
	var hops []string
	for _, v := range r.Header.Values("X-Forwarded-For") {
		hops = append(hops, strings.Split(v, ",")...)
	}
	ip := peer
	for _, hop := range slices.Backward(hops) {
		hop = strings.TrimSpace(hop)
		next, err := netip.ParseAddr(hop)
		if err != nil {
			ap, err := netip.ParseAddrPort(hop) // as some load balancers write it
			if err != nil {
				break // whoever wrote that is not to be believed further
			}
			next = ap.Addr()
		}
		ip = next.Unmap().WithZone("")
		if !e.trusts(ip) {
			break
		}
	}
	return ip, https
}

// place takes a trusted proxy's word about where the client is. A header that is
// there twice is nobody's: the client may have sent one of them.
func (e *Edge) place(r *http.Request, q *Request) {
	names := e.cfg.PlaceHeaders
	if names.Country == "" && names.City == "" || !e.Trusted(r) {
		return
	}
	one := func(name string) string {
		if v := r.Header.Values(name); name != "" && len(v) == 1 {
			return v[0]
		}
		return ""
	}
	q.Country, q.City = one(names.Country), one(names.City)
}

// logRequest writes one line: refusals and faults always, the rest at debug.
func (e *Edge) logRequest(r *http.Request, name string, code int, took time.Duration) {
	level := slog.LevelDebug
	if !e.cfg.Log.Enabled(r.Context(), level) {
		return
	}
	q := RequestOf(r)
	e.cfg.Log.LogAttrs(r.Context(), level, "request", slog.String("handler", name), slog.String("method", r.Method),
		slog.Int("status", code), slog.Duration("took", took), slog.String("ip", q.IP.String()))
}

func cutText(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}

// WiderNetwork returns the /24 or /48 that an address is in.
func WiderNetwork(ip netip.Addr) string {
	bits := 24
	if ip = ip.Unmap(); ip.Is6() {
		bits = 48
	}
	p, err := ip.Prefix(bits)
	if err != nil || !p.IsValid() {
		return "unknown"
	}
	return p.String()
}

// ClientNetwork returns the network of an address for throttling: a host that
// has a whole /64 of IPv6 is one host (docs/security.md LD-9).
func ClientNetwork(ip netip.Addr) string {
	bits := 32
	if ip.Is6() && !ip.Is4In6() {
		bits = 64
	}
	p, err := ip.Unmap().Prefix(bits)
	if err != nil || !p.IsValid() {
		return "unknown"
	}
	return p.String()
}
