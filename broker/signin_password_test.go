package broker_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// guess posts the form of the sign-in page that a fresh visit shows.
func (b *browser) guess(user, password string, header ...string) answer {
	b.h.t.Helper()
	return b.post("/signin/local", url.Values{"username": {user}, "password": {password}, "attempt": {field(b.h.t, attemptField, b.follow(b.get("/signin/local", header...)))}}, header...)
}

// same takes out of an answer what differs between any two.
func same(a answer) (http.Header, string) {
	h := a.Header.Clone()
	// Retry-After counts from each one's own first try.
	for _, k := range []string{"Date", "X-Request-Id", "X-Gatehouse-Request-Id", "Content-Length", "Retry-After"} {
		h.Del(k)
	}
	return h, regexp.MustCompile(`value="(demo|nobody)"|[A-Z2-7]{26}`).ReplaceAllString(a.Body, "")
}

// LD-8, ux 3.2: an unknown user and a wrong password are one answer, in status,
// headers and text, at the first try and at the last. (That the work is the same
// is the connector's test.)
func TestUnknownUserAndWrongPasswordAreOneAnswer(t *testing.T) {
	t.Parallel()
	h := start(t, "rate_limits: {account_failures: 3}")
	known, unknown := h.browser(), h.browser()
	for i := range 5 {
		a, b := known.guess("demo", "wrong"), unknown.guess("nobody", "wrong")
		ah, ab := same(a)
		bh, bb := same(b)
		if a.StatusCode != b.StatusCode || !maps.EqualFunc(ah, bh, func(x, y []string) bool { return strings.Join(x, "|") == strings.Join(y, "|") }) || ab != bb {
			t.Fatalf("try %d differs: %d %v\n%s\n-- and --\n%d %v\n%s", i+1, a.StatusCode, ah, ab, b.StatusCode, bh, bb)
		}
		if want := map[bool]int{true: http.StatusUnprocessableEntity, false: http.StatusTooManyRequests}[i < 3]; a.StatusCode != want || (a.Header.Get("Retry-After") == "") != (i < 3) || (b.Header.Get("Retry-After") == "") != (i < 3) {
			t.Fatalf("try %d: %d, want %d", i+1, a.StatusCode, want)
		}
		if strings.Contains(a.Body, "wrong") || !strings.Contains(a.Body, `value="demo"`) {
			t.Errorf("the page keeps the name and not the password:\n%s", a.Body)
		}
	}
}

// LD-9, G10: five wrong passwords pause an account for a quarter of an hour, and
// the right one does not help meanwhile; many at once are no more tries.
func TestAccountIsPaused(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	form := func() url.Values {
		return url.Values{"username": {"Demo "}, "password": {"wrong"}, "attempt": {field(t, attemptField, b.follow(b.get("/signin")))}}
	}
	forms := make([]url.Values, 24)
	for i := range forms {
		forms[i] = form()
		if i%2 == 0 { // spellings of one name share the counter
			forms[i].Set("username", `ACME\ｄemo`)
		}
	}
	codes := map[int]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	// One page each, so that every form has its cookie; all are sent at once.
	b2 := b.clone()
	for _, f := range forms[len(forms)-8:] {
		for range 3 {
			wg.Go(func() {
				a := b2.post("/signin/local", f)
				mu.Lock()
				defer mu.Unlock()
				codes[a.StatusCode]++
			})
		}
	}
	wg.Wait()
	if codes[http.StatusUnprocessableEntity] != 5 || codes[http.StatusTooManyRequests] != 19 {
		t.Fatalf("24 wrong passwords at once: %v", codes)
	}
	a := h.browser().guess("demo", "demo")
	if a.StatusCode != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" {
		t.Errorf("the right password while paused: %d, Retry-After %q", a.StatusCode, a.Header.Get("Retry-After"))
	}
	if a := h.browser().guess("admin", "admin"); a.StatusCode != http.StatusSeeOther {
		t.Errorf("another account: %d", a.StatusCode)
	}
	h.wait(15 * time.Minute)
	if a := h.browser().guess("demo", "demo"); a.StatusCode != http.StatusSeeOther {
		t.Errorf("after the pause: %d", a.StatusCode)
	}
	// A success forgets the failures, so that three now and three then are no five.
	for range 2 {
		for range 3 {
			h.browser().guess("demo", "wrong")
		}
		if a := h.browser().guess("demo", "demo"); a.StatusCode != http.StatusSeeOther {
			t.Fatalf("after three failures: %d", a.StatusCode)
		}
	}
	// Successes alone never count.
	for range 4 {
		if a := h.browser().guess("demo", "demo"); a.StatusCode != http.StatusSeeOther {
			t.Fatalf("a success counted: %d", a.StatusCode)
		}
	}
}

