package broker_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// Somebody who is signed in links another way in, comes by it to the same
// account with that way's groups alone (UP-11), and unlinks it, which ends what
// it opened. All of it is recorded.
func TestLinkWhileSignedIn(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	log := &watchedStore{}
	h := startWith(t, &harness{yaml: g.hubs("", ""), wrap: log.watch})
	b := h.in("demo")
	sub := b.me()["id"].(string)
	a := b.askLink("a")
	// A form's answer never redirects to another origin (ux F1).
	a = b.follow(b.depart(hop(t, a), "a", "7"))
	if a.Request.URL.Path != "/account/links" || !strings.Contains(a.Body, "A Hub") || !strings.Contains(a.Body, "Linked. You can") {
		t.Fatalf("linking ended at %s:\n%s", a.Request.URL, a.Body)
	}
	other := h.browser()
	if got := other.enterAt("a", "7"); got != sub {
		t.Fatalf("the linked identity leads to %s, not %s", got, sub)
	}
	if groups := fmt.Sprint(other.me()["groups"]); strings.Contains(groups, "gpu-users") || !strings.Contains(groups, "a:acme") {
		t.Errorf("groups of the linked identity's session: %s", groups)
	}
	if groups := fmt.Sprint(b.me()["groups"]); groups != "[gpu-users]" {
		t.Errorf("groups of the old session: %s", groups)
	}
	ids := b.page(http.MethodGet, "/api/v1/me/identities", "").json(t)["items"].([]any)
	if len(ids) != 2 {
		t.Fatalf("identities %v", ids)
	}
	link, local := b.linkOf("a"), b.linkOf("local")
	tok := h.redeem(other.code(authRequest())).json(t)
	if a := b.page(http.MethodDelete, "/api/v1/me/identities/"+link, ""); a.StatusCode != http.StatusNoContent {
		t.Fatalf("unlink: %d %s", a.StatusCode, a.Body)
	}
	if other.in() {
		t.Error("the session of the unlinked identity goes on")
	}
	if a := h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {fmt.Sprint(tok["refresh_token"])}}); a.StatusCode != http.StatusBadRequest {
		t.Errorf("its refresh token: %d %s", a.StatusCode, a.Body)
	}
	if !b.in() {
		t.Error("the session of the other identity ended")
	}
	if a := b.page(http.MethodDelete, "/api/v1/me/identities/"+local, ""); a.StatusCode != http.StatusConflict || a.json(t)["code"] != "identity.last" {
		t.Errorf("the last one: %d %s", a.StatusCode, a.Body)
	}
	page := b.get("/account/links")
	if a := b.post("/account/links/unlink", url.Values{"identity": {local}, "token": {field(t, tokenField, page)}}); a.StatusCode != http.StatusConflict || !strings.Contains(a.Body, "last way to sign in") {
		t.Errorf("the last one by the page: %d %s", a.StatusCode, a.Body)
	}
	linked, unlinked := log.named(event.IdentityLinked), log.named(event.IdentityUnlinked)
	if len(linked) != 1 || linked[0].Target != sub || linked[0].Actor != sub || linked[0].Connector != "a" || linked[0].Details["how"] != "signed_in" {
		t.Errorf("linked: %+v", linked)
	}
	if len(unlinked) != 1 || unlinked[0].Target != sub || unlinked[0].Details["identity"] != link {
		t.Errorf("unlinked: %+v", unlinked)
	}
	if l := log.log(); strings.Contains(l, "p7@acme") {
		t.Error("an event holds an address")
	}
	// Unlinked is nobody's: it gets an account of its own.
	if got := h.browser().enterAt("a", "7"); got == sub {
		t.Error("the unlinked identity still leads here")
	}
}

