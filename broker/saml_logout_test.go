package broker_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

func base64Text(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// until waits for what a job of the broker does.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// The provider ends the sessions that it means, and no others; a message counts
// once (docs/security.md SP-12).
func TestSAMLLogoutFromTheProvider(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", nil)
	alice, second, bob, local := d.browser(), d.browser(), d.browser(), d.browser()
	d.enter(alice, nil)
	d.enter(second, func(a *connectortest.SAMLAnswer) { a.SessionIndex = "s-2" })
	d.enter(bob, func(a *connectortest.SAMLAnswer) { a.NameID = "u-2" })
	local.enter("demo", "demo")
	message := d.slo("SAMLRequest", d.logoutRequest("_lo1", "u-1"))
	tampered := strings.Replace(message, "Signature=", "Signature=AAAA", 1)
	if a := d.browser().get(tampered); a.StatusCode != http.StatusBadRequest || !d.inside(alice) {
		t.Errorf("tampered: %d", a.StatusCode)
	}
	a := d.browser().get(message) // in a frame of the provider's, or in any browser: no cookie counts
	if a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(a.Header.Get("Location"), "https://idp.example.com/slo?SAMLResponse=") {
		t.Fatalf("%d %s\n%s", a.StatusCode, a.Header.Get("Location"), a.Body)
	}
	if doc := inflate(t, a.location().Query().Get("SAMLResponse")); !strings.Contains(doc, `InResponseTo="_lo1"`) {
		t.Error(doc)
	}
	if d.inside(alice) {
		t.Error("still signed in")
	}
	for who, b := range map[string]*browser{"another session of hers": second, "bob": bob, "a local user": local} {
		if !d.inside(b) {
			t.Errorf("%s was signed out too", who)
		}
	}
	if outs := d.w.named(event.Signout); len(outs) != 1 || outs[0].Details["by"] != "upstream" {
		t.Errorf("%+v", outs)
	}
	d.enter(alice, nil)
	if a := d.browser().get(message); a.StatusCode != http.StatusBadRequest || !d.inside(alice) {
		t.Errorf("a replay: %d", a.StatusCode)
	}
	// By POST, in the browser itself: its dead cookie goes.
	doc := d.idp.SignDocument(d.logoutRequest("_lo2", "u-1"))
	a = alice.post("/auth/acme/slo", url.Values{"SAMLRequest": {base64Text(doc)}}, "Origin", "https://idp.example.com", "Sec-Fetch-Site", "cross-site")
	if a.StatusCode != http.StatusSeeOther || d.inside(alice) {
		t.Errorf("by POST: %d", a.StatusCode)
	}
}

// Signing out here goes on to the provider by a page, since a form's answer may
// not leave our origin, and comes back to ours.
func TestSAMLLogoutFromHere(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", nil)
	b := d.browser()
	d.enter(b, nil)
	out := func() answer {
		page := b.get("/signout")
		return b.post("/signout", url.Values{"token": {field(t, tokenField, page)}})
	}
	a := out()
	_, to, _ := strings.Cut(a.Header.Get("Refresh"), "url=")
	if a.StatusCode != http.StatusOK || !strings.HasPrefix(to, "https://idp.example.com/slo?SAMLRequest=") || d.inside(b) {
		t.Fatalf("%d %q\n%s", a.StatusCode, to, a.Body)
	}
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	doc := inflate(t, u.Query().Get("SAMLRequest"))
	if !strings.Contains(doc, ">u-1<") || !strings.Contains(doc, ">s-1<") {
		t.Error(doc)
	}
	asked := requestID.FindStringSubmatch(doc)
	if asked == nil {
		t.Fatal("the request has no ID: " + doc)
	}
	ended := func(what string, b *browser, doc string, want bool) {
		t.Helper()
		got := b.follow(b.get(d.slo("SAMLResponse", doc)))
		if got.StatusCode != http.StatusOK || got.Request.URL.Path != "/signed-out" || strings.Contains(got.Body, "Acme") == want {
			t.Errorf("%s: %d %s", what, got.StatusCode, got.Request.URL)
		}
	}
	done := d.logoutResponse(asked[1])
	// An answer that says nothing certain ends at the same page, which then says so.
	ended("refused", b, strings.Replace(done, "status:Success", "status:Responder", 1), false)
	ended("to another request", b, d.logoutResponse("id-0000000000000000000000000000000000000000"), false)
	ended("to no request", b, strings.Replace(done, `InResponseTo="`+asked[1]+`"`, "", 1), false)
	ended("the answer", d.browser(), done, true) // no cookie counts
	ended("the answer again", b, done, false)
	if n := strings.Count(d.out.text(), "was not ended"); n != 4 {
		t.Errorf("%d lines in the log, not one for each answer that was not believed", n)
	}
}

// An answer that comes after the time for it counts no more.
func TestSAMLLogoutAnsweredTooLate(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", nil)
	b := d.browser()
	d.enter(b, nil)
	page := b.get("/signout")
	a := b.post("/signout", url.Values{"token": {field(t, tokenField, page)}})
	_, to, _ := strings.Cut(a.Header.Get("Refresh"), "url=")
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	asked := requestID.FindStringSubmatch(inflate(t, u.Query().Get("SAMLRequest")))
	d.wait(16 * time.Minute)
	if got := b.follow(b.get(d.slo("SAMLResponse", d.logoutResponse(asked[1])))); got.Request.URL.Path != "/signed-out" || !strings.Contains(got.Body, "Acme") {
		t.Errorf("%d %s", got.StatusCode, got.Request.URL)
	}
}

// A message that could not end its sessions is no replay when it is brought again.
func TestSAMLLogoutTriedAgain(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", nil)
	alice := d.browser()
	d.enter(alice, nil)
	message := d.slo("SAMLRequest", d.logoutRequest("_lo1", "u-1"))
	d.w.fail(true)
	if a := d.browser().get(message); a.StatusCode != http.StatusServiceUnavailable || !d.inside(alice) {
		t.Fatalf("with a store that fails: %d", a.StatusCode)
	}
	d.w.fail(false)
	if a := d.browser().get(message); a.StatusCode != http.StatusSeeOther || d.inside(alice) {
		t.Errorf("again: %d", a.StatusCode)
	}
	d.enter(alice, nil)
	if a := d.browser().get(message); a.StatusCode != http.StatusBadRequest || !d.inside(alice) {
		t.Errorf("a replay: %d", a.StatusCode)
	}
}

// A provider without single logout is named on the page instead.
func TestSAMLLogoutWithoutSLO(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", func(m string) string {
		return strings.ReplaceAll(m, "SingleLogoutService", "ArtifactResolutionService")
	})
	b := d.browser()
	d.enter(b, nil)
	page := b.get("/signout")
	a := b.follow(b.post("/signout", url.Values{"token": {field(t, tokenField, page)}}))
	if a.Request.URL.Path != "/signed-out" || !strings.Contains(a.Body, "Acme") {
		t.Errorf("%s\n%s", a.Request.URL, a.Body)
	}
}
