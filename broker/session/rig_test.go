package session_test

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/connectors"
)

// link is a real store behind a line that can be cut: then nothing is answered
// and nothing is heard, as with a Redis that is gone.
type link struct {
	store.Store
	cut   atomic.Bool
	hangs atomic.Bool  // and takes its time to say so
	asked atomic.Int32 // reads
}

func (l *link) Get(ctx context.Context, k store.Key) (store.Item, error) {
	l.asked.Add(1)
	if l.cut.Load() {
		if l.hangs.Load() {
			time.Sleep(120 * time.Millisecond)
		}
		return store.Item{}, store.ErrUnavailable
	}
	return l.Store.Get(ctx, k)
}

func (l *link) Put(ctx context.Context, it store.Item) (uint64, error) {
	if l.cut.Load() {
		return 0, store.ErrUnavailable
	}
	return l.Store.Put(ctx, it)
}

func (l *link) Stale() bool { return l.cut.Load() || l.Store.Stale() }

// upstream vouches again, or does not.
type upstream struct {
	mu     sync.Mutex
	err    error
	asked  int
	groups []string
	hold   chan struct{}
	holds  string // the connector that hold holds; "" is all
}

func (u *upstream) Renew(ctx context.Context, r session.Renewal) (session.Renewal, error) {
	u.mu.Lock()
	u.asked++
	err, groups, hold := u.err, u.groups, u.hold
	if u.holds != "" && u.holds != r.Connector {
		hold = nil
	}
	u.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
	r.Groups, r.State = groups, append(bytes.Clone(r.State), '+')
	return r, err
}

func (u *upstream) set(f func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f()
}

func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked
}

// rig is one store, its users, and managers on it: replicas, but for the bus.
type rig struct {
	t     *testing.T
	link  *link
	users *user.Directory
	up    *upstream
	seal  *store.Sealer
	moved func(context.Context, session.Session, session.Move)
	storetest.Clock
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, up: &upstream{groups: []string{"ldap:a"}}, seal: storetest.Sealer(t)}
	log := slog.New(slog.DiscardHandler)
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "g.db"), Now: r.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r.link = &link{Store: s}
	if r.users, err = user.New(user.Config{KV: r.link, Bus: r.link, Sealer: r.seal, Now: r.Now, Log: log}); err != nil {
		t.Fatal(err)
	}
	return r
}

// replica starts a manager.
func (r *rig) replica(limits session.SessionsConfig) *session.Manager {
	r.t.Helper()
	m, err := session.New(session.Config{KV: r.link, Bus: r.link, Leaser: r.link, Sealer: r.seal, Epochs: r.users, Limits: limits,
		RefreshIdle: 14 * 24 * time.Hour, RefreshMax: 90 * 24 * time.Hour, Now: r.Now, Log: slog.New(slog.DiscardHandler), Moved: r.moved})
	if err != nil {
		r.t.Fatal(err)
	}
	m.SetRenewer(r.up)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	r.t.Cleanup(func() { cancel(); <-done })
	return m
}

// person makes a user and a session of theirs.
func (r *rig) person(m *session.Manager, name string, renew bool) (session.Session, session.Handle) {
	r.t.Helper()
	return r.personBy(m, "ldap", name, renew)
}

func (r *rig) personBy(m *session.Manager, connector, name string, renew bool) (session.Session, session.Handle) {
	r.t.Helper()
	u, _, err := r.users.Admit(r.t.Context(), connectors.Identity{Connector: connector, Subject: name, Username: name}, user.Admission{})
	if err != nil {
		r.t.Fatal(err)
	}
	s := session.Session{UserID: u.ID, UserEpoch: u.Epoch, Connector: connector, Subject: name, Proved: r.Now(), AuthTime: r.Now(), Groups: []string{"ldap:a"}}
	if renew {
		if s.Renewal, err = m.SaveRenewal(r.t.Context(), session.Renewal{Connector: connector, Subject: name, State: []byte("0"), Groups: s.Groups, Proved: r.Now()}, false); err != nil {
			r.t.Fatal(err)
		}
	}
	s, h, err := m.Start(r.t.Context(), s, "")
	if err != nil {
		r.t.Fatal(err)
	}
	return s, h
}

// until waits for something that happens in the background.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatal(what)
		}
	}
}
