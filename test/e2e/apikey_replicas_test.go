//go:build e2e

package e2e

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var keyText = regexp.MustCompile(`rgpu_([0-9A-Za-z]{12})_[0-9A-Za-z]{49}`)

// key makes an API key of a service account; id is what it is revoked by.
func (g *gatehouse) key(account string) (raw, id string) {
	g.t.Helper()
	m := keyText.FindStringSubmatch(g.run("apikey", "create", account, "--scope", "deployments:write"))
	if m == nil {
		g.t.Fatal("no key was printed")
	}
	return m[0], m[1]
}

// byKey asks the demo API with a key and returns the status.
func (p *person) byKey(key string) int {
	p.t.Helper()
	return p.send(http.MethodGet, strings.Replace(p.issuer, "127.0.0.1", "api.localhost", 1)+"/echo", nil, "Accept", "application/json", "Authorization", "Bearer "+key).StatusCode
}

// A key that replica A revokes is refused by replica B, which has just taken it,
// within a second: fifty times (docs/security.md AD-4, SE-3).
func TestRevokedKeyOnAnotherReplica(t *testing.T) {
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", "")
	p := newPerson(t, a)
	p.at(b)
	var took []time.Duration
	for i := range 50 {
		key, id := a.key("acme-ci")
		if s := p.byKey(key); s != http.StatusOK { // b knows it now
			t.Fatalf("trial %d: the key: %d", i, s)
		}
		if s, said := a.operate(http.MethodDelete, "/api-keys/"+id, nil); s >= 300 {
			t.Fatalf("trial %d: revoking: %d %v", i, s, said)
		}
		began := time.Now()
		for p.byKey(key) == http.StatusOK {
			if time.Since(began) > 5*time.Second {
				t.Fatalf("trial %d: still good after %v", i, time.Since(began))
			}
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	worst := took[len(took)-1]
	t.Logf("%d trials, median %v, worst %v", len(took), took[len(took)/2].Round(time.Millisecond), worst.Round(time.Millisecond))
	if worst > time.Second { // the bound that surface and docs promise, not a benchmark
		t.Errorf("the slowest took %v", worst)
	}
}

// Of 64 that make keys of one service account at once, on two replicas of one
// Redis, as many succeed as api_keys.per_owner has places.
func TestKeysAtOnceOnTwoReplicas(t *testing.T) {
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", "api_keys: {per_owner: 5}\n")
	if s, said := a.operate(http.MethodPost, "/service-accounts", map[string]any{"name": "acme-many"}); s >= 300 {
		t.Fatalf("the account: %d %v", s, said)
	}
	statuses := make([]int, 64)
	var all sync.WaitGroup
	for i := range statuses {
		g := []*gatehouse{a, b}[i%2]
		all.Go(func() {
			statuses[i], _ = g.operate(http.MethodPost, "/service-accounts/acme-many/api-keys", map[string]any{"name": "key", "expires_in": "1h"})
		})
	}
	all.Wait()
	got := map[int]int{}
	for _, s := range statuses {
		got[s]++
	}
	if len(got) != 2 || got[http.StatusCreated]+got[http.StatusOK] != 5 || got[http.StatusConflict] != 59 {
		t.Errorf("answers: %v, want 5 keys and 59 of 409", got)
	}
}
