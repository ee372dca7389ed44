package broker_test

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

const framing = `
routes:
  - {name: console, host: "{node}.console.localhost", lease: true, frame_ancestors: [https://app.example.com, https://other.example.com]}
  - {name: closed, host: "{node}.closed.localhost", lease: true}
consoles: {networks: [127.0.0.0/8]}
`

// A page of an allowed origin frames a console by a ticket: once, in a minute,
// for that page, that person and that host; what is framed acts for itself alone.
func TestFrameTicket(t *testing.T) {
	t.Parallel()
	h, up := gate(t, framing, nil)
	b := h.browser()
	b.enter("demo", "demo")
	tok := b.cli("openid gatehouse:consoles")
	me := b.page("GET", "/api/v1/me", "").json(t)["id"].(string)
	h.operator("PUT", "/api/v1/consoles/n1", `{"upstream":"`+up.URL+`","owner":"`+me+`"}`)
	h.operator("PUT", "/api/v1/consoles/n2", `{"upstream":"`+up.URL+`","groups":["nobody"]}`)
	ticket := func(origin string) answer {
		t.Helper()
		return h.as(tok, "POST", "/api/v1/consoles/n1/ticket", `{"path":"/lab?x=1"}`, "Origin", origin, "Sec-Fetch-Site", "cross-site")
	}
	made := ticket("https://app.example.com")
	if made.StatusCode != http.StatusOK || made.Header.Get("Access-Control-Allow-Origin") != "https://app.example.com" || made.Header.Get("Access-Control-Allow-Credentials") != "" {
		t.Fatalf("%d %v %s", made.StatusCode, made.Header, made.Body)
	}
	address := made.json(t)["url"].(string)
	ask, err := http.NewRequest(http.MethodOptions, h.URL+"/api/v1/consoles/n1/ticket", nil)
	if err != nil {
		t.Fatal(err)
	}
	ask.Header.Set("Origin", "https://app.example.com")
	ask.Header.Set("Access-Control-Request-Method", "POST")
	pre := h.browser().do(ask)
	if pre.StatusCode != http.StatusNoContent || pre.Header.Get("Access-Control-Allow-Headers") != "Authorization, Content-Type" {
		t.Errorf("preflight: %d %v", pre.StatusCode, pre.Header)
	}
	frame := func(referer string) []string {
		return []string{"Sec-Fetch-Dest", "iframe", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Site", "cross-site", "Referer", referer, "Accept", "text/html", "Accept-Language", "en"}
	}
	link := func(what string, a answer) {
		t.Helper()
		if a.StatusCode != http.StatusUnauthorized || !strings.Contains(a.Body, "Open in a new tab") || strings.Contains(a.Body, "/signin") || a.Header.Get("Set-Cookie") != "" {
			t.Errorf("%s: %d %v %s", what, a.StatusCode, a.Header, a.Body)
		}
	}
	// Anybody else's page, and one that hides itself, uses nothing up.
	visitor := h.browser()
	link("an evil page", visitor.get(address, frame("https://evil.example/")...))
	link("another allowed page", visitor.get(address, frame("https://other.example.com/")...))
	link("a page without name", visitor.get(address, frame("")...))
	if a := visitor.get(address, "Sec-Fetch-Dest", "document", "Sec-Fetch-Mode", "navigate", "Accept", "text/html"); a.StatusCode < 400 {
		t.Errorf("in a tab of its own: %d", a.StatusCode)
	}
	link("the beginning of a sign-in", visitor.get(h.at("n1.console", "/.gatehouse/callback?rd=/"), frame("https://app.example.com/")...))
	in := visitor.get(address, frame("https://app.example.com/")...)
	if in.StatusCode != http.StatusSeeOther || in.location().RequestURI() != "/lab?x=1" {
		t.Fatalf("%d %v %s", in.StatusCode, in.Header, in.Body)
	}
	link("a second time", h.browser().get(address, frame("https://app.example.com/")...))
	at := h.at("n1.console", "/lab?x=1")
	shown := visitor.get(at, frame("https://app.example.com/")...)
	if shown.StatusCode != http.StatusOK || !strings.Contains(strings.Join(shown.Header["Content-Security-Policy"], " "), "frame-ancestors https://app.example.com https://other.example.com") {
		t.Errorf("framed: %d %v", shown.StatusCode, shown.Header)
	}
	told := up.last(t).Header
	if got := told.Get("X-Gatehouse-User"); got != me {
		t.Errorf("the console is told %q", got)
	}
	if c := told.Get("Cookie"); strings.Contains(c, "gatehouse") {
		t.Errorf("the console gets our cookie: %q", c)
	}
	// A credential that the console's own page sends is the console's.
	if a := visitor.get(at, "Sec-Fetch-Site", "same-origin", "Authorization", "Bearer of-jupyter"); a.StatusCode != http.StatusOK || up.last(t).Header.Get("Authorization") != "Bearer of-jupyter" {
		t.Errorf("the console's own credential: %d", a.StatusCode)
	}
	// From inside it acts; from outside nobody acts with its cookie.
	if a := visitor.post(at, url.Values{"a": {"b"}}, "Sec-Fetch-Site", "same-origin"); a.StatusCode != http.StatusOK {
		t.Errorf("its own POST: %d", a.StatusCode)
	}
	n := len(up.requests())
	for what, hs := range map[string][]string{
		"another page's POST":    {"Sec-Fetch-Site", "cross-site", "Origin", "https://app.example.com"},
		"another page's picture": {"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"},
	} {
		a := visitor.get(at, hs...)
		if strings.Contains(what, "POST") {
			a = visitor.post(at, url.Values{"a": {"b"}}, hs...)
		}
		if a.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d", what, a.StatusCode)
		}
	}
	if len(up.requests()) != n {
		t.Error("what was refused reached the console")
	}
	// Nowhere else is the cookie worth anything.
	cookie := "gatehouse-frame=" + visitor.cookie(at, "gatehouse-frame")
	for _, elsewhere := range []string{h.at("n2.console", "/"), h.at("n1.closed", "/"), h.URL + "/account"} {
		if a := h.browser().get(elsewhere, "Cookie", cookie); a.StatusCode == http.StatusOK {
			t.Errorf("the frame's cookie at %s: %d", elsewhere, a.StatusCode)
		}
	}
	// What may not be framed, or not by them.
	for what, a := range map[string]answer{
		"an evil origin":      ticket("https://evil.example"),
		"another's console":   h.as(tok, "POST", "/api/v1/consoles/n2/ticket", `{}`, "Origin", "https://app.example.com"),
		"no such console":     h.as(tok, "POST", "/api/v1/consoles/n9/ticket", `{}`, "Origin", "https://app.example.com"),
		"no origin":           h.as(tok, "POST", "/api/v1/consoles/n1/ticket", `{}`),
		"a token without it":  h.as(b.cli("openid gatehouse:account"), "POST", "/api/v1/consoles/n1/ticket", `{}`, "Origin", "https://app.example.com"),
		"an evil server":      h.as(tok, "POST", "/api/v1/consoles/n1/ticket", `{"origin":"https://evil.example"}`),
		"an evil destination": h.as(tok, "POST", "/api/v1/consoles/n1/ticket", `{"path":"//evil.example"}`, "Origin", "https://app.example.com"),
	} {
		if what == "an evil destination" {
			if u := a.json(t)["url"].(string); strings.Contains(u, "evil") {
				t.Errorf("%s: %s", what, u)
			}
			continue
		}
		if a.StatusCode < 400 || a.StatusCode >= 500 || a.Header.Get("Access-Control-Allow-Origin") == "https://evil.example" {
			t.Errorf("%s: %d %s", what, a.StatusCode, a.Body)
		}
	}
	late := ticket("https://app.example.com").json(t)["url"].(string)
	h.wait(61 * time.Second)
	link("after a minute", h.browser().get(late, frame("https://app.example.com/")...))
	// The end of the session is the end of the frame.
	b.post("/signout", url.Values{"token": {field(t, tokenField, b.get("/signout"))}, "everywhere": {"1"}})
	link("signed out", visitor.get(at, frame("https://app.example.com/")...))
}

