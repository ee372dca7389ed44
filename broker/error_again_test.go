package broker_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

var refShown = regexp.MustCompile(`id="ref">(GH-[0-9A-Z]{4}-[0-9A-Z]{4})<`)

// ux 3.5: an error page can be shown again, to whom it was shown and to operators,
// for 30 days; to everybody else it is as if there had been none.
func TestErrorPageAgain(t *testing.T) {
	t.Parallel()
	h := start(t, staff()+`
routes:
  - {name: closed, host: closed.localhost, upstream: "http://demo-upstream.invalid", allow: "false"}
`)
	owner, other := h.in("demo"), h.in("other")
	a := owner.follow(owner.get(strings.Replace(h.URL, "127.0.0.1", "closed.localhost", 1) + "/secret-path?token=abc"))
	ref := field(t, refShown, a)
	if a.StatusCode != http.StatusForbidden || !strings.Contains(a.Body, h.URL+"/error/"+ref) {
		t.Fatalf("%d\n%s", a.StatusCode, a.Body)
	}
	var again answer
	within(t, 10*time.Second, "it is kept", func() bool { again = owner.get("/error/" + ref); return again.StatusCode == http.StatusOK })
	for _, want := range []string{ref, "policy.denied", "demo@example.com", "30 days", "may not open closed"} {
		if !strings.Contains(again.Body, want) {
			t.Errorf("%q is not on the owner's page:\n%s", want, again.Body)
		}
	}
	if id := h.userID("demo"); strings.Contains(again.Body, id) || strings.Contains(again.Body, "secret-path") || strings.Contains(again.Body, "abc") {
		t.Errorf("the owner's page says too much:\n%s", again.Body)
	}
	if a := owner.get("/error/"+strings.ToLower(ref), "Accept-Language", "zh-CN"); a.StatusCode != http.StatusOK || !strings.Contains(a.Body, `lang="zh-CN"`) || !strings.Contains(a.Body, "30 天内") {
		t.Errorf("in Chinese, by a reference that was typed: %d", a.StatusCode)
	}
	for _, name := range []string{"admin", "aud", "help"} {
		a := h.in(name).get("/error/" + ref)
		if a.StatusCode != http.StatusOK || !strings.Contains(a.Body, h.userID("demo")) || !strings.Contains(a.Body, "policy.denied") || strings.Contains(a.Body, "signed in as") {
			t.Errorf("%s: %d\n%s", name, a.StatusCode, a.Body)
		}
	}

	// Nobody else learns whether there is one.
	same := func(a answer) string {
		return regexp.MustCompile(`GH-\w{4}-\w{4}|\d{4}-\d\d-\d\d[^<"]*|name="back" value="[^"]*"`).ReplaceAllString(a.Body, "")
	}
	none := other.get("/error/GH-2222-2222")
	for what, a := range map[string]answer{"another's": other.get("/error/" + ref), "no reference": other.get("/error/" + strings.Repeat("x", 500)), "quoted": other.get("/error/GH-%2e%2e-2222")} {
		if a.StatusCode != http.StatusNotFound || same(a) != same(none) {
			t.Errorf("%s: %d\n%s\nis not\n%s", what, a.StatusCode, a.Body, none.Body)
		}
	}
	stranger := h.browser()
	if a, b := stranger.get("/error/"+ref), stranger.get("/error/GH-2222-2222"); a.StatusCode != http.StatusNotFound || same(a) != same(b) {
		t.Errorf("a stranger: %d\n%s", a.StatusCode, a.Body)
	}

	h.wait(31 * 24 * time.Hour)
	if a := h.in("admin").get("/error/" + ref); a.StatusCode != http.StatusNotFound {
		t.Errorf("after 31 days: %d", a.StatusCode)
	}
}

// A stranger's error page is kept nowhere, and nobody can fill the store with them.
func TestErrorPagesAreBounded(t *testing.T) {
	t.Parallel()
	h := start(t, staff())
	stranger := h.browser()
	ref := field(t, refShown, stranger.get("/oauth2/authorize?client_id=nobody"))
	demo := h.in("demo")
	var last string
	for range 100 {
		a := demo.post("/account/sessions/end", url.Values{"token": {"no"}})
		last = field(t, refShown, a)
	}
	admin := h.in("admin")
	within(t, 10*time.Second, "60 are kept", func() bool { return h.rows()["error-page"] == 60 })
	for _, r := range []string{ref, last} {
		if a := admin.get("/error/" + r); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s was kept", r)
		}
	}
}
