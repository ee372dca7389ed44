package broker_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

// A whole sign-in: the cross-site POST is parked, and only the browser that left
// gets a session, once (docs/security.md SP-8).
func TestSAMLSignIn(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", nil)
	b := d.browser()
	request, relay := d.depart(b, b.follow(b.get("/")))
	doc := d.idp.Document(d.answer(request))
	parked := d.post(doc, relay)
	if parked.StatusCode != http.StatusSeeOther || !strings.HasPrefix(parked.Header.Get("Location"), "/auth/acme/callback?answer=") {
		t.Fatalf("%d %s", parked.StatusCode, parked.Header.Get("Location"))
	}
	handle := parked.Header.Get("Location")
	// Login CSRF: another browser that is led there is asked to sign in itself,
	// and uses nothing up.
	other := d.browser()
	if a := other.follow(other.get(handle)); !strings.Contains(a.Body, `name="attempt"`) || d.inside(other) {
		t.Errorf("another browser: %d\n%s", a.StatusCode, a.Body)
	}
	if d.inside(b) {
		t.Error("signed in before the cookie was looked at")
	}
	if a := b.follow(b.get(handle)); a.StatusCode != http.StatusOK || a.Request.URL.Path != "/" {
		t.Fatalf("%d %s\n%s", a.StatusCode, a.Request.URL, a.Body)
	}
	// The handle is good once, the attempt as well.
	b.get(handle)
	again := d.post(doc, relay)
	third := d.browser()
	third.follow(third.get(again.Header.Get("Location")))
	if d.inside(third) {
		t.Error("a second browser signed in by a used answer")
	}
	if n := len(d.w.named(event.SigninSucceeded)); n != 1 {
		t.Errorf("%d sign-ins", n)
	}
	if page := b.get("/account/claims"); !strings.Contains(page.Body, "acme:gpu") || !strings.Contains(page.Body, "alice@acme.com") {
		t.Errorf("%s", page.Body)
	}
}

// A parked answer waits for two minutes.
func TestSAMLParkedTooLong(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", nil)
	b := d.browser()
	request, relay := d.depart(b, b.follow(b.get("/")))
	parked := d.post(d.idp.Document(d.answer(request)), relay)
	d.wait(2*time.Minute + time.Second)
	a := b.follow(b.get(parked.Header.Get("Location")))
	if d.inside(b) || !strings.Contains(a.Body, "out of date") {
		t.Errorf("%d\n%s", a.StatusCode, a.Body)
	}
}

// An assertion's and a response's id count once, whatever request they answer
// (docs/security.md SP-7).
func TestSAMLReplay(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", nil)
	b := d.browser()
	var first *connectortest.SAMLAnswer
	d.enter(b, func(a *connectortest.SAMLAnswer) { first = a })
	for what, change := range map[string]func(*connectortest.SAMLAnswer){
		"assertion": func(a *connectortest.SAMLAnswer) { a.AssertionID = first.AssertionID },
		"response":  func(a *connectortest.SAMLAnswer) { a.ResponseID = first.ResponseID },
	} {
		other := d.browser()
		a := d.enter(other, change)
		if a.StatusCode != http.StatusBadGateway || !strings.Contains(a.Body, "saml.replayed") || d.inside(other) {
			t.Errorf("%s: %d\n%s", what, a.StatusCode, a.Body)
		}
	}
	if failed := d.w.named(event.SigninFailed); len(failed) == 0 || failed[0].Details["reason"] != "saml.replayed" {
		t.Errorf("%+v", failed)
	}
}

// What is not signed by the provider leaves nothing in the store; its reason is
// in the log alone.
func TestSAMLForged(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", nil)
	b := d.browser()
	request, relay := d.depart(b, b.follow(b.get("/")))
	a := d.answer(request)
	a.SignAssertion = false
	d.post(d.idp.Document(a), relay) // makes our key to decrypt with
	until(t, "the look at certificates", func() bool { return len(d.w.named(event.ConnectorCertificate)) == 1 })
	before, told := d.w.written(), len(d.w.named(event.SigninFailed))
	for range 10 {
		got := d.post(d.idp.Document(a), relay)
		if got.StatusCode != http.StatusBadGateway || !strings.Contains(got.Body, "saml.signature") || strings.Contains(got.Body, "unsigned") {
			t.Fatalf("%d\n%s", got.StatusCode, got.Body)
		}
	}
	if n, events := d.w.written()-before, len(d.w.named(event.SigninFailed))-told; n != events {
		t.Errorf("%d writes beside %d events: something was parked", n-events, events)
	}
	if !strings.Contains(d.out.text(), "saml: unsigned: neither the response nor the assertion is signed") {
		t.Errorf("the log does not say why:\n%s", d.out.text())
	}
	if strings.Contains(d.out.text(), "alice@acme.com") {
		t.Error("the log quotes the document")
	}
}