// What the gateway itself has to say in a frame is seen there: a console that
// wakes up loads itself again, and its links leave the frame, since no page of
// the broker's may be framed. In a tab of its own nobody frames that page.
func TestFramedConsoleWakesUp(t *testing.T) {
	t.Parallel()
	h, up := gate(t, framing, nil)
	b := h.browser()
	b.enter("demo", "demo")
	tok := b.cli("openid gatehouse:consoles")
	me := b.page("GET", "/api/v1/me", "").json(t)["id"].(string)
	lend := func(upstream string) {
		h.operator("PUT", "/api/v1/consoles/n1", `{"upstream":"`+upstream+`","owner":"`+me+`"}`)
	}
	lend(up.URL)
	frame := []string{"Sec-Fetch-Dest", "iframe", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Site", "cross-site", "Referer", "https://app.example.com/", "Accept", "text/html", "Accept-Language", "en"}
	visitor := h.browser()
	ticket := h.as(tok, "POST", "/api/v1/consoles/n1/ticket", `{}`, "Origin", "https://app.example.com").json(t)["url"].(string)
	if in := visitor.get(ticket, frame...); in.StatusCode != http.StatusSeeOther {
		t.Fatalf("%d %s", in.StatusCode, in.Body)
	}
	spare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spare.Close()
	lend("http://" + spare.Addr().String())
	const allowed = "frame-ancestors https://app.example.com https://other.example.com;"
	at := h.at("n1.console", "/")
	waking := visitor.get(at, frame...)
	if waking.StatusCode != http.StatusServiceUnavailable || waking.Header.Get("Refresh") == "" || !strings.Contains(waking.Header.Get("Content-Security-Policy"), allowed) {
		t.Errorf("waking: %d %v", waking.StatusCode, waking.Header)
	}
	for tag := range strings.SplitSeq(waking.Body, "<a ") {
		if tag, _, _ = strings.Cut(tag, ">"); strings.Contains(tag, "href=\""+h.URL) && !strings.Contains(tag, `target="_blank"`) {
			t.Errorf("leads the frame to the broker: %s", tag)
		}
	}
	if strings.Contains(waking.Body, `class="skip"`) || !strings.Contains(waking.Body, `href="/"`) {
		t.Errorf("the page in the frame: %s", waking.Body)
	}
	if alone := b.follow(b.get(at)); alone.StatusCode != http.StatusServiceUnavailable || !strings.Contains(alone.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
		t.Errorf("in a tab: %d %v", alone.StatusCode, alone.Header)
	}
	// Where a route names nobody, a console's own pages frame what it says, and nobody else's do.
	if a := visitor.get(h.at("n1.closed", "/"), frame...); a.StatusCode != http.StatusUnauthorized || !strings.Contains(a.Header.Get("Content-Security-Policy"), "frame-ancestors 'self';") {
		t.Errorf("a route without frame_ancestors: %d %v", a.StatusCode, a.Header)
	}
	lend(up.URL)
	if shown := visitor.get(at, frame...); shown.StatusCode != http.StatusOK {
		t.Errorf("awake: %d %s", shown.StatusCode, shown.Body)
	}
}
