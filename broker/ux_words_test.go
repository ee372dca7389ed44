package broker_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/web"
)

var langOf = regexp.MustCompile(`<html lang="([^"]+)"(?: data-theme="([^"]+)")?>`)

func look(t *testing.T, a answer) (lang, theme string) {
	t.Helper()
	m := langOf.FindStringSubmatch(a.Body)
	if m == nil {
		t.Fatalf("%d: no page:\n%s", a.StatusCode, a.Body)
	}
	return m[1], m[2]
}

// The reader's choice, else what the application wishes, else what the browser
// asks for, else the default.
func TestUXLanguage(t *testing.T) {
	t.Parallel()
	h := start(t, "default_locale: zh-CN")
	for accept, want := range map[string]string{"": "zh-CN", "zh-CN,zh;q=0.9": "zh-CN", "zh-TW": "zh-CN", "en-GB,en;q=0.9": "en", "en": "en", "de,en;q=0.5": "en", "de": "zh-CN", "fr;q=x": "zh-CN", strings.Repeat("x,", 400): "zh-CN"} {
		b := h.browser()
		b.Header.Set("Accept-Language", accept)
		if got, _ := look(t, b.get("/signin")); got != want {
			t.Errorf("Accept-Language %.40q: %s", accept, got)
		}
	}
	q := authRequest()
	q.Set("ui_locales", "xx zh-CN en")
	b := h.browser()
	a := b.follow(b.get("/oauth2/authorize?" + q.Encode()))
	if got, _ := look(t, a); got != "zh-CN" {
		t.Errorf("ui_locales: %s", got)
	}
	a = b.post("/signin/local", url.Values{"username": {"demo"}, "password": {"wrong"}, "attempt": {field(t, attemptField, a)}})
	if got, _ := look(t, a); got != "zh-CN" || !strings.Contains(a.Body, "<title>错误：") {
		t.Errorf("ui_locales on the form: %s", got)
	}
	b.post("/prefs", url.Values{"lang": {"en"}, "back": {"/"}})
	if got, _ := look(t, b.follow(b.get("/oauth2/authorize?"+q.Encode()))); got != "en" {
		t.Errorf("ui_locales against the reader's choice: %s", got)
	}
}

// Language and theme are a form that works without scripts, goes back to where
// it was and nowhere else, and sets a cookie that no script reads.
func TestUXPreferences(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	a := b.post("/prefs", url.Values{"lang": {"zh-CN"}, "back": {"/signed-out?from=x"}})
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/signed-out?from=x" {
		t.Fatalf("%d %s", a.StatusCode, a.Header.Get("Location"))
	}
	if c := a.Header.Get("Set-Cookie"); c != "gatehouse-prefs=zh-CN.; Path=/; Max-Age=15552000; HttpOnly; SameSite=Lax" {
		t.Fatal(c)
	}
	b.post("/prefs", url.Values{"theme": {"dark"}, "back": {"/"}})
	if lang, theme := look(t, b.get("/signed-out")); lang != "zh-CN" || theme != "dark" {
		t.Errorf("language and theme: %s %s", lang, theme)
	}
	b.post("/prefs", url.Values{"lang": {"tlh"}, "theme": {"purple"}, "back": {"/"}})
	if lang, theme := look(t, b.get("/signed-out")); lang != "zh-CN" || theme != "dark" {
		t.Errorf("after nonsense: %s %s", lang, theme)
	}
	b.post("/prefs", url.Values{"theme": {"auto"}, "back": {"/"}})
	if lang, theme := look(t, b.get("/signed-out")); lang != "zh-CN" || theme != "" {
		t.Errorf("automatic again: %s %s", lang, theme)
	}
	for _, back := range []string{"", "//evil.example", "/\\evil.example", "/\t/evil.example", "https://evil.example/", "/%2f%2fevil.example", "javascript:alert(1)", "/a\r\nLocation: x", strings.Replace(h.URL, "127.0.0.1", "api.localhost", 1)} {
		if a := b.post("/prefs", url.Values{"lang": {"en"}, "back": {back}}); a.Header.Get("Location") != "/" {
			t.Errorf("back %q leads to %q", back, a.Header.Get("Location"))
		}
	}
	if a := b.post("/prefs", url.Values{"lang": {"en"}, "back": {"/"}}, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"); a.StatusCode != http.StatusForbidden {
		t.Errorf("from another site: %d", a.StatusCode)
	}
}

