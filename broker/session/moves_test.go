package session_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/web"
)

// movesRig notes which sessions were told of.
type movesRig struct {
	*rig
	mu   sync.Mutex
	told []string
}

func newMovesRig(t *testing.T) *movesRig {
	r := &movesRig{rig: newRig(t)}
	r.moved = func(_ context.Context, s session.Session, m session.Move) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.told = append(r.told, fmt.Sprint(s.Subject, " ", m.From, " ", m.To, " ", m.Times))
	}
	return r
}

func (r *movesRig) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.told)
}

func (r *movesRig) use(m *session.Manager, h session.Handle, ip string) {
	r.t.Helper()
	ctx := web.WithRequest(r.t.Context(), &web.Request{IP: netip.MustParseAddr(ip)})
	if _, err := m.Lookup(ctx, h); err != nil {
		r.t.Fatal(err)
	}
}

// A cookie that is used from two networks by turns is told of once in a while; a
// walk from one to another and back, both families of one browser, addresses of
// one network, and an office with several ways out are not. Nor is a token, which
// is used from wherever its client is.
func TestMoved(t *testing.T) {
	r := newMovesRig(t)
	m := r.replica(session.SessionsConfig{})
	m.SetMoves(6, 10*time.Minute, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:7::/48")})
	sessions := map[string]session.Session{}
	handles := map[string]session.Handle{}
	for _, name := range []string{"stolen", "walks", "both", "dhcp", "office", "token"} {
		s, h := r.person(m, name, false)
		sessions[name], handles[name] = s, h
	}
	r.Wait(70 * time.Second)
	for i := range 8 {
		r.use(m, handles["stolen"], []string{"203.0.113.7", "192.0.2.9"}[i%2])
		r.use(m, handles["both"], []string{"203.0.113.7", "2001:db8:1::1"}[i%2])
		r.use(m, handles["dhcp"], []string{"203.0.113.7", "203.0.113.8"}[i%2])
		r.use(m, handles["office"], []string{"198.51.100.1", "2001:db8:7::1", "198.51.100.200"}[i%3])
		r.use(m, handles["walks"], []string{"203.0.113.7", "192.0.2.9", "203.0.113.7", "203.0.113.7"}[i/2])
		ctx := web.WithRequest(t.Context(), &web.Request{IP: netip.MustParseAddr([]string{"203.0.113.7", "192.0.2.9"}[i%2])})
		if _, err := m.Get(ctx, sessions["token"].ID); err != nil {
			t.Fatal(err)
		}
	}
	r.until("it is told", func() bool { return r.count() > 0 })
	time.Sleep(1500 * time.Millisecond) // the other uses are written by the same tick, or the next
	if len(r.told) != 1 || r.told[0] != "stolen 203.0.113.0/24 192.0.2.0/24 7" {
		t.Errorf("%q", r.told)
	}
}

// Two replicas, each of which sees the session in one place only.
func TestMovedAcrossReplicas(t *testing.T) {
	r := newMovesRig(t)
	a, b := r.replica(session.SessionsConfig{}), r.replica(session.SessionsConfig{})
	for _, m := range []*session.Manager{a, b} {
		m.SetMoves(3, 10*time.Minute, nil)
	}
	_, h := r.person(a, "stolen", false)
	for range 6 {
		if r.count() > 0 {
			break
		}
		r.Wait(61 * time.Second)
		r.use(a, h, "203.0.113.7")
		time.Sleep(1200 * time.Millisecond)
		r.Wait(16 * time.Second)
		r.use(b, h, "192.0.2.9")
		time.Sleep(1200 * time.Millisecond)
	}
	if r.count() == 0 {
		t.Error("nobody saw that it is used from two places")
	}
}

// What the signal costs on the way of every request: no allocation.
func TestMovedAllocatesNothing(t *testing.T) {
	r := newMovesRig(t)
	m := r.replica(session.SessionsConfig{})
	_, h := r.person(m, "somebody", false)
	plain := testing.AllocsPerRun(1000, func() {
		if _, err := m.Lookup(context.Background(), h); err != nil {
			t.Fatal(err)
		}
	})
	ctxs := []context.Context{
		web.WithRequest(context.Background(), &web.Request{IP: netip.MustParseAddr("203.0.113.7")}),
		web.WithRequest(context.Background(), &web.Request{IP: netip.MustParseAddr("2001:db8::1")}),
	}
	i := 0
	traced := testing.AllocsPerRun(1000, func() {
		i++
		if _, err := m.Lookup(ctxs[i%2], h); err != nil {
			t.Fatal(err)
		}
	})
	if traced > plain {
		t.Errorf("%v allocations with an address, %v without", traced, plain)
	}
}
