package broker_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// routed starts a broker with routes before upstreams: UP_1, UP_2 … stand for
// their URLs. Each says its number.
func routed(t *testing.T, n int, routes string) (*harness, []*upstream) {
	t.Helper()
	var ups []*upstream
	for i := range n {
		u := newUpstream(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Server", "secret/1.0")
			w.Header().Set("X-Total", "7")
			fmt.Fprint(w, i+1)
		})
		ups = append(ups, u)
		routes = strings.ReplaceAll(routes, fmt.Sprintf("UP_%d", i+1), u.URL)
	}
	return start(t, routes+"\nresources: [{name: demo-api}]\n"), ups
}

// program is a signed-in program's request; more are header names and values.
func (h *harness) program(tok, method, u string, body io.Reader, more ...string) answer {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, u, body)
	if err != nil {
		h.t.Fatal(err)
	}
	if tok != "" {
		req.Header.Set("Authorization", "Bearer "+tok)
	}
	for i := 0; i+1 < len(more); i += 2 {
		req.Header[more[i]] = append(req.Header[more[i]], more[i+1])
	}
	return h.browser().do(req)
}

// Methods and headers decide between routes of one path, in the file's order.
func TestRoutesByMethodAndHeader(t *testing.T) {
	t.Parallel()
	h, ups := routed(t, 3, `
routes:
  - {name: v2, host: api.localhost, path: /v, headers: {X-Api-Version: "2"}, upstream: UP_1, audience: demo-api}
  - {name: read, host: api.localhost, path: /v, methods: [GET], upstream: UP_2, audience: demo-api, cors: {origins: ["http://app.localhost"], headers: [X-Api-Version], expose: [X-Total], max_age: 1m}}
  - {name: write, host: api.localhost, path: /v, methods: [POST, DELETE], upstream: UP_3, audience: demo-api, cors: {origins: ["http://app.localhost"]}}
`)
	tok := h.service("")
	for _, c := range []struct {
		method string
		header []string
		status int
		want   string
	}{
		{"GET", nil, 200, "2"}, {"POST", nil, 200, "3"}, {"DELETE", nil, 200, "3"}, {"PUT", nil, 405, "request.method"},
		{"PUT", []string{"X-Api-Version", "2"}, 200, "1"}, {"GET", []string{"X-Api-Version", "2"}, 200, "1"}, {"GET", []string{"X-Api-Version", "20"}, 200, "2"},
		{"GET", []string{"X-Api-Version", "2", "X-Api-Version", "3"}, 400, "request.header"}, {"GET", []string{"X_Api_Version", "2"}, 400, "request.header"},
	} {
		a := h.program(tok, c.method, h.at("api", "/v/x"), nil, c.header...)
		if a.StatusCode != c.status || !strings.Contains(a.Body, c.want) {
			t.Errorf("%s %v: %d %s, want %d %s", c.method, c.header, a.StatusCode, a.Body, c.status, c.want)
		}
		if c.status == 405 && a.Header.Get("Allow") != "DELETE, GET, HEAD, POST" {
			t.Errorf("Allow: %s", a.Header.Get("Allow"))
		}
	}
	if a := h.program(tok, "HEAD", h.at("api", "/v/x"), nil); a.StatusCode != 200 || ups[1].last(t).Method != "HEAD" {
		t.Errorf("HEAD where GET is: %d", a.StatusCode)
	}
	for _, c := range []struct{ method, allowed, age string }{{"GET", "GET", "60"}, {"DELETE", "POST, DELETE", "600"}} {
		a := h.program("", "OPTIONS", h.at("api", "/v/x"), nil, "Origin", "http://app.localhost", "Access-Control-Request-Method", c.method)
		if a.StatusCode != 204 || a.Header.Get("Access-Control-Allow-Methods") != c.allowed || a.Header.Get("Access-Control-Max-Age") != c.age {
			t.Errorf("preflight of %s: %d %v", c.method, a.StatusCode, a.Header)
		}
	}
	a := h.program("", "OPTIONS", h.at("api", "/v/x"), nil, "Origin", "http://app.localhost", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "x-other")
	if a.Header.Get("Access-Control-Allow-Headers") != "X-Api-Version" {
		t.Errorf("preflight allows %q", a.Header.Get("Access-Control-Allow-Headers"))
	}
	a = h.program(tok, "GET", h.at("api", "/v/x"), nil, "Origin", "http://app.localhost")
	if a.Header.Get("Access-Control-Expose-Headers") != "X-Total" {
		t.Errorf("exposed: %v", a.Header)
	}
}

