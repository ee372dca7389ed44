package broker_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// Every page has its policy and its id, in every state that a visitor can see.
func TestEveryPageHasItsHeaders(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	in := h.browser()
	in.enter("demo", "demo")
	out := h.browser()
	for _, c := range []struct {
		b    *browser
		path string
		code int
	}{
		{out, "/signin", 200}, {out, "/signin/local", 200}, {out, "/signed-out", 200}, {out, "/nothing", 404}, {out, "/signin/nothing", 404}, {out, "/auth/nothing/callback", 404},
		{out, "/oauth2/authorize", 400}, {out, "/consent/x", 0}, {out, "/resume/x", 200}, {out, "/gateway/start?rd=https://evil.example/", 400}, {out, "/account/sessions/end", 405},
		{in, "/", 200}, {in, "/account", 200}, {in, "/account/sessions", 200}, {in, "/account/apps", 200}, {in, "/account/claims", 200}, {in, "/signout", 200},
	} {
		a := c.b.get(c.path)
		if c.code != 0 && a.StatusCode != c.code {
			t.Errorf("%s: %d", c.path, a.StatusCode)
		}
		csp := a.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: policy %q", c.path, csp)
			}
		}
		if a.StatusCode != http.StatusSeeOther && (!strings.Contains(csp, "form-action 'self'") || !strings.Contains(csp, "require-trusted-types-for 'script'") || strings.Contains(a.Body, "<script>") || strings.Contains(a.Body, "style=") || strings.Contains(a.Body, " onclick=")) {
			t.Errorf("%s: policy %q, or something inline", c.path, csp)
		}
		for k, v := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "no-store"} {
			if a.Header.Get(k) != v {
				t.Errorf("%s: %s is %q", c.path, k, a.Header.Get(k))
			}
		}
		if a.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: no request id", c.path)
		}
		if a.StatusCode >= 400 && !strings.Contains(a.Body, "GH-") {
			t.Errorf("%s: an error without a reference", c.path)
		}
	}
}

// SE-4: every form is behind the same-origin check, none of them answers GET
// with a change.
func TestEveryFormIsProtected(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	b.enter("demo", "demo")
	for _, path := range []string{"/signin/local", "/signout", "/account/sessions/end", "/account/sessions/end-others", "/account/apps/revoke", "/prefs", "/consent/x"} {
		for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Sec-Fetch-Site", "", "Origin", "https://evil.example"}, {"Sec-Fetch-Site", "", "Origin", "null"}} {
			if a := b.post(path, url.Values{"lang": {"zh-CN"}}, header...); a.StatusCode != http.StatusForbidden || !strings.Contains(a.Body, "request.cross_origin") {
				t.Errorf("POST %s, %v: %d", path, header, a.StatusCode)
			}
		}
	}
	for _, path := range []string{"/account/sessions/end", "/account/apps/revoke", "/prefs"} {
		if a := b.get(path); a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != "POST" {
			t.Errorf("GET %s: %d, Allow %q", path, a.StatusCode, a.Header.Get("Allow"))
		}
	}
	for _, path := range []string{"/account/sessions/end", "/account/sessions/end-others", "/account/apps/revoke", "/signout"} {
		if a := b.post(path, url.Values{"token": {"x"}}); a.StatusCode != http.StatusForbidden || !b.in() {
			t.Errorf("POST %s with a wrong token: %d", path, a.StatusCode)
		}
	}
	// The language form goes back to a path of ours alone.
	for back, want := range map[string]string{"/account?x=1": "/account?x=1", "//evil.example": "/", "/\\evil.example": "/", "/\t/evil.example": "/", "https://evil.example/": "/", "": "/"} {
		if a := b.post("/prefs", url.Values{"lang": {"zh-CN"}, "back": {back}}); a.Header.Get("Location") != want {
			t.Errorf("back to %q: %q", back, a.Header.Get("Location"))
		}
	}
}

