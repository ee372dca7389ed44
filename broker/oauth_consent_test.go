package broker_test

import (
	"net/url"
	"strings"
	"testing"
)

// ISS-12: who is asked, for what, and how often.
func TestConsent(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	const uri = "https://third.example/cb"
	q := requestOf("third", uri)
	page := b.ask(q)
	for _, want := range []string{"Third &lt;b&gt;party&lt;/b&gt;", "demo@example.com"} {
		if !strings.Contains(page.Body, want) {
			t.Errorf("the page does not say %s:\n%s", want, page.Body)
		}
	}
	if csp := page.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "frame-ancestors 'none'") || page.Header.Get("Cache-Control") != "no-store" || page.Header.Get("Cross-Origin-Opener-Policy") != "" { // ISS-17
		t.Errorf("headers: %v", page.Header)
	}
	// Denied: the client is told, and nothing is remembered.
	got := h.back(b.unhop(b.post(page.Request.URL.Path, url.Values{"token": {field(t, tokenField, page)}, "answer": {"deny"}})), uri, "st&ate=")
	if got.Get("error") != "access_denied" || got.Has("code") {
		t.Errorf("denied: %v", got)
	}
	if a := b.get(page.Request.URL.Path); a.StatusCode != 404 {
		t.Errorf("the page of a denied request: %d", a.StatusCode)
	}
	if n := h.counted("consent.granted"); n != "0" {
		t.Errorf("%s events of a denial", n)
	}
	// Allowed: once, remembered, for these scopes and no more.
	if got := h.back(b.answer(b.ask(q), "allow"), uri, "st&ate="); got.Get("code") == "" {
		t.Errorf("allowed: %v", got)
	}
	if n := h.counted("consent.granted"); n != "1" {
		t.Errorf("%s events", n)
	}
	for _, scope := range []string{"openid profile", "openid"} {
		if got := h.back(b.ask(with(q, "scope", scope)), uri, "st&ate="); got.Get("code") == "" {
			t.Errorf("%s is asked for again: %v", scope, got)
		}
	}
	more := with(q, "scope", "openid profile deployments:write offline_access")
	page = b.ask(more)
	if !strings.Contains(page.Body, "Start and stop deployments") {
		t.Errorf("a resource's scope is not said in words:\n%s", page.Body)
	}
	if got := h.back(b.answer(page, "allow"), uri, "st&ate="); got.Get("code") == "" {
		t.Errorf("more: %v", got)
	}
	if got := h.back(b.ask(more), uri, "st&ate="); got.Get("code") == "" {
		t.Errorf("more is asked for again: %v", got)
	}
	// prompt=consent asks in any case, a first-party client's too.
	b.answer(b.ask(with(q, "prompt", "consent")), "allow")
	b.answer(b.ask(with(authRequest(), "prompt", "consent")), "allow")
	// Another person is asked for themselves.
	admin := h.browser()
	admin.enter("admin", "admin")
	if a := admin.ask(q); !strings.HasPrefix(a.Request.URL.Path, "/consent/") {
		t.Errorf("another person was not asked: %s", a.location())
	}
	// Taken back: asked again.
	apps := b.get("/account/apps")
	b.post("/account/apps/revoke", url.Values{"token": {field(t, tokenField, apps)}, "client": {"third"}})
	if a := b.ask(q); !strings.HasPrefix(a.Request.URL.Path, "/consent/") {
		t.Errorf("after it was taken back: %s", a.location())
	}
}

// unhop turns the 200 page that ends a form into the redirect that it stands for.
func (b *browser) unhop(a answer) answer {
	b.h.t.Helper()
	_, to, ok := strings.Cut(a.Header.Get("Refresh"), "url=")
	if a.StatusCode != 200 || !ok || a.Header.Get("Cache-Control") != "no-store" {
		b.h.t.Fatalf("no hop page: %d %v", a.StatusCode, a.Header)
	}
	a.StatusCode = 303
	a.Header.Set("Location", to)
	a.Header.Set("Referrer-Policy", "no-referrer") // same-origin on a page of ours: the client sees none either
	return a
}

// ISS-12: nothing proves that a public client is the program that was agreed to.
func TestConsentOfPublicClients(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	const uri = "http://127.0.0.1:9999/cb"
	offline := requestOf("spa", uri, "scope", "openid offline_access")
	for range 2 {
		if got := h.back(b.answer(b.ask(offline), "allow"), uri, "st&ate="); got.Get("code") == "" {
			t.Errorf("%v", got)
		}
	}
	if got := h.back(b.ask(with(offline, "prompt", "none")), uri, "st&ate="); got.Get("error") != "consent_required" {
		t.Errorf("silently: %v", got)
	}
	if got := h.back(b.ask(requestOf("spa", uri, "scope", "openid")), uri, "st&ate="); got.Get("code") == "" {
		t.Errorf("online, agreed to: %v", got)
	}
}

// An approval is good for its own request, its person and one code: it cannot be
// moved, kept or sent by somebody else.
func TestConsentCannotBeReplayed(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	const uri = "http://127.0.0.1:9999/cb"
	q := requestOf("spa", uri, "scope", "openid offline_access")
	page := b.ask(q)
	hop := b.unhop(b.post(page.Request.URL.Path, url.Values{"token": {field(t, tokenField, page)}, "answer": {"allow"}}))
	to := hop.Header.Get("Location")
	u, err := url.Parse(to)
	if err != nil || u.Path != "/oauth2/authorize" || u.Query().Get("resume") == "" {
		t.Fatalf("after the answer: %s", to)
	}
	asked := func(what string, b *browser, to string) {
		t.Helper()
		if a := b.follow(b.get(to)); !strings.HasPrefix(a.Request.URL.Path, "/consent/") {
			t.Errorf("%s: %d %s", what, a.StatusCode, a.location())
		}
	}
	admin := h.browser()
	admin.enter("admin", "admin")
	asked("another person", admin, to)
	mark := u.Query().Get("resume")
	asked("another state", b, "/oauth2/authorize?"+with(q, "state", "x").Encode()+"&resume="+mark)
	asked("another redirect", b, "/oauth2/authorize?"+with(q, "redirect_uri", "http://127.0.0.1:9998/cb").Encode()+"&resume="+mark)
	asked("skipped", b, "/oauth2/authorize?"+q.Encode())
	if got := h.back(b.get(to), uri, "st&ate="); got.Get("code") == "" {
		t.Fatalf("its own: %v", got)
	}
	asked("a second time", b, to)
	asked("after a restart", func() *browser { h.restart(); return b }(), to)
}

// ISS-5: consent is asked at every use, not only where the person is.
func TestConsentIsAskedAtEveryUse(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	const uri = "https://third.example/cb"
	q := requestOf("third", uri)
	code := h.back(b.answer(b.ask(q), "allow"), uri, "st&ate=").Get("code")
	apps := b.get("/account/apps")
	b.post("/account/apps/revoke", url.Values{"token": {field(t, tokenField, apps)}, "client": {"third"}})
	oauthError(t, h.redeemAs("third-secret", q, code), 400, "invalid_grant")
	// A client that was ours and is not any more has never been agreed to.
	tok := h.grantOf(b, "plain-secret", requestOf("plain", "https://rp.example/cb"))
	h.yaml = strings.Replace(oauthYAML, "    trusted: true\n    require_pkce: false", "    require_pkce: false", 1)
	h.restart()
	oauthError(t, h.refreshAs("plain", "plain-secret", tok["refresh_token"]), 400, "invalid_grant")
}
