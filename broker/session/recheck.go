package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/connectors"
)

const (
	rechecksAtOnce = 8    // of one connector
	rechecksQueued = 4096 // of one connector; beyond, the next use asks again
	recheckTimeout = 30 * time.Second
	renewalWrite   = 5 * time.Second
	recheckWait    = 10 * time.Second // a refresh waits for the answer at most this long; then it is an outage
	recheckAgain   = 30 * time.Second // a session asks at most this often
)

// Recheck renews a session whose connector vouched for it longer than
// sessions.recheck ago, and returns it as it then is (docs/security.md SE-11):
// refused ends every session of that upstream sign-in; unreachable keeps them
// until recheck_grace. A proof that cannot be renewed has a shorter life
// instead. Where somebody else is asking already, here or on another replica,
// it waits for their answer: what follows is issued on the strength of it.
func (m *Manager) Recheck(ctx context.Context, id string) (Session, error) {
	ctx, cancel := context.WithTimeout(ctx, recheckWait)
	defer cancel()
	return m.vouched(ctx, id, true)
}

func (m *Manager) vouched(ctx context.Context, id string, wait bool) (Session, error) {
	s, err := m.get(ctx, id, false, netip.Addr{})
	if err != nil {
		return Session{}, err
	}
	if s.Renewal == "" || m.cfg.Now().Sub(s.Proved) < m.limits.Load().Recheck || m.renewer == nil {
		return s, nil
	}
	r, err := m.renewals.Get(ctx, s.Renewal)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return Session{}, err
	}
	if err != nil { // nothing left to vouch with
		return Session{}, errors.Join(ErrEnded, m.end(ctx, s.ID, "not_renewable"))
	}
	if m.cfg.Now().Sub(r.Proved) >= m.limits.Load().Recheck {
		var over bool
		r, over, err = m.shared(ctx, r)
		for wait && errors.Is(err, store.ErrLeaseHeld) && pause(ctx, leaseAgain) {
			if s, err := m.sessions.Get(ctx, id); err == nil && !s.Ended.IsZero() {
				return Session{}, ErrEnded
			}
			r, over, err = m.shared(ctx, r)
		}
		if over {
			return Session{}, errors.Join(ErrEnded, err)
		}
		if err != nil {
			return s, nil // excused: another replica is at it, or the upstream is away
		}
	}
	return m.adopt(ctx, s.ID, r)
}

// leaseAgain is how often a lease that another replica has is asked for again.
const leaseAgain = 100 * time.Millisecond

// pause waits, and reports whether there is time left.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// shared is renew, and the end of what was refused, for everybody on this
// replica who wants it of one upstream sign-in at the same time.
func (m *Manager) shared(ctx context.Context, r Renewal) (Renewal, bool, error) {
	type result struct {
		r    Renewal
		over bool
	}
	c := m.renewing.DoChan(r.ID, func() (any, error) {
		// The first caller's context must not fail the others.
		all := context.WithoutCancel(ctx)
		ctx, cancel := context.WithTimeout(all, recheckTimeout)
		defer cancel()
		out, over, err := m.renew(ctx, r)
		if over { // here, and not by whoever asked: nobody may be waiting any more
			ctx, cancel := context.WithTimeout(all, recheckTimeout)
			defer cancel()
			err = m.endRenewal(ctx, r.ID)
		}
		return result{out, over}, err
	})
	select {
	case <-ctx.Done():
		return r, false, ctx.Err()
	case v := <-c:
		out, ok := v.Val.(result)
		if !ok {
			return r, false, v.Err
		}
		return out.r, out.over, v.Err
	}
}