// raw sends bytes and returns the status line and the body.
func (h *harness) send(text string) (int, string) {
	h.t.Helper()
	c, err := net.Dial("tcp", h.host)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		h.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		h.t.Fatalf("%q: %v", text, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// Hosts and targets that are not ours, methods that nobody needs, headers that
// are too long (G9, GW-6, ISS-18).
func TestStrangeRequests(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	for request, want := range map[string]int{
		"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n":                                                  421,
		"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n":                                           200,
		"GET / HTTP/1.1\r\nHost: " + strings.Replace(h.host, ":", ".:", 1) + "\r\n\r\n":                 400,
		"GET / HTTP/1.1\r\nHost: " + h.host + "\r\nHost: evil.example\r\n\r\n":                          400,
		"GET http://" + h.host + "/signin HTTP/1.1\r\nHost: " + h.host + "\r\n\r\n":                     400,
		"GET http://evil.example/signin HTTP/1.1\r\nHost: " + h.host + "\r\n\r\n":                       400,
		"TRACE / HTTP/1.1\r\nHost: " + h.host + "\r\n\r\n":                                              405,
		"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n":                           405,
		"GETT / HTTP/1.1\r\nHost: " + h.host + "\r\n\r\n":                                               405,
		"POST /signed-out HTTP/1.1\r\nHost: " + h.host + "\r\nContent-Length: 0\r\n\r\n":                405,
		"GET /signin HTTP/1.1\r\nHost: " + h.host + "\r\nX: " + strings.Repeat("x", 30000) + "\r\n\r\n": 431,
	} {
		if code, body := h.send(request); code != want || strings.Contains(body, "evil.example") {
			t.Errorf("%.60q: %d\n%s", request, code, body)
		}
	}
	// A page never builds a link from what the client says of the host.
	b := h.browser()
	a := b.get("/account", "X-Forwarded-Host", "evil.example", "X-Original-URL", "https://evil.example/")
	if strings.Contains(fmt.Sprint(a.Header), "evil.example") {
		t.Errorf("%v", a.Header)
	}
	// In --dev another loopback name leads to the issuer.
	if a := b.get(strings.Replace(h.URL, "127.0.0.1", "localhost", 1) + "/signin?x=1"); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != h.URL+"/signin?x=1" {
		t.Errorf("localhost: %d to %q", a.StatusCode, a.Header.Get("Location"))
	}
}

// Who is signed in already is not asked again without need; who was here before
// sees the method used last.
func TestSignInPage(t *testing.T) {
	t.Parallel()
	gh := startGitHub(t)
	h := start(t, gh.yaml("google: {client_id: a, client_secret: b, issuer: 'http://127.0.0.1:1'}"))
	b := h.browser()
	first := b.get("/signin")
	if !strings.Contains(first.Body, "Continue with GitHub") || !strings.Contains(first.Body, "Continue with Google") || strings.Contains(first.Body, "Last used") {
		t.Errorf("a first visit:\n%s", first.Body)
	}
	if a := b.get("/signin/google?attempt=" + field(t, attemptField, first)); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a method that cannot be reached: %d", a.StatusCode)
	}
	b.enterBy("7")
	if a := b.get("/signin"); a.StatusCode != http.StatusSeeOther || a.location().Path != "/" {
		t.Errorf("signed in: %d", a.StatusCode)
	}
	b.signOutHere()
	a := b.get("/signin")
	if !strings.Contains(a.Body, "Last used") || strings.Index(a.Body, `href="/signin/github`) > strings.Index(a.Body, `action="/signin/local`) {
		t.Errorf("the method used last:\n%s", a.Body)
	}
	if a := b.get("/signin", "Accept-Language", "zh-CN"); !strings.Contains(a.Body, "上次使用") || !strings.Contains(a.Body, `lang="zh-CN"`) {
		t.Errorf("in Chinese:\n%s", a.Body)
	}
	// The person turned back at the upstream.
	state := b.leave("/account/apps")
	a = b.get("/auth/github/callback?" + url.Values{"state": {state}, "error": {"access_denied"}, "error_description": {"<script>alert(1)</script>"}}.Encode())
	if a.StatusCode != http.StatusOK || !strings.Contains(a.Body, "You cancelled at GitHub") || strings.Contains(a.Body, "alert(1)") {
		t.Errorf("turned back: %d\n%s", a.StatusCode, a.Body)
	}
	if a := b.signIn(a, "demo", "demo"); a.Request.URL.Path != "/account/apps" {
		t.Errorf("it led to %s", a.Request.URL)
	}
	// And the upstream is away.
	b.signOutHere()
	gh.set(func() { gh.down = true })
	a = b.get(callbackPath(b.leave("/account/apps"), "7"))
	if a.StatusCode != http.StatusServiceUnavailable || !strings.Contains(a.Body, "cannot reach GitHub") || !attemptField.MatchString(a.Body) {
		t.Errorf("away: %d\n%s", a.StatusCode, a.Body)
	}
}
