package broker_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// The home page lists what this person may open, and nothing else.
func TestPortalApps(t *testing.T) {
	t.Parallel()
	h := start(t, staff()+`routes:
  - {name: demo-api, host: api.localhost, upstream: http://demo-upstream.invalid, allow: '"gpu-users" in user.groups'}
  - {name: admins, host: admins.localhost, upstream: http://demo-upstream.invalid, allow: '"platform-admins" in user.groups'}
  - {name: elsewhere, host: elsewhere.localhost, upstream: http://demo-upstream.invalid, allow: 'request.ip == "192.0.2.1"'}
  - {name: near, host: near.localhost, upstream: http://demo-upstream.invalid, allow: 'request.ip == "127.0.0.1"'}
  - {name: robots, host: robots.localhost, upstream: http://demo-upstream.invalid, audience: demo-api, auth: [bearer]}
  - {name: demo-console, host: "{node}.console.localhost", lease: true}
resources: [{name: demo-api, uri: "https://api.example.com"}]
`)
	for user, want := range map[string]string{"demo": "demo-api near demo", "admin": "admins near demo", "aud": "near"} {
		a := h.in(user).get("/")
		var got []string
		for _, m := range regexp.MustCompile(`<h2 class="wrap h3">([^<]+)</h2>`).FindAllStringSubmatch(a.Body, -1) {
			got = append(got, m[1])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s sees %v, want %s", user, got, want)
		}
		if a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("Cache-Control %q", a.Header.Get("Cache-Control"))
		}
	}
	for _, p := range []string{"/", "/account", "/account/sessions", "/account/apps", "/account/claims"} {
		if a := h.browser().get(p); a.StatusCode != http.StatusSeeOther || strings.Contains(a.Body, "example.com") {
			t.Errorf("%s for nobody: %d", p, a.StatusCode)
		}
	}
}

// Who I am, and by whose word.
func TestPortalAccount(t *testing.T) {
	t.Parallel()
	h := start(t, strings.Replace(staff(), "name: DEMO Surname", `name: "<b>Demo</b> \u202Egnp.exe"`, 1))
	b := h.in("demo")
	a := b.get("/account")
	for _, want := range []string{"demo@example.com", "gpu-users", h.userID("demo"), "&lt;b&gt;Demo&lt;/b&gt;"} {
		if !strings.Contains(a.Body, want) {
			t.Errorf("the profile lacks %s", want)
		}
	}
	if strings.Contains(a.Body, "<b>Demo") || strings.Contains(a.Body, ">admin<") {
		t.Error("the profile shows markup of the name, or a role that is not there")
	}
	if a := h.in("admin").get("/account"); !strings.Contains(a.Body, ">admin<") {
		t.Error("the role is not shown")
	}
	// The claims are to read, not to use.
	a = b.get("/account/claims")
	for _, want := range []string{h.userID("demo"), "gpu-users", "gatehouse:connector", "demo@example.com"} {
		if !strings.Contains(a.Body, want) {
			t.Errorf("the claims lack %s", want)
		}
	}
	if strings.Contains(a.Body, "eyJ") {
		t.Error("there is a token on the page")
	}
}

