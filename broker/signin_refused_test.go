package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Whoever is refused after a proof sees why, leaves no account behind, and can
// go on as somebody else to the same target; the spent attempt serves nobody.
func TestRefusedAfterProof(t *testing.T) {
	t.Parallel()
	gh := startGitHub(t)
	for name, c := range map[string]struct{ connector, text, code string }{
		"allow":   {"allow: 'identity.username == \"p9\"'", "may not use", "policy.denied"},
		"signup":  {"signup: invite", "", "account.signup_closed"},
		"domains": {"signup: domains, domains: [elsewhere.example]", "", "account.signup_closed"},
	} {
		h := start(t, "connectors:\n  - {id: hub, type: github, client_id: app, client_secret: s3cret, base_url: '"+gh.URL+"', organizations: [{name: acme}], "+c.connector+"}\n")
		b := h.browser()
		state := field(t, attemptField, b.follow(b.get("/account/claims")))
		b.get("/signin/hub?attempt=" + state)
		cb := "/auth/hub/callback?" + url.Values{"state": {state}, "code": {"7"}}.Encode()
		a := b.get(cb)
		if a.StatusCode != http.StatusForbidden || !strings.Contains(a.Body, c.code) || !strings.Contains(a.Body, "GH-") || b.in() {
			t.Fatalf("%s: %d\n%s", name, a.StatusCode, a.Body)
		}
		if rows := h.rows(); rows["user"]+rows["identity"]+rows["session"] != 0 {
			t.Errorf("%s: the store has %v", name, rows)
		}
		if again := b.get(cb); !startsAgain(again) {
			t.Errorf("%s: the spent attempt: %d", name, again.StatusCode)
		}
		_, link, ok := strings.Cut(a.Body, `href="/signin?attempt=`)
		if !ok {
			t.Fatalf("%s: no way on:\n%s", name, a.Body)
		}
		link, _, _ = strings.Cut(link, `"`)
		if a := b.signIn(b.get("/signin?attempt="+link), "demo", "demo"); a.Request.URL.Path != "/account/claims" || a.StatusCode != http.StatusOK {
			t.Errorf("%s: as somebody else: %s %d", name, a.Request.URL, a.StatusCode)
		}
	}
}

// A suspended person is out at once, refused by name, and in again when resumed;
// what was ended stays ended.
func TestSuspended(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	b.enter("demo", "demo")
	tok := h.tokens()
	id := claims(t, tok["id_token"])["sub"].(string)
	if a := h.operator(http.MethodPost, "/api/v1/users/"+id+"/suspend", ""); a.StatusCode >= 300 {
		t.Fatalf("suspend: %d %s", a.StatusCode, a.Body)
	}
	if b.in() {
		t.Error("a suspended user is in")
	}
	if a := h.refreshed(tok["refresh_token"]); a.StatusCode != http.StatusBadRequest {
		t.Errorf("refreshed: %d", a.StatusCode)
	}
	a := b.signIn(b.follow(b.get("/account/claims")), "demo", "demo")
	if a.StatusCode != http.StatusForbidden || !strings.Contains(a.Body, "account.disabled") || b.in() {
		t.Fatalf("signed in: %d\n%s", a.StatusCode, a.Body)
	}
	// Back, and as somebody else: the form leads to a fresh one with the target.
	if a := h.operator(http.MethodPost, "/api/v1/users/"+id+"/resume", ""); a.StatusCode >= 300 {
		t.Fatalf("resume: %d %s", a.StatusCode, a.Body)
	}
	if a := h.refreshed(tok["refresh_token"]); a.StatusCode != http.StatusBadRequest {
		t.Errorf("what was ended came back: %d", a.StatusCode)
	}
	b.enter("demo", "demo")
}

// The form of a refused person, opened again by the Back button, leads to a
// fresh one with the same target.
func TestBackAfterRefusal(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	b.enter("admin", "admin")
	id := b.get("/api/v1/me").json(t)["id"].(string)
	b.signOutHere()
	h.operator(http.MethodPost, "/api/v1/users/"+id+"/suspend", "")
	page := b.follow(b.get("/account/claims"))
	if a := b.signIn(page, "admin", "admin"); a.StatusCode != http.StatusForbidden {
		t.Fatalf("%d", a.StatusCode)
	}
	a := b.signIn(page, "demo", "demo")
	if !startsAgain(a) {
		t.Fatalf("the old form: %d\n%s", a.StatusCode, a.Body)
	}
	if a = b.signIn(a, "demo", "demo"); a.Request.URL.Path != "/account/claims" {
		t.Errorf("it led to %s", a.Request.URL)
	}
}

// SE-11 through the doors: whoever leaves the organization is out within a
// recheck, token included; an organization that cannot be asked is excused for
// four hours; a portal page does not wait for it.
func TestRecheckThroughTheDoors(t *testing.T) {
	t.Parallel()
	gh := startGitHub(t)
	h := start(t, gh.yaml())
	gone, stays := h.browser(), h.browser()
	gone.enterBy("7")
	stays.enterBy("8")
	tok := h.redeem(gone.code(authRequest())).json(t)
	if g := claims(t, tok["id_token"])["groups"]; g == nil || !strings.HasPrefix(g.([]any)[0].(string), "github:") {
		t.Errorf("groups: %v", g)
	}
	gh.set(func() { gh.left["7"] = true })
	h.wait(16 * time.Minute)
	if !gone.in() { // this use asks, and does not wait
		t.Error("the use that asks was refused")
	}
	for end := time.Now().Add(10 * time.Second); gone.in(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("whoever left the organization stays in")
		}
	}
	if a := h.refreshed(tok["refresh_token"]); a.StatusCode != http.StatusBadRequest {
		t.Errorf("refreshed: %d %s", a.StatusCode, a.Body)
	}
	if !stays.in() {
		t.Error("a colleague is out")
	}
	gh.set(func() { gh.down = true })
	h.wait(3 * time.Hour)
	asked := gh.count(&gh.asked)
	for range 2 { // the first one asks
		if !stays.in() {
			t.Error("an upstream that is away ended a session within the grace")
		}
	}
	if gh.count(&gh.asked) != asked {
		t.Error("the page waited for the upstream")
	}
}
