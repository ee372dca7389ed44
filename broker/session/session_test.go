package session_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/connectors"
)

// SE-11: a proof older than `recheck` is renewed in the background at the next
// use, by one replica; refused ends every session of that sign-in.
func TestRecheck(t *testing.T) {
	r := newRig(t)
	a, b := r.replica(session.SessionsConfig{}), r.replica(session.SessionsConfig{})
	s, h := r.person(a, "li", true)
	child, err := a.StartChild(t.Context(), s, session.Offline)
	if err != nil {
		t.Fatal(err)
	}
	r.Wait(14 * time.Minute)
	if _, err := a.Lookup(t.Context(), h); err != nil || r.up.count() != 0 {
		t.Fatalf("a young proof: %v, asked %d times", err, r.up.count())
	}
	r.Wait(2 * time.Minute)
	hold := make(chan struct{})
	r.up.set(func() { r.up.groups, r.up.hold = []string{"ldap:b"}, hold })
	// Every use on both replicas, and none of them waits.
	for range 20 {
		for _, m := range []*session.Manager{a, b} {
			if got, err := m.Lookup(t.Context(), h); err != nil || got.Groups[0] != "ldap:a" {
				t.Fatalf("%v %v", got.Groups, err)
			}
		}
	}
	r.until("the upstream was not asked", func() bool { return r.up.count() > 0 })
	close(hold)
	r.up.set(func() { r.up.hold = nil })
	r.until("the new groups did not arrive", func() bool {
		got, err := a.Lookup(t.Context(), h)
		return err == nil && got.Groups[0] == "ldap:b" && got.Version > s.Version
	})
	if n := r.up.count(); n != 1 {
		t.Errorf("the upstream was asked %d times", n)
	}
	// The offline session of the same sign-in gets the same answer without asking.
	if got, err := b.Recheck(t.Context(), child.ID); err != nil || got.Groups[0] != "ldap:b" || r.up.count() != 1 {
		t.Errorf("its offline session: %v %v, asked %d times", got.Groups, err, r.up.count())
	}
	r.Wait(16 * time.Minute)
	r.up.set(func() { r.up.err = connectors.ErrNotAllowed })
	if _, err := a.Recheck(t.Context(), s.ID); !errors.Is(err, session.ErrEnded) {
		t.Errorf("refused: %v", err)
	}
	for name, id := range map[string]string{"browser": s.ID, "offline": child.ID} {
		if _, err := a.Get(t.Context(), id); !errors.Is(err, session.ErrEnded) {
			t.Errorf("the %s session after the refusal: %v", name, err)
		}
	}
}

// SE-11: an upstream that is away is excused until recheck_grace is over, from
// its last word on.
func TestRecheckGrace(t *testing.T) {
	r := newRig(t)
	m := r.replica(session.SessionsConfig{IdleTTL: 24 * time.Hour})
	s, _ := r.person(m, "li", true)
	r.up.set(func() { r.up.err = connectors.ErrUnavailable })
	r.Wait(3*time.Hour + 59*time.Minute)
	if _, err := m.Recheck(t.Context(), s.ID); err != nil {
		t.Fatalf("within the grace: %v", err)
	}
	r.up.set(func() { r.up.err = nil })
	r.Wait(30 * time.Second)
	// A renewal that the use began in the background may be under way.
	r.until("the upstream is back, and the proof is not renewed", func() bool {
		got, err := m.Recheck(t.Context(), s.ID)
		return err == nil && r.Now().Sub(got.Proved) <= time.Minute
	})
	r.up.set(func() { r.up.err = connectors.ErrUnavailable })
	r.Wait(4*time.Hour + time.Second)
	r.until("the session goes on after the grace", func() bool {
		_, err := m.Recheck(t.Context(), s.ID)
		return errors.Is(err, session.ErrEnded)
	})
}

