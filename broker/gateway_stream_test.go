package broker_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
)

// curl's `-d '{…}'` posts JSON under the form content type: the upstream gets it
// byte for byte, whatever it looks like as a form.
func TestGatewayBodyIsUntouched(t *testing.T) {
	t.Parallel()
	h, up := gate(t, plainRoutes, nil)
	tok := h.service("deployments:write")
	for _, ct := range []string{"application/x-www-form-urlencoded", "application/json", "multipart/form-data; boundary=x", ""} {
		for _, body := range []string{`{"image":"a&b=c;d%zz+","n":1}`, "a=1&a=2&%", "\x00\xff", strings.Repeat("x", 100_000)} {
			req, err := http.NewRequest(http.MethodPost, h.at("api", "/deployments?access_token=1"), strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+tok)
			if ct != "" {
				req.Header.Set("Content-Type", ct)
			}
			if a := h.browser().do(req); a.StatusCode != http.StatusOK {
				t.Fatalf("%s: %d", ct, a.StatusCode)
			}
			if r := up.last(t); r.Body != body || r.Header.Get("Content-Type") != ct || r.URI != "/deployments?access_token=1" || r.Header.Get("Content-Length") != fmt.Sprint(len(body)) {
				t.Fatalf("%q, %.40q: the upstream got %q, %.40q, %v", ct, body, r.URI, r.Body, r.Header)
			}
		}
	}
}

// Both directions stream: the upload arrives while it is being sent, events are
// there before the next one is made, and neither end waits for the other's last.
func TestGatewayStreams(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, plainRoutes, func(w http.ResponseWriter, r *http.Request) {
		if ct := r.URL.Query().Get("ct"); ct != "" {
			w.Header().Set("Content-Type", ct)
		}
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		_ = rc.Flush()
		in := bufio.NewScanner(r.Body)
		for in.Scan() { // one line back for each that comes
			_, _ = fmt.Fprintf(w, "data: %s\n", in.Text())
			_ = rc.Flush()
		}
	})
	tok := h.service("deployments:write")
	for _, ct := range []string{"text/event-stream", "text/event-stream; charset=utf-8", "application/x-ndjson"} {
		pr, pw := io.Pipe()
		req, err := http.NewRequest(http.MethodPost, h.at("api", "/?ct="+strings.ReplaceAll(ct, " ", "%20")), pr)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tok)
		resp, err := h.browser().client.Do(req) // the header comes before any of the body
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(resp.Body)
		for i := range 20 {
			if _, err := fmt.Fprintf(pw, "line %d\n", i); err != nil {
				t.Fatal(err)
			}
			if got, err := lines.ReadString('\n'); err != nil || got != fmt.Sprintf("data: line %d\n", i) {
				t.Fatalf("%s: %q, %v", ct, got, err)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
			t.Fatalf("%s: the end: %q, %v", ct, rest, err)
		}
		resp.Body.Close()
	}
}

// zeros gives n bytes.
func zeros(n int64) io.Reader { return io.LimitReader(endless{}, n) }

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Large bodies pass both ways without being kept.
func TestGatewayLargeBodies(t *testing.T) {
	const size = 128 << 20
	h, _ := gate(t, plainRoutes, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return
		}
		w.Header().Set("X-Got", fmt.Sprint(n))
		_, _ = io.Copy(w, zeros(size))
	})
	tok := h.service("deployments:write")
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	peak := make(chan uint64)
	stop := make(chan struct{})
	go func() {
		var most uint64
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	req, err := http.NewRequest(http.MethodPost, h.at("api", "/"), zeros(size))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	b := h.browser()
	resp, err := b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	close(stop)
	if most := <-peak; err != nil || n != size || resp.Header.Get("X-Got") != fmt.Sprint(size) || most > before.HeapInuse+size/2 {
		t.Fatalf("%d bytes (%v), upstream got %s; heap from %d to %d MiB", n, err, resp.Header.Get("X-Got"), before.HeapInuse>>20, most>>20)
	}
}

