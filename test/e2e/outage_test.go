//go:build e2e

package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// api asks the demo API through the gateway, with the person's cookie or a token.
func (p *person) api(bearer string) page {
	u := strings.Replace(p.issuer, "127.0.0.1", "api.localhost", 1) + "/echo"
	if bearer != "" {
		return p.send(http.MethodGet, u, nil, "Accept", "application/json", "Authorization", "Bearer "+bearer)
	}
	return p.send(http.MethodGet, u, nil)
}

// signOutForm returns the token that a sign-out needs.
func (p *person) signOutForm() url.Values {
	p.t.Helper()
	m := formToken.FindStringSubmatch(p.send(http.MethodGet, "/signout", nil).Body)
	if m == nil {
		p.t.Fatal("no sign-out form")
	}
	return url.Values{"token": {m[1]}}
}

// A paused Redis leaves its connections up. What was verified goes on for
// outage_grace, cookies and tokens alike, and not longer; nothing new is issued
// and nothing is called revoked that is not; and when it is back nobody has to
// sign in again (docs/security.md SE-3).
func TestRedisOutage(t *testing.T) {
	peer := startRedis(t, "redis")
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": "sessions: {outage_grace: 6s}\n"})
	g := serve(t, dir, []string{"--dev"}, "GATEHOUSE_STORE=redis://"+peer.addr(0)+"/0")
	p := newPerson(t, g)
	code := p.code("openid offline_access")
	status, tok := p.redeem(code)
	if status != http.StatusOK {
		t.Fatal(status, tok)
	}
	_, forAPI := p.redeem(p.codeFor("openid", "demo-api"))
	bearer, _ := forAPI["access_token"].(string)
	if r := p.follow(p.api("")); r.StatusCode != http.StatusOK { // signs in at the gateway's host
		t.Fatalf("the API by cookie: %d", r.StatusCode)
	}
	live := p.console(t, g)
	if err := live.echo("hello"); err != nil {
		t.Fatal(err)
	}
	key, keyID := g.key("acme-ci")
	leased := strings.Replace(g.URL, "127.0.0.1", "demo.console.localhost", 1) + "/"
	all := func() (out [4]int) { // by cookie, token and key, and a lease
		return [4]int{p.api("").StatusCode, p.api(bearer).StatusCode, p.byKey(key), p.send(http.MethodGet, leased, nil).StatusCode}
	}
	const ok, away = http.StatusOK, http.StatusServiceUnavailable
	if s := all(); s != [4]int{ok, ok, ok, ok} {
		t.Fatalf("in health: %v", s)
	}
	signOut := p.signOutForm()
	// In health longer than the grace: it counts from the outage, not from when
	// the session was read.
	for began := time.Now(); time.Since(began) < 7*time.Second; time.Sleep(200 * time.Millisecond) {
		if r := p.api(bearer); r.StatusCode != http.StatusOK {
			t.Fatalf("the API by token: %d %s", r.StatusCode, r.Body)
		}
	}
	if r := p.api(""); r.StatusCode != http.StatusOK {
		t.Fatalf("the API by cookie: %d", r.StatusCode)
	}

	resume := peer.pause("")
	paused := time.Now()
	rounds, slowest := 0, time.Duration(0)
	for time.Since(paused) < 3500*time.Millisecond { // a round may take more than a second
		began := time.Now()
		s := all()
		slowest = max(slowest, time.Since(began))
		if s != [4]int{ok, ok, ok, ok} {
			t.Fatalf("%v after the pause, by cookie, token and key, and a lease: %v", time.Since(paused), s)
		}
		rounds++
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("%d rounds within the grace, the slowest %v", rounds, slowest)
	if err := live.echo("still here"); err != nil {
		t.Errorf("a live socket within the grace: %v", err)
	}
	for what, r := range map[string]page{
		"a sign-out":         p.send(http.MethodPost, "/signout", signOut),
		"a revocation":       p.send(http.MethodPost, "/oauth2/revoke", url.Values{"client_id": {"demo-app"}, "client_secret": {"demo-secret"}, "token": {tok["refresh_token"].(string)}}),
		"a refresh":          p.send(http.MethodPost, "/oauth2/token", url.Values{"client_id": {"demo-app"}, "client_secret": {"demo-secret"}, "grant_type": {"refresh_token"}, "refresh_token": {tok["refresh_token"].(string)}}),
		"client_credentials": p.send(http.MethodPost, "/oauth2/token", url.Values{"client_id": {"demo-app"}, "client_secret": {"demo-secret"}, "grant_type": {"client_credentials"}}),
	} {
		if r.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s without a store: %d %s", what, r.StatusCode, r.Body)
		}
	}
	if s, said := g.operate(http.MethodDelete, "/api-keys/"+keyID, nil); s != away {
		t.Errorf("revoking a key without a store: %d %v", s, said)
	}
	if s, said := g.operate(http.MethodDelete, "/consoles/demo", nil); s != away {
		t.Errorf("ending a lease without a store: %d %v", s, said)
	}
	if s := newPerson(t, g).trySignIn("demo", "demo"); s != http.StatusServiceUnavailable {
		t.Errorf("a sign-in without a store: %d", s)
	}
	if status, _ := get(t, g.Admin+"/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("/readyz without a store: %d", status)
	}
	if status, _ := get(t, g.Admin+"/healthz"); status != http.StatusOK {
		t.Errorf("/healthz without a store: %d", status)
	}
	eventually(t, 6*time.Second, "the grace is over", func() bool {
		return all() == [4]int{away, away, away, away}
	})
	if code := live.closed(3 * time.Second); code != 4401 {
		t.Errorf("a live socket after the grace: %d", code)
	}
	if d := time.Since(paused); d > 11*time.Second {
		t.Errorf("the grace of 6 s took %v", d)
	}

	for ; time.Since(paused) < 30*time.Second; time.Sleep(time.Second) { // and so it stays
		if s := all(); s != [4]int{away, away, away, away} {
			t.Errorf("%v after the pause: %v", time.Since(paused), s)
		}
	}

	resume()
	eventually(t, 10*time.Second, "all is as before", func() bool { return all() == [4]int{ok, ok, ok, ok} })
	// Nothing was used up or revoked by what was refused meanwhile.
	if status, m := p.refresh(tok["refresh_token"]); status != http.StatusOK {
		t.Errorf("the refresh token afterwards: %d %v", status, m)
	}
	if r := p.send(http.MethodPost, "/signout", p.signOutForm()); r.StatusCode != http.StatusSeeOther {
		t.Fatalf("sign-out: %d", r.StatusCode)
	}
	if r := p.api(bearer); r.StatusCode != http.StatusUnauthorized {
		t.Errorf("the token after sign-out: %d", r.StatusCode)
	}
}
