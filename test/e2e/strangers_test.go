//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// recorder is an upstream that remembers what reached it, and serves one page.
type recorder struct {
	*httptest.Server
	mu   sync.Mutex
	seen []http.Request
}

func startRecorder(t *testing.T, page string) *recorder {
	r := &recorder{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		r.seen = append(r.seen, http.Request{Method: q.Method, URL: q.URL, Header: q.Header.Clone()})
		r.mu.Unlock()
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, page)
	}))
	t.Cleanup(r.Close)
	return r
}

// hits lists what reached the upstream below /hit.
func (r *recorder) hits() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.seen {
		if strings.HasPrefix(q.URL.Path, "/hit") {
			out = append(out, q.Method+" "+q.URL.Path)
		}
	}
	return out
}

// last is what reached it last.
func (r *recorder) last(t *testing.T) *http.Request {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) == 0 {
		t.Fatal("nothing has reached the upstream")
	}
	return &r.seen[len(r.seen)-1]
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// bearer is the last token that the upstream was given.
func (r *recorder) bearer() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.seen) - 1; i >= 0; i-- {
		if raw, ok := strings.CutPrefix(r.seen[i].Header.Get("Authorization"), "Bearer "); ok {
			return raw
		}
	}
	return ""
}

// Console A runs a stranger's code. Its page cannot act on the API nor on
// console B with the visitor's cookies, and the token that it was given opens
// nothing else (docs/security.md GW-11, GW-15).
func TestConsolesAreStrangers(t *testing.T) {
	attack, err := os.ReadFile(filepath.Join("browser", "attack.html"))
	if err != nil {
		t.Fatal(err)
	}
	a, b, api := startRecorder(t, string(attack)), startRecorder(t, "console B"), startRecorder(t, "the API")
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(`
routes:
  - {name: demo-api, host: api.localhost, upstream: %q, audience: demo-api}
  - {name: demo-console, host: "{node}.console.localhost", lease: true, identity: jwt}
`, api.URL)})
	g := serve(t, dir, []string{"--dev"})
	g.lend("a", a.URL, "jupyter")
	g.lend("b", b.URL, "jupyter")
	browser(t, nil, "strangers.mjs", g.URL, "demo", "demo")
	for who, got := range map[string][]string{"console B": b.hits(), "the API": api.hits()} {
		if len(got) > 0 {
			t.Errorf("a page of console A acted on %s: %v", who, got)
		}
	}

	stolen := a.bearer()
	if stolen == "" {
		t.Fatal("console A was given no token, so that nothing is tried")
	}
	p := newPerson(t, g)
	host := func(name string) string { return strings.Replace(g.URL, "127.0.0.1", name, 1) }
	for _, at := range []string{host("b.console.localhost") + "/hit", host("api.localhost") + "/hit", g.URL + "/oauth2/userinfo", g.URL + "/api/v1/me"} {
		if r := p.send(http.MethodGet, at, nil, "Authorization", "Bearer "+stolen, "Accept", "application/json"); r.StatusCode != http.StatusUnauthorized && r.StatusCode != http.StatusForbidden {
			t.Errorf("the token of console A at %s: %d", at, r.StatusCode)
		}
	}
	if got := append(b.hits(), api.hits()...); len(got) > 0 {
		t.Errorf("the token of console A reached %v", got)
	}
}