// Parking is bounded, and what led to a session is taken back (G10).
func TestSAMLParkingIsLimited(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "rate_limits: {stored_attempts: 2}\n", nil)
	for range 4 { // successes do not count
		if b := d.browser(); d.enter(b, nil).StatusCode != http.StatusOK || !d.inside(b) {
			t.Fatal("not signed in")
		}
	}
	b := d.browser()
	request, relay := d.depart(b, b.follow(b.get("/")))
	doc := d.idp.Document(d.answer(request))
	codes := []int{d.post(doc, relay).StatusCode, d.post(doc, relay).StatusCode, d.post(doc, relay).StatusCode}
	if codes[0] != 303 || codes[1] != 303 || codes[2] != http.StatusTooManyRequests {
		t.Errorf("%v", codes)
	}
}

// A sign-in that begins at the provider is refused, or begun here.
func TestSAMLIdPInitiated(t *testing.T) {
	t.Parallel()
	off := startSAML(t, "", "", nil)
	a := off.post(off.idp.Document(off.answer("")), "")
	if a.StatusCode != http.StatusBadGateway || !strings.Contains(off.out.text(), "saml: idp_initiated") {
		t.Errorf("off: %d\n%s", a.StatusCode, a.Body)
	}
	on := startSAML(t, "allow_idp_initiated: true\nidp_initiated_targets: [apps=/account/apps]\n", "", nil)
	b := on.browser()
	unasked := on.answer("")
	first := b.post("/auth/acme/callback", url.Values{"SAMLResponse": {base64Text(on.idp.Document(unasked))}, "RelayState": {"apps"}}, "Origin", "https://idp.example.com", "Sec-Fetch-Site", "cross-site")
	request, relay := on.asked(first)
	if on.inside(b) {
		t.Error("an unasked answer signed somebody in")
	}
	parked := on.post(on.idp.Document(on.answer(request)), relay)
	got := b.follow(b.get(parked.Header.Get("Location")))
	if got.StatusCode != http.StatusOK || got.Request.URL.Path != "/account/apps" {
		t.Errorf("%d %s", got.StatusCode, got.Request.URL)
	}
}

// prompt=login and max_age ask for a fresh authentication, and get one.
func TestSAMLForceAuthn(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", nil)
	b := d.browser()
	d.enter(b, func(a *connectortest.SAMLAnswer) { a.AuthnAt = d.now().Add(-time.Hour) })
	for _, ask := range []url.Values{{"prompt": {"login"}}, {"max_age": {"60"}}} {
		q := authRequest()
		for k := range ask {
			q.Set(k, ask.Get(k))
		}
		page := b.follow(b.get("/oauth2/authorize?" + q.Encode()))
		a := b.get("/signin/acme?attempt=" + field(t, attemptField, page))
		if doc := inflate(t, a.location().Query().Get("SAMLRequest")); !strings.Contains(doc, `ForceAuthn="true"`) {
			t.Errorf("%v: %s", ask, doc)
		}
		request, relay := d.asked(a)
		stale := d.answer(request)
		stale.AuthnAt = d.now().Add(-time.Hour)
		parked := d.post(d.idp.Document(stale), relay)
		if got := b.follow(b.get(parked.Header.Get("Location"))); got.StatusCode != http.StatusBadGateway || !strings.Contains(d.out.text(), "saml: not_fresh") {
			t.Errorf("%v: an old sign-in was good enough: %d", ask, got.StatusCode)
		}
	}
}

// SessionNotOnOrAfter ends our session too (SP-6).
func TestSAMLSessionEnds(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", nil)
	b := d.browser()
	d.enter(b, func(a *connectortest.SAMLAnswer) { a.SessionUntil = d.now().Add(30 * time.Minute) })
	d.wait(29 * time.Minute)
	if !d.inside(b) {
		t.Error("ended early")
	}
	d.wait(2 * time.Minute)
	if d.inside(b) {
		t.Error("outlives the session at the provider")
	}
}