// Only whoever signed in a moment ago changes how the account is entered.
func TestLinkNeedsAFreshSignIn(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	h := start(t, g.hubs("", ""))
	b := h.in("demo")
	b.follow(b.depart(hop(t, b.askLink("a")), "a", "7"))
	h.wait(6 * time.Minute)
	a := b.follow(b.askLink("b"))
	if a.Request.URL.Path != "/signin" {
		t.Fatalf("an old session may link: %s\n%s", a.Request.URL, a.Body)
	}
	link := b.linkOf("a")
	if d := b.page(http.MethodDelete, "/api/v1/me/identities/"+link, ""); d.StatusCode != http.StatusForbidden || d.json(t)["code"] != "policy.stepup" {
		t.Errorf("an old session may unlink: %d %s", d.StatusCode, d.Body)
	}
	if d := b.post("/account/links/unlink", url.Values{"identity": {link}, "token": {field(t, tokenField, b.get("/account/links"))}}); d.location().Path != "/signin" {
		t.Errorf("an old session may unlink: %d %s", d.StatusCode, d.location())
	}
	if a = b.signIn(a, "demo", "demo"); a.Request.URL.Path != "/account/links" {
		t.Errorf("afterwards at %s", a.Request.URL)
	}
	b.follow(b.depart(hop(t, b.askLink("b")), "b", "8"))
	if ids := h.identities(b.me()["id"].(string)); len(ids) != 3 {
		t.Errorf("identities %v", ids)
	}
}

// What was asked for in one session, or browser, links to no other.
func TestLinkStaysWithItsSession(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	h := start(t, g.hubs("", ""))
	for name, between := range map[string]func(b *browser){
		"signed out": func(b *browser) {
			b.post("/signout", url.Values{"token": {field(t, tokenField, b.get("/signout"))}})
		},
		"somebody else": func(b *browser) {
			b.signIn(b.follow(b.get("/signin?attempt=unknown")), "other", "other")
		},
		"the same person anew": func(b *browser) {
			b.post("/signout", url.Values{"token": {field(t, tokenField, b.get("/signout"))}})
			b.enter("demo", "demo")
		},
	} {
		b := h.in("demo")
		a := b.get(hop(t, b.askLink("a")))
		between(b)
		a = b.follow(b.back("a", a.location().Query().Get("state"), "7"))
		if !strings.Contains(a.Body, "session ended") && !startsAgain(a) {
			t.Errorf("%s: %d %s\n%s", name, a.StatusCode, a.Request.URL, a.Body)
		}
	}
	for _, user := range []string{"demo", "other"} {
		if ids := h.identities(h.userID(user)); len(ids) != 1 {
			t.Errorf("%s has %v", user, ids)
		}
	}
	// Another browser has no cookie of the attempt.
	b, thief := h.in("demo"), h.in("other")
	a := b.get(hop(t, b.askLink("a")))
	if a := thief.back("a", a.location().Query().Get("state"), "7"); !startsAgain(a) {
		t.Errorf("another browser: %d %s", a.StatusCode, a.Body)
	}
	// A form of another site, or without the page's token, begins nothing.
	if a := b.post("/account/links/link", url.Values{"connector": {"a"}}); a.StatusCode != http.StatusForbidden {
		t.Errorf("no token: %d", a.StatusCode)
	}
	if a := b.post("/account/links/link", url.Values{"connector": {"a"}, "token": {field(t, tokenField, b.get("/account/links"))}}, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"); a.StatusCode != http.StatusForbidden {
		t.Errorf("another site: %d", a.StatusCode)
	}
	if a := b.askLink("nothing"); a.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown connector: %d", a.StatusCode)
	}
	// What is somebody's stays theirs.
	owner := h.browser().enterAt("a", "9")
	a = b.follow(b.depart(hop(t, b.askLink("a")), "a", "9"))
	if a.StatusCode != http.StatusConflict || !strings.Contains(a.Body, "link.taken") {
		t.Errorf("another's identity: %d\n%s", a.StatusCode, a.Body)
	}
	if ids := h.identities(owner); !slices.Equal(ids, []string{"a 9"}) {
		t.Errorf("the owner has %v", ids)
	}
	// A password connector links by its form, and a wrong password links nothing.
	hubber := h.browser()
	sub := hubber.enterAt("a", "10")
	to := hop(t, hubber.askLink("local"))
	form := func(password string) answer {
		return hubber.post("/signin/local", url.Values{"username": {"help"}, "password": {password}, "attempt": {field(t, attemptField, hubber.get(to))}})
	}
	if a := form("wrong"); a.StatusCode != http.StatusUnprocessableEntity || len(h.identities(sub)) != 1 {
		t.Errorf("a wrong password: %d", a.StatusCode)
	}
	if a := hubber.follow(form("help")); a.Request.URL.Path != "/account/links" || len(h.identities(sub)) != 2 {
		t.Errorf("a password: %s %v", a.Request.URL, h.identities(sub))
	}
}