// rawUpstream answers every connection with f.
func rawUpstream(t *testing.T, f func(c net.Conn, r *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c, bufio.NewReader(c))
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// GW-17: an answer that breaks off is cut, so that nobody takes it for whole.
func TestGatewayBrokenAnswerIsCut(t *testing.T) {
	t.Parallel()
	answers := map[string]string{
		"/chunked":   "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalf\n",
		"/midchunk":  "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n40\nhalf",
		"/length":    "HTTP/1.1 200 OK\nContent-Length: 100\n\nhalf",
		"/badchunk":  "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalf\nzz\n",
		"/events":    "HTTP/1.1 200 OK\nContent-Type: text/event-stream\nTransfer-Encoding: chunked\n\n4\nhalf\n",
		"/nochunked": "HTTP/1.1 200 OK\nContent-Length: 4\n\nhalf",
	}
	addr := rawUpstream(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err == nil {
			_, _ = io.WriteString(c, crlf(answers[req.URL.Path]))
		}
	})
	h := start(t, strings.ReplaceAll(plainRoutes, "UP", addr))
	tok := h.service("deployments:write")
	for path := range answers {
		req, err := http.NewRequest(http.MethodGet, h.at("api", path), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tok)
		resp, err := h.browser().client.Do(req)
		if err != nil { // cut before the first byte was sent on
			if path == "/nochunked" {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if whole := path == "/nochunked"; whole != (err == nil) || string(body) != "half" {
			t.Errorf("%s: %q, %v", path, body, err)
		}
	}
}

// GW-17: a body that the client breaks is the client's fault.
func TestGatewayBrokenBodyIs400(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, plainRoutes, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	})
	tok := h.service("deployments:write")
	for name, body := range map[string]string{
		"bad chunk": "Transfer-Encoding: chunked\n\n4\nbody\nzz\n\n",
		"cut chunk": "Transfer-Encoding: chunked\n\n40\nbody",
		"cut":       "Content-Length: 100\n\nbody",
	} {
		c := h.dial()
		_, _ = io.WriteString(c, crlf("POST / HTTP/1.1\nHost: api.localhost\nAuthorization: Bearer "+tok+"\n"+body))
		_ = c.(*net.TCPConn).CloseWrite()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusBadRequest || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d, %v", name, status(resp), err)
		}
		c.Close()
	}
}

// GW-17: an upstream that has enough says 413 and closes; the client hears it
// although it is still sending.
func TestGatewayEarlyRefusalReachesTheClient(t *testing.T) {
	t.Parallel()
	addr := rawUpstream(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, crlf("HTTP/1.1 413 Content Too Large\nConnection: close\nContent-Length: 8\n\ntoo much"))
	}) // closed at once, with the body unread: the kernel resets the connection
	h := start(t, strings.ReplaceAll(plainRoutes, "UP", addr))
	tok := h.service("deployments:write")
	for range 10 {
		req, err := http.NewRequest(http.MethodPost, h.at("api", "/"), zeros(16<<20))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tok)
		if a := h.browser().do(req); a.StatusCode != http.StatusRequestEntityTooLarge || a.Body != "too much" {
			t.Fatalf("%d %q", a.StatusCode, a.Body)
		}
	}
}

// GW-7: Expect is 100-continue or nothing, and is answered by us: what the
// upstream says of it, and every other 1xx, stays between us (GW-10).
func TestGatewayExpectAnd1xx(t *testing.T) {
	t.Parallel()
	h, up := gate(t, plainRoutes, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</x.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%d", len(body))
	})
	tok := h.service("deployments:write")
	var heard []int
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { heard = append(heard, code); return nil }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.at("api", "/"), bytes.NewReader(make([]byte, 10)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	req.Header.Set("Expect", "100-continue")
	b := h.browser()
	b.client.Transport.(*http.Transport).ExpectContinueTimeout = 10 * time.Second
	if a := b.do(req); a.StatusCode != http.StatusOK || a.Body != "10" || a.Header.Get("X-Gatehouse-Request-Id") == "" || a.Header.Get("Vary") != "Origin" {
		t.Errorf("%d %q %v", a.StatusCode, a.Body, a.Header)
	}
	if len(heard) != 1 || heard[0] != http.StatusContinue {
		t.Errorf("informational answers: %v", heard)
	}
	n := len(up.requests())
	if r := h.wire("POST / HTTP/1.1\nHost: api.localhost\nAuthorization: Bearer " + tok + "\nExpect: 200-maybe\nContent-Length: 1\nConnection: close\n\nx"); status(r) != http.StatusExpectationFailed {
		t.Errorf("another expectation: %d", status(r))
	}
	if len(up.requests()) != n {
		t.Error("it reached the upstream")
	}
}