// Sessions with device and address; ending one, and all others.
func TestPortalSessions(t *testing.T) {
	t.Parallel()
	h := start(t, staff())
	b, second, third, other := h.in("demo"), h.browser(), h.in("demo"), h.in("other")
	second.Header.Set("User-Agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 Version/19.0 Safari/604.1")
	second.enter("demo", "demo")
	second.cli("openid offline_access")
	a := b.get("/account/sessions")
	for _, want := range []string{"Chrome · Linux", "Safari · iPhone", "127.0.0.1", "This device", "Offline access", "Sign out everywhere else"} {
		if !strings.Contains(a.Body, want) {
			t.Errorf("the list lacks %q", want)
		}
	}
	if i, j := strings.Index(a.Body, "This device"), strings.Index(a.Body, "Safari"); i > j {
		t.Error("this device is not the first")
	}
	// The offline one stands under the browser that it came from.
	if i, j := strings.Index(a.Body, "Safari · iPhone"), strings.Index(a.Body, "Offline access"); i < 0 || i > j {
		t.Error("the offline session is not under its browser")
	}
	token := field(t, tokenField, a)
	sessions := "/api/v1/me/sessions"
	theirs := ids(t, other.page(http.MethodGet, sessions, ""), "id")[0]
	for name, c := range map[string]struct {
		form   url.Values
		status int
	}{
		"somebody else's": {url.Values{"token": {token}, "session": {theirs}}, http.StatusNotFound},
		"none":            {url.Values{"token": {token}}, http.StatusNotFound},
		"without token":   {url.Values{"session": {theirs}}, http.StatusForbidden},
		"another's token": {url.Values{"token": {field(t, tokenField, second.get("/account/sessions"))}, "session": {theirs}}, http.StatusForbidden},
	} {
		if a := b.post("/account/sessions/end", c.form); a.StatusCode != c.status {
			t.Errorf("%s: %d", name, a.StatusCode)
		}
	}
	if a := other.get("/account"); a.StatusCode != http.StatusOK {
		t.Error("somebody else's session was ended")
	}
	if a := b.post("/account/sessions/end", url.Values{"token": {token}}, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"); a.StatusCode != http.StatusForbidden {
		t.Errorf("another site's form: %d", a.StatusCode)
	}
	for _, p := range []string{"/account/sessions/end", "/account/apps/revoke", "/prefs"} {
		if a := b.get(p); a.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %d", p, a.StatusCode)
		}
	}
	mine := ids(t, third.page(http.MethodGet, sessions, ""), "id")
	current := third.page(http.MethodGet, "/api/v1/me", "").json(t)["session"].(string)
	if a := b.post("/account/sessions/end", url.Values{"token": {token}, "session": {current}}); a.StatusCode != http.StatusSeeOther || len(mine) != 4 {
		t.Fatalf("end one: %d of %v", a.StatusCode, mine)
	}
	if a := third.page(http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("the ended one: %d", a.StatusCode)
	}
	if a := b.post("/account/sessions/end-others", url.Values{"token": {token}}); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("end others: %d", a.StatusCode)
	}
	if a := second.get("/account"); a.StatusCode != http.StatusSeeOther {
		t.Errorf("another device: %d", a.StatusCode)
	}
	if got := ids(t, b.page(http.MethodGet, sessions, ""), "id"); len(got) != 1 {
		t.Errorf("left over: %v", got)
	}
	if a := b.get("/account/sessions"); !strings.Contains(a.Body, "Only this device is signed in.") || strings.Contains(a.Body, "Sign out everywhere else") {
		t.Error("the page of one session")
	}
}

// An app that may act for me, and taking that back.
func TestPortalAuthorizedApps(t *testing.T) {
	t.Parallel()
	h := start(t, staff())
	b := h.in("demo")
	if a := b.get("/account/apps"); !strings.Contains(a.Body, "No app may act for you.") {
		t.Error("the empty page")
	}
	b.consent("allow")
	tokens := h.redeem(b.code(authRequest())).json(t)
	a := b.get("/account/apps")
	for _, want := range []string{`value="third"`, `value="demo-app"`, "offline_access"} {
		if !strings.Contains(a.Body, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	token := field(t, tokenField, a)
	if a := b.post("/account/apps/revoke", url.Values{"token": {token}, "client": {"gatehouse-cli"}}); a.StatusCode != http.StatusNotFound {
		t.Errorf("a client that has nothing: %d", a.StatusCode)
	}
	if a := b.post("/account/apps/revoke", url.Values{"token": {token}, "client": {"demo-app"}}); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("take back: %d", a.StatusCode)
	}
	if a := h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens["refresh_token"].(string)}}); a.StatusCode != http.StatusBadRequest {
		t.Errorf("its refresh token: %d", a.StatusCode)
	}
	if a := h.bearer(h.URL+"/oauth2/userinfo", tokens["access_token"]); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("its access token: %d", a.StatusCode)
	}
	if a := b.get("/account/apps"); strings.Contains(a.Body, `value="demo-app"`) || !strings.Contains(a.Body, `value="third"`) {
		t.Error("the page afterwards")
	}
}

// SE-5: language and theme come back to a page of ours.
func TestPrefsReturn(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	for back, want := range map[string]string{
		"/account?x=1": "/account?x=1", "": "/", "//evil.example": "/", "/\t/evil.example": "/", `/\evil.example`: "/", "https://evil.example/": "/", "/%5c%5cevil.example": "/",
		"/%2f/evil.example": "/", "javascript:alert(1)": "/", "/\n/evil.example": "/", "account": "/", "//127.0.0.1": "/",
	} {
		if a := b.post("/prefs", url.Values{"lang": {"en"}, "back": {back}}); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != want {
			t.Errorf("%q: %d %q", back, a.StatusCode, a.Header.Get("Location"))
		}
	}
}