// UP-8: what is for linking alone opens nothing, at no entry; what is disabled is
// not there. Sessions that they opened have ended.
func TestLinkOnlyAndDisabled(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	for name, c := range map[string]struct {
		keys  string
		links bool
	}{"link only": {", link_only: true", true}, "disabled": {", disabled: true", false}, "removed": {"", false}} {
		h := start(t, g.hubs("", ""))
		b := h.browser()
		sub := b.enterAt("b", "7")
		tok := h.redeem(b.code(authRequest())).json(t)
		cliToken := b.cli("openid gatehouse:account")
		waiting := h.browser() // has left for the connector already
		state := field(t, attemptField, waiting.follow(waiting.get("/account")))
		waiting.get("/signin/b?attempt=" + state)
		if h.yaml = g.hubs("", c.keys); c.keys == "" {
			h.yaml = staff() + "connectors:\n" + g.connector("a", "")
		}
		h.restart()
		if b.in() {
			t.Errorf("%s: the session goes on", name)
		}
		if a := h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {fmt.Sprint(tok["refresh_token"])}}); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: refresh: %d %s", name, a.StatusCode, a.Body)
		}
		if a := h.bearer("/oauth2/userinfo", tok["access_token"]); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: userinfo: %d", name, a.StatusCode)
		}
		if a := h.as(cliToken, http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: the API: %d", name, a.StatusCode)
		}
		if a := waiting.follow(waiting.back("b", state, "7")); waiting.in() || a.StatusCode == http.StatusOK && a.Request.URL.Path == "/account" {
			t.Errorf("%s: the callback: %d", name, a.StatusCode)
		}
		fresh := h.browser()
		state = field(t, attemptField, fresh.follow(fresh.get("/account")))
		if a := fresh.get("/signin/b?attempt=" + state); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s: the start: %d", name, a.StatusCode)
		}
		if a := fresh.get("/signin?attempt=" + state); strings.Contains(a.Body, "B Hub") {
			t.Errorf("%s: it is on the page", name)
		}
		q := authRequest()
		q.Set("connector_id", "b")
		if a := fresh.get("/oauth2/authorize?" + q.Encode()); strings.Contains(a.location().String(), g.URL) || strings.Contains(a.location().Path, "/signin/b") {
			t.Errorf("%s: connector_id leads there", name)
		}
		demo := h.in("demo")
		if a := demo.askLink("b"); (a.StatusCode == http.StatusOK) != c.links {
			t.Errorf("%s: linking: %d", name, a.StatusCode)
		} else if c.links {
			if a := demo.follow(demo.depart(hop(t, a), "b", "8")); a.Request.URL.Path != "/account/links" {
				t.Errorf("%s: linking ended at %s", name, a.Request.URL)
			}
			// It leads nowhere, so that the other is the last way in.
			if a := demo.page(http.MethodDelete, "/api/v1/me/identities/"+demo.linkOf("local"), ""); a.StatusCode != http.StatusConflict {
				t.Errorf("%s: the last way in was unlinked: %d", name, a.StatusCode)
			}
		}
		if ids := h.identities(sub); len(ids) != 1 { // it waits for the connector
			t.Errorf("%s: the account has %v", name, ids)
		}
	}
}
