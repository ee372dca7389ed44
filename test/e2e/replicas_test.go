//go:build e2e

package e2e

import (
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"
)

const testSecretKey = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="

// serveTwo starts two replicas of one issuer on one store.
func serveTwo(t *testing.T, store string) (a, b *gatehouse) {
	t.Helper()
	a = serve(t, t.TempDir(), []string{"--dev"}, "GATEHOUSE_STORE="+store, "GATEHOUSE_SECRET_KEY="+testSecretKey)
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": "issuer: " + a.URL + "\n"})
	b = serve(t, dir, []string{"--dev"}, "GATEHOUSE_STORE="+store, "GATEHOUSE_SECRET_KEY="+testSecretKey)
	return a, b
}

var formToken = regexp.MustCompile(`name="token" value="([^"]+)"`)

// Two replicas on one Redis: a session of one is known to the other, a code has
// one success, 64 refreshes at once on both make one generation, and what one
// ends the other refuses within a second.
func TestReplicasOnRedis(t *testing.T) {
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0")
	p := newPerson(t, a)
	if r := p.signIn(p.follow(p.send(http.MethodGet, "/", nil)), "local", "demo", "demo"); r.StatusCode != http.StatusOK {
		t.Fatalf("sign-in: %d", r.StatusCode)
	}
	p.at(b)
	if r := p.send(http.MethodGet, "/account", nil); r.StatusCode != http.StatusOK {
		t.Fatalf("the other replica does not know the session: %d", r.StatusCode)
	}
	// One code, redeemed on both at once.
	code := p.code("openid offline_access")
	codes := make([]int, 2)
	answers := make([]map[string]any, 2)
	var wg sync.WaitGroup
	for i, g := range []*gatehouse{a, b} {
		wg.Go(func() {
			q := newPerson(t, a)
			q.at(g)
			codes[i], answers[i] = q.redeem(code)
		})
	}
	wg.Wait()
	// At most one succeeds, and the other's sight of the code ends what it gave:
	// at once, if it comes before the tokens.
	if codes[0] == http.StatusOK && codes[1] == http.StatusOK {
		t.Fatalf("redeemed on two replicas: %v", answers)
	}
	for _, m := range answers {
		if rt := m["refresh_token"]; rt != nil {
			if status, m := p.refresh(rt); status != http.StatusBadRequest {
				t.Fatalf("a token of a code that was seen twice: %d %v", status, m)
			}
		}
	}
	// A fresh one, and 64 refreshes on both replicas.
	p.at(a)
	_, tok := p.redeem(p.code("openid offline_access"))
	next := make([]string, 64)
	for i := range next {
		wg.Go(func() {
			q := newPerson(t, a)
			q.at([]*gatehouse{a, b}[i%2])
			if status, m := q.refresh(tok["refresh_token"]); status == http.StatusOK {
				next[i], _ = m["refresh_token"].(string)
			}
		})
	}
	wg.Wait()
	for i, n := range next {
		if n == "" || n != next[0] {
			t.Fatalf("refresh %d gave %q, the first %q", i, n, next[0])
		}
	}
	// Signed out on one: the other refuses within a second.
	form := p.send(http.MethodGet, "/signout", nil)
	m := formToken.FindStringSubmatch(form.Body)
	if m == nil {
		t.Fatal("no sign-out form")
	}
	if r := p.send(http.MethodPost, "/signout", url.Values{"token": {m[1]}, "everywhere": {"1"}}); r.StatusCode != http.StatusSeeOther {
		t.Fatalf("sign-out: %d", r.StatusCode)
	}
	ended := time.Now()
	q := newPerson(t, a)
	q.at(b)
	for {
		if status, _ := q.refresh(next[0]); status == http.StatusBadRequest {
			break
		}
		if time.Since(ended) > time.Second {
			t.Fatal("the other replica still refreshes a second after sign-out everywhere")
		}
	}
}

// The same callback on another replica is no second sign-in: see also the unit
// tests. Here: a session ended on one closes the portal on the other.
func TestRevocationOnAnotherReplica(t *testing.T) {
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0")
	p := newPerson(t, a)
	p.signIn(p.follow(p.send(http.MethodGet, "/", nil)), "local", "demo", "demo")
	p.at(b)
	if r := p.send(http.MethodGet, "/account", nil); r.StatusCode != http.StatusOK { // b now holds it in memory
		t.Fatal(r.StatusCode)
	}
	a.run("user", "suspend", "demo")
	done := time.Now()
	for {
		if r := p.send(http.MethodGet, "/account", nil); r.StatusCode == http.StatusSeeOther {
			return
		}
		if time.Since(done) > time.Second {
			t.Fatal("a suspended user is still in on the other replica after a second")
		}
	}
}

// kill -9 of the broker loses nothing that was acknowledged: the last refresh
// token that was given is the one that works, the session goes on, a revocation
// stays.
func TestKillBroker(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) *gatehouse{
		"sqlite": func(t *testing.T) *gatehouse { return serve(t, t.TempDir(), []string{"--dev"}) },
		"redis": func(t *testing.T) *gatehouse {
			return serve(t, t.TempDir(), []string{"--dev"}, "GATEHOUSE_STORE=redis://"+startRedis(t, "redis").addr(0)+"/0")
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t)
			p := newPerson(t, g)
			status, tok := p.redeem(p.code("openid offline_access"))
			if status != http.StatusOK {
				t.Fatal(status, tok)
			}
			_, revoked := p.redeem(p.code("openid offline_access"))
			if r := p.send(http.MethodPost, "/oauth2/revoke", url.Values{"client_id": {"demo-app"}, "client_secret": {"demo-secret"}, "token": {revoked["refresh_token"].(string)}}); r.StatusCode != http.StatusOK {
				t.Fatal(r.StatusCode)
			}
			for round := range 3 {
				for range 20 {
					if status, tok = p.refresh(tok["refresh_token"]); status != http.StatusOK {
						t.Fatalf("round %d: %d %v", round, status, tok)
					}
				}
				g.stop(syscall.SIGKILL)
				g.start()
			}
			if status, tok = p.refresh(tok["refresh_token"]); status != http.StatusOK {
				t.Fatalf("the last refresh token after kill -9: %d %v", status, tok)
			}
			if status, m := p.refresh(revoked["refresh_token"]); status != http.StatusBadRequest {
				t.Fatalf("a revoked one after kill -9: %d %v", status, m)
			}
			if r := p.send(http.MethodGet, "/account", nil); r.StatusCode != http.StatusOK {
				t.Fatalf("the session after kill -9: %d", r.StatusCode)
			}
		})
	}
}
