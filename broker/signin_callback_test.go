package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// clone is another browser with this one's cookies.
func (b *browser) clone() *browser {
	b.h.t.Helper()
	u, err := url.Parse(b.h.URL)
	if err != nil {
		b.h.t.Fatal(err)
	}
	c := b.h.browser()
	c.client.Jar.SetCookies(u, b.client.Jar.Cookies(u))
	return c
}

// startsAgain reports whether an answer is our sign-in page with a calm line,
// and nothing that signs anybody in.
func startsAgain(a answer) bool {
	return a.StatusCode == http.StatusOK && strings.Contains(a.Body, "we started again") && attemptField.MatchString(a.Body) &&
		!strings.Contains(strings.Join(a.Header["Set-Cookie"], "\n"), "gatehouse=")
}

// UP-1, G3: a callback URL is good once: in the same browser, in another, in one
// that has the cookies too, and after a restart.
func TestCallbackIsGoodOnce(t *testing.T) {
	t.Parallel()
	gh := startGitHub(t)
	h := start(t, gh.yaml())
	b := h.browser()
	cb := callbackPath(b.leave("/account/claims"), "7")
	thief, stranger, late := b.clone(), h.browser(), b.clone()

	if a := stranger.get(cb); !startsAgain(a) || gh.count(&gh.exchanges) != 0 {
		t.Fatalf("a browser that did not leave: %d, %d exchanges\n%s", a.StatusCode, gh.count(&gh.exchanges), a.Body)
	}
	if a := b.follow(b.get(cb)); a.Request.URL.Path != "/account/claims" || a.StatusCode != http.StatusOK {
		t.Fatalf("the sign-in ended at %s with %d", a.Request.URL, a.StatusCode)
	}
	before := h.rows()
	if a := b.get(cb); !startsAgain(a) {
		t.Fatalf("a second time: %d %s", a.StatusCode, a.Body)
	}
	if a := thief.get(cb); !startsAgain(a) || thief.in() {
		t.Fatalf("a second browser with the same cookie: %d %s", a.StatusCode, a.Body)
	}
	h.restart()
	again := late.get(cb)
	if !startsAgain(again) || late.in() {
		t.Fatalf("after a restart: %d %s", again.StatusCode, again.Body)
	}
	// The code was not redeemed again: some upstreams end the first one's tokens.
	if n := gh.count(&gh.exchanges); n != 1 {
		t.Errorf("the code went to the upstream %d times", n)
	}
	if after := h.rows(); after["session"] != before["session"] || after["user"] != before["user"] || after["log of events"] != before["log of events"] {
		t.Errorf("second comers changed the store: %v, before %v", after, before)
	}
	if !b.in() {
		t.Error("the one who signed in is out")
	}
	// The page that a second comer got keeps the target.
	if a := late.follow(late.get(callbackPath(late.leaveFrom(again), "7"))); a.Request.URL.Path != "/account/claims" {
		t.Errorf("the fresh start led to %s", a.Request.URL)
	}
}

// leaveFrom goes on to GitHub from a sign-in page.
func (b *browser) leaveFrom(a answer) string {
	b.h.t.Helper()
	state := field(b.h.t, attemptField, a)
	if a = b.get("/signin/github?attempt=" + state); a.StatusCode != http.StatusSeeOther {
		b.h.t.Fatalf("no departure: %d", a.StatusCode)
	}
	return state
}

// Sixteen at once, each with a code of somebody else, all past the look for a
// tombstone: one gets in, and no account of the others comes into being
// (architecture.md section 5: the tombstone stands before user.Admit).
func TestCallbackAtOnceMakesOneAccount(t *testing.T) {
	t.Parallel()
	gh := startGitHub(t)
	gh.slow = make(chan struct{})
	h := start(t, gh.yaml())
	b := h.browser()
	state := b.leave("/account")
	var wg sync.WaitGroup
	answers := make([]answer, 16)
	for i := range answers {
		c := b.clone()
		wg.Go(func() { answers[i] = c.get(callbackPath(state, string(rune('1'+i%9))+"0")) })
	}
	for gh.count(&gh.exchanges) < len(answers) {
		time.Sleep(time.Millisecond)
	}
	close(gh.slow)
	wg.Wait()
	in := 0
	for _, a := range answers {
		switch {
		case a.StatusCode == http.StatusSeeOther && a.location().Path == "/account":
			in++
		case !startsAgain(a):
			t.Errorf("neither in nor a fresh start: %d %s", a.StatusCode, a.Body)
		}
	}
	rows := h.rows()
	if in != 1 || rows["session"] != 1 || rows["user"] != 1 || rows["identity"] != 1 {
		t.Fatalf("%d of 16 got in; the store has %v", in, rows)
	}
}

