package broker_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

const attemptAge = 11 * time.Minute

// enforce: everyone of a proved domain comes by its connector. Who has an account
// already is asked to link once, and comes to the same account from then on;
// local people too.
func TestHomeEnforceLinksOnce(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	log := &watchedStore{}
	h := startWith(t, &harness{yaml: g.hubs("", ""), wrap: log.watch})
	g.has("7", "li@example.com", true)
	hubSub, demoSub := h.browser().enterAt("a", "7"), h.in("demo").me()["id"].(string)
	h.yaml = g.hubs("", ", domains: [example.com], enforce: true")
	h.restart()

	// By the hub, then by the company.
	b := h.browser()
	a := b.from(b.follow(b.get("/account/claims")), "a", "7")
	if a.StatusCode != http.StatusForbidden || !strings.Contains(a.Body, "Sign in with B Hub") || !strings.Contains(a.Body, "ask whether to link") || b.in() {
		t.Fatalf("%d\n%s", a.StatusCode, a.Body)
	}
	g.has("70", "li.wei@example.com", true) // the company has another address of theirs
	a = b.follow(b.depart(linkTo(t, a, "/signin/b?attempt="), "b", "70"))
	if a.Request.URL.Path != "/account/links/confirm" || b.in() {
		t.Fatalf("%s\n%s", a.Request.URL, a.Body)
	}
	a = b.post("/account/links/confirm", url.Values{"attempt": {field(t, attemptField, a)}, "token": {field(t, tokenField, a)}})
	if a = b.follow(b.depart(hop(t, a), "b", "70")); a.Request.URL.Path != "/account/claims" || b.me()["id"] != hubSub {
		t.Fatalf("%s %d", a.Request.URL, a.StatusCode)
	}

	// A local person, and by another address.
	g.has("71", "demo@example.com", true)
	b = h.browser()
	a = b.signIn(b.follow(b.get("/account")), "demo", "demo")
	if a.StatusCode != http.StatusForbidden || b.in() {
		t.Fatalf("%d\n%s", a.StatusCode, a.Body)
	}
	a = b.follow(b.depart(linkTo(t, a, "/signin/b?attempt="), "b", "71"))
	a = b.post("/account/links/confirm", url.Values{"attempt": {field(t, attemptField, a)}, "token": {field(t, tokenField, a)}})
	if b.follow(b.depart(hop(t, a), "b", "71")); b.me()["id"] != demoSub {
		t.Error("the local person has another account")
	}

	// Once: from now on they are only sent there, also when another of the
	// account's identities has an address elsewhere.
	g.has("7", "li@private.example", true)
	for _, try := range []func(b *browser) answer{
		func(b *browser) answer { return b.signIn(b.follow(b.get("/account")), "demo", "demo") },
		func(b *browser) answer { return b.from(b.follow(b.get("/account")), "a", "7") },
	} {
		b := h.browser()
		a := try(b)
		if a.StatusCode != http.StatusForbidden || strings.Contains(a.Body, "whether to link") || b.in() {
			t.Errorf("%d\n%s", a.StatusCode, a.Body)
		}
		linkTo(t, a, "/signin/b?attempt=")
	}
	if ids := h.identities(hubSub); !slices.Equal(ids, []string{"a 7", "b 70"}) {
		t.Errorf("identities %v", ids)
	}
	n := 0
	for _, e := range log.named(event.SigninFailed) {
		if e.Details["reason"] == "enforced" {
			n++
		}
	}
	if n != 4 {
		t.Errorf("%d refusals were recorded", n)
	}
	// The operator's break-glass stays open.
	if admin := h.in("admin"); admin.me()["email"] != "admin@example.com" {
		t.Error("no break-glass")
	}
}