// A notice is shown once, and nobody else can make a page say one.
func TestUXNotice(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	h.browser().enter("demo", "demo")
	b := h.browser()
	b.enter("demo", "demo")
	ask := b.get("/account/sessions/end-others")
	if ask.StatusCode != http.StatusOK || !strings.Contains(ask.Body, "Sign out everywhere else?") {
		t.Fatalf("it does not ask: %d", ask.StatusCode)
	}
	if !strings.Contains(b.get("/account/sessions").Body, `action="/account/sessions/end"`) {
		t.Fatal("asking has ended the other session")
	}
	const said = "Everything else was signed out."
	a := b.follow(b.post("/account/sessions/end-others", url.Values{"token": {field(t, tokenField, ask)}}))
	if !strings.Contains(a.Body, said) || !strings.Contains(a.Body, "Only this device is signed in.") {
		t.Fatalf("no notice:\n%s", a.Body)
	}
	if a := b.get("/account/sessions"); strings.Contains(a.Body, said) {
		t.Error("the notice is shown twice")
	}
	for _, forged := range []string{"notice.others_ended", "notice.others_ended.", "notice.others_ended.AAAA", "error.internal.AAAA", ".", "x"} {
		a := b.get("/account/sessions", "Cookie", "gatehouse-notice="+forged)
		if strings.Contains(a.Body, said) {
			t.Errorf("%q is shown", forged)
		}
	}
}

// Times are the configured zone's, and the zone is named in full.
func TestUXTimeZone(t *testing.T) {
	t.Parallel()
	h := start(t, "time_zone: Asia/Kathmandu")
	b := h.browser()
	b.enter("demo", "demo")
	m := regexp.MustCompile(`<time datetime="([^"]+)">([^<]+)</time>`).FindStringSubmatch(b.get("/account/sessions").Body)
	if m == nil {
		t.Fatal("no time")
	}
	at, err := time.Parse(time.RFC3339, m[1])
	if err != nil {
		t.Fatal(err)
	}
	if want := at.Add(5*time.Hour + 45*time.Minute).Format("2 Jan 2006, 15:04"); m[2] != want {
		t.Errorf("%s is shown as %q, not %q", m[1], m[2], want)
	}
	if body := b.get("/account/sessions").Body; !strings.Contains(body, "Times are in Asia/Kathmandu (UTC&#43;5:45).") {
		t.Error("the zone is not named")
	}
	b.Header.Set("Accept-Language", "zh-CN")
	if body := b.get("/account/sessions").Body; !regexp.MustCompile(`>\d{4}年\d{1,2}月\d{1,2}日 \d\d:\d\d</time>`).MatchString(body) {
		t.Error("a Chinese time is not written as one")
	}
}

// The reference on a page, in JSON and in the answer's header are one.
func TestUXReferenceIsOne(t *testing.T) {
	t.Parallel()
	h := start(t, "support: https://help.example.com/")
	b := h.browser()
	a := b.get("/nothing")
	ref := (&web.Request{ID: a.Header.Get(web.RequestIDHeader)}).Ref()
	if a.StatusCode != http.StatusNotFound || !strings.Contains(a.Body, `<code id="ref">`+ref+`</code>`) || !strings.Contains(a.Body, `<a href="https://help.example.com/">`) {
		t.Errorf("%s is not on the page, or nobody to ask:\n%s", ref, a.Body)
	}
	if !strings.Contains(a.Body, `<title>Error: There is nothing at this address`) || !strings.Contains(a.Body, `href="/">To the start page</a>`) {
		t.Errorf("title or next step:\n%s", a.Body)
	}
	a = b.get("/nothing", "Accept", "application/json")
	if got := a.json(t)["ref"]; got != (&web.Request{ID: a.Header.Get(web.RequestIDHeader)}).Ref() {
		t.Errorf("JSON says %v", got)
	}
}