// Header rules reach every spelling, on the way there and back, and hold what
// the host's label is.
func TestRoutesHeaderRules(t *testing.T) {
	t.Parallel()
	h, ups := routed(t, 1, `
routes:
  - name: tenants
    host: "{tenant}.apps.localhost"
    upstream: UP_1
    audience: demo-api
    request_headers: {set: {X-Tenant: "t-{tenant}", X-Fixed: yes}, remove: [X-Debug]}
    response_headers: {set: {X-Served-For: "{tenant}"}, remove: [Server]}
`)
	a := h.program(h.service(""), "GET", h.at("blue.apps", "/"), nil, "X_tenant", "forged", "X-Tenant", "forged", "X-Debug", "1", "X_debug", "1", "X-Other", "kept")
	if a.StatusCode != 200 || a.Header.Get("X-Served-For") != "blue" || a.Header.Get("Server") != "" || a.Header.Get("X-Total") != "7" {
		t.Fatalf("%d %v", a.StatusCode, a.Header)
	}
	got := ups[0].last(t).Header
	if got.Get("X-Tenant") != "t-blue" || got.Get("X-Fixed") != "yes" || got.Get("X-Other") != "kept" || got.Get("X-Gatehouse-User") == "" {
		t.Errorf("%v", got)
	}
	for _, name := range []string{"X_tenant", "X-Debug", "X_debug"} {
		if v, ok := got[name]; ok {
			t.Errorf("%s: %v reached the upstream", name, v)
		}
	}
}

// One upstream that is gone costs nobody an answer; what may not be sent twice
// is told.
func TestRoutesSeveralUpstreams(t *testing.T) {
	t.Parallel()
	h, ups := routed(t, 3, `
routes:
  - name: api
    host: api.localhost
    upstreams: [{url: UP_1, weight: 2}, {url: UP_2}, {url: UP_3}]
    audience: demo-api
  - name: kept
    host: kept.localhost
    upstreams: [{url: UP_1}, {url: UP_2}, {url: UP_3}]
    sticky: true
    audience: demo-api
`)
	tok := h.service("")
	n := map[string]int{}
	for range 8 {
		n[h.program(tok, "POST", h.at("api", "/"), strings.NewReader("x")).Body]++
	}
	if n["1"] != 4 || n["2"] != 2 || n["3"] != 2 {
		t.Errorf("shared as %v", n)
	}
	first := h.program(tok, "GET", h.at("kept", "/"), nil).Body
	for range 5 {
		if again := h.program(tok, "GET", h.at("kept", "/"), nil).Body; again != first {
			t.Errorf("%s, then %s", first, again)
		}
	}
	if got := ups[0].requests(); len(got) > 0 && got[0].Header.Get("X-Gatehouse-User") == "" {
		t.Error("the upstream is not told who it is")
	}
	ups[0].Close()
	for range 30 {
		if a := h.program(tok, "GET", h.at("api", "/"), nil); a.StatusCode != 200 || a.Body == "1" {
			t.Errorf("%d %s with one upstream gone", a.StatusCode, a.Body)
		}
	}
	metrics := h.browser().get(h.Admin + "/metrics").Body
	for _, u := range ups[1:] {
		if want := `gatehouse_gateway_upstream_up{route="api",upstream="` + strings.TrimPrefix(u.URL, "http://") + `"} 1`; !strings.Contains(metrics, want) {
			t.Errorf("no %s", want)
		}
	}
	if want := `gatehouse_gateway_upstream_up{route="api",upstream="` + strings.TrimPrefix(ups[0].URL, "http://") + `"} 0`; !strings.Contains(metrics, want) {
		t.Errorf("no %s", want)
	}
}

// A body that is too large is refused by its announced length, or when it has
// become too large.
func TestRoutesMaxBody(t *testing.T) {
	t.Parallel()
	h, ups := routed(t, 1, "routes: [{name: api, host: api.localhost, upstream: UP_1, audience: demo-api, max_body: 1KiB}]")
	tok := h.service("")
	if a := h.program(tok, "POST", h.at("api", "/"), strings.NewReader(strings.Repeat("x", 1024))); a.StatusCode != 200 {
		t.Errorf("at the limit: %d", a.StatusCode)
	}
	ups[0].last(t)
	a := h.program(tok, "POST", h.at("api", "/"), strings.NewReader(strings.Repeat("x", 1025)))
	h.refused("announced", a, http.StatusRequestEntityTooLarge, "request.too_large")
	if !a.Close || len(ups[0].requests()) != 0 {
		t.Errorf("closes: %v; upstream: %v", a.Close, ups[0].requests())
	}
	a = h.program(tok, "POST", h.at("api", "/"), io.MultiReader(strings.NewReader(strings.Repeat("x", 1000)), strings.NewReader(strings.Repeat("x", 100_000))))
	h.refused("chunked", a, http.StatusRequestEntityTooLarge, "request.too_large")
}

