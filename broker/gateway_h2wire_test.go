package broker_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/remotegpu/gatehouse/broker/console"
)

// Our own listeners speak HTTP/2 and HTTP/1.1 by ALPN, nothing older than TLS 1.2,
// and take a renewed certificate without a restart. gateway_listen is the same.
func TestTLSListeners(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	h, a := secure(t, "gateway_listen: 127.0.0.1:0\n"+up.routesYAML(plainRoutes))
	tok := h.service("deployments:write")
	for _, addr := range []string{h.host, h.gateway} {
		for want, offer := range map[string][]string{"h2": {"http/1.1", "h2"}, "http/1.1": {"http/1.1"}, "": nil} {
			if got := h.handshake(addr, "api.localhost", offer...).ConnectionState(); got.NegotiatedProtocol != want || got.Version < tls.VersionTLS12 {
				t.Errorf("%v: chose %q, TLS %x", offer, got.NegotiatedProtocol, got.Version)
			}
		}
		old := h.tls.Clone()
		old.ServerName, old.MinVersion, old.MaxVersion = "api.localhost", tls.VersionTLS10, tls.VersionTLS11 //nolint:staticcheck // refused, as it should be
		if c, err := tls.Dial("tcp", addr, old); err == nil {
			c.Close()
			t.Error("TLS 1.1 was spoken")
		}
		w := h.h2(t, addr, "api.localhost")
		if got := w.fate(w.open(true, ":method", "GET", ":scheme", "https", ":path", "/", ":authority", "api.localhost", "authorization", "Bearer "+tok)); got != "200" {
			t.Errorf("a request: %s", got)
		}
	}
	before := h.handshake(h.gateway, "api.localhost").ConnectionState().PeerCertificates[0]
	a.issue("tls", "sso.localhost", "api.localhost")
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) { // files are looked at every ten seconds
		now := h.handshake(h.gateway, "api.localhost").ConnectionState().PeerCertificates[0]
		if now.SerialNumber.Cmp(before.SerialNumber) != 0 {
			break
		}
		if time.Now().After(until) {
			t.Fatal("the renewed certificate is not used")
		}
	}
	if err := os.WriteFile(a.dir+"/tls.pem", []byte("half written"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.handshake(h.gateway, "api.localhost") // the one before goes on
}

// A request of HTTP/2 has lengths and ends of its own; what HTTP/1.1 would read
// into its fields must not come through to an upstream, whose protocol that is
// (RFC 9113 section 8.2, GW-7).
func TestGatewayNothingIsSmuggledThroughHTTP2(t *testing.T) {
	t.Parallel()
	up := &tap{}
	addr := rawUpstream(t, up.serve)
	h, _ := secure(t, strings.ReplaceAll(`
routes:
  - {name: api, host: api.localhost, upstream: UP, audience: demo-api}
  - {name: raw, host: raw.localhost, upstream: UP, audience: demo-api, raw_path: true}
  - {name: console, host: "{node}.console.localhost", lease: true}
`, "UP", addr), "raw.localhost")
	h.lend(console.Lease{ID: "n7", Upstream: addr, Owner: "x", Groups: []string{"gpu-users"}})
	at := h.at("n7.console", "/")
	for _, to := range []struct {
		kind, host, raw string
		auth            []string
	}{
		{"route", "api.localhost", "raw.localhost", []string{"authorization", "Bearer " + h.service("deployments:write")}},
		{"lease", "n7.console.localhost", "n7.console.localhost", []string{"cookie", "__Host-gatehouse-console=" + h.visit(at).cookie(at, "__Host-gatehouse-console"), "sec-fetch-site", "same-origin"}},
	} {
		h.smugglesNothing(t, up, to.kind, to.host, to.raw, to.auth)
	}
	if evil := up.about("evil"); len(evil) > 0 {
		t.Errorf("what was smuggled: %q", evil)
	}
}

// smugglesNothing tries all shapes at one kind of route; raw is a host whose route
// looks at no path.
func (h *harness) smugglesNothing(t *testing.T, up *tap, kind, host, raw string, auth []string) {
	t.Helper()
	// with makes a request of these fields; a name that is there replaces, "-" before
	// a name leaves it out, "+" adds another one, "^" puts it first.
	with := func(path string, change ...string) []string {
		fields := append([]string{":method", "POST", ":scheme", "https", ":path", path, ":authority", host}, auth...)
	next:
		for i := 0; i+1 < len(change); i += 2 {
			name, value := change[i], strings.NewReplacer("/P", path, "api.localhost", host, "raw.localhost", raw).Replace(change[i+1])
			switch name[0] {
			case '+':
				fields = append(fields, name[1:], value)
				continue
			case '^':
				fields = append([]string{name[1:], value}, fields...)
				continue
			}
			bare := strings.TrimPrefix(name, "-")
			for j := 0; j < len(fields); j += 2 {
				if fields[j] != bare {
					continue
				}
				if name[0] == '-' {
					fields = append(fields[:j:j], fields[j+2:]...)
				} else {
					fields[j+1] = value
				}
				continue next
			}
			fields = append(fields, name, value)
		}
		return fields
	}
	n := 0
	for name, c := range map[string]struct {
		change []string
		body   string
		fate   string // what it may begin with; several by |
		sent   string // what the upstream was asked; "" for nothing
	}{
		"plain":                         {nil, "x", "200", "POST /P x"},
		"content-length that is right":  {[]string{"content-length", "1"}, "x", "200", "POST /P x"},
		"content-length too small":      {[]string{"content-length", "1"}, "xGET /evil HTTP/1.1\r\n\r\n", "reset|400", ""},
		"content-length too large":      {[]string{"content-length", "50"}, "x", "reset|400", ""},
		"content-length 0":              {[]string{"content-length", "0"}, "GET /evil HTTP/1.1\r\n\r\n", "reset|200|400", "POST /P "},
		"two content-lengths":           {[]string{"content-length", "1", "+content-length", "9"}, "x", "reset|400", ""},
		"content-length in words":       {[]string{"content-length", "one"}, "x", "reset|400", ""},
		"content-length with a sign":    {[]string{"content-length", "+1"}, "x", "reset|400", ""},
		"content-length that is a list": {[]string{"content-length", "1, 1"}, "x", "reset|400", ""},
		"content-length of nothing":     {[]string{"content-length", ""}, "x", "reset|400", ""},
		"LF in a value":                 {[]string{"x-a", "b\ntransfer-encoding: chunked"}, "x", "reset|400|goaway", ""},
		"CR in a value":                 {[]string{"x-a", "b\r\ntransfer-encoding: chunked"}, "x", "reset|400|goaway", ""},
		"NUL in a value":                {[]string{"x-a", "b\x00c"}, "x", "reset|400|goaway", ""},
		"LF in a name":                  {[]string{"x-a: b\ntransfer-encoding", "chunked"}, "x", "reset|400|goaway", ""},
		"colon in a name":               {[]string{"x-a:b", "c"}, "x", "reset|400|goaway", ""},
		"space in a name":               {[]string{"x a", "c"}, "x", "reset|400|goaway", ""},
		"empty name":                    {[]string{"+", "c"}, "x", "reset|400|goaway", ""},
		"capitals in a name":            {[]string{"Transfer-Encoding", "chunked"}, "x", "reset|400|goaway", ""},
		"transfer-encoding":             {[]string{"transfer-encoding", "chunked"}, "0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n", "reset|400", ""},
		"connection":                    {[]string{"connection", "x-gatehouse-user"}, "x", "reset|400", ""},
		"proxy-connection":              {[]string{"proxy-connection", "keep-alive"}, "x", "reset|400", ""},
		"keep-alive":                    {[]string{"keep-alive", "1"}, "x", "reset|400", ""},
		"upgrade":                       {[]string{"upgrade", "websocket"}, "x", "reset|400", ""},
		"te: trailers":                  {[]string{"te", "trailers"}, "x", "200", "POST /P x"},
		"te: gzip":                      {[]string{"te", "gzip"}, "x", "reset|400", ""},
		"te: trailers, chunked":         {[]string{"te", "trailers, chunked"}, "x", "reset|400", ""},
		"two :path":                     {[]string{"^:path", "/evil"}, "x", "goaway|reset|400", ""},
		"two :authority":                {[]string{"^:authority", "evil.localhost"}, "x", "goaway|reset|400", ""},
		"two :method":                   {[]string{"^:method", "GET"}, "x", "goaway|reset|400", ""},
		"no :path":                      {[]string{"-:path", ""}, "x", "reset|400", ""},
		"no :method":                    {[]string{"-:method", ""}, "x", "reset|400", ""},
		"no :scheme":                    {[]string{"-:scheme", ""}, "x", "reset|400", ""},
		"no :authority, a host":         {[]string{"-:authority", "", "host", "api.localhost"}, "x", "200", "POST /P x"},
		"no :authority, no host":        {[]string{"-:authority", ""}, "x", "reset|400", ""},
		":authority and another host":   {[]string{"host", "evil.localhost"}, "x", "reset|400|421|200", "POST /P x"},
		"user in :authority":            {[]string{":authority", "evil@api.localhost"}, "x", "reset|400|421", ""},
		"path in :authority":            {[]string{":authority", "api.localhost/evil"}, "x", "reset|400|421", ""},
		"space in :authority":           {[]string{":authority", "api.localhost evil"}, "x", "reset|400|421", ""},
		"unknown pseudo-header":         {[]string{"^:evil", "1"}, "x", "goaway|reset|400", ""},
		"pseudo-header of answers":      {[]string{"^:status", "200"}, "x", "goaway|reset|400", ""},
		"pseudo-header at the end":      {[]string{"+:path", "/evil"}, "x", "goaway|reset|400", ""},
		":protocol without CONNECT":     {[]string{"^:protocol", "websocket"}, "x", "goaway|reset|400", ""},
		":scheme http":                  {[]string{":scheme", "http"}, "x", "200|400|reset", "POST /P x"},
		":scheme that is none":          {[]string{":scheme", "https://evil/?"}, "x", "reset|400", ""},
		":path with a request inside":   {[]string{":path", "/ HTTP/1.1\r\nHost: x\r\n\r\nGET /evil"}, "x", "reset|400|goaway", ""},
		":path with a space":            {[]string{":path", "/P HTTP/1.1"}, "x", "reset|400", ""},
		"query with a space":            {[]string{":path", "/P?a HTTP/1.1"}, "x", "reset|400", ""},
		":path without a slash":         {[]string{":path", "evil"}, "x", "reset|400", ""},
		":path that is a URL":           {[]string{":path", "http://evil.localhost/P"}, "x", "reset|400", ""},
		":path that is *":               {[]string{":path", "*"}, "x", "reset|400", ""},
		"CONNECT":                       {[]string{":method", "CONNECT", "-:path", "", "-:scheme", ""}, "x", "405|reset|400", ""},
		"CONNECT with a :path":          {[]string{":method", "CONNECT"}, "x", "405|reset|400", ""},
		"extended CONNECT":              {[]string{":method", "CONNECT", "^:protocol", "websocket"}, "", "405|reset|400", ""},
		"TRACE":                         {[]string{":method", "TRACE"}, "x", "405", ""},
		"a method with a space":         {[]string{":method", "GET /evil HTTP/1.1\r\nX:"}, "x", "reset|400|405|goaway", ""},
		"a method that is none":         {[]string{":method", "EVIL"}, "x", "405", ""},
		"raw: spaces in :path":          {[]string{":authority", "raw.localhost", ":path", "/P HTTP/1.1\r\n\r\nGET /evil"}, "x", "reset|400|goaway", ""},
		"raw: a space in :path":         {[]string{":authority", "raw.localhost", ":path", "/P HTTP/1.1"}, "x", "reset|400", ""},
		"raw: a header in :path":        {[]string{":authority", "raw.localhost", ":path", "/P\r\nTransfer-Encoding:chunked"}, "x", "reset|400|goaway", ""},
	} {
		n++
		name, path := kind+": "+name, fmt.Sprintf("/%s%d.", kind, n)
		w := h.h2(t, h.host, host)
		id := w.open(false, with(path, c.change...)...)
		_ = w.f.WriteData(id, true, []byte(c.body))
		got, fits := w.fate(id), false
		for want := range strings.SplitSeq(c.fate, "|") {
			fits = fits || strings.HasPrefix(got, want)
		}
		if !fits {
			t.Errorf("%s: %s, want %s", name, got, c.fate)
		}
		sent := strings.Join(up.about(path), "\n")
		if want := strings.Replace(c.sent, "/P", path, 1); sent != want && !(got != "200" && strings.HasPrefix(want, sent)) { // a request that was reset may have got as far as this
			t.Errorf("%s: %s, and the upstream was asked %q, want %q", name, got, sent, want)
		}
		w.conn.Close()
	}
}

// Trailers that are on their way when a request is refused end their own stream,
// and not the connection, which a proxy may share among many people.
func TestLateTrailersEndNobodyElse(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	h, _ := secure(t, up.routesYAML(plainRoutes))
	tok := h.service("deployments:write")
	for host, want := range map[string]string{"api.localhost": "401", "nobody.localhost": "421", "sso.localhost": "404"} {
		w := h.h2(t, h.host, "api.localhost")
		id := w.open(false, ":method", "POST", ":scheme", "https", ":path", "/nothing", ":authority", host, "accept", "application/json", "trailer", "x-sum")
		w.must(w.f.WriteData(id, false, []byte("x")))
		time.Sleep(300 * time.Millisecond) // the handler is done long since
		w.must(w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.headers("x-sum", "42"), EndStream: true, EndHeaders: true}))
		if got := w.fate(id); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
		if got := w.fate(w.open(true, ":method", "GET", ":scheme", "https", ":path", "/", ":authority", "api.localhost", "authorization", "Bearer "+tok)); got != "200" {
			t.Errorf("%s: the next request on that connection: %s", host, got)
		}
	}
	// Who announces trailers and sends none is not waited for long.
	w := h.h2(t, h.host, "api.localhost")
	if got := w.fate(w.open(false, ":method", "POST", ":scheme", "https", ":path", "/", ":authority", "api.localhost", "accept", "application/json", "trailer", "x-sum")); got != "401" {
		t.Errorf("without trailers: %s", got)
	}
}

