//go:build e2e && full

package e2e

import (
	"net/http"
	"testing"
	"time"
)

// A provider that hangs at the token endpoint is given up after ten seconds, and
// slows nobody who comes another way.
func TestOIDCSlowProvider(t *testing.T) {
	u := startUpstream(t, "oidc-provider", genericOIDC)
	u.hostile("token-slow")
	done := make(chan time.Duration, 1)
	go func() {
		began := time.Now()
		p := newPerson(t, u.g)
		if a := u.enter(p, "idp", "alice"); a.StatusCode != http.StatusServiceUnavailable || u.me(p) != nil {
			t.Errorf("a provider that hangs: %d", a.StatusCode)
		}
		done <- time.Since(began)
	}()
	for range 20 {
		began := time.Now()
		p := newPerson(t, u.g)
		if a := p.signIn(p.follow(p.send(http.MethodGet, "/", nil)), "local", "demo", "demo"); a.StatusCode != http.StatusOK {
			t.Errorf("a local sign-in: %d", a.StatusCode)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("a local sign-in took %s beside it", took)
		}
	}
	if took := <-done; took > 20*time.Second {
		t.Errorf("given up after %s", took)
	}
}
