package broker_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
)

// ticketURL walks a signed-in browser to the point where it holds the ticket for
// a gateway host, and returns that URL without going there.
func (b *browser) ticketURL(u string) string {
	b.h.t.Helper()
	a := b.get(u)
	if a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(a.Header.Get("Location"), b.h.URL+"/gateway/start?") || a.Header.Get("Cache-Control") != "no-store" {
		b.h.t.Fatalf("%s: %d to %s", u, a.StatusCode, a.Header.Get("Location"))
	}
	a = b.get(a.Header.Get("Location"))
	to := a.location()
	if to.Path != "/.gatehouse/callback" || to.Query().Get("ticket") == "" {
		b.h.t.Fatalf("no ticket: %d to %s", a.StatusCode, to)
	}
	return to.String()
}

// The hand-off: one use, this host, this browser, a minute (G3, GW-5).
func TestGatewayHandoff(t *testing.T) {
	t.Parallel()
	h, up := gate(t, plainRoutes, nil)
	b := h.browser()
	b.enter("demo", "demo")
	api := h.at("api", "/deep?a=b")

	link := b.ticketURL(api)
	if other := h.browser().get(link); other.StatusCode != http.StatusForbidden || !strings.Contains(other.Body, "handoff.invalid") {
		t.Fatalf("another browser: %d", other.StatusCode)
	}
	// One that is on its own way there has a nonce, but not this one.
	other := h.browser()
	other.get(api)
	if a := other.get(link); a.StatusCode != http.StatusForbidden || other.cookie(api, "gatehouse-console") != "" {
		t.Fatalf("another browser with a nonce of its own: %d", a.StatusCode)
	}
	at, _ := url.Parse(link)
	at.Host = strings.Replace(at.Host, "api.", "n1.console.", 1)
	b.get(h.at("n1.console", "/")) // sets that host's nonce
	if a := b.get(at.String()); a.StatusCode != http.StatusForbidden {
		t.Fatalf("another host: %d", a.StatusCode)
	}
	a := b.get(link) // none of these has used it up
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/deep?a=b" {
		t.Fatalf("the right one: %d to %q", a.StatusCode, a.Header.Get("Location"))
	}
	set := a.Header.Get("Set-Cookie")
	for _, want := range []string{"gatehouse-console=", "Path=/", "HttpOnly", "SameSite=Lax"} {
		if !strings.Contains(set, want) || strings.Contains(set, "Domain") {
			t.Errorf("cookie %q", set)
		}
	}
	if a := b.get(link); a.StatusCode != http.StatusForbidden {
		t.Fatalf("a second time: %d", a.StatusCode)
	}
	if a := b.get(api); a.StatusCode != http.StatusOK || up.last(t).URI != "/deep?a=b" {
		t.Fatalf("opened: %d", a.StatusCode)
	}

	late := h.browser()
	late.enter("demo", "demo")
	link = late.ticketURL(api)
	h.wait(61 * time.Second)
	if a := late.get(link); a.StatusCode != http.StatusForbidden {
		t.Fatalf("after a minute: %d", a.StatusCode)
	}
	// Where it leads afterwards is a path of that host and nothing else.
	for i, rd := range []string{"//evil.example", "https://evil.example/", `/\evil.example`, "/%5cevil.example", "javascript:alert(1)", "http://api.localhost.evil.example/"} {
		link, _ := url.Parse(late.ticketURL(h.at(fmt.Sprintf("n%d.console", i), "/")))
		q := link.Query()
		q.Set("rd", rd)
		link.RawQuery = q.Encode()
		if a := late.get(link.String()); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/" {
			t.Errorf("rd=%s: %d to %q", rd, a.StatusCode, a.Header.Get("Location"))
		}
	}
	// And the broker hands nobody to a host that is not ours (SE-5).
	for _, rd := range []string{"https://evil.example/", "http://127.0.0.1.evil.example/", "/x", "", "http://api.localhost@evil.example/", "http://evil.localhost/", h.URL + "/"} {
		if a := b.get("/gateway/start?browser=x&rd=" + url.QueryEscape(rd)); a.StatusCode != http.StatusBadRequest {
			t.Errorf("start rd=%s: %d to %q", rd, a.StatusCode, a.Header.Get("Location"))
		}
	}
	// Without the browser's mark nothing is handed over: the host itself begins.
	if a := b.get("/gateway/start?rd=" + url.QueryEscape(api)); a.location().Path != "/.gatehouse/callback" || a.location().Query().Has("ticket") || b.follow(a).Request.URL.String() != api {
		t.Errorf("without browser: %d to %q", a.StatusCode, a.Header.Get("Location"))
	}
}

