package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// ask sends an authorization request and follows it to a page or to the client.
func (b *browser) ask(q url.Values) answer {
	b.h.t.Helper()
	return b.follow(b.get("/oauth2/authorize?" + q.Encode()))
}

// wantSignIn checks that a is the sign-in page.
func wantSignIn(t *testing.T, a answer) {
	t.Helper()
	if a.StatusCode != http.StatusOK || !strings.HasPrefix(a.Request.URL.Path, "/signin") {
		t.Fatalf("not the sign-in page but %s: %d %s", a.Request.URL.Path, a.StatusCode, a.location())
	}
}

// answer answers the consent page that a is.
func (b *browser) answer(a answer, what string) answer {
	b.h.t.Helper()
	if !strings.HasPrefix(a.Request.URL.Path, "/consent/") {
		b.h.t.Fatalf("not the consent page but %s: %d %s", a.Request.URL.Path, a.StatusCode, a.location())
	}
	return b.follow(b.post(a.Request.URL.Path, url.Values{"token": {field(b.h.t, tokenField, a)}, "answer": {what}}))
}

// ISS-11: prompt=none never shows a page of ours.
func TestPromptNone(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	none := with(authRequest(), "prompt", "none")
	if q := h.back(h.browser().ask(none), callback, "st&ate="); q.Get("error") != "login_required" {
		t.Errorf("nobody: %v", q)
	}
	b := h.signedIn()
	first := h.grantOf(b, "demo-secret", authRequest())
	second := h.grantOf(b, "demo-secret", none)
	if x, y := claims(t, first["id_token"]), claims(t, second["id_token"]); x["sub"] != y["sub"] || x["auth_time"] != y["auth_time"] || x["sid"] != y["sid"] {
		t.Errorf("%v is not %v", x, y)
	}
	const uri = "https://third.example/cb"
	if q := h.back(b.ask(requestOf("third", uri, "prompt", "none")), uri, "st&ate="); q.Get("error") != "consent_required" {
		t.Errorf("before consent: %v", q)
	}
	b.answer(b.ask(requestOf("third", uri)), "allow")
	if q := h.back(b.ask(requestOf("third", uri, "prompt", "none")), uri, "st&ate="); q.Get("code") == "" {
		t.Errorf("after consent: %v", q)
	}
	if q := h.back(b.ask(requestOf("third", uri, "prompt", "none", "scope", "openid profile email")), uri, "st&ate="); q.Get("error") != "consent_required" {
		t.Errorf("for more than was agreed to: %v", q)
	}
	h.wait(2 * time.Minute)
	if q := h.back(b.ask(with(none, "max_age", "60")), callback, "st&ate="); q.Get("error") != "login_required" {
		t.Errorf("too old: %v", q)
	}
}

// ISS-11: prompt=login asks again, and auth_time proves it; the session goes on.
func TestPromptLogin(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	before := claims(t, h.grantOf(b, "demo-secret", authRequest())["id_token"])
	for _, prompt := range []string{"login", "select_account"} {
		h.wait(time.Minute)
		page := b.ask(with(authRequest(), "prompt", prompt))
		wantSignIn(t, page)
		a := b.signIn(page, "demo", "demo")
		after := claims(t, h.redeem(h.back(a, callback, "st&ate=").Get("code")).json(t)["id_token"])
		if after["auth_time"].(float64) < before["auth_time"].(float64)+60 || after["sub"] != before["sub"] || after["sid"] != before["sid"] {
			t.Errorf("prompt=%s: %v after %v", prompt, after, before)
		}
		before = after
	}
	// Leaving the page does not help: without a proof it asks again.
	page := b.ask(with(authRequest(), "prompt", "login"))
	wantSignIn(t, page)
	wantSignIn(t, b.ask(with(authRequest(), "prompt", "login")))
	if q := h.back(b.ask(authRequest()), callback, "st&ate="); q.Get("code") == "" {
		t.Errorf("the session was lost: %v", q)
	}
	// Somebody else may be chosen.
	a := b.signIn(b.ask(with(authRequest(), "prompt", "select_account")), "admin", "admin")
	if id := claims(t, h.redeem(h.back(a, callback, "st&ate=").Get("code")).json(t)["id_token"]); id["sub"] == before["sub"] || id["sid"] == before["sid"] {
		t.Errorf("after choosing another: %v", id)
	}
}

// A fresh proof and a consent on one request: each is asked for once, however
// long the consent page is read.
func TestPromptLoginAndConsent(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	const uri = "https://third.example/cb"
	for _, q := range []url.Values{requestOf("third", uri, "prompt", "login consent"), requestOf("third", uri, "prompt", "consent", "max_age", "0"), requestOf("third", uri, "prompt", "consent", "max_age", "60")} {
		for _, signedIn := range []bool{false, true} {
			b := h.browser()
			if signedIn {
				b.enter("demo", "demo")
			}
			h.wait(2 * time.Minute) // what was proved is too old
			page := b.ask(q)
			wantSignIn(t, page)
			consent := b.signIn(page, "demo", "demo")
			h.wait(5 * time.Minute)
			if got := h.back(b.answer(consent, "allow"), uri, "st&ate="); got.Get("code") == "" {
				t.Errorf("%s: %v", q.Encode(), got)
			}
		}
	}
	// A proof that grows too old while the page is read is asked for once more,
	// the consent is not.
	b := h.signedIn()
	consent := b.ask(requestOf("third", uri, "prompt", "consent", "max_age", "60"))
	h.wait(3 * time.Minute)
	page := b.answer(consent, "allow")
	wantSignIn(t, page)
	if got := h.back(b.signIn(page, "demo", "demo"), uri, "st&ate="); got.Get("code") == "" {
		t.Errorf("%v", got)
	}
}