// Where the provider takes POST alone, a page of ours sends the form; its policy
// lets a form go there and nowhere else.
func TestSAMLPostBinding(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", func(m string) string { return strings.ReplaceAll(m, "bindings:HTTP-Redirect", "bindings:SOAP") })
	b := d.browser()
	page := b.follow(b.get("/"))
	if csp := page.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "form-action 'self';") {
		t.Errorf("the sign-in page: %s", csp)
	}
	a := b.get("/signin/acme?attempt=" + field(t, attemptField, page))
	for _, want := range []string{`action="https://idp.example.com/sso"`, `method="post"`, `name="SAMLRequest"`, `name="RelayState"`, "data-send", "<button"} {
		if !strings.Contains(a.Body, want) {
			t.Errorf("no %s in\n%s", want, a.Body)
		}
	}
	if csp := a.Header.Get("Content-Security-Policy"); a.StatusCode != http.StatusOK || !strings.Contains(csp, "form-action 'self' https://idp.example.com;") || !strings.Contains(csp, "script-src 'self';") {
		t.Errorf("%d %s", a.StatusCode, csp)
	}
}

// Our metadata is there for SAML connectors alone, stays the same, and names
// separate keys.
func TestSAMLMetadata(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", nil)
	b := d.browser()
	a := b.get("/auth/acme/metadata")
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "application/samlmetadata+xml" || !strings.Contains(a.Body, d.base()+"/callback") {
		t.Fatalf("%d %s\n%s", a.StatusCode, a.Header.Get("Content-Type"), a.Body)
	}
	parts := strings.Split(a.Body, "<ds:X509Certificate>")
	if len(parts) != 3 || parts[1][:500] == parts[2][:500] {
		t.Errorf("the keys are not separate:\n%s", a.Body)
	}
	d.restart()
	if again := d.browser().get("/auth/acme/metadata"); again.Body != a.Body {
		t.Error("the keys did not outlive a restart")
	}
	for _, path := range []string{"/auth/local/metadata", "/auth/none/metadata", "/auth/local/slo", "/auth/none/slo"} {
		if got := b.get(path); got.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, got.StatusCode)
		}
	}
}

// A certificate that is about to end is told of once for each threshold, and a
// changed one is recorded (SP-3).
func TestSAMLCertificateEvents(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", "", nil) // the provider's certificate has 20 days
	expiring := func() []event.Event { return d.w.named(event.ConnectorCertificate) }
	until(t, "the first warning", func() bool { return len(expiring()) == 1 })
	if e := expiring()[0]; e.Connector != "acme" || e.Details["days"] != "30" || e.Details["whose"] != "upstream" {
		t.Errorf("%+v", e)
	}
	d.restart()
	d.browser().get("/healthz")
	d.wait(14 * 24 * time.Hour)
	d.restart() // looks at once
	until(t, "the second warning", func() bool { return len(expiring()) >= 2 })
	if all := expiring(); len(all) != 2 || all[1].Details["days"] != "7" {
		t.Errorf("%+v", all)
	}
}

// A provider that hangs holds nobody but those who want to go there: others sign
// in at full speed, and the page opens.
func TestSAMLHangs(t *testing.T) {
	t.Parallel()
	hanging := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hanging:
		case <-r.Context().Done():
		}
	}))
	defer srv.Close()
	defer close(hanging)
	h := start(t, "connectors:\n  - {id: acme, type: saml, name: Acme, metadata_url: \""+srv.URL+"\"}\n")
	stuck := h.browser()
	page := stuck.follow(stuck.get("/"))
	gone := make(chan answer, 1)
	go func() { gone <- stuck.get("/signin/acme?attempt=" + field(t, attemptField, page)) }()
	for range 3 {
		b := h.browser()
		b.enter("demo", "demo")
	}
	select {
	case a := <-gone:
		t.Errorf("the provider does not hang: %d", a.StatusCode)
	default:
	}
	if a := <-gone; a.StatusCode != http.StatusServiceUnavailable || !strings.Contains(a.Body, "Acme") {
		t.Errorf("after a while: %d", a.StatusCode)
	}
}

// A connector's rule reads every attribute, as a list.
func TestSAMLAllowByAttribute(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "allow: '\"staff\" in identity.claims[\"affiliation\"] && \"gpu\" in identity.groups'\n", "", nil)
	staff, guest := d.browser(), d.browser()
	d.enter(staff, func(a *connectortest.SAMLAnswer) { a.Attributes["affiliation"] = []string{"member", "staff"} })
	if !d.inside(staff) {
		t.Error("staff may not sign in")
	}
	a := d.enter(guest, func(a *connectortest.SAMLAnswer) { a.NameID, a.Attributes["affiliation"] = "u-9", []string{"guest"} })
	if d.inside(guest) || a.StatusCode != http.StatusForbidden {
		t.Errorf("a guest: %d", a.StatusCode)
	}
	none := d.browser() // the attribute is not there at all: the rule fails, and refuses (G1)
	d.enter(none, func(a *connectortest.SAMLAnswer) { a.NameID = "u-10" })
	if d.inside(none) {
		t.Error("signed in without the attribute")
	}
}