// UP-1, UP-2: id, cookie and the connector in the path agree, or it is a fresh
// start, which never leaves by itself.
func TestCallbackThatDoesNotFit(t *testing.T) {
	t.Parallel()
	gh := startGitHub(t)
	h := start(t, gh.yaml("connectors:", "  - {id: hub2, type: github, client_id: app2, client_secret: s, base_url: '"+gh.URL+"', organizations: [{name: acme}]}"))
	cookie := func(b *browser, state, value string) {
		u, _ := url.Parse(h.URL)
		b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "gatehouse-attempt-" + state, Value: value, Path: "/"}})
	}
	value := func(b *browser, state string) string {
		u, _ := url.Parse(h.URL)
		for _, c := range b.client.Jar.Cookies(u) {
			if c.Name == "gatehouse-attempt-"+state {
				return c.Value
			}
		}
		t.Fatal("no attempt cookie")
		return ""
	}
	for name, visit := range map[string]func(b *browser) answer{
		"another connector": func(b *browser) answer {
			return b.get(strings.Replace(callbackPath(b.leave("/account"), "7"), "/github/", "/hub2/", 1))
		},
		"no departure": func(b *browser) answer {
			return b.get(callbackPath(field(t, attemptField, b.follow(b.get("/account"))), "7"))
		},
		"no state":      func(b *browser) answer { b.leave("/account"); return b.get("/auth/github/callback?code=7") },
		"unknown state": func(b *browser) answer { b.leave("/account"); return b.get(callbackPath(strings.Repeat("A", 26), "7")) },
		"altered cookie": func(b *browser) answer {
			s := b.leave("/account")
			v := []byte(value(b, s))
			v[len(v)/2] ^= 1
			cookie(b, s, string(v))
			return b.get(callbackPath(s, "7"))
		},
		"the cookie of another attempt": func(b *browser) answer { // sealed to its id
			one, two := b.leave("/account"), b.leave("/account/apps")
			cookie(b, two, value(b, one))
			return b.get(callbackPath(two, "7"))
		},
		"too late": func(b *browser) answer {
			s := b.leave("/account")
			h.wait(10*time.Minute + time.Second)
			return b.get(callbackPath(s, "7"))
		},
	} {
		b := h.browser()
		if a := visit(b); !startsAgain(a) || b.in() {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.Body)
		}
	}
	if n := gh.count(&gh.exchanges); n != 0 {
		t.Errorf("%d codes were redeemed", n)
	}
	b := h.browser()
	state := b.leave("/account")
	if a := b.get(callbackPath(state, "7") + "&state=" + state); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a parameter twice: %d", a.StatusCode)
	}
	if a := b.post(callbackPath(state, "7"), url.Values{}); a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != "GET" {
		t.Errorf("POST to an OAuth callback (SE-4): %d, Allow %q", a.StatusCode, a.Header.Get("Allow"))
	}
	if a := b.get("/auth/local/callback?state=" + state); a.StatusCode != http.StatusNotFound {
		t.Errorf("the callback of a connector without one: %d", a.StatusCode)
	}
	// An old page still knows where it wanted to go.
	b = h.browser()
	state = b.leave("/account/apps")
	h.wait(11 * time.Minute)
	a := b.get(callbackPath(state, "7"))
	if a = b.follow(b.get(callbackPath(b.leaveFrom(a), "7"))); a.Request.URL.Path != "/account/apps" {
		t.Errorf("the old page led to %s", a.Request.URL)
	}
}