// Who asks too often waits as long as it is told; others do not.
func TestRoutesRateLimit(t *testing.T) {
	t.Parallel()
	h, _ := routed(t, 1, `
routes:
  - {name: api, host: api.localhost, upstream: UP_1, audience: demo-api, rate_limit: {requests: 6, per: 1m, burst: 2}}
  - {name: ip, host: ip.localhost, upstream: UP_1, audience: demo-api, rate_limit: {requests: 2, per: 1m, by: ip}}
`)
	tok := h.service("")
	for range 2 {
		if a := h.program(tok, "GET", h.at("api", "/"), nil); a.StatusCode != 200 {
			t.Fatalf("%d", a.StatusCode)
		}
	}
	a := h.program(tok, "GET", h.at("api", "/"), nil)
	h.refused("the third", a, http.StatusTooManyRequests, "limit.rate")
	if after := a.Header.Get("Retry-After"); after != "10" && after != "9" {
		t.Errorf("Retry-After: %s", after)
	}
	if b := h.program(h.access("openid"), "GET", h.at("api", "/"), nil); b.StatusCode != 200 {
		t.Errorf("another caller: %d", b.StatusCode)
	}
	h.wait(10 * time.Second)
	if b := h.program(tok, "GET", h.at("api", "/"), nil); b.StatusCode != 200 {
		t.Errorf("after the wait: %d", b.StatusCode)
	}
	for i, want := range []int{401, 401, 429} {
		if b := h.program("", "GET", h.at("ip", "/"), nil, "Accept", "*/*"); b.StatusCode != want {
			t.Errorf("stranger's request %d: %d", i+1, b.StatusCode)
		}
	}
}

// A reload gives nobody more tries: what was counted goes on, of strangers who
// begin sign-ins, of passwords and of requests, under new bounds too.
func TestReloadKeepsWhatIsCounted(t *testing.T) {
	t.Parallel()
	yaml := func(failures, attempts, requests int) string {
		return fmt.Sprintf(`
rate_limits: {account_failures: %d, attempts: %d}
trusted_proxies: [127.0.0.1/32]
routes: [{name: api, host: api.localhost, upstream: UP, audience: demo-api, rate_limit: {requests: %d, per: 1h}}]
`, failures, attempts, requests)
	}
	h, up := gate(t, yaml(3, 3, 3), nil)
	tok := h.service("")
	begin := func() bool {
		return h.browser().get("/account", "X-Forwarded-For", "192.0.2.1").StatusCode == http.StatusSeeOther
	}
	guesses := 0
	guess := func() int {
		guesses++ // each from an address of its own
		b := h.browser()
		page := b.get("/signin/local", "X-Forwarded-For", fmt.Sprint("198.51.100.", guesses))
		return b.post("/signin/local", url.Values{"username": {"demo"}, "password": {"wrong"}, "attempt": {field(t, attemptField, page)}}).StatusCode
	}
	ask := func() bool { return h.program(tok, "GET", h.at("api", "/"), nil).StatusCode == http.StatusOK }
	for range 2 {
		if guess() != http.StatusUnprocessableEntity || !begin() || !ask() {
			t.Fatal("within the bounds")
		}
	}
	h.reloads(up.routesYAML(yaml(4, 4, 4)), "rate_limits routes", "")
	for i := range 3 {
		if begin() != (i < 2) {
			t.Errorf("sign-in %d of four is counted anew", i+3)
		}
		if ask() != (i < 2) {
			t.Errorf("request %d of four is counted anew", i+3)
		}
		if code := guess(); (code == http.StatusUnprocessableEntity) != (i < 2) {
			t.Errorf("password %d of four is counted anew: %d", i+3, code)
		}
	}
	h.reloads(up.routesYAML(yaml(2, 2, 2)), "rate_limits routes", "")
	if begin() || ask() {
		t.Error("smaller bounds let more in")
	}
	h.wait(3 * time.Hour)
	tok = h.service("")
	if !begin() || !ask() {
		t.Error("hours later")
	}
}

// A stream on which nothing moves is cut, one that moves is not.
func TestRoutesIdle(t *testing.T) {
	t.Parallel()
	stalled := make(chan struct{})
	h, _ := gate(t, "routes: [{name: api, host: api.localhost, upstream: UP, audience: demo-api, timeouts: {idle: 300ms}}]", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			for range 6 {
				_, _ = io.WriteString(w, "x")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(100 * time.Millisecond)
			}
			return
		}
		_, _ = io.WriteString(w, "begun")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(stalled)
	})
	tok := h.service("")
	if a := h.program(tok, "GET", h.at("api", "/slow"), nil); a.Body != "xxxxxx" {
		t.Errorf("a stream that moves: %q", a.Body)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", h.at("api", "/stall"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	resp, err := h.browser().client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err == nil || string(b) != "begun" {
		t.Errorf("a stream that stalls ends as if whole: %q %v", b, err)
	}
	<-stalled
}