// SE-2: every host has a cookie of its own; a handle works at none but its own,
// and a name that is there twice is as good as none.
func TestGatewayCookieIsPerHost(t *testing.T) {
	t.Parallel()
	h, up := gate(t, plainRoutes, nil)
	h.lend(console.Lease{ID: "n1", Upstream: up.URL, Owner: "x", Groups: []string{"gpu-users"}})
	h.lend(console.Lease{ID: "n2", Upstream: up.URL, Owner: "x", Groups: []string{"gpu-users"}})
	b := h.visit(h.at("n1.console", "/"))
	one := b.cookie(h.at("n1.console", "/"), "gatehouse-console")
	sso := b.cookie(h.URL, "gatehouse")
	if len(one) != 52 || one == sso || b.cookie(h.at("n2.console", "/"), "gatehouse-console") != "" {
		t.Fatalf("cookies: %q, %q", one, sso)
	}
	up.last(t)
	ask := func(host, cookie string) int {
		r := h.browser().get(h.at(host, "/"), "Cookie", cookie, "Accept", "application/json")
		return r.StatusCode
	}
	for _, c := range []struct {
		host, cookie string
		want         int
	}{
		{"n1.console", "gatehouse-console=" + one, 200},
		{"n2.console", "gatehouse-console=" + one, 401},
		{"api", "gatehouse-console=" + one, 401},
		{"n1.console", "gatehouse-console=" + sso, 401},
		{"n1.console", "gatehouse=" + sso, 401},
		{"n1.console", "gatehouse-console=" + one + "; gatehouse-console=" + one, 401},
		{"n1.console", "gatehouse-console=x; gatehouse-console=" + one, 401},
		{"n1.console", "gatehouse-console=" + one[:51], 401},
		{"n1.console", "gatehouse-console=" + strings.ToLower(one), 401},
		{"n1.console", "gatehouse-console=" + strings.Repeat("A", 52), 401},
		{"n1.console", "gatehouse-console=", 401},
	} {
		if got := ask(c.host, c.cookie); got != c.want {
			t.Errorf("%s with %q: %d, want %d", c.host, c.cookie, got, c.want)
		}
	}
	// Nor is the console's handle a session at the broker.
	if a := h.browser().get("/account", "Cookie", "gatehouse="+one); a.StatusCode == http.StatusOK {
		t.Error("the broker takes a console's handle")
	}
	if a := b.get(h.at("n1.console", "/.gatehouse/signout")); a.Header.Get("Location") != h.URL+"/signout" {
		t.Errorf("sign-out goes to %q", a.Header.Get("Location"))
	}
	b.open(h.at("n2.console", "/"))
	page := b.get("/signout")
	b.follow(b.post("/signout", url.Values{"token": {field(t, tokenField, page)}}))
	for _, host := range []string{"n1.console", "n2.console"} {
		if a := b.get(h.at(host, "/"), "Accept", "application/json"); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s after signing out: %d", host, a.StatusCode)
		}
	}
}