// UP-9: where an upstream keeps few tokens, all sign-ins of an identity share a
// record; a refusal of the one that was replaced meanwhile ends nothing.
func TestOneRenewalOfAnIdentity(t *testing.T) {
	r := newRig(t)
	m := r.replica(session.SessionsConfig{})
	s, _ := r.person(m, "li", false)
	save := func(state string) string {
		id, err := m.SaveRenewal(t.Context(), session.Renewal{Connector: "github", Subject: "7", State: []byte(state), Proved: r.Now()}, true)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	id := save("old")
	s.Renewal, s.Proved = id, r.Now()
	s, h, err := m.Start(t.Context(), s, "")
	if err != nil {
		t.Fatal(err)
	}
	r.Wait(16 * time.Minute)
	hold := make(chan struct{})
	r.up.set(func() { r.up.err, r.up.hold = connectors.ErrNotAllowed, hold })
	done := make(chan error)
	go func() { _, err := m.Recheck(context.Background(), s.ID); done <- err }()
	r.until("nobody asked", func() bool { return r.up.count() > 0 })
	if again := save("new"); again != id {
		t.Fatalf("records %s and %s", id, again)
	}
	close(hold)
	if err := <-done; err != nil {
		t.Errorf("a refusal of what was replaced: %v", err)
	}
	if _, err := m.Lookup(t.Context(), h); err != nil {
		t.Errorf("the session: %v", err)
	}
}

// SE-3: with the store cut off, what was verified goes on for outage_grace and
// then closes, watched sessions included; nothing new is issued meanwhile, and a
// revocation that cannot be written is an error, never "done".
func TestOutage(t *testing.T) {
	r := newRig(t)
	grace := 10 * time.Second
	m := r.replica(session.SessionsConfig{OutageGrace: &grace})
	s, h := r.person(m, "li", false)
	other, oh := r.person(m, "wu", false)
	ended, stop := m.Watch(s.ID)
	defer stop()
	if _, err := m.Lookup(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	r.link.cut.Store(true)
	for _, x := range []session.Handle{h, oh} {
		if _, err := m.Lookup(t.Context(), x); err != nil {
			t.Fatalf("within the grace: %v", err)
		}
	}
	if _, _, err := m.Start(t.Context(), other, ""); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a new session: %v", err)
	}
	if _, err := m.NewTicket(t.Context(), s.ID, "a.example", "n"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a ticket: %v", err)
	}
	if err := m.Revoke(t.Context(), s.ID, "x"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a revocation: %v", err)
	}
	select {
	case <-ended:
		t.Fatal("an open socket was closed within the grace")
	default:
	}
	r.Wait(grace)
	if _, err := m.Lookup(t.Context(), h); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("after the grace: %v", err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("an open socket outlives the grace")
	}
	r.link.cut.Store(false)
	r.Wait(time.Second)
	if _, err := m.Lookup(t.Context(), h); err != nil {
		t.Errorf("back again: %v", err)
	}
}

// A store that hangs is not asked by every request: the first that failed
// answers for a moment.
func TestOutageIsNotAskedByEverybody(t *testing.T) {
	r := newRig(t)
	m := r.replica(session.SessionsConfig{})
	_, h := r.person(m, "li", false)
	// One that refuses at once is asked again: it may be back the next moment.
	r.link.cut.Store(true)
	for range 2 {
		before := r.link.asked.Load()
		if _, err := m.Lookup(t.Context(), h); err != nil || r.link.asked.Load() == before {
			t.Fatalf("a store that refuses: %v, asked: %t", err, r.link.asked.Load() != before)
		}
	}
	r.link.hangs.Store(true)
	before := r.link.asked.Load()
	for range 1000 {
		if _, err := m.Lookup(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.link.asked.Load() - before; n > 200 {
		t.Errorf("a thousand requests asked %d times", n)
	}
}

// outage_grace 0 closes at once.
func TestOutageWithoutGrace(t *testing.T) {
	r := newRig(t)
	m := r.replica(session.SessionsConfig{OutageGrace: new(time.Duration)})
	_, h := r.person(m, "li", false)
	r.link.cut.Store(true)
	if _, err := m.Lookup(t.Context(), h); !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
}

// A revocation, a suspension and an epoch hold at once here, for sockets too,
// and what replicas tell each other ends the rest.
func TestEndings(t *testing.T) {
	r := newRig(t)
	a, b := r.replica(session.SessionsConfig{}), r.replica(session.SessionsConfig{})
	r.users.OnChange(func(id string) { a.EndUser(id); b.EndUser(id) })
	for name, end := range map[string]func(s session.Session) error{
		"revoke":  func(s session.Session) error { return a.Revoke(t.Context(), s.ID, "x") },
		"suspend": func(s session.Session) error { return r.users.Suspend(t.Context(), s.UserID) },
		"epoch":   func(s session.Session) error { return r.users.BumpEpoch(t.Context(), s.UserID) },
	} {
		s, h := r.person(a, name, false)
		bystander, bh := r.person(a, "bystander of "+name, false)
		child, err := a.StartChild(t.Context(), s, session.Offline)
		if err != nil {
			t.Fatal(err)
		}
		ended, stop := b.Watch(s.ID)
		if _, err := b.Lookup(t.Context(), h); err != nil { // in its memory now
			t.Fatal(err)
		}
		otherEnded, stopOther := b.Watch(bystander.ID)
		if err := end(s); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Lookup(t.Context(), h); !errors.Is(err, session.ErrEnded) {
			t.Errorf("%s: %v", name, err)
		}
		select {
		case <-ended:
		case <-time.After(time.Second):
			t.Errorf("%s: a socket on the other replica stays open", name)
		}
		if _, err := b.Lookup(t.Context(), h); !errors.Is(err, session.ErrEnded) {
			t.Errorf("%s on the other replica: %v", name, err)
		}
		if _, err := b.Get(t.Context(), child.ID); (err == nil) != (name == "revoke") {
			t.Errorf("%s: its offline session: %v", name, err)
		}
		if _, err := b.Lookup(t.Context(), bh); err != nil {
			t.Errorf("%s ended a bystander: %v", name, err)
		}
		select {
		case <-otherEnded:
			t.Errorf("%s closed a bystander's socket", name)
		default:
		}
		stop()
		stopOther()
	}
}

// The last use is written at most once a minute and moves no version; a use that
// is not written yet counts when the session is read again.
func TestSeenIsBatched(t *testing.T) {
	r := newRig(t)
	m := r.replica(session.SessionsConfig{})
	s, h := r.person(m, "li", true)
	version := func() uint64 {
		it, err := r.link.Store.Get(t.Context(), store.Key{Kind: "session", ID: s.ID})
		if err != nil {
			t.Fatal(err)
		}
		return it.Version
	}
	first := version()
	for range 50 {
		r.Wait(time.Second)
		if _, err := m.Lookup(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	if version() != first {
		t.Error("uses within a minute were written")
	}
	r.Wait(20 * time.Second)
	if _, err := m.Lookup(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	r.until("the last use was not written", func() bool { r.Wait(100 * time.Millisecond); return version() > first })
	got, err := m.Lookup(t.Context(), h)
	if err != nil || got.Version != s.Version {
		t.Errorf("version %d became %d (%v)", s.Version, got.Version, err)
	}
	// After hours: the use rechecks the session, which is then read again; the
	// next one, hours later, still finds it.
	r.Wait(11 * time.Hour)
	before := version()
	if _, err := m.Lookup(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	r.until("no recheck", func() bool { return version() > before })
	r.Wait(11 * time.Hour)
	if _, err := m.Lookup(t.Context(), h); err != nil {
		t.Errorf("a session that was used 11 hours ago: %v", err)
	}
}

// What the store holds of a handle is its hash, and a handle is 256 bits.
func TestHandles(t *testing.T) {
	r := newRig(t)
	m := r.replica(session.SessionsConfig{})
	_, h := r.person(m, "li", false)
	if len(h) != 52 {
		t.Errorf("a handle of %d characters of base32", len(h))
	}
	items, err := r.link.List(t.Context(), "handle", "", "", "", 10)
	if err != nil || len(items) != 1 || items[0].ID != store.HashID(string(h)) || bytes.Contains(items[0].Value, []byte(h)) {
		t.Errorf("%v %v", items, err)
	}
	for _, wrong := range []session.Handle{"", "x", h[:51], h + "A", session.Handle(store.HashID(string(h)))} {
		if _, err := m.Lookup(t.Context(), wrong); !errors.Is(err, session.ErrNoSession) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if _, err := m.LookupHost(t.Context(), h, "a.example"); !errors.Is(err, session.ErrNoSession) {
		t.Errorf("the broker's handle on another host: %v", err)
	}
}