func TestMaxAge(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	first := claims(t, h.grantOf(b, "demo-secret", with(authRequest(), "max_age", "10000"))["id_token"])
	h.wait(time.Hour)
	if again := claims(t, h.grantOf(b, "demo-secret", with(authRequest(), "max_age", "10000"))["id_token"]); again["auth_time"] != first["auth_time"] {
		t.Errorf("auth_time moved: %v, %v", first, again)
	}
	for _, age := range []string{"0", "1", "3599"} {
		page := b.ask(with(authRequest(), "max_age", age))
		wantSignIn(t, page)
		a := b.signIn(page, "demo", "demo")
		id := claims(t, h.redeem(h.back(a, callback, "st&ate=").Get("code")).json(t)["id_token"])
		if id["auth_time"].(float64) < first["auth_time"].(float64)+3600 {
			t.Errorf("max_age=%s: %v", age, id)
		}
		h.wait(time.Hour)
		first = id
	}
	// What has no value counts as not sent (RFC 6749 section 3.1).
	empty := "&max_age=&prompt=&request=&request_uri=&registration=&resource=&resource=&id_token_hint=&response_mode=&login_hint="
	if q := h.back(b.follow(b.get("/oauth2/authorize?"+authRequest().Encode()+empty)), callback, "st&ate="); q.Get("code") == "" {
		t.Errorf("empty parameters count: %v", q)
	}
}

// The marker that a request came back from the sign-in page counts for this
// request alone, and for an hour.
func TestFreshnessCannotBeMoved(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	h.wait(time.Minute)
	login := with(authRequest(), "prompt", "login")
	page := b.ask(login)
	a := b.post("/signin/local", url.Values{"username": {"demo"}, "password": {"demo"}, "attempt": {field(t, attemptField, page)}})
	hop := b.get(a.Header.Get("Location"))
	_, to, _ := strings.Cut(hop.Header.Get("Refresh"), "url=")
	u, err := url.Parse(to)
	if err != nil || u.Query().Get("resume") == "" {
		t.Fatalf("back to %q: %v", to, err)
	}
	mark := u.Query().Get("resume")
	wantSignIn(t, b.follow(b.get("/oauth2/authorize?"+with(login, "state", "other").Encode()+"&resume="+mark)))
	wantSignIn(t, b.follow(b.get("/oauth2/authorize?"+login.Encode()+"&resume=AAAA")))
	wantSignIn(t, h.browser().follow(h.browser().get(to)))
	if q := h.back(b.follow(b.get(to)), callback, "st&ate="); q.Get("code") == "" {
		t.Errorf("for its own request: %v", q)
	}
	h.wait(61 * time.Minute)
	wantSignIn(t, b.follow(b.get(to)))
}

// OpenID Connect Core section 3.1.2.1: hints help and are never believed.
func TestHints(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.browser()
	page := b.ask(with(authRequest(), "login_hint", `li"><script>x`, "ui_locales", "xx zh-CN en", "display", "popup", "acr_values", "urn:x", "claims", `{"userinfo":{"name":null}}`, "claims_locales", "de", "nobody_knows", "this"))
	wantSignIn(t, page)
	if !strings.Contains(page.Body, `value="li&#34;&gt;&lt;script&gt;x"`) || strings.Contains(page.Body, "<script>x") {
		t.Errorf("login_hint on the page:\n%s", page.Body)
	}
	if !strings.Contains(page.Body, `lang="zh-CN"`) && !strings.Contains(page.Body, "登录") {
		t.Error("ui_locales was not heard")
	}
	if long := b.ask(with(authRequest(), "login_hint", strings.Repeat("l", 1000))); strings.Contains(long.Body, strings.Repeat("l", 257)) {
		t.Error("login_hint is shown at any length (ISS-19)")
	}
	if q := h.back(b.signIn(page, "demo", "demo"), callback, "st&ate="); q.Get("code") == "" {
		t.Fatalf("%v", q)
	}
	tok := h.grantOf(b, "demo-secret", authRequest())
	id := tok["id_token"].(string)
	admin := h.browser()
	admin.enter("admin", "admin")
	foreign := h.grantOf(admin, "demo-secret", authRequest())["id_token"].(string)
	plain := h.grantOf(b, "plain-secret", requestOf("plain", "https://rp.example/cb"))["id_token"].(string)
	for name, c := range map[string]struct{ hint, want string }{
		"own":                   {id, ""},
		"somebody else's":       {foreign, "login_required"},
		"another client's":      {plain, "invalid_request"},
		"an access token":       {tok["access_token"].(string), "invalid_request"},
		"a broken one":          {id[:len(id)-4], "invalid_request"},
		"an empty one is none":  {"", ""},
		"a refresh token, even": {tok["refresh_token"].(string), "invalid_request"},
	} {
		q := h.back(b.ask(with(authRequest(), "prompt", "none", "id_token_hint", c.hint)), callback, "st&ate=")
		if q.Get("error") != c.want || (c.want == "") != q.Has("code") {
			t.Errorf("%s: %v", name, q)
		}
	}
	// Whoever is hinted at must sign in; somebody else is refused to the client.
	page = b.ask(with(authRequest(), "id_token_hint", foreign))
	wantSignIn(t, page)
	if q := h.back(b.signIn(page, "demo", "demo"), callback, "st&ate="); q.Get("error") != "access_denied" {
		t.Errorf("somebody else signed in: %v", q)
	}
	page = b.ask(with(authRequest(), "id_token_hint", foreign))
	if q := h.back(b.signIn(page, "admin", "admin"), callback, "st&ate="); q.Get("code") == "" {
		t.Errorf("whom it hints at signed in: %v", q)
	}
	h.wait(61 * time.Minute) // id_ttl; an expired hint is for signing out alone
	if q := h.back(b.ask(with(authRequest(), "id_token_hint", foreign)), callback, "st&ate="); q.Get("error") != "invalid_request" {
		t.Errorf("an expired hint: %v", q)
	}
}

