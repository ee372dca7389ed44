package broker_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// UP-1: what nobody has proved anything for leaves the store as it was. (The
// million is in test/e2e.)
func TestAnonymousRequestsWriteNothing(t *testing.T) {
	t.Parallel()
	gh := startGitHub(t)
	h := start(t, gh.yaml("rate_limits: {attempts: 1000000}"))
	b := h.browser()
	b.get("/") // what a first request makes, if anything
	before := h.rows()
	q := authRequest().Encode()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			one := h.browser()
			one.client.Jar = nil
			for i := range 70 {
				state := fmt.Sprintf("%026d", i)
				a := one.get("/oauth2/authorize?" + q)
				if a.StatusCode != http.StatusSeeOther {
					t.Errorf("authorize: %d %s", a.StatusCode, a.Body)
					return
				}
				// With the cookie of that one: the page, and the departure.
				cookie, _, _ := strings.Cut(a.Header.Get("Set-Cookie"), ";")
				at := a.location().RequestURI()
				for _, path := range []string{at, strings.Replace(at, "/signin?", "/signin/github?", 1), "/signin/local"} {
					one.get(path, "Cookie", cookie)
				}
				for _, path := range []string{callbackPath(state, "7"), "/signin?attempt=" + state, "/resume/" + state, "/consent/" + state, "/gateway/start?rd=" + url.QueryEscape(strings.Replace(h.URL, "127.0.0.1", "api.localhost", 1)), "/account/sessions", "/signout", "/nothing"} {
					one.get(path, "Cookie", "gatehouse="+strings.Repeat("A", 52))
				}
				one.post("/signin/local", url.Values{"username": {"demo"}, "password": {"demo"}, "attempt": {state}})
				one.post("/signout", url.Values{"token": {"x"}})
				one.post("/oauth2/authorize", authRequest())
			}
		})
	}
	wg.Wait()
	if after := h.rows(); !maps.Equal(before, after) {
		t.Errorf("the store went from %v to %v", before, after)
	}
}

// attempts returns the attempt cookies of a browser, and their size as sent.
func (b *browser) attempts() (ids []string, size, longest int) {
	u, _ := url.Parse(b.h.URL)
	for _, c := range b.client.Jar.Cookies(u) {
		if id, ok := strings.CutPrefix(c.Name, "gatehouse-attempt-"); ok {
			ids = append(ids, id)
			n := len(c.Name) + len(c.Value)
			size, longest = size+n, max(longest, n)
		}
	}
	return ids, size, longest
}

// UP-1, G9: at most 8 attempts of at most 6 KiB together; the oldest go first.
func TestAttemptCookiesAreBounded(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	for name, state := range map[string]int{"many": 10, "large": 1200} {
		b := h.browser()
		var started []string
		for range 11 {
			q := authRequest()
			q.Set("state", strings.Repeat("s", state))
			started = append(started, b.get("/oauth2/authorize?"+q.Encode()).location().Query().Get("attempt"))
			h.wait(time.Second)
			ids, size, longest := b.attempts()
			if len(ids) > 8 || size > 6<<10 || longest > 3072 {
				t.Fatalf("%s: %d cookies of %d bytes, the longest %d", name, len(ids), size, longest)
			}
		}
		ids, size, _ := b.attempts()
		if len(ids) < 2 || len(ids) == 8 && name == "large" || len(ids) != 8 && name == "many" {
			t.Errorf("%s: %d cookies of %d bytes are left", name, len(ids), size)
		}
		for i, id := range started {
			if kept := i >= len(started)-len(ids); kept != strings.Contains(strings.Join(ids, " "), id) {
				t.Errorf("%s: of %d started, number %d: kept %v", name, len(started), i, !kept)
			}
		}
		// The newest works, the oldest is a fresh start.
		if a := b.get("/signin?attempt=" + started[0]); !startsAgain(a) {
			t.Errorf("%s: the oldest: %d", name, a.StatusCode)
		}
		if a := b.signIn(b.get("/signin?attempt="+started[10]), "demo", "demo"); !strings.HasPrefix(a.location().String(), callback) {
			t.Errorf("%s: the newest led to %s", name, a.location())
		}
	}
}