// A stale, bookmarked or second-tab page recovers to a fresh sign-in.
func TestOldPagesRecover(t *testing.T) {
	t.Parallel()
	gh := startGitHub(t)
	h := start(t, gh.yaml())
	for _, path := range []string{"/signin?attempt=" + strings.Repeat("B", 26), "/signin?attempt=x", "/signin/github?attempt=" + strings.Repeat("B", 26), "/resume/" + strings.Repeat("B", 26), "/resume/x"} {
		if a := h.browser().get(path); !startsAgain(a) {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.Body)
		}
	}
	// Bookmarked without an attempt: a page, not a departure.
	if a := h.browser().get("/signin/github"); a.StatusCode != http.StatusOK || a.Header.Get("Location") != "" {
		t.Errorf("a bookmarked method: %d to %q", a.StatusCode, a.Header.Get("Location"))
	}
	// A bookmarked form works.
	b := h.browser()
	if a := b.signIn(b.get("/signin/local"), "demo", "demo"); a.Request.URL.Path != "/" || a.StatusCode != http.StatusOK {
		t.Errorf("a bookmarked form led to %s (%d)", a.Request.URL, a.StatusCode)
	}
	// Somebody who is in and goes back to the hop is not asked again.
	if a := b.get("/resume/" + strings.Repeat("B", 26)); a.StatusCode != http.StatusSeeOther || a.location().Path != "/" {
		t.Errorf("an old hop of somebody signed in: %d", a.StatusCode)
	}
	// Two tabs: the second form works after the first has signed in.
	b = h.browser()
	one, two := b.follow(b.get("/account")), b.follow(b.get("/account/apps"))
	if a := b.signIn(one, "demo", "demo"); a.Request.URL.Path != "/account" {
		t.Fatalf("the first tab led to %s", a.Request.URL)
	}
	if a := b.signIn(two, "demo", "demo"); a.Request.URL.Path != "/account/apps" {
		t.Errorf("the second tab led to %s", a.Request.URL)
	}
	// A form that is too old is shown again with its target.
	b = h.browser()
	old := b.follow(b.get("/account/claims"))
	h.wait(11 * time.Minute)
	a := b.post("/signin/local", url.Values{"username": {"demo"}, "password": {"demo"}, "attempt": {field(t, attemptField, old)}})
	if !startsAgain(a) {
		t.Fatalf("an old form: %d %s", a.StatusCode, a.Body)
	}
	if a = b.signIn(a, "demo", "demo"); a.Request.URL.Path != "/account/claims" {
		t.Errorf("the fresh form led to %s", a.Request.URL)
	}
	// So is its page when it is opened again.
	b = h.browser()
	old = b.follow(b.get("/account/claims"))
	h.wait(11 * time.Minute)
	if a := b.get("/signin?attempt=" + field(t, attemptField, old)); !startsAgain(a) || b.signIn(a, "demo", "demo").Request.URL.Path != "/account/claims" {
		t.Errorf("an old page: %d %s", a.StatusCode, a.Body)
	}
}

// A form that is sent twice signs in once; the browser that got the first answer
// goes on, any other starts afresh.
func TestFormSentTwice(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	form := url.Values{"username": {"demo"}, "password": {"demo"}, "attempt": {field(t, attemptField, b.follow(b.get("/account/claims")))}}
	other := b.clone()
	first := b.post("/signin/local", form)
	again := other.post("/signin/local", form) // with the cookies of before
	if first.StatusCode != http.StatusSeeOther || again.StatusCode != http.StatusSeeOther || again.location().Path != first.location().Path {
		t.Fatalf("answers %d to %s and %d to %s", first.StatusCode, first.location(), again.StatusCode, again.location())
	}
	if a := other.follow(again); !startsAgain(a) || other.in() {
		t.Errorf("the second one is in: %d", a.StatusCode)
	}
	if a := b.follow(b.get(again.location().Path)); a.Request.URL.Path != "/account/claims" || a.StatusCode != http.StatusOK {
		t.Errorf("the browser of the first answer ended at %s (%d)", a.Request.URL, a.StatusCode)
	}
	if rows := h.rows(); rows["session"] != 1 {
		t.Errorf("sessions: %v", rows)
	}
}
