package broker_test

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
)

// SE-11, GW-9: who is put out upstream while nothing of theirs is open but a
// console's WebSocket loses that too, with the code of a session that ended; a
// colleague's goes on.
func TestRecheckClosesAnOpenSocket(t *testing.T) {
	t.Parallel()
	gh := startGitHub(t)
	up := newUpstream(t, echoes)
	h := start(t, gh.yaml()+up.routesYAML(plainRoutes))
	h.lend(console.Lease{ID: "n1", Upstream: up.URL, Owner: "x", Groups: []string{"github:acme"}})
	gone, stays := h.browser(), h.browser()
	gone.enterBy("7")
	stays.enterBy("8")
	at := h.at("n1.console", "/")
	gone.open(at)
	stays.open(at)
	lost, kept := gone.opensSocket(at), stays.opensSocket(at)
	says(t, lost, []byte("x"))
	gh.set(func() { gh.left["7"] = true })
	h.wait(16 * time.Minute)
	closes(t, "who has left", lost, 4401)
	says(t, kept, []byte("y"))
	if a := gone.get(at); a.StatusCode == http.StatusOK {
		t.Error("the console still opens")
	}
}

// silent is a server that takes connections and never says a word.
func silent(t testing.TB) (port string, held func() int) {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	var n atomic.Int64
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			context.AfterFunc(ctx, func() { c.Close() })
		}
	})
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, func() int { return int(n.Load()) }
}

// A directory that hangs holds up whoever asks it and nobody else, not even
// people at the same address who give a password to another connector.
func TestHangingConnectorSlowsNobody(t *testing.T) {
	t.Parallel()
	gh := startGitHub(t)
	port, held := silent(t)
	h := start(t, gh.yaml()+"ldap: {host: 127.0.0.1, port: "+port+", base_dn: 'dc=example,dc=com'}\n")
	const people = 60 // more than any counter of the address has room for
	var waiting atomic.Int64
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for i := range people {
		b := h.browser()
		attempt := field(t, attemptField, b.get("/signin/ldap"))
		form := url.Values{"attempt": {attempt}, "username": {"p" + string(rune('A'+i))}, "password": {"x"}}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL+"/signin/ldap", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", h.URL)
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		waiting.Add(1)
		all.Go(func() {
			defer waiting.Add(-1)
			if resp, err := b.client.Do(req); err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusSeeOther {
					t.Errorf("a directory that says nothing let somebody in")
				}
			}
		})
	}
	for end := time.Now().Add(10 * time.Second); held() < 8; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the directory was not asked")
		}
	}
	for i := range 40 {
		if i%10 == 0 {
			b := h.browser()
			b.signIn(b.get("/signin/local"), "demo", "demo")
			if !b.in() {
				t.Fatal("a local account is kept out")
			}
			if i == 0 && waiting.Load() != people {
				t.Error("a local account waited until somebody had left the directory's queue")
			}
		}
		b := h.browser()
		state := field(t, regexp.MustCompile(`/signin/github\?attempt=([A-Z2-7]{26})`), b.follow(b.get("/account")))
		b.get("/signin/github?attempt=" + state)
		b.follow(b.get(callbackPath(state, "7")))
		if !b.in() {
			t.Fatal("somebody of GitHub is kept out")
		}
	}
	if waiting.Load() == 0 {
		t.Error("nobody waited for the directory any more: this shows nothing")
	}
	cancel()
	all.Wait()
}
