package broker_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/remotegpu/gatehouse/broker/event"
)

const trustAcme = ", domains: [acme.example], trust_email: true"

// UP-5 on the wire: two connectors that are trusted for a domain make one
// account of one address that both verified; nobody else's word does.
func TestLinkByEmail(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	log := &watchedStore{}
	h := startWith(t, &harness{yaml: g.hubs(trustAcme, trustAcme), wrap: log.watch})
	g.has("7", "li@acme.example", true)
	g.has("8", "LI@acme.example", true)
	first := h.browser()
	sub := first.enterAt("a", "7")
	second := h.browser()
	if got := second.enterAt("b", "8"); got != sub {
		t.Fatalf("two accounts: %s and %s", sub, got)
	}
	if ids := h.identities(sub); !slices.Equal(ids, []string{"a 7", "b 8"}) {
		t.Errorf("identities %v", ids)
	}
	if es := log.named(event.IdentityLinked); len(es) != 1 || es[0].Details["how"] != "email" || es[0].Connector != "b" || es[0].Target != sub {
		t.Errorf("events %+v", es)
	}
	// The same address by the same connector is somebody else who was given it.
	g.has("9", "li@acme.example", true)
	if got := h.browser().enterAt("b", "9"); got == sub {
		t.Error("a recycled address leads to the old account")
	}
	// The first identity's profile stays, the second's groups are its own.
	if me := second.me(); me["email"] != "li@acme.example" || me["connector"] != "b" || strings.Contains(strings.Join(strs(me["groups"]), " "), "a:") {
		t.Errorf("%v", me)
	}
}

func strs(v any) []string {
	out := []string{}
	list, _ := v.([]any)
	for _, x := range list {
		out = append(out, x.(string))
	}
	return out
}

