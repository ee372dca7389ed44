package session

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/web"
)

// Lookup returns the session of the broker's own cookie: ErrNoSession,
// ErrEnded, or store.ErrUnavailable when nothing can be said. It counts as use.
func (m *Manager) Lookup(ctx context.Context, h Handle) (Session, error) {
	return m.LookupHost(ctx, h, "")
}

// LookupHost is Lookup for the cookie of a gateway host; a handle of another
// host is none.
func (m *Manager) LookupHost(ctx context.Context, h Handle, host string) (Session, error) {
	if len(h) != 52 { // what newHandle makes; anything else never was one of ours
		return Session{}, ErrNoSession
	}
	id := store.HashID(string(h))
	rec, ok, sure := m.cache.handle(id)
	if !sure || !m.hearing(m.cfg.Now()) {
		gen := m.cache.generation()
		fresh, err := m.readHandle(ctx, id)
		switch {
		case errors.Is(err, store.ErrNotFound):
			m.cache.forgetHandle(id)
			return Session{}, ErrNoSession
		case err != nil && !ok:
			return Session{}, err
		case err == nil:
			rec = fresh
			m.cache.putHandle(gen, id, rec)
		}
		// err != nil && ok: the store cannot be asked; Get judges by outage_grace.
	}
	if rec.Host != host || !m.cfg.Now().Before(rec.Expires) {
		return Session{}, ErrNoSession
	}
	return m.get(ctx, rec.Session, true, web.RequestIP(ctx))
}

func (m *Manager) readHandle(ctx context.Context, id string) (handle, error) {
	if m.hung() {
		return handle{}, errHung
	}
	asked := time.Now()
	h, err := m.handles.Get(ctx, id)
	m.answered(err, time.Since(asked))
	return h, err
}

// errHung stands in for a question that the store would not answer in time.
var errHung = fmt.Errorf("the store did not answer a moment ago: %w", store.ErrUnavailable)

// hungFor is how long nobody else asks after the store has not answered while
// other replicas are not heard either: a store that hangs would otherwise hold
// every request, and the closing of every open socket, for its time-out.
const hungFor = 500 * time.Millisecond

func (m *Manager) hung() bool {
	at := m.silent.Load()
	return at != 0 && m.cfg.Bus.Stale() && m.cfg.Now().Sub(time.Unix(0, at)) < hungFor
}

// hangs is how long a store that is not there takes to say so, at the least, to
// count as one that hangs: a refused connection costs nobody anything, and may
// be taken the next moment.
const hangs = 100 * time.Millisecond

// answered takes notice of how the store answered, and after how long.
func (m *Manager) answered(err error, took time.Duration) {
	if away(err) {
		if took < hangs {
			return
		}
		m.silent.Store(m.cfg.Now().UnixNano())
	} else if m.silent.Load() != 0 {
		m.silent.Store(0)
	}
}

func away(err error) bool {
	return errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

// Get returns a live session by its id and counts as use. It is read from
// memory unless this replica may be missing news.
func (m *Manager) Get(ctx context.Context, id string) (Session, error) {
	return m.get(ctx, id, true, netip.Addr{})
}

// get is Get, which asks for a recheck that is due unless the caller does it. from
// is where a cookie was used. A token says nothing of where its session is: it is
// used from wherever its client is.
func (m *Manager) get(ctx context.Context, id string, ask bool, from netip.Addr) (Session, error) {
	now := m.cfg.Now()
	e, sure := m.cache.get(id)
	if !sure || !m.hearing(now) {
		fresh, err := m.load(ctx, id)
		if err != nil {
			if e == nil || !m.excused(err, e, sure, now) {
				return Session{}, err
			}
		} else {
			e = fresh
		}
	}
	e.mu.Lock()
	s := e.s
	if e.seen.After(s.Seen) {
		s.Seen = e.seen
	}
	if !now.Before(m.until(s)) {
		e.mu.Unlock()
		m.cache.forget(id, true)
		return Session{}, ErrEnded
	}
	e.seen = now
	if from.IsValid() {
		e.traces[family(from)].use(m.moves.Load().network(from))
	}
	loose := e.loose
	due := ask && s.Renewal != "" && now.Sub(s.Proved) >= m.limits.Load().Recheck && now.Sub(e.asked) >= recheckAgain
	if due {
		e.asked = now
	}
	e.mu.Unlock()
	if loose {
		m.cache.usedLoose(id, now)
	}
	if due {
		select {
		case m.recheck <- asking{id, s.Connector}:
		default: // enough is under way; the next use asks again
			e.mu.Lock()
			e.asked = time.Time{}
			e.mu.Unlock()
		}
	}
	s.Seen = now
	return s, nil
}

// hearing reports whether this replica hears the others, so that what it holds
// is true, and remembers when it last did.
func (m *Manager) hearing(now time.Time) bool {
	if m.cfg.Bus.Stale() {
		return false
	}
	if at := now.UnixNano(); at-m.heard.Load() > int64(heardStep) {
		m.heard.Store(at)
	}
	return true
}

// heardStep keeps hot paths from writing one word all the time.
const heardStep = 50 * time.Millisecond

func (m *Manager) lastHeard() time.Time { return time.Unix(0, m.heard.Load()) }

// excused reports whether a session may go on although the store did not answer:
// until outage_grace after it was last known to be true.
func (m *Manager) excused(err error, e *entry, sure bool, now time.Time) bool {
	if errors.Is(err, ErrEnded) || errors.Is(err, ErrNoSession) || !away(err) {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	last := e.verified
	if heard := m.lastHeard(); sure && heard.After(last) {
		last = heard
	}
	return now.Sub(last) < *m.limits.Load().OutageGrace
}

// load reads a session and whether its user's epoch still is what it was made
// under. Many callers for one session are one read.
func (m *Manager) load(ctx context.Context, id string) (*entry, error) {
	v, err, _ := m.flight.Do(id, func() (any, error) {
		if m.hung() {
			return nil, errHung
		}
		gen := m.cache.generation()
		// The first caller's context must not fail the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		asked := time.Now()
		s, err := m.sessions.Get(ctx, id)
		m.answered(err, time.Since(asked))
		if errors.Is(err, store.ErrNotFound) {
			m.cache.forget(id, true)
			return nil, ErrNoSession
		}
		if err != nil {
			return nil, fmt.Errorf("read session: %w", err)
		}
		if s.ID != id {
			return nil, ErrNoSession
		}
		used := s
		if at, ok := m.cache.seen(id); ok && at.After(used.Seen) {
			used.Seen = at
		}
		if err := m.alive(used); err != nil {
			m.cache.forget(id, true)
			return nil, err
		}
		epoch, err := m.cfg.Epochs.Epoch(ctx, s.UserID)
		if away(err) {
			return nil, err
		}
		if err != nil || epoch != s.UserEpoch { // unknown, suspended, or another epoch
			m.cache.forget(id, true)
			return nil, ErrEnded
		}
		return m.cache.put(gen, s, m.cfg.Now()), nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*entry), nil
}

// Watch returns a channel that is closed when the session ends, and how to stop
// watching. Watch first and look the session up afterwards, so that an end in
// between is not missed.
func (m *Manager) Watch(id string) (ended <-chan struct{}, stop func()) {
	w := m.cache.watch(id)
	return w.ended, func() { m.cache.unwatch(id, w) }
}

// Cached returns how many sessions this replica holds in memory.
func (m *Manager) Cached() int { return m.cache.size() }
