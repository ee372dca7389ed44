package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

const forwarded = `
trusted_proxies: [127.0.0.1/32]
routes:
  - {name: app, host: app.localhost, forward_auth: true, audience: demo-api}
  - {name: admins, host: admins.localhost, forward_auth: true, allow: '"platform-admins" in user.groups'}
  - {name: guarded, host: guarded.localhost, forward_auth: true, allow: '!request.path.startsWith("/secret")'}
  - {name: fresh, host: fresh.localhost, forward_auth: true, step_up: {max_age: 15m}}
  - {name: proxied, host: proxied.localhost, upstream: UP}
`

// A proxy asks for each request: what it is answered, in each of the three ways
// in which proxies describe a request.
func TestForwardAuth(t *testing.T) {
	t.Parallel()
	h, up := gate(t, forwarded, nil)
	b := h.browser()
	b.enter("demo", "demo")
	b.open(h.at("proxied", "/"))
	origin := h.at("app", "")
	host := strings.TrimPrefix(origin, "http://")
	// The cookie of the host, as another proxy hands it over.
	signedIn := func(name string) string {
		t.Helper()
		at := h.at(name, "/")
		a := b.follow(b.get("/gateway/start?rd=" + at))
		_ = a
		c := b.cookie(at, "gatehouse-console")
		if c == "" {
			t.Fatalf("no cookie for %s: %d at %s", at, a.StatusCode, a.Request.URL)
		}
		return "gatehouse-console=" + c
	}
	cookie := signedIn("app")
	type headers = []string
	fwd := func(method, host, uri string, more ...string) headers {
		return append(headers{"X-Forwarded-Method", method, "X-Forwarded-Proto", "http", "X-Forwarded-Host", host, "X-Forwarded-Uri", uri}, more...)
	}
	orig := func(method, u string, more ...string) headers {
		return append(headers{"X-Original-Method", method, "X-Original-Url", u}, more...)
	}
	api := headers{"Accept", "application/json", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Site", "same-origin"}
	ask := func(path string, hs headers) answer { t.Helper(); return h.browser().get(path, append(hs, api...)...) }
	const auth = "/gateway/auth"
	for what, c := range map[string]struct {
		path string
		hs   headers
		want int
	}{
		"forwarded":                       {auth, fwd("GET", host, "/x?y=1", "Cookie", cookie), 200},
		"forwarded, named":                {auth + "?headers=forwarded", fwd("GET", host, "/x", "Cookie", cookie), 200},
		"original":                        {auth + "?headers=original", orig("GET", origin+"/x?a=b&c=d", "Cookie", cookie), 200},
		"POST":                            {auth + "?headers=original", orig("POST", origin+"/x", "Cookie", cookie), 200},
		"on the host itself":              {h.at("app", "/.gatehouse/auth?headers=original"), orig("GET", origin+"/x", "Cookie", cookie), 200},
		"envoy":                           {h.at("app", "/.gatehouse/auth//x?headers=original"), headers{"Cookie", cookie}, 200},
		"no cookie":                       {auth, fwd("GET", host, "/"), 401},
		"no cookie, nginx":                {auth + "?headers=original", orig("GET", origin+"/"), 401},
		"no cookie, envoy":                {h.at("app", "/.gatehouse/auth//"), nil, 401},
		"a host's cookie at another":      {auth, fwd("GET", strings.Replace(host, "app", "admins", 1), "/", "Cookie", cookie), 401},
		"an unknown host":                 {auth, fwd("GET", "evil.localhost", "/", "Cookie", cookie), 403},
		"nothing said":                    {auth, headers{"Cookie", cookie}, 403},
		"nginx's words, Caddy's endpoint": {auth, orig("GET", origin+"/", "Cookie", cookie), 403},
		"Caddy's words, nginx's endpoint": {auth + "?headers=original", fwd("GET", host, "/", "Cookie", cookie), 403},
		"an odd family":                   {auth + "?headers=both", fwd("GET", host, "/", "Cookie", cookie), 403},
		"envoy without its path":          {auth + "?headers=envoy", headers{"Cookie", cookie}, 403},
		"envoy, prefix without slash":     {h.at("app", "/.gatehouse/auth/x"), headers{"Cookie", cookie}, 403},
		"a word for the address":          {auth + "?headers=original", orig("GET", "word", "Cookie", cookie), 403},
		"CONNECT":                         {auth, fwd("CONNECT", host, "/", "Cookie", cookie), 403},
		"a path of two readings":          {auth, fwd("GET", host, "/a/%2e%2e/b", "Cookie", cookie), 403},
		"two slashes":                     {auth + "?headers=original", orig("GET", origin+"//evil/x", "Cookie", cookie), 403},
		"another page's POST":             {auth, fwd("POST", host, "/", "Cookie", cookie, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"), 403},
	} {
		hs := c.hs
		if strings.Contains(what, "another page") {
			if a := h.browser().get(c.path, append(headers{"Accept", "application/json"}, hs...)...); a.StatusCode != c.want {
				t.Errorf("%s: %d %s", what, a.StatusCode, a.Body)
			}
			continue
		}
		a := ask(c.path, hs)
		if a.StatusCode != c.want {
			t.Errorf("%s: %d %s", what, a.StatusCode, a.Body)
		}
		told := a.Header.Get("X-Gatehouse-User") != "" && a.Header.Get("Authorization") != ""
		if told != (c.want == 200) {
			t.Errorf("%s: %d with identity %v", what, a.StatusCode, told)
		}
		if a.StatusCode == 401 && a.Header.Get("Www-Authenticate") == "" {
			t.Errorf("%s: no challenge", what)
		}
	}
	// A forged family beside the right one counts for nothing.
	a := ask(auth+"?headers=original", orig("GET", h.at("guarded", "/secret"), append(fwd("GET", strings.Replace(host, "app", "guarded", 1), "/open"), "Cookie", signedIn("guarded"))...))
	if a.StatusCode != 403 {
		t.Errorf("forged X-Forwarded-Uri beside nginx's: %d", a.StatusCode)
	}
	// Every header is there, so that what a client forged is replaced.
	a = ask(auth, fwd("GET", host, "/", "Cookie", cookie))
	for _, name := range []string{"Authorization", "X-Gatehouse-User", "X-Gatehouse-Email", "X-Gatehouse-Name", "X-Gatehouse-Groups", "X-Gatehouse-Groups-Truncated"} {
		if _, there := a.Header[name]; !there {
			t.Errorf("%s is missing", name)
		}
	}
	if c := claims(t, strings.TrimPrefix(a.Header.Get("Authorization"), "Bearer ")); c["aud"] != "demo-api" {
		t.Errorf("the token %v", c)
	}
	// Refused by the rule, and asked to sign in again.
	a = ask(auth, fwd("GET", strings.Replace(host, "app", "admins", 1), "/", "Cookie", signedIn("admins")))
	if a.StatusCode != http.StatusForbidden || a.json(t)["code"] != "policy.denied" {
		t.Errorf("by the rule: %d %s", a.StatusCode, a.Body)
	}
	fresh := signedIn("fresh")
	h.wait(20 * time.Minute)
	a = ask(auth, fwd("GET", strings.Replace(host, "app", "fresh", 1), "/", "Cookie", fresh))
	if a.StatusCode != 401 || !strings.Contains(a.Header.Get("Www-Authenticate"), "max_age") {
		t.Errorf("step-up: %d %v", a.StatusCode, a.Header)
	}
	// Our own listener does not serve such a host.
	if a := b.get(h.at("app", "/x")); a.StatusCode != http.StatusNotFound {
		t.Errorf("the host at our own door: %d", a.StatusCode)
	}
	if len(up.requests()) != 1 {
		t.Errorf("the upstream was asked %d times", len(up.requests()))
	}
	// Signed out: refused at the next question.
	b.follow(b.get("/signout"))
	b.post("/signout", url.Values{"token": {field(t, tokenField, b.get("/signout"))}, "here": {"1"}})
	if a := ask(auth, fwd("GET", host, "/", "Cookie", cookie)); a.StatusCode != 401 {
		t.Errorf("signed out: %d", a.StatusCode)
	}
}

// A navigation is led to sign-in and back by the proxies that hand our answer
// over; nginx leads it there itself, with an address that it cannot encode.
func TestForwardAuthSignIn(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, forwarded, nil)
	host := strings.TrimPrefix(h.at("app", ""), "http://")
	a := h.browser().get("/gateway/auth", "X-Forwarded-Method", "GET", "X-Forwarded-Proto", "http", "X-Forwarded-Host", host, "X-Forwarded-Uri", "/deep?a=1&b=2", "Accept", "text/html")
	to := a.location()
	if a.StatusCode != http.StatusSeeOther || to.Path != "/gateway/start" || to.Query().Get("rd") != h.at("app", "/deep?a=1&b=2") || to.Query().Get("browser") == "" {
		t.Errorf("Caddy's navigation: %d to %s", a.StatusCode, to)
	}
	if !strings.Contains(a.Header.Get("Set-Cookie"), "gatehouse-handoff=") {
		t.Errorf("no cookie of the departure: %v", a.Header)
	}
	if a := h.browser().get("/gateway/auth", "X-Forwarded-Method", "POST", "X-Forwarded-Proto", "http", "X-Forwarded-Host", host, "X-Forwarded-Uri", "/", "Accept", "text/html"); a.StatusCode != 401 {
		t.Errorf("a POST: %d", a.StatusCode)
	}
	b := h.browser()
	page := b.follow(b.get("/gateway/start?rd=" + h.at("app", "/deep?a=1&b=2")))
	if !strings.Contains(page.Request.URL.Path, "/signin") {
		t.Fatalf("no sign-in: %d at %s", page.StatusCode, page.Request.URL)
	}
	back := b.follow(b.signIn(page, "demo", "demo"))
	if back.Request.URL.String() != h.at("app", "/deep?a=1&b=2") || b.cookie(h.at("app", "/"), "gatehouse-console") == "" {
		t.Errorf("back at %s (%d)", back.Request.URL, back.StatusCode)
	}
	for _, odd := range []string{"rd=https://evil.example/", "rd=//evil.example/", "rd=" + url.QueryEscape("https://evil.example/"), "x=1&rd=https://evil.example/", "rd=" + h.at("nowhere", "/"), "rd=javascript://app.localhost/%0aalert(1)", "rd=" + h.at("app", "/") + "&rd=https://evil.example/"} {
		if a := b.get("/gateway/start?" + odd); a.StatusCode != http.StatusBadRequest && !strings.HasPrefix(a.Header.Get("Location"), h.at("app", "")) {
			t.Errorf("%s: %d to %s", odd, a.StatusCode, a.Header.Get("Location"))
		}
	}
}

// Whoever is no trusted proxy learns nothing.
func TestForwardAuthFromStrangers(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, strings.Replace(forwarded, "127.0.0.1/32", "192.0.2.1/32", 1), nil)
	host := strings.TrimPrefix(h.at("app", ""), "http://")
	for _, path := range []string{"/gateway/auth", h.at("app", "/.gatehouse/auth"), h.at("app", "/.gatehouse/auth//x")} {
		a := h.browser().get(path, "X-Forwarded-Method", "GET", "X-Forwarded-Proto", "http", "X-Forwarded-Host", host, "X-Forwarded-Uri", "/", "Accept", "application/json", "Sec-Fetch-Mode", "cors")
		if a.StatusCode != http.StatusForbidden || a.json(t)["code"] != "forward_auth.refused" {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.Body)
		}
	}
}
