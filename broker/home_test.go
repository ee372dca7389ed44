package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// home is two hubs with domains, a hidden one, and staff.
func home(g *hub) string {
	return staff() + "connectors:\n" + g.connector("a", ", domains: [acme.example, shared.example, bücher.example]") +
		g.connector("b", ", domains: [b.example, shared.example, gmail.com]") + g.connector("c", ", domains: [hidden.example], hidden: true")
}

// give posts an address to the sign-in page that a is.
func (b *browser) give(a answer, email string) answer {
	b.h.t.Helper()
	return b.post("/signin", url.Values{"email": {email}, "attempt": {field(b.h.t, attemptField, a)}})
}

// E-mail first: one connector of the domain is gone to, by a page of ours;
// several are offered; what nobody has looks like what is misspelt.
func TestHomeByEmail(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	h := start(t, home(g))
	b := h.browser()
	page := b.follow(b.get("/account/claims"))
	if !strings.Contains(page.Body, `type="email"`) || strings.Contains(page.Body, "C Hub") {
		t.Fatalf("%s", page.Body)
	}
	before := h.rows()
	attempt := field(t, attemptField, page)
	for email, want := range map[string]string{
		"li@acme.example": "a", " Li@ACME.example ": "a", "li@b\u00fccher.example": "a", "li@xn--bcher-kva.example": "a", "li@b.example": "b", "li@hidden.example": "c",
	} {
		a := b.give(page, email)
		if to := hop(t, a); to != "/signin/"+want+"?attempt="+attempt {
			t.Errorf("%q leads to %s", email, to)
		}
		if a := b.get(hop(t, a)); a.location().Query().Get("state") != attempt || a.location().Query().Get("login") != strings.TrimSpace(email) {
			t.Errorf("%q departs to %s", email, a.location())
		}
	}
	a := b.give(page, "li@shared.example")
	if a.StatusCode != http.StatusOK || !strings.Contains(a.Body, "A Hub") || !strings.Contains(a.Body, "B Hub") || strings.Contains(a.Body, "C Hub") || strings.Contains(a.Body, `name="password"`) || !strings.Contains(a.Body, "more than one way") {
		t.Errorf("several: %d\n%s", a.StatusCode, a.Body)
	}
	if all := b.get(linkTo(t, a, "/signin?attempt=")); !strings.Contains(all.Body, `name="password"`) {
		t.Error("there is no way back to all methods")
	}
	var same string
	for _, email := range []string{"demo@example.com", "li@nobody.example", "li@gmail.com", "li@acme.example.evil.example", "li@sub.acme.example", "li@evilacme.example"} {
		a := b.give(page, email)
		body := strings.ReplaceAll(a.Body, email, "")
		if a.StatusCode != http.StatusOK || a.Header.Get("Refresh") != "" || !strings.Contains(a.Body, "Choose how to sign in.") {
			t.Errorf("%q: %d\n%s", email, a.StatusCode, a.Body)
		}
		if same == "" {
			same = body
		} else if body != same {
			t.Errorf("%q has a page of its own", email)
		}
	}
	for _, email := range []string{"", "li", "li@", "@acme.example", "li@evil.example@acme.example", "li@acme.example.", `"li"@acme.example`, "li@\u0430cme.example@x", "li@\uff41cme.example", strings.Repeat("l", 300) + "@acme.example", "\xff@acme.example", "<script>@acme.example"} {
		a := b.give(page, email)
		if a.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(a.Body, `aria-invalid="true"`) || !strings.Contains(a.Body, "<title>Error") && !strings.Contains(a.Body, "autofocus") || strings.Contains(a.Body, "<script>@") {
			t.Errorf("%q: %d\n%s", email, a.StatusCode, a.Body)
		}
	}
	if after := h.rows(); len(after) != len(before) {
		t.Errorf("asking wrote to the store: %v, was %v", after, before)
	}
	// The target is kept.
	a = b.give(b.follow(b.get("/account/claims")), "li@acme.example")
	if a = b.follow(b.depart(hop(t, a), "a", "7")); a.Request.URL.Path != "/account/claims" || a.StatusCode != http.StatusOK {
		t.Errorf("ended at %s", a.Request.URL)
	}
}

// Old pages and blocked cookies start again on our page, and never leave by
// themselves (UP-1); other sites' forms do nothing.
func TestHomeStale(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	h := start(t, home(g))
	b := h.browser()
	page := b.follow(b.get("/account"))
	if a := h.browser().give(page, "li@acme.example"); a.StatusCode != http.StatusOK || a.Header.Get("Refresh") != "" || !strings.Contains(a.Body, "did not send our cookie") || !strings.Contains(a.Body, "li@acme.example") {
		t.Errorf("without the cookie: %d %s", a.StatusCode, a.Body)
	}
	h.wait(attemptAge)
	if a := b.give(page, "li@acme.example"); a.StatusCode != http.StatusOK || a.Header.Get("Refresh") != "" || !strings.Contains(a.Body, "out of date") {
		t.Errorf("an old page: %d", a.StatusCode)
	}
	if a := b.post("/signin", url.Values{"email": {"li@acme.example"}, "attempt": {field(t, attemptField, b.get("/signin"))}}, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"); a.StatusCode != http.StatusForbidden {
		t.Errorf("another site: %d", a.StatusCode)
	}
}

// connector_id and domain_hint skip the page, hidden connectors included; a hint
// that is unclear shows it.
func TestHomeHints(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	h := start(t, home(g))
	for hint, want := range map[string]string{
		"connector_id=a": "a", "connector_id=c": "c", "connector_id=nothing": "", "connector_id=": "",
		"domain_hint=acme.example": "a", "domain_hint=ACME.Example": "a", "domain_hint=b%C3%BCcher.example": "a", "domain_hint=xn--bcher-kva.example": "a", "domain_hint=hidden.example": "c",
		"domain_hint=shared.example": "", "domain_hint=gmail.com": "", "domain_hint=evil.example": "", "domain_hint=li%40acme.example": "", "domain_hint=%EF%BD%81cme.example": "", "domain_hint=acme.example.": "",
	} {
		b := h.browser()
		a := b.get("/oauth2/authorize?" + authRequest().Encode() + "&" + hint)
		for a.StatusCode == http.StatusSeeOther && strings.HasPrefix(a.location().String(), h.URL) {
			a = b.get(a.location().String())
		}
		if want == "" {
			if a.StatusCode != http.StatusOK || a.Request.URL.Path != "/signin" {
				t.Errorf("%s: %d %s", hint, a.StatusCode, a.location())
			}
			continue
		}
		if !strings.HasPrefix(a.location().String(), g.URL) || !strings.Contains(a.location().Query().Get("redirect_uri"), "/auth/"+want+"/callback") {
			t.Errorf("%s: %d %s", hint, a.StatusCode, a.location())
		}
	}
}

// With one method there is nothing to find.
func TestHomeNeedsAChoice(t *testing.T) {
	t.Parallel()
	if b := start(t, "local: {domains: [example.com], users: []}\n").browser(); strings.Contains(b.get("/signin").Body, `type="email"`) {
		t.Error("one method, and an address is asked for")
	}
	if b := start(t, "").browser(); strings.Contains(b.get("/signin").Body, `type="email"`) {
		t.Error("no domains, and an address is asked for")
	}
}