// Whoever comes with another account's address is told, proves that account and
// is asked. Until then nothing is linked, no account is made.
func TestLinkToExistingAccount(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	log := &watchedStore{}
	// Both would be trusted for example.com, but the old account is a break-glass one.
	yaml := strings.Replace(g.hubs(trustAcme, ", domains: [example.com], trust_email: true"), "local:\n", "local:\n  trust_email: true\n  domains: [example.com]\n", 1)
	h := startWith(t, &harness{yaml: yaml, wrap: log.watch})
	demo := h.in("demo")
	sub := demo.me()["id"].(string)
	before := h.rows()["user"]
	g.has("7", "demo@example.com", true)
	b := h.browser()
	a := b.from(b.follow(b.get("/account/claims")), "b", "7")
	if a.StatusCode != http.StatusConflict || !strings.Contains(a.Body, "already have an account") || !strings.Contains(a.Body, "demo@example.com") || b.in() {
		t.Fatalf("%d\n%s", a.StatusCode, a.Body)
	}
	if strings.Contains(a.Body, "DEMO") || strings.Contains(a.Body, sub) {
		t.Error("the page tells whose account it is")
	}
	to := linkTo(t, a, "/signin/local?attempt=")
	// A reload of the spent callback is a fresh start.
	form := b.get(to)
	if !strings.Contains(form.Body, "Local account") {
		t.Fatalf("%d\n%s", form.StatusCode, form.Body)
	}
	a = b.signIn(form, "demo", "demo")
	if a.Request.URL.Path != "/account/links/confirm" || !strings.Contains(a.Body, "B Hub") || !strings.Contains(a.Body, "DEMO Surname") {
		t.Fatalf("%s\n%s", a.Request.URL, a.Body)
	}
	if ids := h.identities(sub); len(ids) != 1 {
		t.Fatalf("linked without an answer: %v", ids)
	}
	confirm := url.Values{"attempt": {field(t, attemptField, a)}, "token": {field(t, tokenField, a)}}
	for name, try := range map[string]func() answer{
		"another browser": func() answer { return h.in("other").post("/account/links/confirm", confirm) },
		"another site": func() answer {
			return b.post("/account/links/confirm", confirm, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example")
		},
		"no token": func() answer { return b.post("/account/links/confirm", url.Values{"attempt": confirm["attempt"]}) },
		"a GET":    func() answer { return b.get("/account/links/confirm?" + confirm.Encode()) },
	} {
		try()
		if ids := h.identities(sub); len(ids) != 1 {
			t.Errorf("%s links: %v", name, ids)
		}
	}
	for range 2 { // a form that is sent twice
		if a = b.post("/account/links/confirm", confirm); a.StatusCode != http.StatusOK && !startsAgain(a) {
			t.Errorf("%d %s", a.StatusCode, a.Body)
		}
	}
	if ids := h.identities(sub); len(ids) != 2 || ids[1] != "b 7" {
		t.Errorf("identities %v", ids)
	}
	if got := h.browser().enterAt("b", "7"); got != sub {
		t.Errorf("%s is not %s", got, sub)
	}
	if es := log.named(event.IdentityLinked); len(es) != 1 || es[0].Details["how"] != "confirmed" {
		t.Errorf("events %+v", es)
	}
	// "Not now" links nothing and goes on.
	g.has("8", "other@example.com", true)
	b = h.browser()
	a = b.from(b.follow(b.get("/account/claims")), "b", "8")
	a = b.signIn(b.get(linkTo(t, a, "/signin/local?attempt=")), "other", "other")
	if a = b.follow(b.get(linkTo(t, a, "/account/claims"))); a.StatusCode != http.StatusOK || a.Request.URL.Path != "/account/claims" {
		t.Errorf("not now: %d %s", a.StatusCode, a.Request.URL)
	}
	if ids := h.identities(h.userID("other")); len(ids) != 1 {
		t.Errorf("not now: %v", ids)
	}
	// A shared computer: the question of one person is not answered by the next,
	// and what waits to be linked is not linked to whoever signs in later unasked.
	g.has("9", "help@example.com", true)
	helpSub := h.in("help").me()["id"].(string)
	b = h.browser()
	a = b.from(b.follow(b.get("/account/claims")), "b", "9")
	a = b.signIn(b.get(linkTo(t, a, "/signin/local?attempt=")), "help", "help")
	confirm = url.Values{"attempt": {field(t, attemptField, a)}, "token": {field(t, tokenField, a)}}
	b.post("/signout", url.Values{"token": {field(t, tokenField, b.get("/signout"))}, "here": {"1"}})
	if a := b.post("/account/links/confirm", confirm); !strings.Contains(a.Body, "session ended") {
		t.Errorf("signed out: %d\n%s", a.StatusCode, a.Body)
	}
	b.enter("other", "other")
	if a := b.post("/account/links/confirm", confirm); !strings.Contains(a.Body, "session ended") {
		t.Errorf("another person: %d\n%s", a.StatusCode, a.Body)
	}
	if ids := append(h.identities(helpSub), h.identities(h.userID("other"))...); len(ids) != 2 {
		t.Errorf("identities %v", ids)
	}
	if n := h.rows()["user"]; n != before+2 { // other and help
		t.Errorf("%d users, were %d", n, before)
	}
}

// An address that the upstream did not verify names no way in, and gets no
// account beside the one that has it verified; an account of one's own is for
// whoever proved the address at a connector that speaks for it.
func TestLinkUnverifiedAddress(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	h := start(t, g.hubs(trustAcme, ", domains: [example.com], trust_email: true"))
	demo := h.in("demo").me()["id"]
	before := h.rows()["user"]
	g.has("7", "demo@example.com", false)
	for _, c := range []string{"a", "b"} {
		b := h.browser()
		a := b.from(b.follow(b.get("/account")), c, "7")
		if a.StatusCode != http.StatusConflict || strings.Contains(a.Body, "Local account") || strings.Contains(a.Body, "make a new one") || b.in() {
			t.Errorf("%s: %d\n%s", c, a.StatusCode, a.Body)
		}
		linkTo(t, a, "/signin?attempt=")
	}
	// Verified, it says, but a does not speak for example.com.
	g.has("7", "demo@example.com", true)
	b := h.browser()
	if a := b.from(b.follow(b.get("/account")), "a", "7"); a.StatusCode != http.StatusConflict || strings.Contains(a.Body, "make a new one") || strings.Contains(a.Body, "Local account") {
		t.Errorf("%d\n%s", a.StatusCode, a.Body)
	}
	if n := h.rows()["user"]; n != before {
		t.Errorf("%d users, were %d", n, before)
	}
	b = h.browser()
	a := b.from(b.follow(b.get("/account")), "b", "7")
	i := strings.LastIndex(a.Body, `href="/signin/b?attempt=`)
	if a.StatusCode != http.StatusConflict || i < 0 {
		t.Fatalf("%d\n%s", a.StatusCode, a.Body)
	}
	a.Body = a.Body[i:]
	if a = b.follow(b.depart(linkTo(t, a, "/signin/b?attempt="), "b", "7")); a.Request.URL.Path != "/account" || b.me()["id"] == demo {
		t.Errorf("an account of one's own: %s %d", a.Request.URL, a.StatusCode)
	}
	if n := h.rows()["user"]; n != before+1 {
		t.Errorf("%d users, were %d", n, before)
	}
	// Pre-hijacking: an account with an unverified address keeps nobody out.
	g.has("20", "victim@acme.example", false)
	thief := h.browser().enterAt("b", "20")
	g.has("21", "victim@acme.example", true)
	if got := h.browser().enterAt("a", "21"); got == thief {
		t.Error("the victim was linked to the thief's account")
	}
}

// Accounts of people with a role are linked by hand alone, also when the role is
// a group's and nobody of it is signed in.
func TestLinkNeverUnaskedForStaff(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	yaml := strings.Replace(g.hubs(trustAcme, trustAcme), `"group:auditors"`, `"group:a:acme"`, 1)
	h := start(t, yaml)
	g.has("7", "li@acme.example", true)
	g.has("8", "li@acme.example", true)
	b := h.browser()
	sub := b.enterAt("a", "7")
	if roles := b.me()["roles"].([]any); len(roles) != 1 {
		t.Fatalf("roles %v", roles)
	}
	b.post("/signout", url.Values{"token": {field(t, tokenField, b.get("/signout"))}, "everywhere": {"1"}})
	x := h.browser()
	if a := x.from(x.follow(x.get("/account")), "b", "8"); a.StatusCode != http.StatusConflict || x.in() {
		t.Errorf("linked unasked: %d\n%s", a.StatusCode, a.Body)
	}
	if ids := h.identities(sub); len(ids) != 1 {
		t.Errorf("identities %v", ids)
	}
}

// Sixty-four first sign-ins of one person at once: one account, announced once,
// and everybody is in.
func TestLinkFirstSignInsAtOnce(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	log := &watchedStore{}
	h := startWith(t, &harness{yaml: g.hubs("", ""), wrap: log.watch})
	const n = 64
	subs := make([]string, n)
	var ready, wg sync.WaitGroup
	ready.Add(n)
	for i := range n {
		b := h.browser()
		state := field(t, attemptField, b.follow(b.get("/account")))
		b.get("/signin/a?attempt=" + state)
		wg.Go(func() {
			ready.Done()
			ready.Wait()
			if a := b.back("a", state, "7"); a.StatusCode != http.StatusSeeOther {
				t.Errorf("%d %s", a.StatusCode, a.Body)
				return
			}
			subs[i] = b.me()["id"].(string)
		})
	}
	wg.Wait()
	slices.Sort(subs)
	if subs = slices.Compact(subs); len(subs) != 1 || subs[0] == "" {
		t.Errorf("accounts %v", subs)
	}
	if es := log.named(event.UserCreated); len(es) != 1 {
		t.Errorf("user.created was recorded %d times", len(es))
	}
}