// renew asks the connector, on one replica. over means that it refused, or
// could not be reached for too long.
func (m *Manager) renew(ctx context.Context, r Renewal) (_ Renewal, over bool, err error) {
	held, release, err := m.cfg.Leaser.Lease(ctx, "renewal/"+r.ID, recheckTimeout)
	if errors.Is(err, store.ErrLeaseHeld) {
		return r, false, err
	}
	if err != nil {
		return r, false, err
	}
	defer release()
	// Somebody may have done it while we waited.
	if now, err := m.renewals.Get(held, r.ID); err != nil {
		return r, false, err
	} else if r = now; m.cfg.Now().Sub(r.Proved) < m.limits.Load().Recheck {
		return r, false, nil
	}
	fresh, err := m.renewer.Renew(held, r)
	// The upstream's new token is written before its answer is used, and also when
	// that answer is none: a rotating upstream ends everything at a second use of
	// the old one (UP-9). No time limit of ours gets between the two.
	wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewalWrite)
	defer cancel()
	write := func(change func(v *Renewal)) (Renewal, error) {
		return m.renewals.Update(wctx, r.ID, func(v *Renewal) error {
			if bytes.Equal(v.State, r.State) { // else a sign-in has replaced it
				change(v)
			}
			return nil
		})
	}
	switch {
	case errors.Is(err, connectors.ErrNotAllowed):
		if now, err := m.renewals.Get(held, r.ID); err == nil && !bytes.Equal(now.State, r.State) {
			return now, false, nil // signed in anew meanwhile: the refusal was of an older proof
		}
		return r, true, nil
	case err != nil:
		if fresh.State != nil && !bytes.Equal(fresh.State, r.State) {
			if _, werr := write(func(v *Renewal) { v.State = fresh.State }); werr != nil {
				return r, false, fmt.Errorf("write renewal: %w", werr)
			}
		}
		if m.cfg.Now().Sub(r.Proved) >= m.limits.Load().RecheckGrace {
			return r, true, nil
		}
		m.cfg.Log.WarnContext(ctx, "session: the connector could not vouch again; kept for now", "connector", r.Connector, "err", err)
		return r, false, err
	}
	out, err := write(func(v *Renewal) { v.State, v.Groups, v.Proved = fresh.State, fresh.Groups, m.cfg.Now() })
	if err != nil {
		return r, false, fmt.Errorf("write renewal: %w", err)
	}
	return out, false, nil
}

// adopt gives a session what its connector last said.
func (m *Manager) adopt(ctx context.Context, id string, r Renewal) (Session, error) {
	s, err := m.sessions.Update(ctx, id, func(v *Session) error {
		if !v.Ended.IsZero() {
			return ErrEnded
		}
		if at, ok := m.cache.seen(id); ok && at.After(v.Seen) {
			v.Seen = at // the use that asked for this
		}
		if r.Proved.After(v.Proved) {
			v.Proved = r.Proved
			if !slices.Equal(v.Groups, r.Groups) {
				v.Groups = r.Groups
				v.Version++
			}
		}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return Session{}, ErrNoSession
	}
	if err != nil {
		return Session{}, err
	}
	m.changed(ctx, id)
	return s, nil
}

// endRenewal ends every session of one upstream sign-in.
func (m *Manager) endRenewal(ctx context.Context, id string) error {
	after := ""
	for {
		page, next, err := m.sessions.List(ctx, "renewal", id, after, 100)
		if err != nil {
			return err
		}
		for _, s := range page {
			if err := m.end(ctx, s.ID, "refused"); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		after = next
	}
}

// asking is a session whose use wants its connector asked.
type asking struct{ id, connector string }

// line is what waits for one connector.
type line struct {
	running int
	waiting []string
	known   map[string]bool // waiting or running
}

// renewAsked rechecks the sessions whose use asked for it, each connector's in a
// line of its own: behind one that hangs, nobody of another may wait, least of
// all those who are to be put out.
func (m *Manager) renewAsked(ctx context.Context) {
	var (
		mu    sync.Mutex
		lines = map[string]*line{}
		all   sync.WaitGroup
	)
	defer all.Wait()
	for {
		var a asking
		select {
		case <-ctx.Done():
			return
		case a = <-m.recheck:
		}
		mu.Lock()
		l := lines[a.connector]
		if l == nil {
			l = &line{known: map[string]bool{}}
			lines[a.connector] = l
		}
		start := l.running < rechecksAtOnce && !l.known[a.id]
		switch {
		case l.known[a.id]:
		case start:
			l.running++
			l.known[a.id] = true
		case len(l.waiting) < rechecksQueued:
			l.waiting = append(l.waiting, a.id)
			l.known[a.id] = true
		default:
			m.cache.askAgain(a.id)
		}
		mu.Unlock()
		if !start {
			continue
		}
		all.Go(func() {
			for id := a.id; ; {
				m.renewOne(ctx, id)
				mu.Lock()
				delete(l.known, id)
				if len(l.waiting) == 0 || ctx.Err() != nil {
					l.running--
					mu.Unlock()
					return
				}
				id, l.waiting = l.waiting[0], l.waiting[1:]
				mu.Unlock()
			}
		})
	}
}

func (m *Manager) renewOne(ctx context.Context, id string) {
	rctx, cancel := context.WithTimeout(ctx, recheckTimeout)
	defer cancel()
	_, err := m.vouched(rctx, id, false)
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrEnded) && !errors.Is(err, ErrNoSession) {
		m.cfg.Log.WarnContext(ctx, "session: recheck failed", "err", err)
	}
}
