package broker_test

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
)

// wellFormed checks that elements close in order, that no attribute and no id
// is there twice, and that the page is in the language that it says.
func wellFormed(t *testing.T, name, body, lang string) {
	t.Helper()
	void := []string{"meta", "link", "input", "br", "img", "hr"}
	var open []string
	ids := map[string]bool{}
	z := html.NewTokenizer(strings.NewReader(body))
	for {
		switch z.Next() {
		case html.ErrorToken:
			if len(open) > 0 {
				t.Errorf("%s: %v not closed", name, open)
			}
			return
		case html.StartTagToken:
			tok := z.Token()
			if !slices.Contains(void, tok.Data) {
				open = append(open, tok.Data)
			}
			seen := map[string]bool{}
			for _, a := range tok.Attr {
				if seen[a.Key] {
					t.Errorf("%s: <%s> has %s twice", name, tok.Data, a.Key)
				}
				seen[a.Key] = true
				if a.Key == "id" {
					if ids[a.Val] {
						t.Errorf("%s: the id %s is there twice", name, a.Val)
					}
					ids[a.Val] = true
				}
				if tok.Data == "html" && a.Key == "lang" && a.Val != lang {
					t.Errorf("%s: the language is %s, not %s", name, a.Val, lang)
				}
			}
		case html.EndTagToken:
			tok := z.Token()
			if len(open) == 0 || open[len(open)-1] != tok.Data {
				t.Fatalf("%s: </%s> closes %v", name, tok.Data, open)
			}
			open = open[:len(open)-1]
		}
	}
}

// Every page is whole, in both languages, with the headers that a page has.
func TestUXPagesAreWellFormed(t *testing.T) {
	t.Parallel()
	h := start(t, `
support: help@example.com
google: {client_id: a, client_secret: b, issuer: 'http://127.0.0.1:1'}
routes:
  - {name: closed, host: closed.localhost, upstream: "http://demo-upstream.invalid", allow: "false"}
  - {name: down, host: down.localhost, upstream: "http://127.0.0.1:1"}
`)
	consent := authRequest()
	consent.Set("prompt", "consent")
	on := func(host string) string { return strings.Replace(h.URL, "127.0.0.1", host, 1) + "/" }
	stranger := []string{"/signin", "/signin?attempt=" + strings.Repeat("A", 26), "/signin/local", "/signin/google", "/signed-out", "/nothing", "/oauth2/authorize?client_id=nobody", "/oauth2/authorize?" + authRequest().Encode()}
	person := []string{"/", "/?q=x", "/account", "/account/sessions", "/account/sessions/end-others", "/account/apps", "/account/claims", "/account/security-log", "/signout", "/device", "/device?user_code=WDJB-MJHT", "/device?request=x", "/oauth2/authorize?" + consent.Encode(), on("closed.localhost"), on("down.localhost")}
	for _, lang := range []string{"en", "zh-CN"} {
		b := h.browser()
		b.Header.Set("Accept-Language", lang)
		look := func(pages []string) {
			for _, p := range pages {
				a := b.follow(b.get(p))
				wellFormed(t, lang+" "+p, a.Body, lang)
				for k, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Content-Language": lang} {
					if got := a.Header.Get(k); got != want {
						t.Errorf("%s %s: %s is %q", lang, p, k, got)
					}
				}
				csp := a.Header.Get("Content-Security-Policy")
				for _, want := range []string{"default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
					if !strings.Contains(csp, want) {
						t.Errorf("%s %s: the policy lacks %s: %s", lang, p, want, csp)
					}
				}
				if strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") || !strings.Contains(a.Header.Get("Permissions-Policy"), "camera=()") {
					t.Errorf("%s %s: %s, %s", lang, p, csp, a.Header.Get("Permissions-Policy"))
				}
			}
		}
		look(stranger)
		b.enter("demo", "demo")
		look(person)
	}
}

