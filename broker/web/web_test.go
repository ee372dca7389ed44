package web

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/static"
	"github.com/remotegpu/gatehouse/templates"
)

// edge makes an Edge of an issuer, and what it logs.
func edge(t testing.TB, issuer string, proxies ...string) (*Edge, *bytes.Buffer) {
	t.Helper()
	u, err := url.Parse(issuer)
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := store.NewSealer([][]byte{bytes.Repeat([]byte{7}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	cfg := Config{Issuer: u, Templates: templates.FS, Static: static.FS, Sealer: sealer, Now: time.Now, Log: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, p := range proxies {
		cfg.TrustedProxies = append(cfg.TrustedProxies, netip.MustParsePrefix(p))
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e, log
}

// serve sends a request through the middleware to a handler.
func serve(e *Edge, r *http.Request, h Handler) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	e.Middleware(e.Handle("test", h)).ServeHTTP(w, r)
	return w
}

func html(method, target string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	r.Host, r.URL.Host, r.URL.Scheme = "id.example.com", "", ""
	r.Header.Set("Accept", "text/html")
	return r
}

// SE-2: what a cookie carries, on https and on the loopback http of --dev.
func TestCookieAttributes(t *testing.T) {
	for issuer, want := range map[string]string{
		"https://id.example.com": "__Host-gatehouse=v; Path=/; HttpOnly; Secure; SameSite=Lax",
		"http://127.0.0.1:8080":  "gatehouse=v; Path=/; HttpOnly; SameSite=Lax",
	} {
		e, _ := edge(t, issuer)
		for maxAge, extra := range map[time.Duration]string{0: "", time.Hour: "; Max-Age=3600", -1: "; Max-Age=0"} {
			w := httptest.NewRecorder()
			e.SetCookie(w, "gatehouse", "v", maxAge)
			got := w.Header().Get("Set-Cookie")
			if strings.Replace(got, extra, "", 1) != want || !strings.Contains(got, extra) || strings.Contains(got, "Domain") {
				t.Errorf("%s, %s: %s", issuer, maxAge, got)
			}
		}
	}
}

// SE-2: a name that is there twice is none; the other forms of a cookie header.
func TestCookieReading(t *testing.T) {
	e, _ := edge(t, "https://id.example.com")
	for _, c := range []struct {
		header []string
		value  string
		sent   bool
	}{
		{[]string{"__Host-gatehouse=a"}, "a", true},
		{[]string{"x=1; __Host-gatehouse=a; y=2"}, "a", true},
		{[]string{"x=1;__Host-gatehouse=a"}, "a", true},
		{[]string{`__Host-gatehouse="a"`}, "a", true},
		{[]string{"__Host-gatehouse=a=b"}, "a=b", true},
		{[]string{"__Host-gatehouse=a; __Host-gatehouse=b"}, "", true},
		{[]string{"__Host-gatehouse=a; __Host-gatehouse=a"}, "", true},
		{[]string{"__Host-gatehouse=a", "__Host-gatehouse=b"}, "", true},
		{[]string{"__Host-gatehouse=a; __Host-gatehouse="}, "", true},
		{[]string{"__Host-gatehouse =a; __Host-gatehouse=b"}, "", true},
		{[]string{"__Host-gatehouse="}, "", true},
		{[]string{"__Host-gatehouse"}, "", false},
		{[]string{"gatehouse=a"}, "", false}, // without the prefix anybody on a sub-domain could set it
		{[]string{"__host-gatehouse=a"}, "", false},
		{[]string{"__Host-gatehouse-x=a"}, "", false},
		{nil, "", false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Cookie"] = c.header
		v, ok := e.Cookie(r, "gatehouse")
		if v != c.value || ok != (c.value != "") || e.CookieSent(r, "gatehouse") != c.sent {
			t.Errorf("%q: %q %v, sent %v", c.header, v, ok, e.CookieSent(r, "gatehouse"))
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Cookie", `__Host-a-1=x; b=y; __Host-a-2="b c"; __Host-a-1=z`)
	if got := e.CookieNames(r, "a-"); strings.Join(got, " ") != "1 2" {
		t.Errorf("names: %q", got)
	}
}

// SE-9: the client is the rightmost hop that is none of ours, and only if the
// peer is one of ours.
func TestClientAddress(t *testing.T) {
	e, _ := edge(t, "https://id.example.com", "10.0.0.0/8", "::1/128", "fd00::/8")
	for _, c := range []struct{ peer, xff, proto, want, https string }{
		{"192.0.2.1:1", "", "", "192.0.2.1", ""},
		{"192.0.2.1:1", "198.51.100.1", "https", "192.0.2.1", ""}, // the peer is a stranger
		{"10.1.1.1:1", "", "", "10.1.1.1", ""},
		{"10.1.1.1:1", "198.51.100.1", "https", "198.51.100.1", "https"},
		{"10.1.1.1:1", "203.0.113.9, 198.51.100.1", "http", "198.51.100.1", ""}, // what the client wrote itself
		{"10.1.1.1:1", "203.0.113.9, 198.51.100.1, 10.2.2.2, 10.3.3.3", "", "198.51.100.1", ""},
		{"10.1.1.1:1", "10.9.9.9, 10.2.2.2", "", "10.9.9.9", ""},
		{"10.1.1.1:1", "198.51.100.1, garbage, 10.2.2.2", "", "10.2.2.2", ""},
		{"10.1.1.1:1", "garbage", "", "10.1.1.1", ""},
		{"10.1.1.1:1", "198.51.100.1:443", "", "198.51.100.1", ""},
		{"10.1.1.1:1", "[2001:db8::1]:443", "", "2001:db8::1", ""},
		{"[::1]:1", "2001:db8::1", "", "2001:db8::1", ""},
		{"[fd00::1%eth0]:1", "::ffff:198.51.100.1", "", "198.51.100.1", ""},
		{"[::ffff:10.1.1.1]:1", "198.51.100.1", "", "198.51.100.1", ""},
		{"@", "198.51.100.1", "", "invalid IP", ""},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host, r.RemoteAddr = "id.example.com", c.peer
		for _, v := range strings.Split(c.xff, ", ") {
			if v != "" {
				r.Header.Add("X-Forwarded-For", v) // as several headers
			}
		}
		if c.proto != "" {
			r.Header.Set("X-Forwarded-Proto", c.proto)
		}
		check := func(how string) {
			serve(e, r, func(_ http.ResponseWriter, r *http.Request) error {
				if q := RequestOf(r); q.IP.String() != c.want || q.HTTPS != (c.https != "") {
					t.Errorf("peer %s, %s %q: %s, https %v", c.peer, how, c.xff, q.IP, q.HTTPS)
				}
				return nil
			})
		}
		check("headers")
		if c.xff != "" {
			r.Header.Set("X-Forwarded-For", c.xff)
			check("one header")
		}
	}
}

// What no handler may see: GW-6, GW-7, G9.
func TestRefusedBeforeAnyHandler(t *testing.T) {
	e, _ := edge(t, "https://id.example.com")
	for name, c := range map[string]struct {
		change func(r *http.Request)
		status int
	}{
		"TRACE":                 {func(r *http.Request) { r.Method = "TRACE" }, 405},
		"CONNECT":               {func(r *http.Request) { r.Method = "CONNECT" }, 405},
		"made up":               {func(r *http.Request) { r.Method = "GETT" }, 405},
		"no host":               {func(r *http.Request) { r.Host = "" }, 400},
		"host with a dot":       {func(r *http.Request) { r.Host = "id.example.com." }, 400},
		"host with a path":      {func(r *http.Request) { r.Host = "id.example.com/x" }, 400},
		"host with user":        {func(r *http.Request) { r.Host = "a@id.example.com" }, 400},
		"absolute form":         {func(r *http.Request) { r.URL, _ = url.Parse("http://other.example/") }, 400},
		"absolute, our host":    {func(r *http.Request) { r.URL, _ = url.Parse("https://id.example.com/") }, 400},
		"another expectation":   {func(r *http.Request) { r.Header.Set("Expect", "200-ok") }, 417},
		"the usual":             {func(*http.Request) {}, 204},
		"the usual with Expect": {func(r *http.Request) { r.Header.Set("Expect", "100-Continue") }, 204},
	} {
		r := html(http.MethodGet, "/")
		c.change(r)
		seen := false
		w := serve(e, r, func(w http.ResponseWriter, _ *http.Request) error {
			seen = true
			w.WriteHeader(http.StatusNoContent)
			return nil
		})
		if w.Code != c.status || seen != (c.status == 204) {
			t.Errorf("%s: %d, the handler saw it: %v", name, w.Code, seen)
		}
		if w.Header().Get("X-Gatehouse-Request-Id") == "" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", name, w.Header())
		}
	}
}

// Every answer of ours has them; a page its own policy (ux 3.0, ISS-9, ISS-17).
func TestSecurityHeaders(t *testing.T) {
	e, _ := edge(t, "https://id.example.com")
	handlers := map[string]Handler{
		"page": func(w http.ResponseWriter, r *http.Request) error {
			return e.Page(w, r, 200, "signed-out", struct{ Upstream string }{})
		},
		"hop":      func(w http.ResponseWriter, r *http.Request) error { return e.Hop(w, r, "/next?a=1&b=2") },
		"error":    func(http.ResponseWriter, *http.Request) error { return Fail(404, "not_found", "error.not_found", nil) },
		"fault":    func(http.ResponseWriter, *http.Request) error { return errors.New("secret detail") },
		"panic":    func(http.ResponseWriter, *http.Request) error { panic("secret detail") },
		"json":     func(w http.ResponseWriter, _ *http.Request) error { return e.JSON(w, 200, map[string]string{"a": "b"}) },
		"redirect": func(w http.ResponseWriter, r *http.Request) error { e.Redirect(w, r, "/x"); return nil },
	}
	for name, h := range handlers {
		for _, accept := range []string{"text/html", "application/json"} {
			r := html(http.MethodGet, "/account")
			r.Header.Set("Accept", accept)
			w := serve(e, r, h)
			hd := w.Header()
			for k, v := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Strict-Transport-Security": "max-age=31536000", "Permissions-Policy": permissions, "Cache-Control": "no-store"} {
				if hd.Get(k) != v {
					t.Errorf("%s as %s: %s is %q", name, accept, k, hd.Get(k))
				}
			}
			csp := hd.Get("Content-Security-Policy")
			if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "base-uri 'none'") || strings.Contains(csp, "unsafe") {
				t.Errorf("%s: policy %q", name, csp)
			}
			if page := strings.HasPrefix(hd.Get("Content-Type"), "text/html"); page && (csp != pageCSP || hd.Get("Cross-Origin-Opener-Policy") != "same-origin") {
				t.Errorf("%s: policy %q, opener policy %q", name, csp, hd.Get("Cross-Origin-Opener-Policy"))
			}
			if hd.Get("X-Request-Id") == "" || hd.Get("X-Request-Id") != hd.Get("X-Gatehouse-Request-Id") {
				t.Errorf("%s: request id %q and %q", name, hd.Get("X-Request-Id"), hd.Get("X-Gatehouse-Request-Id"))
			}
			if strings.Contains(w.Body.String(), "secret") {
				t.Errorf("%s tells what went wrong inside: %s", name, w.Body)
			}
		}
	}
	// Pages that clients open as pop-ups keep their opener; http has no HSTS; a
	// redirect to somebody else does not say where from.
	if w := serve(e, html(http.MethodGet, "/signin"), handlers["page"]); w.Header().Get("Cross-Origin-Opener-Policy") != "" {
		t.Error("the sign-in page has an opener policy")
	}
	dev, _ := edge(t, "http://127.0.0.1:8080")
	if w := serve(dev, html(http.MethodGet, "/"), handlers["json"]); w.Header().Get("Strict-Transport-Security") != "" {
		t.Error("HSTS on http")
	}
	w := serve(e, html(http.MethodGet, "/"), func(w http.ResponseWriter, r *http.Request) error {
		e.Redirect(w, r, "https://client.example/cb")
		return nil
	})
	if w.Code != http.StatusSeeOther || w.Header().Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("a redirect to a client: %d, %q", w.Code, w.Header().Get("Referrer-Policy"))
	}
}

// G7, G8, ux 3.5: an error page has code and reference, the log the cause under
// the same id, quoted and cut.
func TestErrorsAndPanics(t *testing.T) {
	e, log := edge(t, "https://id.example.com")
	cause := errors.New("upstream said <b>\x1b[31m\u202eevil" + strings.Repeat("x", 1000))
	for _, h := range []Handler{
		func(http.ResponseWriter, *http.Request) error {
			return Fail(502, "upstream.answer", "error.internal", cause)
		},
		func(http.ResponseWriter, *http.Request) error { panic(cause) },
	} {
		log.Reset()
		w := serve(e, html(http.MethodGet, "/x"), h)
		ref := RequestRef(w.Header().Get("X-Request-Id"))
		if w.Code < 500 || !strings.Contains(w.Body.String(), ref) || strings.Contains(w.Body.String(), "evil") {
			t.Errorf("%d without %s:\n%s", w.Code, ref, w.Body)
		}
		for _, line := range strings.Split(strings.TrimSpace(log.String()), "\n") {
			line, _, _ = strings.Cut(line, `"stack"`)
			if strings.ContainsAny(line, "\x1b\u202e") || len(line) > 1500 {
				t.Errorf("the log: %s", line)
			}
		}
		if !strings.Contains(log.String(), ref) || !strings.Contains(log.String(), "upstream said") {
			t.Errorf("the log lacks reference or cause: %s", log)
		}
	}
	r := html(http.MethodGet, "/x")
	r.Header.Set("Accept", "application/json")
	w := serve(e, r, func(http.ResponseWriter, *http.Request) error {
		return Fail(403, "policy.denied", "error.not_allowed", cause)
	})
	if !strings.Contains(w.Body.String(), `"code":"policy.denied"`) || !strings.Contains(w.Body.String(), `"ref":"GH-`) || !strings.Contains(w.Body.String(), `"error":"forbidden"`) {
		t.Errorf("for a machine: %s", w.Body)
	}
	if w := serve(e, html(http.MethodGet, "/x"), func(http.ResponseWriter, *http.Request) error { return store.ErrUnavailable }); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("store away: %d", w.Code)
	}
}

// SE-4: cross-origin writes are refused; reads and clients that are no browser
// pass (what covers them is the form's own token).
func TestCrossOrigin(t *testing.T) {
	e, _ := edge(t, "https://id.example.com")
	for _, c := range []struct {
		method, site, origin string
		ok                   bool
	}{
		{"GET", "cross-site", "https://evil.example", true},
		{"POST", "same-origin", "", true},
		{"POST", "none", "", true},
		{"POST", "", "https://id.example.com", true},
		{"POST", "", "", true},
		{"POST", "cross-site", "", false},
		{"POST", "same-site", "", false},
		{"POST", "", "https://evil.example", false},
		{"POST", "", "null", false},
		{"POST", "cross-site", "https://id.example.com", false},
		{"DELETE", "same-site", "", false},
	} {
		r := html(c.method, "/")
		for k, v := range map[string]string{"Sec-Fetch-Site": c.site, "Origin": c.origin} {
			if v != "" {
				r.Header.Set(k, v)
			}
		}
		w := httptest.NewRecorder()
		e.Middleware(e.Protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))).ServeHTTP(w, r)
		if (w.Code == 204) != c.ok || !c.ok && w.Code != 403 {
			t.Errorf("%s from %q, origin %q: %d", c.method, c.site, c.origin, w.Code)
		}
	}
}

