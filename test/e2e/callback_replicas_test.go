//go:build e2e

package e2e

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
)

// The same callback URL on two replicas of one Redis: at once it is one sign-in,
// afterwards and on the other replica our sign-in page.
func TestCallbackOnTwoReplicas(t *testing.T) {
	answer := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-OAuth-Scopes", "read:user, user:email")
			_, _ = w.Write([]byte(body))
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login/oauth/access_token", answer(`{"access_token":"gho_7","token_type":"bearer","scope":"read:user,user:email"}`))
	mux.HandleFunc("GET /api/v3/user", answer(`{"id":7,"login":"p7","name":"Person"}`))
	mux.HandleFunc("GET /api/v3/user/emails", answer(`[{"email":"p7@acme.example","primary":true,"verified":true}]`))
	mux.HandleFunc("DELETE /api/v3/applications/{id}/token", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	hub := httptest.NewServer(mux)
	defer hub.Close()
	section := "github: {client_id: app, client_secret: s3cret, base_url: '" + hub.URL + "'}\n"
	store := "redis://" + startRedis(t, "redis").addr(0) + "/0"
	dirA, dirB := t.TempDir(), t.TempDir()
	write(t, dirA, map[string]string{"config/gatehouse.yml": section})
	a := serve(t, dirA, []string{"--dev"}, "GATEHOUSE_STORE="+store, "GATEHOUSE_SECRET_KEY="+testSecretKey)
	write(t, dirB, map[string]string{"config/gatehouse.yml": section + "issuer: " + a.URL + "\n"})
	b := serve(t, dirB, []string{"--dev"}, "GATEHOUSE_STORE="+store, "GATEHOUSE_SECRET_KEY="+testSecretKey)

	first := newPerson(t, a)
	leave := func() string {
		page := first.follow(first.send(http.MethodGet, "/account", nil))
		m := attemptField.FindStringSubmatch(page.Body)
		if m == nil {
			t.Fatalf("no sign-in page: %d", page.StatusCode)
		}
		if r := first.send(http.MethodGet, "/signin/github?attempt="+m[1], nil); r.StatusCode != http.StatusSeeOther {
			t.Fatalf("no departure: %d", r.StatusCode)
		}
		return "/auth/github/callback?" + url.Values{"state": {m[1]}, "code": {"x"}}.Encode()
	}
	clone := func(g *gatehouse) *person {
		u, err := url.Parse(a.URL)
		if err != nil {
			t.Fatal(err)
		}
		p := newPerson(t, a)
		p.at(g)
		p.client.Jar.SetCookies(u, first.client.Jar.Cookies(u))
		return p
	}
	cb := leave()
	people := make([]*person, 16)
	pages := make([]page, len(people))
	for i := range people {
		people[i] = clone([]*gatehouse{a, b}[i%2])
	}
	var wg sync.WaitGroup
	for i, p := range people {
		wg.Go(func() { pages[i] = p.send(http.MethodGet, cb, nil) })
	}
	wg.Wait()
	in := 0
	for i, p := range pages {
		switch {
		case p.StatusCode == http.StatusSeeOther && p.Header.Get("Location") == "/account":
			in++
			for _, g := range []*gatehouse{a, b} {
				people[i].at(g)
				if r := people[i].send(http.MethodGet, "/account", nil); r.StatusCode != http.StatusOK {
					t.Errorf("the one who got in is not known everywhere: %d", r.StatusCode)
				}
			}
		case p.StatusCode != http.StatusOK || !attemptField.MatchString(p.Body):
			t.Errorf("neither in nor a fresh start: %d", p.StatusCode)
		}
	}
	if in != 1 {
		t.Errorf("%d of 16 got in", in)
	}
	for _, g := range []*gatehouse{a, b} {
		p := clone(g)
		if r := p.send(http.MethodGet, cb, nil); r.StatusCode != http.StatusOK || !attemptField.MatchString(r.Body) {
			t.Errorf("afterwards: %d", r.StatusCode)
		}
	}
}
