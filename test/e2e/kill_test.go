//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// soft ends the goroutine of a try where a test would end: a broker that is
// killed in the middle of a request is no fault.
type soft struct{ testing.TB }

func (soft) Helper()               {}
func (soft) Fatal(...any)          { runtime.Goexit() }
func (soft) Fatalf(string, ...any) { runtime.Goexit() }

// try runs f, which may be cut short.
func (p *person) try(f func(*person)) {
	q := *p
	q.t = soft{p.t}
	done := make(chan struct{})
	go func() { defer close(done); f(&q) }()
	<-done
}

// load writes to a broker and keeps what was acknowledged.
type load struct {
	t    *testing.T
	g    *gatehouse
	stop atomic.Bool
	wg   sync.WaitGroup
	acks atomic.Int64

	mu       sync.Mutex
	families []*any           // the refresh token last acknowledged, of each family
	revoked  []any            // refresh tokens of families that were revoked
	sessions []*person        // who was told that they are signed in
	ended    []*person        // who was told that they are signed out
	odd      map[string]int64 // answers that should not be
}

// unexpected notes an answer that is neither a success nor "the store is away".
func (l *load) unexpected(what string, status int, body any) {
	if status == http.StatusServiceUnavailable {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.odd[fmt.Sprintf("%s: %d %v", what, status, body)]++
}

func (l *load) loop(f func()) {
	l.wg.Go(func() {
		for !l.stop.Load() {
			f()
		}
	})
}

// startLoad has the people who need a session sign in first, so that the loops
// write and do not hash passwords.
func startLoad(t *testing.T, g *gatehouse) *load {
	t.Helper()
	l := &load{t: t, g: g, odd: map[string]int64{}}
	for range 4 { // refresh, refresh, refresh
		p := newPerson(t, g)
		status, m := p.redeem(p.code("openid offline_access"))
		if status != http.StatusOK {
			t.Fatal(status, m)
		}
		last := new(any)
		*last = m["refresh_token"]
		l.families = append(l.families, last)
		l.loop(func() {
			p.try(func(p *person) {
				status, m := p.refresh(*last)
				if status != http.StatusOK {
					l.unexpected("refresh", status, m)
					return
				}
				l.mu.Lock()
				*last = m["refresh_token"]
				l.mu.Unlock()
				l.acks.Add(1)
			})
		})
	}
	for range 2 { // a grant, revoked
		p := newPerson(t, g)
		p.code("openid")
		l.loop(func() {
			p.try(func(p *person) {
				status, m := p.redeem(p.code("openid offline_access"))
				if status != http.StatusOK {
					l.unexpected("redeem", status, m)
					return
				}
				token := fmt.Sprint(m["refresh_token"])
				r := p.send(http.MethodPost, "/oauth2/revoke", url.Values{"client_id": {"demo-app"}, "client_secret": {"demo-secret"}, "token": {token}})
				if r.StatusCode != http.StatusOK {
					l.unexpected("revoke", r.StatusCode, r.Body)
					return
				}
				l.mu.Lock()
				l.revoked = append(l.revoked, token)
				l.mu.Unlock()
				l.acks.Add(1)
			})
		})
	}
	n := 0
	l.loop(func() { // a session; every second one signed out again
		n++
		p := newPerson(t, g)
		p.try(func(p *person) {
			if p.signIn(p.follow(p.send(http.MethodGet, "/", nil)), "local", "demo", "demo"); p.send(http.MethodGet, "/account", nil).StatusCode != http.StatusOK {
				return
			}
			// What a sign-out takes from the browser is kept: the server must know.
			q := newPerson(t, g)
			at, _ := url.Parse(p.issuer)
			q.client.Jar.SetCookies(at, p.client.Jar.Cookies(at))
			out := n%2 == 0
			if out {
				r := p.send(http.MethodPost, "/signout", p.signOutForm())
				if r.StatusCode != http.StatusSeeOther {
					l.unexpected("sign-out", r.StatusCode, r.Body)
					return
				}
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if out {
				l.ended = append(l.ended, q)
			} else {
				l.sessions = append(l.sessions, q)
			}
			l.acks.Add(1)
		})
	})
	return l
}

// check ends the load and looks for what was acknowledged.
func (l *load) check(what string) {
	l.t.Helper()
	l.stop.Store(true)
	l.wg.Wait()
	for odd, n := range l.odd {
		l.t.Errorf("%s: %d times %s", what, n, odd)
	}
	p := newPerson(l.t, l.g)
	for i, last := range l.families {
		if status, m := p.refresh(*last); status != http.StatusOK {
			l.t.Errorf("%s: the last refresh token of family %d: %d %v", what, i, status, m)
		}
	}
	for i, token := range l.revoked {
		if status, m := p.refresh(token); status != http.StatusBadRequest {
			l.t.Errorf("%s: revocation %d of %d is lost: %d %v", what, i, len(l.revoked), status, m)
		}
	}
	for i, q := range l.sessions {
		if r := q.send(http.MethodGet, "/account", nil); r.StatusCode != http.StatusOK {
			l.t.Errorf("%s: session %d of %d is lost: %d", what, i, len(l.sessions), r.StatusCode)
		}
	}
	for i, q := range l.ended {
		if r := q.send(http.MethodGet, "/account", nil); r.StatusCode != http.StatusSeeOther {
			l.t.Errorf("%s: session %d of %d is back: %d", what, i, len(l.ended), r.StatusCode)
		}
	}
	l.t.Logf("%s: %d acknowledged: %d revocations, %d sessions, %d sign-outs", what, l.acks.Load(), len(l.revoked), len(l.sessions), len(l.ended))
}

// busy waits until n more writes are acknowledged.
func (l *load) busy(n int64) {
	l.t.Helper()
	from := l.acks.Load()
	eventually(l.t, 60*time.Second, fmt.Sprint(n, " more writes"), func() bool { return l.acks.Load() >= from+n })
}

// A long grace: the last token may have been used in a request that was cut off,
// and is then good for its successor.
const killConfig = "tokens: {refresh_grace: 300s}\nrate_limits: {attempts: 1000000}\n"

// kill -9 of the broker while it acknowledges writes loses none of them.
func TestKillBroker(t *testing.T) {
	for name, store := range map[string]func(t *testing.T) string{
		"sqlite":      func(*testing.T) string { return "" },
		"sqlite full": func(t *testing.T) string { return "sqlite:" + t.TempDir() + "/gatehouse.db?durability=full" },
		"redis":       func(t *testing.T) string { return "redis://" + startRedis(t, "redis").addr(0) + "/0" },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, map[string]string{"config/gatehouse.yml": killConfig})
			var env []string
			if s := store(t); s != "" {
				env = append(env, "GATEHOUSE_STORE="+s)
			}
			g := serve(t, dir, []string{"--dev"}, env...)
			l := startLoad(t, g)
			for range 4 {
				l.busy(60)
				g.stop(syscall.SIGKILL)
				g.start()
			}
			l.busy(20)
			l.check(name)
		})
	}
}

// kill -9 of redis-server with its append-only file loses nothing that the broker
// acknowledged, and the broker goes on without a restart.
func TestKillRedis(t *testing.T) {
	peer := startRedis(t, "redis")
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": killConfig})
	g := serve(t, dir, []string{"--dev"}, "GATEHOUSE_STORE=redis://"+peer.addr(0)+"/0")
	l := startLoad(t, g)
	for range 3 {
		l.busy(60)
		peer.run("stop.sh", peer.dir, "KILL")
		peer.start()
		eventually(t, 20*time.Second, "the broker is ready again", func() bool {
			resp, err := http.Get(g.Admin + "/readyz")
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
	l.busy(20)
	l.check("redis killed")
	if g.cmd.ProcessState != nil || errors.Is(g.cmd.Process.Signal(syscall.Signal(0)), syscall.ESRCH) {
		t.Error("the broker did not survive it")
	}
}