// LD-9: nobody can keep another out. A browser that signed in as this account
// before has a counter of its own, and is not bound by its address; its cookie
// is sealed and counts for that account alone.
func TestNobodyIsKeptOut(t *testing.T) {
	t.Parallel()
	h := start(t, "rate_limits: {account_failures: 3, address_failures: 5}")
	owner := h.browser()
	owner.enter("demo", "demo")
	for i := range 4 { // both the account's counter and the address's are full
		h.browser().guess("demo", "wrong")
		h.browser().guess(fmt.Sprint("x", i), "wrong")
	}
	if a := h.browser().guess("demo", "demo"); a.StatusCode != http.StatusTooManyRequests {
		t.Fatalf("a strange browser: %d", a.StatusCode)
	}
	owner.signOutHere()
	if a := owner.guess("demo", "demo"); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("the owner is kept out of an account that others guess at: %d", a.StatusCode)
	}
	// The cookie is no way to guess at somebody else.
	if a := owner.guess("admin", "admin"); a.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a known browser at another account, from a full address: %d", a.StatusCode)
	}
	// Its own counter is full after three.
	for i := range 4 {
		if a := owner.guess("demo", "wrong"); (a.StatusCode == http.StatusTooManyRequests) != (i == 3) {
			t.Fatalf("the owner's wrong try %d: %d", i+1, a.StatusCode)
		}
	}
	// A made-up device is none.
	fake := h.browser()
	u, _ := url.Parse(h.URL)
	fake.client.Jar.SetCookies(u, []*http.Cookie{{Name: "gatehouse-device", Value: "eyJpIjoiWCIsImEiOlsiWCJdfQ", Path: "/"}})
	if a := fake.guess("demo", "demo"); a.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a made-up device cookie: %d", a.StatusCode)
	}
}

// G10: 30 a minute and address, over all accounts; a /24 and a /48 have a
// counter of their own; trusted_proxies say whose address it is.
func TestAddressIsPaused(t *testing.T) {
	t.Parallel()
	h := start(t, "rate_limits: {address_failures: 4, network_failures: 9}\ntrusted_proxies: [127.0.0.1/32]\n")
	n := 0
	from := func(ip, password string) int {
		n++
		user := fmt.Sprint("x", n)
		if password == "demo" {
			user = "demo"
		}
		return h.browser().guess(user, password, "X-Forwarded-For", ip).StatusCode
	}
	for i := range 5 {
		if code := from("192.0.2.1", "wrong"); (code == http.StatusTooManyRequests) != (i == 4) {
			t.Fatalf("try %d: %d", i+1, code)
		}
	}
	if code := from("192.0.2.2", "demo"); code != http.StatusSeeOther {
		t.Errorf("a neighbour: %d", code)
	}
	for i := range 5 {
		from(fmt.Sprint("192.0.2.", 10+i), "wrong")
	}
	if code := from("192.0.2.200", "demo"); code != http.StatusTooManyRequests {
		t.Errorf("a /24 that guesses from many addresses: %d", code)
	}
	if code := from("198.51.100.1", "demo"); code != http.StatusSeeOther {
		t.Errorf("another network: %d", code)
	}
	h.wait(time.Minute)
	if code := from("192.0.2.1", "demo"); code != http.StatusSeeOther {
		t.Errorf("a minute later: %d", code)
	}
}

// UP-1: a form without this browser's cookie may have been put there by somebody
// else (login CSRF): it signs nobody in.
func TestFormWithoutItsCookie(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	attacker := h.browser()
	id := field(t, attemptField, attacker.follow(attacker.get("/signin")))
	for name, b := range map[string]*browser{"no cookie": h.browser(), "one of its own": h.browser()} {
		if name != "no cookie" {
			b.get("/account")
		}
		a := b.post("/signin/local", url.Values{"username": {"demo"}, "password": {"demo"}, "attempt": {id}})
		if a.StatusCode != http.StatusOK || b.in() || strings.Contains(strings.Join(a.Header["Set-Cookie"], "\n"), "gatehouse=") {
			t.Errorf("%s: %d", name, a.StatusCode)
		}
		if blocked := strings.Contains(a.Body, "Allow cookies"); blocked != (name == "no cookie") {
			t.Errorf("%s: says that cookies are blocked: %v", name, blocked)
		}
	}
	// And from another origin nothing is read at all (SE-4).
	b := h.browser()
	form := url.Values{"username": {"demo"}, "password": {"demo"}, "attempt": {field(t, attemptField, b.follow(b.get("/signin")))}}
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Sec-Fetch-Site", "", "Origin", "https://evil.example"}, {"Sec-Fetch-Site", "", "Origin", "null"}} {
		if a := b.post("/signin/local", form, header...); a.StatusCode != http.StatusForbidden {
			t.Errorf("%v: %d", header, a.StatusCode)
		}
	}
	if a := b.post("/signin/local", form, "Content-Type", "text/plain"); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a body that is no form: %d", a.StatusCode)
	}
	if a := b.post("/signin/local", url.Values{"username": {strings.Repeat("x", 20<<10)}}); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a form of 20 KiB: %d", a.StatusCode)
	}
	if a := b.post("/signin/local", form); a.StatusCode != http.StatusSeeOther {
		t.Errorf("the form itself: %d", a.StatusCode)
	}
}

// ST-5: people type passwords into the field for the name. What was typed is
// nowhere in the store; the account is named by its id where there is one.
func TestTypedNamesAreNotKept(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	h.browser().enter("demo", "demo")
	h.browser().guess("correct-horse-battery", "x")
	h.browser().guess("demo", "correct-horse-battery")
	raw := h.storeBytes()
	if strings.Contains(raw, "correct-horse") {
		t.Error("the store holds what was typed")
	}
	failed := regexp.MustCompile(`"name":"signin\.failed"[^}]*`).FindAllString(raw, -1)
	if len(failed) < 2 {
		t.Fatalf("events: %v", failed)
	}
	named := 0
	for _, e := range failed {
		if strings.Contains(e, `"target":"`) {
			named++
		}
		if !strings.Contains(e, `"account":"`) {
			t.Errorf("an event without an account: %s", e)
		}
	}
	if named == 0 || named == len(failed) {
		t.Errorf("%d of %d failures name an account", named, len(failed))
	}
}
