package session_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/connectors"
)

// SE-11: a connector that hangs, with more people than it is asked for at once
// and than wait in any queue's first places, keeps nobody of another connector
// from being put out; each of its own is asked once when it is back.
func TestRecheckBehindAHangingConnector(t *testing.T) {
	r := newRig(t)
	m := r.replica(session.SessionsConfig{})
	const many = 150
	var stuck []session.Session
	for i := range many {
		s, _ := r.personBy(m, "ldap", fmt.Sprint("p", i), true)
		stuck = append(stuck, s)
	}
	other, _ := r.personBy(m, "github", "o", true)
	ended, stop := m.Watch(other.ID)
	defer stop()
	r.Wait(16 * time.Minute)
	hold := make(chan struct{})
	r.up.set(func() { r.up.hold, r.up.holds, r.up.err = hold, "ldap", connectors.ErrNotAllowed })
	use := func(s session.Session) { _, _ = m.Get(t.Context(), s.ID) }
	for _, s := range stuck {
		use(s)
	}
	r.until("the hanging connector was not asked", func() bool { return r.up.count() >= 8 })
	use(other)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("a refused session of another connector goes on")
	}
	if n := r.up.count(); n != 9 {
		t.Errorf("%d questions are under way at the hanging connector", n-1)
	}
	close(hold)
	r.until("not everybody of the connector was asked", func() bool {
		for _, s := range stuck {
			if _, err := m.Get(t.Context(), s.ID); !errors.Is(err, session.ErrEnded) {
				return false
			}
		}
		return true
	})
	if n := r.up.count(); n != many+1 {
		t.Errorf("%d questions for %d people", n, many+1)
	}
}

// A token refresh waits for an answer that is under way, here or on another
// replica: it must not issue once more to somebody who is being refused.
func TestRecheckWaitsForTheAnswer(t *testing.T) {
	r := newRig(t)
	a, b := r.replica(session.SessionsConfig{}), r.replica(session.SessionsConfig{})
	for _, refresh := range []*session.Manager{a, b} {
		s, _ := r.person(a, "li", true)
		r.Wait(16 * time.Minute)
		hold := make(chan struct{})
		before := r.up.count()
		r.up.set(func() { r.up.hold, r.up.err = hold, connectors.ErrNotAllowed })
		if _, err := a.Get(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		r.until("the upstream was not asked", func() bool { return r.up.count() > before })
		done := make(chan error, 1)
		go func() {
			_, err := refresh.Recheck(t.Context(), s.ID)
			done <- err
		}()
		select {
		case err := <-done:
			t.Fatalf("it did not wait: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		close(hold)
		if err := <-done; !errors.Is(err, session.ErrEnded) {
			t.Errorf("after the refusal: %v", err)
		}
		r.up.set(func() { r.up.hold, r.up.err = nil, nil })
	}
}

// A last use that could not be written is written later: an idle limit must not
// count from an older one.
func TestSeenOutlivesAnOutage(t *testing.T) {
	r := newRig(t)
	m := r.replica(session.SessionsConfig{})
	s, h := r.person(m, "li", false)
	version := func() uint64 {
		it, err := r.link.Store.Get(t.Context(), store.Key{Kind: "session", ID: s.ID})
		if err != nil {
			t.Fatal(err)
		}
		return it.Version
	}
	r.Wait(2 * time.Minute)
	if _, err := m.Lookup(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	first := version()
	r.link.cut.Store(true)
	asked := r.link.asked.Load()
	r.until("nobody tried to write the last use", func() bool { return r.link.asked.Load() > asked })
	r.link.cut.Store(false)
	r.Wait(20 * time.Second)
	r.until("the last use was not written", func() bool { return version() > first })
}
