package broker_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// hub is a gitHub whose people have the addresses that a test gives them.
type hub struct {
	URL  string
	mu   sync.Mutex
	mail map[string]hubMail
}

type hubMail struct {
	address  string
	verified bool
}

func startHub(t testing.TB) *hub {
	t.Helper()
	inner, err := url.Parse(startGitHub(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	g := &hub{mail: map[string]hubMail{}}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(inner) }}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		m, ok := g.mail[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer gho_")]
		g.mu.Unlock()
		if r.URL.Path != "/api/v3/user/emails" || !ok {
			proxy.ServeHTTP(w, r)
			return
		}
		w.Header().Set("X-OAuth-Scopes", "read:org, read:user, user:email")
		_ = json.NewEncoder(w).Encode([]map[string]any{{"email": m.address, "primary": true, "verified": m.verified}})
	}))
	t.Cleanup(srv.Close)
	g.URL = srv.URL
	return g
}

// has gives the person with that number an address.
func (g *hub) has(person, address string, verified bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mail[person] = hubMail{address, verified}
}

// connector is one of `connectors`, with more keys.
func (g *hub) connector(id, more string) string {
	return fmt.Sprintf("  - {id: %s, type: github, name: %s Hub, client_id: app, client_secret: s3cret, unverified_email: true, base_url: '%s', organizations: [{name: acme}]%s}\n", id, strings.ToUpper(id), g.URL, more)
}

// hubs is staff and two hubs, a and b, each with more keys.
func (g *hub) hubs(a, b string) string {
	return staff() + "connectors:\n" + g.connector("a", a) + g.connector("b", b)
}

// from signs a person in by a hub, beginning at a page of the sign-in that knows
// its attempt, and returns where that leads without following it.
func (b *browser) from(a answer, connector, person string) answer {
	b.h.t.Helper()
	state := field(b.h.t, attemptField, a)
	return b.depart("/signin/"+connector+"?attempt="+state, connector, person)
}

// depart leaves by a link of ours for a hub and comes back as a person.
func (b *browser) depart(link, connector, person string) answer {
	b.h.t.Helper()
	a := b.get(link)
	state := a.location().Query().Get("state")
	if a.StatusCode != http.StatusSeeOther || state == "" {
		b.h.t.Fatalf("%s is no departure: %d %s\n%s", link, a.StatusCode, a.location(), a.Body)
	}
	return b.back(connector, state, person)
}

func (b *browser) back(connector, state, person string) answer {
	b.h.t.Helper()
	return b.get("/auth/" + connector + "/callback?" + url.Values{"state": {state}, "code": {person}}.Encode())
}

// enterAt signs in by a hub on the portal and returns who that is.
func (b *browser) enterAt(connector, person string) string {
	b.h.t.Helper()
	a := b.follow(b.from(b.follow(b.get("/account")), connector, person))
	if a.StatusCode != http.StatusOK || a.Request.URL.Path != "/account" {
		b.h.t.Fatalf("sign-in ended at %s with %d\n%s", a.Request.URL, a.StatusCode, a.Body)
	}
	return b.me()["id"].(string)
}

// me is GET /api/v1/me.
func (b *browser) me() map[string]any {
	b.h.t.Helper()
	a := b.page(http.MethodGet, "/api/v1/me", "")
	if a.StatusCode != http.StatusOK {
		b.h.t.Fatalf("me: %d %s", a.StatusCode, a.Body)
	}
	return a.json(b.h.t)
}

// identities are the links of an account, as "connector subject".
func (h *harness) identities(id string) []string {
	h.t.Helper()
	out := []string{}
	list, _ := h.operator(http.MethodGet, "/api/v1/users/"+id, "").json(h.t)["identities"].([]any)
	for _, x := range list {
		m := x.(map[string]any)
		out = append(out, fmt.Sprint(m["connector"], " ", m["subject"]))
	}
	return out
}

// linkOf returns the id of one's own link to a connector.
func (b *browser) linkOf(connector string) string {
	b.h.t.Helper()
	for _, x := range b.me()["identities"].([]any) {
		if m := x.(map[string]any); m["connector"] == connector {
			return m["id"].(string)
		}
	}
	b.h.t.Fatalf("no link to %s", connector)
	return ""
}

// askLink presses "Link" on the page of linked accounts.
func (b *browser) askLink(connector string) answer {
	b.h.t.Helper()
	return b.post("/account/links/link", url.Values{"connector": {connector}, "token": {field(b.h.t, tokenField, b.get("/account/links"))}})
}

var hopTarget = regexp.MustCompile(`^0;url=(/.*)$`)

// hop returns where a 200 page leads by itself.
func hop(t testing.TB, a answer) string {
	t.Helper()
	m := hopTarget.FindStringSubmatch(a.Header.Get("Refresh"))
	if a.StatusCode != http.StatusOK || m == nil {
		t.Fatalf("no hop: %d %s %s\n%s", a.StatusCode, a.Header.Get("Refresh"), a.location(), a.Body)
	}
	return m[1]
}

// linkTo returns the first link of a page to an address that begins so.
func linkTo(t testing.TB, a answer, prefix string) string {
	t.Helper()
	_, rest, ok := strings.Cut(a.Body, `href="`+prefix)
	if !ok {
		t.Fatalf("no link to %s (%d):\n%s", prefix, a.StatusCode, a.Body)
	}
	rest, _, _ = strings.Cut(rest, `"`)
	return prefix + rest
}