// eventsForever streams until it is cut; everything else is "ok".
func eventsForever(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/events" {
		_, _ = io.WriteString(w, "ok")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, "data: 1\n\n")
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// stream opens the events and returns when the first one is there.
func (b *browser) stream(u string, headers ...string) *http.Response {
	b.h.t.Helper()
	req, err := http.NewRequest(http.MethodGet, u, nil)
	if err != nil {
		b.h.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := b.client.Do(req)
	if err != nil {
		b.h.t.Fatal(err)
	}
	b.h.t.Cleanup(func() { resp.Body.Close() })
	if _, err := io.ReadFull(resp.Body, make([]byte, 9)); err != nil || resp.StatusCode != http.StatusOK {
		b.h.t.Fatalf("%s: %d, %v", u, resp.StatusCode, err)
	}
	return resp
}

// cut checks that a stream breaks off, and is not ended as if whole.
func cut(t *testing.T, why string, resp *http.Response) {
	t.Helper()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("%s: the stream was ended as if whole", why)
	}
}

// GW-9: streams end with what let them begin: the session, the permission, the
// lease, the token.
func TestGatewayStreamsEndWithTheirRight(t *testing.T) {
	t.Parallel()
	h, up := gate(t, `
routes:
  - {name: api, host: api.localhost, upstream: UP, audience: demo-api}
  - {name: fresh, host: fresh.localhost, upstream: UP, allow: 'session.age < duration("5m")'}
  - {name: console, host: "{node}.console.localhost", lease: true}
`, eventsForever)
	lend := func(owner string) {
		h.lend(console.Lease{ID: "n1", Upstream: up.URL, Owner: owner, Groups: []string{"gpu-users"}})
	}
	lend("a")
	b := h.visit(h.at("api", "/"))
	b.open(h.at("fresh", "/"))
	b.open(h.at("n1.console", "/"))

	console := b.stream(h.at("n1.console", "/events"))
	lend("b")
	cut(t, "another lease", console)

	fresh := b.stream(h.at("fresh", "/events"))
	token := h.browser().stream(h.at("api", "/events"), "Authorization", "Bearer "+h.service(""))
	api := b.stream(h.at("api", "/events"))
	h.wait(6 * time.Minute)
	cut(t, "the rule", fresh)
	h.wait(5 * time.Minute)
	cut(t, "the token", token)
	page := b.get("/signout")
	b.follow(b.post("/signout", url.Values{"token": {field(t, tokenField, page)}}))
	cut(t, "the session", api)
}

// At shutdown requests end as they would have.
func TestGatewayShutdownLetsRequestsEnd(t *testing.T) {
	t.Parallel()
	arrived, goOn := make(chan struct{}), make(chan struct{})
	h, _ := gate(t, plainRoutes, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-goOn
		_, _ = io.WriteString(w, "whole")
	})
	tok := h.service("deployments:write")
	got := make(chan answer, 1)
	go func() { got <- h.bearer(h.at("api", "/"), tok) }()
	<-arrived
	stopped := make(chan struct{})
	go func() { h.stop(); close(stopped) }()
	for { // until nobody is let in any more
		c, err := net.Dial("tcp", h.host)
		if err != nil {
			break
		}
		c.Close()
	}
	close(goOn)
	if a := <-got; a.StatusCode != http.StatusOK || a.Body != "whole" {
		t.Errorf("%d %q", a.StatusCode, a.Body)
	}
	<-stopped
}