// UP-8: a client's allowed_connectors hold for every session and every grant.
func TestAllowedConnectors(t *testing.T) {
	t.Parallel()
	const yaml = `
connectors:
  - {id: staff, type: local, name: Staff, users: [{username: boss, password_hash: "$argon2id$v=19$m=19456,t=2,p=1$mrRp2ryD1oG1tkOpAvBCcw$SZDW+Y2c1en3d0yfC2GKx8l70aDkabRHTSUlBCfJrHQ"}]}
clients:
  - {client_id: demo-app, client_secret: demo-secret, redirect_uris: ["` + callback + `"], scope: openid profile email groups offline_access, trusted: true`
	h := start(t, yaml+"}\n")
	b := h.browser()
	page := b.ask(with(authRequest(), "connector_id", "local"))
	if page.Request.URL.Path != "/signin/local" {
		t.Fatalf("connector_id leads to %s", page.Request.URL)
	}
	tok := h.redeem(h.back(b.signIn(page, "demo", "demo"), callback, "st&ate=").Get("code")).json(t)
	if a := h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tok["refresh_token"].(string)}}); a.StatusCode != 200 {
		t.Fatal(a.Body)
	} else {
		tok = a.json(t)
	}
	h.yaml = yaml + ", allowed_connectors: [staff]}\n"
	h.restart()
	oauthError(t, h.refreshAs("demo-app", "demo-secret", tok["refresh_token"]), 400, "invalid_grant")
	if q := h.back(b.ask(with(authRequest(), "prompt", "none")), callback, "st&ate="); q.Get("error") != "login_required" {
		t.Errorf("by another connector: %v", q)
	}
	page = b.ask(authRequest())
	if page.Request.URL.Path != "/signin/staff" {
		t.Fatalf("the only one that it takes is not where the person goes, but %s", page.Request.URL)
	}
	a := b.follow(b.post("/signin/staff", url.Values{"username": {"boss"}, "password": {"demo"}, "attempt": {field(t, attemptField, page)}}))
	if q := h.back(a, callback, "st&ate="); q.Get("code") == "" {
		t.Errorf("by its own: %v", q)
	}
	page = h.browser().ask(with(authRequest(), "connector_id", "local"))
	wantSignIn(t, page)
}

// ISS-11: a fresh proof is asked of the upstream, also where nobody is signed in
// here: it may know the person.
func TestFreshProofIsAskedOfTheUpstream(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML+"github: {client_id: x, client_secret: not-a-secret}\n")
	for name, c := range map[string]struct {
		signedIn bool
		kv       []string
		force    bool
	}{
		"nobody":                     {false, nil, false},
		"nobody, prompt=login":       {false, []string{"prompt", "login"}, true},
		"nobody, max_age":            {false, []string{"max_age", "3600"}, true},
		"somebody, prompt=login":     {true, []string{"prompt", "login"}, true},
		"somebody, too old":          {true, []string{"max_age", "0"}, true},
		"somebody, another is asked": {true, []string{"prompt", "select_account"}, true},
	} {
		b := h.browser()
		if c.signedIn {
			b.signIn(b.follow(b.get("/signin/local")), "demo", "demo")
			h.wait(time.Second)
		}
		a := b.follow(b.get("/oauth2/authorize?" + with(authRequest(), append([]string{"connector_id", "github"}, c.kv...)...).Encode()))
		if a.location().Host != "github.com" || (a.location().Query().Get("prompt") != "") != c.force {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.location())
		}
	}
}