// floods are connections that cost a server more than themselves: each ends, and
// nobody else notices (CVE-2023-44487, CVE-2023-45288, CVE-2019-9512, -9515).
func TestHTTP2Floods(t *testing.T) {
	t.Parallel()
	var atWork, most atomic.Int64
	up := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n := atWork.Add(1)
		defer atWork.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
		}
	}))
	defer up.Close()
	h, _ := secure(t, `routes: [{name: api, host: api.localhost, upstream: "`+up.URL+`", audience: demo-api}]`)
	tok := h.service("deployments:write")
	defer h.bystander(t, h.at("api", "/"), tok)()
	get := func(path string) []string {
		return []string{":method", "GET", ":scheme", "https", ":path", path, ":authority", "api.localhost", "authorization", "Bearer " + tok}
	}
	// pour writes until the server will have no more.
	pour := func(what string, most int, write func(w *h2wire, i int) error) (*h2wire, int) {
		t.Helper()
		w := h.h2(t, h.host, "api.localhost")
		_ = w.conn.SetWriteDeadline(time.Now().Add(8 * time.Second))
		for i := range most {
			if write(w, i) != nil {
				return w, i
			}
		}
		t.Logf("%s: %d were taken", what, most)
		return w, most
	}

	// Streams begun and reset at once. A connection may have 250 streams; so many
	// handlers may be at work for it, whatever was reset.
	pour("rapid reset", 5_000, func(w *h2wire, _ int) error {
		id := w.next
		w.next += 2
		if err := w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.headers(get("/slow")...), EndStream: true, EndHeaders: true}); err != nil {
			return err
		}
		return w.f.WriteRSTStream(id, http2.ErrCodeCancel)
	})
	if n := most.Load(); n > 300 {
		t.Errorf("rapid reset: %d requests were at work at once", n)
	}

	// A header that never ends.
	block := make([]byte, 16<<10)
	w, sent := pour("CONTINUATION", 100_000, func(w *h2wire, i int) error {
		if i == 0 {
			return w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.headers(get("/")...), EndStream: true})
		}
		return w.f.WriteContinuation(1, false, w.headers(fmt.Sprintf("x-%d", i), string(block[:8<<10])))
	})
	if _, err := w.ended(15 * time.Second); err != nil || sent > 10_000 {
		t.Errorf("CONTINUATION: %d frames, %v", sent, err)
	}
	// One in pieces of nothing costs as little as it says: nobody else notices.
	pour("empty CONTINUATION", 50_000, func(w *h2wire, i int) error {
		if i == 0 {
			return w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.headers(get("/")...), EndStream: true})
		}
		return w.f.WriteContinuation(1, false, nil)
	})
	// Frames that must be answered, of a client that reads no answer: pings pile up
	// and end it, settings are acknowledged one at a time.
	if _, sent := pour("PING", 1_000_000, func(w *h2wire, i int) error { return w.f.WritePing(false, [8]byte{byte(i)}) }); sent == 1_000_000 {
		t.Error("PING: all were taken of a client that reads no answer")
	}
	pour("SETTINGS", 50_000, func(w *h2wire, i int) error {
		return w.f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(1 + i%65535)})
	})
	// What is forbidden ends the connection with its own error.
	t.Run("forbidden", func(t *testing.T) {
		for what, c := range map[string]struct {
			write func(w *h2wire)
			code  http2.ErrCode
		}{
			"a window of more than 2^31": {func(w *h2wire) { _ = w.f.WriteWindowUpdate(0, 1<<31-1) }, http2.ErrCodeFlowControl},
			"a window of nothing":        {func(w *h2wire) { _ = w.f.WriteWindowUpdate(0, 0) }, http2.ErrCodeProtocol},
			"a frame of 2 MiB":           {func(w *h2wire) { _ = w.f.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 2<<20)) }, http2.ErrCodeFrameSize},
			"an even stream":             {func(w *h2wire) { w.next = 2; w.open(true, get("/")...) }, http2.ErrCodeProtocol},
			"DATA on no stream":          {func(w *h2wire) { _ = w.f.WriteData(0, true, []byte("x")) }, http2.ErrCodeProtocol},
			"HEADERS inside CONTINUATION": {func(w *h2wire) {
				_ = w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.headers(get("/")...)})
				_ = w.f.WritePing(false, [8]byte{})
			}, http2.ErrCodeProtocol},
			"a header block that is none": {func(w *h2wire) {
				_ = w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EndStream: true, EndHeaders: true})
			}, http2.ErrCodeCompression},
			"a push": {func(w *h2wire) {
				_ = w.f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
			}, http2.ErrCodeProtocol},
		} {
			t.Run(what, func(t *testing.T) {
				t.Parallel()
				w := h.h2(t, h.host, "api.localhost")
				c.write(w)
				if code, err := w.ended(15 * time.Second); err != nil || code != c.code {
					t.Errorf("%v, %v; want %v", code, err, c.code)
				}
			})
		}
	})
	// A header larger than may be is refused, the connection goes on.
	w = h.h2(t, h.host, "api.localhost")
	if got := w.fate(w.open(true, append(get("/"), "x-long", strings.Repeat("x", 15<<10), "x-longer", strings.Repeat("y", 15<<10))...)); got != "431" {
		t.Errorf("a header of 30 KiB: %s", got)
	}
	if got := w.fate(w.open(true, get("/")...)); got != "200" {
		t.Errorf("the next request on that connection: %s", got)
	}
}