// Who is not signed in: a navigation goes to sign-in, everything else is told
// (ux F5); in a frame no sign-in begins (GW-16).
func TestGatewayUnauthenticated(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, plainRoutes+"  - {name: m2m, host: m2m.localhost, upstream: UP, audience: demo-api, auth: [bearer]}\n", nil)
	for name, c := range map[string]struct {
		host, method string
		headers      []string
		status       int
	}{
		"navigation":           {"api", "GET", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Accept", "text/html"}, 303},
		"old browser":          {"api", "GET", []string{"Accept", "text/html,*/*"}, 303},
		"navigation by HEAD":   {"api", "HEAD", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 401},
		"form":                 {"api", "POST", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Accept", "text/html"}, 401},
		"frame":                {"n1.console", "GET", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe", "Accept", "text/html"}, 401},
		"fetch":                {"api", "GET", []string{"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Accept", "*/*"}, 401},
		"fetch that says HTML": {"api", "GET", []string{"Sec-Fetch-Mode", "cors", "Accept", "text/html"}, 401},
		"curl":                 {"api", "GET", []string{"Accept", "*/*"}, 401},
		"machine route":        {"m2m", "GET", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Accept", "text/html"}, 401},
		"WebSocket":            {"api", "GET", []string{"Connection", "Upgrade", "Upgrade", "websocket", "Accept", "text/html"}, 401},
	} {
		b := h.browser()
		b.Header = http.Header{}
		req, err := http.NewRequest(c.method, h.at(c.host, "/x?y"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(c.headers); i += 2 {
			req.Header.Set(c.headers[i], c.headers[i+1])
		}
		a := b.do(req)
		if a.StatusCode != c.status || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d, want %d", name, a.StatusCode, c.status)
			continue
		}
		if c.status == http.StatusUnauthorized && !strings.HasPrefix(a.Header.Get("Www-Authenticate"), "Bearer") {
			t.Errorf("%s: no challenge", name)
		}
		if c.status == http.StatusSeeOther && a.location().Query().Get("rd") != h.at("api", "/x?y") {
			t.Errorf("%s: to %s", name, a.location())
		}
	}
	b := h.browser()
	a := b.get(h.at("api", "/"), "Accept", "application/json")
	j := a.json(t)
	if j["error"] != "unauthorized" || j["code"] != "session.required" || j["login_url"] != h.URL+"/gateway/start?rd="+url.QueryEscape(h.at("api", "/")) || j["ref"] == "" {
		t.Errorf("JSON: %v", j)
	}
	a = b.get(h.at("api", "/"), "Accept", "application/json", "Cookie", "gatehouse-console="+strings.Repeat("A", 52))
	if a.json(t)["error"] != "session_expired" {
		t.Errorf("with a dead cookie: %s", a.Body)
	}
}

// GW-15: which requests the cookie authenticates.
func TestGatewayCrossSiteRequests(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, plainRoutes, nil)
	b := h.visit(h.at("api", "/"))
	b.Header = http.Header{}
	own := h.at("api", "")
	nav := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}
	for _, c := range []struct {
		method, site, origin string
		more                 []string
		ok                   bool
	}{
		{"POST", "same-origin", own, nil, true},
		{"DELETE", "same-origin", own, nil, true},
		{"POST", "none", "", nil, true},
		{"GET", "none", "", nav, true},
		{"GET", "same-site", "", nil, false},
		{"POST", "same-site", own, nil, false},
		{"POST", "same-site", "http://evil.localhost", nil, false},
		{"GET", "cross-site", "", nil, false},
		{"GET", "cross-site", "", nav, true},
		{"GET", "same-site", "", nav, true},
		{"HEAD", "cross-site", "", nav, false},
		{"POST", "cross-site", "null", nav, false},
		{"GET", "cross-site", "", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, false},
		{"GET", "cross-site", "", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "object"}, false},
		{"GET", "cross-site", "", []string{"Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}, false},
		{"GET", "cross-site", "", []string{"Sec-Fetch-Mode", "websocket", "Sec-Fetch-Dest", "websocket"}, false},
		{"POST", "", own, nil, true},
		{"GET", "", "", nil, true},
		{"HEAD", "", "", nil, true},
		{"POST", "", "", nil, false},
		{"PUT", "", "", nil, false},
		{"OPTIONS", "", "", nil, false},
		{"GET", "", "http://evil.example", nil, false},
		{"POST", "", "http://evil.example", nil, false},
		{"POST", "", "null", nil, false},
		{"POST", "", own + ".evil.example", nil, false},
		{"POST", "", strings.Replace(own, "http:", "https:", 1), nil, false},
		{"POST", "", "http://api.localhost", nil, false}, // another port
		{"POST", "cross-site", "http://app.localhost", nil, true},
		{"DELETE", "same-site", "http://app.localhost", nil, true},
		{"POST", "", "http://app.localhost", nil, true},
		{"POST", "cross-site", "http://app.localhost:81", nil, false},
		{"POST", "cross-site", "HTTP://APP.localhost", nil, false},
		{"POST", "nonsense", own, nil, false},
	} {
		req, err := http.NewRequest(c.method, own+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]string{"Sec-Fetch-Site": c.site, "Origin": c.origin} {
			if v != "" {
				req.Header.Set(k, v)
			}
		}
		for i := 0; i+1 < len(c.more); i += 2 {
			req.Header.Set(c.more[i], c.more[i+1])
		}
		a := b.do(req)
		want := map[bool]int{true: 200, false: 403}[c.ok]
		if a.StatusCode != want {
			t.Errorf("%s, Sec-Fetch-Site %q, Origin %q, %v: %d, want %d", c.method, c.site, c.origin, c.more, a.StatusCode, want)
		}
		allowed := ""
		if c.origin == "http://app.localhost" {
			allowed = c.origin
		}
		if got := a.Header.Get("Access-Control-Allow-Origin"); got != allowed {
			t.Errorf("Origin %q may read: %q", c.origin, got)
		}
	}
	// A bearer token is no ambient credential.
	tok := h.service("deployments:write")
	if a := h.browser().post(own+"/", nil, "Authorization", "Bearer "+tok, "Sec-Fetch-Site", "cross-site", "Origin", "http://evil.example"); a.StatusCode != http.StatusOK {
		t.Errorf("bearer from another site: %d", a.StatusCode)
	}
}

// Preflights are answered here and never forwarded (GW-15).
func TestGatewayPreflights(t *testing.T) {
	t.Parallel()
	h, up := gate(t, plainRoutes+"  - {name: closed, host: closed.localhost, upstream: UP, audience: demo-api}\n", nil)
	b := h.visit(h.at("api", "/"))
	b.open(h.at("closed", "/"))
	up.last(t)
	ask := func(host, origin string, more ...string) answer {
		req, err := http.NewRequest(http.MethodOptions, h.at(host, "/x"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Origin": {origin}, "Access-Control-Request-Method": {"DELETE"}, "Access-Control-Request-Headers": {"authorization, x-csrf"}, "Sec-Fetch-Mode": {"cors"}, "Accept": {"*/*"}}
		for i := 0; i+1 < len(more); i += 2 {
			req.Header.Set(more[i], more[i+1])
		}
		return b.do(req)
	}
	a := ask("api", "http://app.localhost")
	if a.StatusCode != http.StatusNoContent || a.Header.Get("Access-Control-Allow-Origin") != "http://app.localhost" || a.Header.Get("Access-Control-Allow-Credentials") != "true" ||
		!strings.Contains(a.Header.Get("Access-Control-Allow-Methods"), "DELETE") || a.Header.Get("Access-Control-Allow-Headers") != "authorization, x-csrf" {
		t.Errorf("listed origin: %d %v", a.StatusCode, a.Header)
	}
	tok := h.service("deployments:write")
	for _, c := range []answer{
		ask("api", "http://evil.example"), ask("closed", "http://app.localhost"), ask("closed", h.at("closed", "")),
		ask("closed", "http://evil.example", "Authorization", "Bearer "+tok), ask("closed", h.at("closed", ""), "Sec-Fetch-Site", "same-origin"),
	} {
		if c.StatusCode != http.StatusForbidden || c.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s from %s: %d %v", c.Request.URL, c.Request.Header.Get("Origin"), c.StatusCode, c.Header)
		}
	}
	if seen := up.requests(); len(seen) > 0 {
		t.Errorf("forwarded: %v", seen)
	}
}
