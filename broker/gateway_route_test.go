package broker_test

import (
	"net/http"
	"strings"
	"testing"
)

// GW-4 to GW-7 on the wire: which requests of a signed-in program reach the
// upstream, and what the others are told.
func TestGatewayRequestLines(t *testing.T) {
	t.Parallel()
	h, up := gate(t, `
routes:
  - {name: other, host: api.localhost, path: /v1/other, upstream: UP, audience: other}
  - {name: v1, host: api.localhost, path: /v1, upstream: UP, audience: demo-api}
  - {name: star, host: "*.apps.localhost", upstream: UP, audience: demo-api}
  - {name: raw, host: raw.localhost, upstream: UP, audience: demo-api, raw_path: true}
resources: [{name: demo-api}, {name: other}]
`, nil)
	tok := h.service("")
	port := strings.Split(h.host, ":")[1]
	for _, c := range []struct {
		line, host string
		status     int
		code       string // of the error; "" means that it passes
	}{
		{"GET /v1 HTTP/1.1", "api.localhost:" + port, 200, ""},
		{"GET /v1/x?a=%2f;b HTTP/1.1", "API.LocalHost", 200, ""},
		{"GET /v1/x HTTP/1.1", "api.localhost:1", 200, ""},                // the port is not looked at
		{"GET /v1/other HTTP/1.1", "api.localhost", 403, "invalid_token"}, // first match wins
		{"GET /v1/others HTTP/1.1", "api.localhost", 200, ""},
		{"GET /v2 HTTP/1.1", "api.localhost", 404, "route.path"},
		{"GET / HTTP/1.1", "api.localhost", 404, "route.path"},
		{"GET /v1/x HTTP/1.1", "api.localhost.", 400, "request.host"},
		{"GET /v1/x HTTP/1.1", "other.localhost", 421, "request.host"},
		{"GET /v1/x HTTP/1.1", "a.b.apps.localhost", 421, "request.host"},
		{"GET /v1/x HTTP/1.1", "apps.localhost", 421, "request.host"},
		{"GET /x HTTP/1.1", "a.apps.localhost", 200, ""},
		{"GET /x HTTP/1.1", "A.apps.localhost", 200, ""},
		{"GET /v1/x HTTP/1.1", "api.localhost/evil", 400, ""},
		{"GET /v1/x HTTP/1.1", "user@api.localhost", 400, ""},
		{"GET /v1/x HTTP/1.1", "", 400, "request.host"},
		{"GET /v1/%2e%2e/x HTTP/1.1", "api.localhost", 400, "request.path"},
		{"GET /v1/../x HTTP/1.1", "api.localhost", 400, "request.path"},
		{"GET /v1/a/../x HTTP/1.1", "api.localhost", 400, "request.path"},
		{"GET /v1//x HTTP/1.1", "api.localhost", 400, "request.path"},
		{"GET /v1/a%2fb HTTP/1.1", "api.localhost", 400, "request.path"},
		{"GET /v1/a;b HTTP/1.1", "api.localhost", 400, "request.path"},
		{`GET /v1/a\b HTTP/1.1`, "api.localhost", 400, "request.path"},
		{"GET /v1/a#b HTTP/1.1", "api.localhost", 400, "request.path"},
		{"GET /v1/%zz HTTP/1.1", "api.localhost", 400, ""},
		{"GET //v1/x HTTP/1.1", "api.localhost", 404, "route.path"},
		{"GET /a%2f..%2fb//c;d HTTP/1.1", "raw.localhost", 200, ""},
		{"GET * HTTP/1.1", "a.apps.localhost", 400, "request.target"},
		{"GET * HTTP/1.1", "raw.localhost", 400, "request.target"},
		{"GET http://a.apps.localhost/x HTTP/1.1", "a.apps.localhost", 400, "request.target"},
		{"GET http://raw.localhost/x HTTP/1.1", "a.apps.localhost", 400, "request.target"},
		{"CONNECT a.apps.localhost:80 HTTP/1.1", "a.apps.localhost:80", 405, "request.method"},
		{"TRACE /x HTTP/1.1", "a.apps.localhost", 405, "request.method"},
		{"TRACK /x HTTP/1.1", "a.apps.localhost", 405, "request.method"},
		{"PROPFIND /x HTTP/1.1", "a.apps.localhost", 200, ""},
	} {
		up.mu.Lock()
		up.seen = nil
		up.mu.Unlock()
		resp := h.wire(c.line + "\nHost: " + c.host + "\nAuthorization: Bearer " + tok + "\nConnection: close\n\n")
		body := ""
		if resp != nil {
			b := make([]byte, 2000)
			n, _ := resp.Body.Read(b)
			body = string(b[:n])
		}
		n := len(up.requests())
		if status(resp) != c.status || !strings.Contains(body, c.code) || (n == 1) != (c.status == 200) {
			t.Errorf("%s at %q: %d with %d requests upstream, want %d %s\n%s", c.line, c.host, status(resp), n, c.status, c.code, body)
			continue
		}
		if c.status == 200 {
			if got := up.last(t); got.Method+" "+got.URI+" HTTP/1.1" != c.line {
				t.Errorf("%s is sent as %s %s", c.line, got.Method, got.URI)
			}
		} else if c.code != "" && resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: the refusal may be cached: %v", c.line, resp.Header)
		}
	}
}

// The default is deny, without exemption for method, agent or health checks.
func TestGatewayNothingWithoutSignIn(t *testing.T) {
	t.Parallel()
	h, up := gate(t, plainRoutes, nil)
	b := h.browser()
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
		for _, path := range []string{"/", "/healthz", "/ping", "/.well-known/x", "/.gatehouse/auth", "/.gatehouse/callback/", "/.gatehouse%2fcallback", "/static/x"} {
			req, err := http.NewRequest(method, h.at("api", path), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept", "*/*")
			req.Header.Set("User-Agent", "kube-probe/1.30 GoogleHC/1.0")
			if a := b.do(req); a.StatusCode != http.StatusUnauthorized && a.StatusCode != http.StatusBadRequest && !(path == "/.gatehouse/auth" && a.StatusCode == http.StatusForbidden) {
				t.Errorf("%s %s: %d", method, path, a.StatusCode)
			}
		}
	}
	if seen := up.requests(); len(seen) > 0 {
		t.Fatalf("the upstream was asked: %v", seen)
	}
}