// Assets never change under their name, and there is none under another.
func TestUXAssetsAreHashed(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	refs := regexp.MustCompile(`(?:src|href)="(/static/[^"]+)"`).FindAllStringSubmatch(b.get("/signin").Body, -1)
	if len(refs) != 3 {
		t.Fatalf("assets: %v", refs)
	}
	for _, m := range refs {
		a := b.get(m[1])
		if a.StatusCode != http.StatusOK || a.Header.Get("Cache-Control") != "public, max-age=31536000, immutable" || !regexp.MustCompile(`\.[0-9a-f]{12}\.`).MatchString(m[1]) {
			t.Errorf("%s: %d %v", m[1], a.StatusCode, a.Header)
		}
	}
	for _, p := range []string{"/static/app.css", "/static/app.000000000000.css", "/static/icons/NOTICE", "/static/../config"} {
		if a := b.get(p); a.StatusCode != http.StatusNotFound || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s", p, a.StatusCode, a.Header.Get("Cache-Control"))
		}
	}
}

// A page of an hour ago starts again, says so, and keeps where it wanted to go:
// however it is sent, and however often it is loaded.
func TestUXOldPageKeepsItsTarget(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	old := b.follow(b.get("/oauth2/authorize?" + authRequest().Encode()))
	h.wait(time.Hour)
	stale := func(a answer) {
		t.Helper()
		if a.StatusCode != http.StatusOK || !strings.Contains(a.Body, "out of date") || !strings.Contains(a.Body, "to continue to Demo app") {
			t.Fatalf("%d\n%s", a.StatusCode, a.Body)
		}
	}
	id := field(t, attemptField, old)
	stale(b.get(old.Request.URL.String()))
	stale(b.get(old.Request.URL.String()))
	again := b.post("/signin/local", url.Values{"username": {"demo"}, "password": {"demo"}, "attempt": {id}})
	stale(again)
	if fresh := field(t, attemptField, again); fresh == id {
		t.Fatal("the old attempt goes on")
	}
	// The page's language form comes back to this attempt, not to the form's address.
	if !strings.Contains(again.Body, `name="back" value="/signin?attempt=`+field(t, attemptField, again)+`"`) {
		t.Fatalf("where the language form returns to:\n%s", again.Body)
	}
	if a := b.signIn(again, "demo", "demo"); !strings.HasPrefix(a.location().String(), callback+"?") {
		t.Fatalf("ended at %s with %d", a.Request.URL, a.StatusCode)
	}
}

// Without any cookie a form cannot have come from here, or cookies are blocked.
func TestUXBlockedCookiesAreSaid(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	form := url.Values{"username": {"demo"}, "password": {"demo"}, "attempt": {strings.Repeat("A", 26)}}
	if a := h.browser().post("/signin/local", form); !strings.Contains(a.Body, "did not send our cookie") {
		t.Fatal(a.Body)
	}
	b := h.browser()
	b.enter("demo", "demo")
	if a := b.post("/signin/local", form); !strings.Contains(a.Body, "out of date") || !strings.Contains(a.Body, "Continue as Demo User") {
		t.Fatal(a.Body)
	}
}

// Who is signed in may go on as such, unless a fresh proof is wanted.
func TestUXContinueAsWhoOneIs(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	first := b.follow(b.get("/oauth2/authorize?" + authRequest().Encode()))
	b.enter("demo", "demo")
	a := b.get(first.Request.URL.String())
	m := regexp.MustCompile(`class="btn primary block" href="(/oauth2/authorize[^"]*)"`).FindStringSubmatch(a.Body)
	if m == nil || !strings.Contains(a.Body, "Continue as Demo User") {
		t.Fatalf("no way on:\n%s", a.Body)
	}
	if to := b.follow(b.get(html.UnescapeString(m[1]))); !strings.HasPrefix(to.location().String(), callback+"?") {
		t.Fatalf("it leads to %d %s", to.StatusCode, to.Request.URL)
	}
	q := authRequest()
	q.Set("prompt", "login")
	if a := b.follow(b.get("/oauth2/authorize?" + q.Encode())); strings.Contains(a.Body, "Continue as") || !strings.Contains(a.Body, `id="password"`) {
		t.Fatalf("prompt=login:\n%s", a.Body)
	}
}