// G9: no duplicates, no bad escapes, not too many fields, not too long.
func TestForms(t *testing.T) {
	for body, ok := range map[string]bool{
		"a=1&b=2": true, "": true, "a=1&a=2": false, "a=%zz": false, "a;b=1": false,
		strings.Repeat("a=&", 1) + "b=": true, strings.Repeat("x&", 100): false, "a=" + strings.Repeat("x", 1000): false,
	} {
		r := httptest.NewRequest(http.MethodPost, "/?a=9", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8")
		v, err := Form(httptest.NewRecorder(), r, 1000)
		if (err == nil) != ok || err == nil && v.Get("a") == "9" {
			t.Errorf("%.20q: %v %v", body, v, err)
		}
	}
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("a=1"))
	r.Header.Set("Content-Type", "application/json")
	if _, err := Form(httptest.NewRecorder(), r, 1000); err == nil {
		t.Error("JSON was taken for a form")
	}
	e, _ := edge(t, "https://id.example.com")
	tok := e.FormToken("session-1", "signout")
	if !e.CheckFormToken("session-1", "signout", tok) || e.CheckFormToken("session-2", "signout", tok) || e.CheckFormToken("session-1", "portal", tok) || e.CheckFormToken("session-1", "signout", "") || e.CheckFormToken("session-1", "signout", tok+"A") {
		t.Error("a form token is good for its session and form alone")
	}
}