// The gateway's pages say who one is, what did not answer, and what to do.
func TestUXGatewayPages(t *testing.T) {
	t.Parallel()
	h := start(t, `
routes:
  - {name: closed, host: closed.localhost, upstream: "http://demo-upstream.invalid", allow: "false"}
  - {name: down, host: down.localhost, upstream: "http://127.0.0.1:1"}
`)
	b := h.browser()
	on := func(host string) string { return strings.Replace(h.URL, "127.0.0.1", host, 1) + "/" }
	if a := b.follow(b.get(on("closed.localhost"))); !strings.Contains(a.Body, "to continue to closed") {
		t.Errorf("the sign-in page does not say for what:\n%s", a.Body)
	}
	b.enter("demo", "demo")
	a := b.follow(b.get(on("closed.localhost")))
	if a.StatusCode != http.StatusForbidden || !strings.Contains(a.Body, "You are signed in as demo@example.com.") || !strings.Contains(a.Body, `href="`+h.URL+`/">To my apps`) {
		t.Errorf("403: %d\n%s", a.StatusCode, a.Body)
	}
	a = b.follow(b.get(on("down.localhost")))
	if a.StatusCode != http.StatusBadGateway || !regexp.MustCompile(`(?s)diff-ok">You<.*diff-ok">Gateway<.*diff-no[^"]*">down<`).MatchString(a.Body) || !strings.Contains(a.Body, `href="/">Try again</a>`) {
		t.Errorf("502: %d\n%s", a.StatusCode, a.Body)
	}
	// "Try again" is never a link to another host.
	if a := b.follow(b.get(on("down.localhost") + "/evil.example/")); strings.Contains(a.Body, `href="//`) {
		t.Error("the page links to a host that stood in its path")
	}
	// A page on a gateway host sets no cookie of the broker's and asks for none.
	if strings.Contains(a.Body, "/prefs") {
		t.Error("a language form on a gateway host")
	}
}

// A name that somebody chose is inert: no markup, no direction of ours, no place
// of a text.
func TestUXNamesAreInert(t *testing.T) {
	t.Parallel()
	h := start(t, `
clients:
  - {client_id: odd, client_secret: odd-secret, client_name: "\u202e<b>{brand}</b>\u2066", redirect_uris: ["http://localhost:5555/callback"], scope: openid}
`)
	b := h.browser()
	b.enter("demo", "demo")
	q := authRequest()
	q.Set("client_id", "odd")
	q.Set("redirect_uri", "http://localhost:5555/callback")
	a := b.follow(b.get("/oauth2/authorize?" + q.Encode()))
	if !strings.Contains(a.Body, "&lt;b&gt;{brand}&lt;/b&gt; wants to use your RemoteGPU account") || strings.ContainsAny(a.Body, "\u202e\u2066") {
		t.Errorf("%d\n%s", a.StatusCode, a.Body)
	}
}

// An offline session stands below the browser that it came from.
func TestUXSessionsInFamilies(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	other := h.browser()
	other.enter("demo", "demo")
	h.redeem(other.code(authRequest()))
	b := h.browser()
	b.enter("demo", "demo")
	rows := regexp.MustCompile(`<tr( class="under")?><th scope="row"`).FindAllStringSubmatch(b.get("/account/sessions").Body, -1)
	if len(rows) != 3 || rows[0][1] != "" || rows[1][1] != "" || rows[2][1] == "" {
		t.Errorf("rows: %q", rows)
	}
	if a := b.get("/?q=DEMO-NODE"); !strings.Contains(a.Body, "Terminal on node demo-node") || strings.Contains(a.Body, "api.localhost") {
		t.Error("the search does not find the console alone")
	}
}
