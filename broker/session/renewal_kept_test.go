package session_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/connectors"
)

// What the upstream gave for the token that is spent is kept, whoever went away
// meanwhile and whatever its answer was worth (docs/security.md UP-9).
func TestTheNewRenewalIsKept(t *testing.T) {
	r := newRig(t)
	m := r.replica(session.SessionsConfig{Recheck: time.Minute, RecheckGrace: time.Hour})
	s, _ := r.person(m, "amy", true)
	var mu sync.Mutex
	var seen []string
	entered, hold := make(chan struct{}, 8), make(chan struct{})
	m.SetRenewer(renewerFunc(func(ctx context.Context, v session.Renewal) (session.Renewal, error) {
		entered <- struct{}{}
		<-hold
		if ctx.Err() != nil {
			t.Error("the call was cut off, and the token with it")
		}
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, string(v.State))
		v.State = append(bytes.Clone(v.State), '+')
		if len(seen) == 2 {
			return v, connectors.ErrUnavailable
		}
		v.Groups = []string{"ldap:b"}
		return v, nil
	}))
	asked := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
	// Who asks goes away in the middle.
	r.Wait(2 * time.Minute)
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _, _ = m.Recheck(ctx, s.ID) }()
	<-entered
	leave()
	close(hold)
	<-done
	r.until("the first renewal is not written", func() bool {
		v, err := m.RenewalOf(t.Context(), s)
		return err == nil && string(v.State) == "0+"
	})
	// The second question comes to nothing, the third goes on from there.
	r.Wait(2 * time.Minute)
	r.until("it is not asked again", func() bool {
		if _, err := m.Recheck(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		return len(asked()) == 3
	})
	if got := asked(); !slices.Equal(got, []string{"0", "0+", "0++"}) {
		t.Errorf("asked with %q", got)
	}
	if s, err := m.Recheck(t.Context(), s.ID); err != nil || !slices.Equal(s.Groups, []string{"ldap:b"}) {
		t.Errorf("groups %v, %v", s.Groups, err)
	}
}

type renewerFunc func(context.Context, session.Renewal) (session.Renewal, error)

func (f renewerFunc) Renew(ctx context.Context, r session.Renewal) (session.Renewal, error) {
	return f(ctx, r)
}