// Nothing half-made is sent: a template that fails is an error page.
func TestPageThatFails(t *testing.T) {
	u, _ := url.Parse("https://id.example.com")
	sealer, _ := store.NewSealer([][]byte{bytes.Repeat([]byte{7}, 32)})
	files := fstest.MapFS{
		"layout.html": {Data: []byte(`<p>before</p>{{template "main" .}}`)}, "hop.html": {Data: []byte(`{{define "main"}}{{end}}`)},
		"parts.html": {Data: []byte(`{{define "none"}}{{end}}`)}, "error.html": {Data: []byte(`{{define "main"}}error {{.Data.Ref}}{{end}}`)}, "bad.html": {Data: []byte(`{{define "main"}}{{.Data.Missing}}{{end}}`)},
		"locale/en.json": {Data: []byte(`{"error.internal":"x"}`)},
	}
	e, err := New(Config{Issuer: u, Templates: files, Static: fstest.MapFS{}, Sealer: sealer, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w := serve(e, html(http.MethodGet, "/"), func(w http.ResponseWriter, r *http.Request) error { return e.Page(w, r, 200, "bad", struct{}{}) })
	if w.Code != 500 || !strings.Contains(w.Body.String(), "error GH-") || strings.Count(w.Body.String(), "before") != 1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
