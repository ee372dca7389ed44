package broker_test

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// gitHub is a GitHub Enterprise Server where the code "7" stands for the person
// with the number 7, who is user p7 and a member of acme.
type gitHub struct {
	URL       string
	mu        sync.Mutex
	exchanges int
	asked     int // memberships
	left      map[string]bool
	down      bool
	slow      chan struct{} // the token endpoint waits for it, where set
}

func startGitHub(t testing.TB) *gitHub {
	g := &gitHub{left: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login/oauth/access_token", func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.exchanges++
		g.mu.Unlock()
		if g.slow != nil {
			<-g.slow
		}
		n, err := strconv.Atoi(r.FormValue("code"))
		if err != nil || r.FormValue("code_verifier") == "" {
			_ = json.NewEncoder(w).Encode(map[string]string{"error": "bad_verification_code"})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"access_token": fmt.Sprintf("gho_%d", n), "token_type": "bearer", "scope": "read:org,read:user,user:email"})
	})
	person := func(what func(id string) any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			id := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer gho_")
			w.Header().Set("X-OAuth-Scopes", "read:org, read:user, user:email")
			_ = json.NewEncoder(w).Encode(what(id))
		}
	}
	mux.HandleFunc("GET /api/v3/user", person(func(id string) any {
		n, _ := strconv.Atoi(id)
		return map[string]any{"id": n, "login": "p" + id, "name": "Person " + id}
	}))
	mux.HandleFunc("GET /api/v3/user/emails", person(func(id string) any {
		return []map[string]any{{"email": "p" + id + "@acme.example", "primary": true, "verified": true}}
	}))
	mux.HandleFunc("GET /api/v3/user/memberships/orgs", person(func(id string) any {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.asked++
		if g.left[id] {
			return []map[string]any{}
		}
		return []map[string]any{{"state": "active", "organization": map[string]any{"id": 1, "login": "acme"}}}
	}))
	mux.HandleFunc("GET /api/v3/user/orgs", person(func(string) any { return []map[string]any{{"id": 1, "login": "acme"}} }))
	mux.HandleFunc("GET /api/v3/user/teams", person(func(string) any {
		return []map[string]any{{"slug": "ml", "name": "ML", "organization": map[string]any{"id": 1, "login": "acme"}}}
	}))
	mux.HandleFunc("DELETE /api/v3/applications/{id}/token", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		down := g.down
		g.mu.Unlock()
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	g.URL = srv.URL
	return g
}

func (g *gitHub) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

func (g *gitHub) count(n *int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return *n
}

// yaml configures the connector; more are lines below its section.
func (g *gitHub) yaml(more ...string) string {
	return "github:\n  client_id: app\n  client_secret: s3cret\n  base_url: " + g.URL + "\n  organizations: [{name: acme}]\n" + strings.Join(more, "\n") + "\n"
}

// leave goes to a page that wants a sign-in and on to GitHub, and returns the
// attempt's id, which is the state.
func (b *browser) leave(page string) string {
	b.h.t.Helper()
	a := b.follow(b.get(page))
	state := field(b.h.t, attemptField, a)
	a = b.get("/signin/github?attempt=" + state)
	if a.StatusCode != http.StatusSeeOther || a.location().Query().Get("state") != state {
		b.h.t.Fatalf("no departure: %d %s", a.StatusCode, a.location())
	}
	return state
}

func callbackPath(state, code string) string {
	return "/auth/github/callback?" + url.Values{"state": {state}, "code": {code}}.Encode()
}

// enterBy signs a person in by GitHub on the portal.
func (b *browser) enterBy(code string) {
	b.h.t.Helper()
	if a := b.follow(b.get(callbackPath(b.leave("/account"), code))); a.StatusCode != http.StatusOK || a.Request.URL.Path != "/account" {
		b.h.t.Fatalf("sign-in ended at %s with %d\n%s", a.Request.URL, a.StatusCode, a.Body)
	}
}

// in reports whether the browser is signed in.
func (b *browser) in() bool {
	b.h.t.Helper()
	return b.get("/account").StatusCode == http.StatusOK
}

// rows counts what the store holds, by kind, and its log.
func (h *harness) rows() map[string]int {
	h.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(h.dir, "data", "gatehouse.db")+"?mode=ro")
	if err != nil {
		h.t.Fatal(err)
	}
	defer db.Close()
	out := map[string]int{}
	count := func(query string) {
		rows, err := db.Query(query)
		if err != nil {
			h.t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var kind string
			var n int
			if err := rows.Scan(&kind, &n); err != nil {
				h.t.Fatal(err)
			}
			out[kind] = n
		}
		if err := rows.Err(); err != nil {
			h.t.Fatal(err)
		}
	}
	// Not what the readers of the event log write in their own time.
	count("SELECT kind, count(*) FROM items WHERE kind NOT GLOB 'audit-*' AND kind NOT GLOB 'notify-*' AND kind NOT GLOB 'detection*' AND kind <> 'event-sink' GROUP BY kind")
	count("SELECT 'log of ' || topic, count(*) FROM log WHERE topic = 'events' GROUP BY topic")
	return out
}

// storeBytes returns the bytes of all files of the store.
func (h *harness) storeBytes() string {
	h.t.Helper()
	var b strings.Builder
	files, err := filepath.Glob(filepath.Join(h.dir, "data", "gatehouse.db*"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, name := range files {
		f, err := os.ReadFile(name)
		if err != nil {
			h.t.Fatal(err)
		}
		b.Write(f)
	}
	return b.String()
}
