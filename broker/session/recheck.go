package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/connectors"
)

const (
	rechecksAtOnce = 8
	recheckTimeout = 30 * time.Second
	recheckAgain   = 30 * time.Second // a session asks at most this often
)

// Recheck renews a session whose connector vouched for it longer than
// sessions.recheck ago, and returns it as it then is (docs/security.md SE-11):
// refused ends every session of that upstream sign-in; unreachable keeps them
// until recheck_grace. A proof that cannot be renewed has a shorter life
// instead.
func (m *Manager) Recheck(ctx context.Context, id string) (Session, error) {
	s, err := m.Get(ctx, id)
	if err != nil {
		return Session{}, err
	}
	if s.Renewal == "" || m.cfg.Now().Sub(s.Proved) < m.cfg.Limits.Recheck || m.renewer == nil {
		return s, nil
	}
	r, err := m.renewals.Get(ctx, s.Renewal)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return Session{}, err
	}
	if err != nil { // nothing left to vouch with
		return Session{}, errors.Join(ErrEnded, m.end(ctx, s.ID, "not_renewable"))
	}
	if m.cfg.Now().Sub(r.Proved) >= m.cfg.Limits.Recheck {
		var over bool
		r, over, err = m.renew(ctx, r)
		if over {
			return Session{}, errors.Join(ErrEnded, m.endRenewal(ctx, r.ID))
		}
		if err != nil {
			return s, nil // excused: another replica is at it, or the upstream is away
		}
	}
	return m.adopt(ctx, s.ID, r)
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
	} else if r = now; m.cfg.Now().Sub(r.Proved) < m.cfg.Limits.Recheck {
		return r, false, nil
	}
	fresh, err := m.renewer.Renew(held, r)
	switch {
	case errors.Is(err, connectors.ErrNotAllowed):
		if now, err := m.renewals.Get(held, r.ID); err == nil && !bytes.Equal(now.State, r.State) {
			return now, false, nil // signed in anew meanwhile: the refusal was of an older proof
		}
		return r, true, nil
	case err != nil:
		if m.cfg.Now().Sub(r.Proved) >= m.cfg.Limits.RecheckGrace {
			return r, true, nil
		}
		m.cfg.Log.Warn("session: the connector could not vouch again; kept for now", "connector", r.Connector, "err", err)
		return r, false, err
	}
	// The upstream's new token is written before its answer is used: a rotating
	// upstream ends everything at a second use of the old one (UP-9).
	out, err := m.renewals.Update(ctx, r.ID, func(v *Renewal) error {
		if bytes.Equal(v.State, r.State) { // else a sign-in has replaced it
			v.State, v.Groups, v.Proved = fresh.State, fresh.Groups, m.cfg.Now()
		}
		return nil
	})
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