// enforce for people without an account: no other connector makes them one,
// whatever it says of the address; the page leads on, and so does an e-mail.
func TestHomeEnforceNewcomers(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	h := start(t, g.hubs(", domains: [acme.example, x.example]", ", domains: [acme.example], enforce: true"))
	for _, verified := range []bool{true, false} {
		g.has("7", "li@ACME.example", verified)
		b := h.browser()
		a := b.from(b.follow(b.get("/account")), "a", "7")
		if a.StatusCode != http.StatusForbidden || strings.Contains(a.Body, "whether to link") || b.in() {
			t.Fatalf("%d\n%s", a.StatusCode, a.Body)
		}
		if n := h.rows()["user"]; n != 0 {
			t.Errorf("%d accounts", n)
		}
	}
	// Other domains are free, look-alikes and sub-domains other ones.
	for i, address := range []string{"li@x.example", "li@sub.acme.example", "li@acme.example.evil.example", ""} {
		person := string(rune('1'+i)) + "0"
		g.has(person, address, true)
		h.browser().enterAt("a", person)
	}
	b := h.browser()
	a := b.give(b.follow(b.get("/account")), "li@acme.example")
	if to := hop(t, a); !strings.HasPrefix(to, "/signin/b?") {
		t.Errorf("an address leads to %s", to)
	}
	g.has("8", "li@acme.example", true)
	h.browser().enterAt("b", "8")
	// What the attempt was to link is forgotten after ten minutes.
	g.has("9", "old@x.example", true)
	x := h.browser()
	sub := x.enterAt("a", "9")
	g.has("9", "old@acme.example", true)
	y := h.browser()
	a = y.from(y.follow(y.get("/account")), "a", "9")
	to := linkTo(t, a, "/signin/b?attempt=")
	h.wait(attemptAge)
	a = y.get(to) // our page: it is old
	g.has("90", "old@acme.example", true)
	a = y.follow(y.from(a, "b", "90"))
	if a.Request.URL.Path == "/account/links/confirm" || len(h.identities(sub)) != 1 {
		t.Errorf("%s %v", a.Request.URL, h.identities(sub))
	}
}

// What was signed in before enforce was written ends when its connector is asked
// again, with its offline grants.
func TestHomeEnforceEndsOldSessions(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	h := start(t, g.hubs("", ""))
	g.has("7", "li@acme.example", true)
	g.has("8", "li@x.example", true)
	b, free := h.browser(), h.browser()
	b.enterAt("a", "7")
	free.enterAt("a", "8")
	tok, freeTok := h.redeem(b.code(authRequest())).json(t), h.redeem(free.code(authRequest())).json(t)
	admin := h.in("admin")
	h.yaml = g.hubs("", ", domains: [acme.example, example.com], enforce: true")
	h.restart()
	h.wait(16 * time.Minute)
	refresh := func(tok map[string]any) int {
		return h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tok["refresh_token"].(string)}}).StatusCode
	}
	if n := refresh(tok); n != http.StatusBadRequest {
		t.Errorf("an old grant of the domain: %d", n)
	}
	if n := refresh(freeTok); n != http.StatusOK {
		t.Errorf("an old grant of another domain: %d", n)
	}
	if !admin.in() {
		t.Error("the break-glass admin is out")
	}
}

// The account that a refused sign-in proved is offered to the connector that its
// domain must use, and to no other.
func TestHomeEnforceOffersToItsOwn(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	yaml := func(b string) string { return g.hubs("", b) + g.connector("c", "") }
	h := start(t, yaml(""))
	g.has("7", "li@acme.example", true)
	sub := h.browser().enterAt("a", "7")
	h.yaml = yaml(", domains: [acme.example], enforce: true")
	h.restart()
	b := h.browser()
	a := b.from(b.follow(b.get("/account")), "a", "7")
	state := strings.TrimPrefix(linkTo(t, a, "/signin/b?attempt="), "/signin/b?attempt=")
	g.has("8", "elsewhere@x.example", true)
	a = b.follow(b.depart("/signin/c?attempt="+state, "c", "8"))
	if a.Request.URL.Path != "/account" || b.me()["id"] == sub || len(h.identities(sub)) != 1 {
		t.Errorf("%s %v", a.Request.URL, h.identities(sub))
	}
}
