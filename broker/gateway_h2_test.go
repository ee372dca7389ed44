package broker_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/broker/console"
)

// programOf is a program that reaches every host at the broker's listener; with
// h2c by HTTP/2 without TLS, by prior knowledge.
func (h *harness) programOf(t *testing.T, h2c bool) *http.Client {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", h.host)
	}}
	tr.Protocols.SetHTTP1(!h2c)
	tr.Protocols.SetUnencryptedHTTP2(h2c)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// call sends a streamed body with a trailer, as gRPC does, and reads the answer.
func call(t *testing.T, c *http.Client, url, token, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, io.MultiReader(strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Te", "trailers")
	req.Trailer = http.Header{"X-Checksum": {"42"}, "X-Gatehouse-User": {"root"}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// trailing answers as gRPC servers do: the status comes after the body, in
// trailers that nobody announced; one of them is not for clients.
func trailing(seen func(*http.Request, string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen(r, string(body))
		_, _ = w.Write(body)
		_ = http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Set-Cookie", "a=b")
	}
}

// HTTP/2 by prior knowledge reaches a route that says h2c, with trailers both
// ways, cleaned, and no other one.
func TestGatewayH2C(t *testing.T) {
	t.Parallel()
	var proto, te string
	var trailer http.Header
	up := httptest.NewUnstartedServer(trailing(func(r *http.Request, _ string) {
		proto, te, trailer = r.Proto, r.Header.Get("Te"), r.Trailer.Clone()
	}))
	up.Config.Protocols = new(http.Protocols)
	up.Config.Protocols.SetUnencryptedHTTP2(true)
	up.Start()
	defer up.Close()
	h := start(t, strings.ReplaceAll(`
routes:
  - {name: rpc, host: rpc.localhost, upstream: "UP", audience: demo-api, h2c: true}
  - {name: api, host: api.localhost, upstream: "UP", audience: demo-api}
`, "UP", up.URL))
	tok, c := h.access("openid"), h.programOf(t, true)
	big := strings.Repeat("x", 4<<20)
	resp, body := call(t, c, h.at("rpc", "/pkg.Service/Method"), tok, big)
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 || proto != "HTTP/2.0" || body != big {
		t.Fatalf("%s %d, upstream %s, %d bytes", resp.Proto, resp.StatusCode, proto, len(body))
	}
	if len(resp.Trailer) != 1 || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("trailers of the answer: %v", resp.Trailer)
	}
	if te != "trailers" || len(trailer) != 1 || trailer.Get("X-Checksum") != "42" {
		t.Errorf("upstream read Te %q, trailers %v", te, trailer)
	}
	if resp, _ := call(t, c, h.at("api", "/"), tok, "x"); resp.StatusCode != http.StatusHTTPVersionNotSupported {
		t.Errorf("a route without h2c: %d", resp.StatusCode)
	}
	for _, path := range []string{"/a%2fb", "/a/../b", "/a//b", "/a;b", "/a%5cb", "/%2e%2e/b"} {
		if resp, _ := call(t, c, h.at("rpc", path), tok, "x"); resp.StatusCode != http.StatusBadRequest {
			t.Errorf(":path %s: %d", path, resp.StatusCode)
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodTrace, h.at("rpc", "/"), bytes.NewReader([]byte("x")))
	if resp, err := c.Do(req); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("TRACE with a body: %v, %v", resp, err)
	}
}

// An upstream over TLS is spoken to in HTTP/2, and what it says in trailers is
// cleaned though nothing announces them.
func TestGatewayUpstreamHTTP2(t *testing.T) {
	t.Parallel()
	var proto string
	up := httptest.NewUnstartedServer(trailing(func(r *http.Request, _ string) { proto = r.Proto }))
	up.EnableHTTP2 = true
	up.StartTLS()
	defer up.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: up.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	h := start(t, "routes:\n  - {name: console, host: \"{node}.console.localhost\", lease: true, audience: demo-api}\nconsoles: {networks: [127.0.0.0/8], ca_file: "+ca+"}\n")
	h.lend(console.Lease{ID: "n7", Upstream: up.URL, Owner: "x", Groups: []string{"gpu-users"}})
	resp, body := call(t, h.programOf(t, false), h.at("n7.console", "/"), h.access("openid groups"), "hello")
	if resp.StatusCode != http.StatusOK || proto != "HTTP/2.0" || body != "hello" {
		t.Fatalf("%d, upstream %s, %q", resp.StatusCode, proto, body)
	}
	if len(resp.Trailer) != 1 || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("trailers: %v", resp.Trailer)
	}
}

// An upstream that speaks HTTP/2 may end its answer while the client is still
// sending; the client reads that end and may go on as long as it likes.
func TestGatewayAnswerEndsBeforeTheBody(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		line, _ := bufio.NewReader(r.Body).ReadString('\n')
		_, _ = io.WriteString(w, "enough of "+line)
		_ = http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"X-Sum", "42")
	}))
	up.EnableHTTP2 = true
	up.TLS = &tls.Config{Certificates: []tls.Certificate{a.pair("upstream", "127.0.0.1")}}
	up.StartTLS()
	defer up.Close()
	routes := `routes: [{name: api, host: api.localhost, upstream: "` + up.URL + `", audience: demo-api, tls: {ca_file: ` + a.File + `}}]`
	clear := start(t, routes)
	over, _ := secure(t, routes)
	for _, x := range []struct {
		h     *harness
		proto string
	}{{clear, "HTTP/1.1"}, {over, "HTTP/2.0"}} {
		body, more := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, x.h.at("api", "/"), body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+x.h.service("deployments:write"))
		go func() { _, _ = io.WriteString(more, "line 1\n") }() // and no end
		c := x.h.browser().client
		c.Transport.(*http.Transport).ForceAttemptHTTP2 = true
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || resp.Proto != x.proto || string(got) != "enough of line 1\n" || resp.Trailer.Get("X-Sum") != "42" {
			t.Errorf("%s: %q, %v, trailers %v", resp.Proto, got, err, resp.Trailer)
		}
		resp.Body.Close()
		more.Close()
	}
}