// G9: a browser that opens many tabs at once gets a cookie from each answer, since
// none of its requests shows the others. What comes then is no refusal of every
// page: the oldest go, the one that the request is about stays.
func TestManyTabsAtOnce(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	u, err := url.Parse(h.URL)
	if err != nil {
		t.Fatal(err)
	}
	var started []string
	for range 14 {
		q := authRequest()
		q.Set("state", strings.Repeat("s", 1200))
		tab := h.browser()
		started = append(started, tab.get("/oauth2/authorize?"+q.Encode()).location().Query().Get("attempt"))
		b.client.Jar.SetCookies(u, tab.client.Jar.Cookies(u))
	}
	if ids, size, _ := b.attempts(); len(ids) != 14 || size < 24<<10 {
		t.Fatalf("%d cookies of %d bytes", len(ids), size)
	}
	if a := h.browser().get("/signin", "Cookie", strings.Repeat("other=x; ", 2000)+"a=b"); a.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("cookies of others: %d", a.StatusCode)
	}
	if a := b.get("/signin?attempt=" + started[0]); a.StatusCode != http.StatusOK || startsAgain(a) {
		t.Fatalf("a tab's page: %d", a.StatusCode)
	}
	ids, size, _ := b.attempts()
	if len(ids) > 8 || size > 16<<10 {
		t.Errorf("%d cookies of %d bytes are left", len(ids), size)
	}
	if !strings.Contains(strings.Join(ids, " "), started[0]) {
		t.Error("the attempt that was asked for has gone")
	}
	if a := b.signIn(b.get("/signin?attempt="+started[0]), "demo", "demo"); !strings.HasPrefix(a.location().String(), callback) {
		t.Errorf("it led to %s", a.location())
	}
}

// UP-1, G10: an attempt too long for a cookie is stored, so many a minute
// and address, of which those that come to a good end do not count.
func TestLongAttemptIsStored(t *testing.T) {
	t.Parallel()
	h := start(t, "rate_limits: {stored_attempts: 6}")
	long := authRequest()
	long.Set("state", strings.Repeat("s", 2000))
	long.Set("nonce", strings.Repeat("n", 500))
	path := "/oauth2/authorize?" + long.Encode()
	for range 7 { // more than the limit: successes do not count
		b := h.browser()
		a := b.follow(b.get(path))
		if a.StatusCode != http.StatusOK {
			t.Fatalf("a long request: %d %s", a.StatusCode, a.Body)
		}
		if _, _, longest := b.attempts(); longest > 400 {
			t.Fatalf("its cookie has %d bytes", longest)
		}
		n := h.rows()["attempt"]
		b.get(a.Request.URL.RequestURI()) // seen again: nothing new to write
		if again := h.rows()["attempt"]; n == 0 || again != n {
			t.Fatalf("attempts stored: %d, then %d", n, again)
		}
		if a = b.signIn(a, "demo", "demo"); a.location().Query().Get("state") != long.Get("state") {
			t.Fatalf("it led to %s", a.location())
		}
	}
	stored := h.rows()["attempt"]
	for i := range 7 {
		a := h.browser().get(path)
		if want := i < 6; want != (a.StatusCode == http.StatusSeeOther) {
			t.Fatalf("unfinished long request %d: %d", i+1, a.StatusCode)
		}
		if i == 6 && (a.StatusCode != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "") {
			t.Errorf("over the limit: %d, Retry-After %q", a.StatusCode, a.Header.Get("Retry-After"))
		}
	}
	if n := h.rows()["attempt"]; n != stored+6 {
		t.Errorf("%d attempts are stored, %d before", n, stored)
	}
	// A short one still gets through, and after a minute a long one.
	if a := h.browser().get("/oauth2/authorize?" + authRequest().Encode()); a.StatusCode != http.StatusSeeOther {
		t.Errorf("a short request: %d", a.StatusCode)
	}
	h.wait(time.Minute)
	if a := h.browser().get(path); a.StatusCode != http.StatusSeeOther {
		t.Errorf("a minute later: %d", a.StatusCode)
	}
}

// G10: unfinished attempts count per address, those that came to a good end do
// not.
func TestUnfinishedAttemptsAreLimited(t *testing.T) {
	t.Parallel()
	h := start(t, "rate_limits: {attempts: 5}\ntrusted_proxies: [127.0.0.1/32]\n")
	for range 7 {
		b := h.browser()
		b.enter("demo", "demo")
	}
	from := func(ip string) int { return h.browser().get("/account", "X-Forwarded-For", ip).StatusCode }
	for i := range 6 {
		if code := from("192.0.2.1"); (code == http.StatusSeeOther) != (i < 5) {
			t.Fatalf("attempt %d: %d", i+1, code)
		}
	}
	if code := from("192.0.2.2"); code != http.StatusSeeOther {
		t.Errorf("another address: %d", code)
	}
	// A host has a whole /64 of IPv6.
	for i := range 6 {
		if code := from(fmt.Sprintf("2001:db8:0:1::%x", i+1)); (code == http.StatusSeeOther) != (i < 5) {
			t.Fatalf("attempt %d of one /64: %d", i+1, code)
		}
	}
	h.wait(time.Minute)
	if code := from("192.0.2.1"); code != http.StatusSeeOther {
		t.Errorf("a minute later: %d", code)
	}
}
