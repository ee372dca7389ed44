package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

const topic = "session"

// message is what replicas tell each other.
type message struct {
	Session string `json:"s,omitempty"`
	Ended   bool   `json:"e,omitempty"`
	Handle  string `json:"h,omitempty"`
}

// tell is the message as the bus carries it.
func (msg message) tell() store.Message {
	js, err := json.Marshal(msg)
	if err != nil { // strings and a bool always can
		return store.Message{}
	}
	return store.Message{Topic: topic, Data: js}
}

func (m *Manager) publish(ctx context.Context, msg message) error {
	if err := m.cfg.Bus.Publish(ctx, topic, msg.tell().Data); err != nil {
		// The store has it. Replicas that cannot hear are stale and ask the store.
		m.cfg.Log.WarnContext(ctx, "session: other replicas were not told of a change", "err", err)
	}
	return nil
}

// changed makes every replica read the session again.
func (m *Manager) changed(ctx context.Context, id string) {
	m.cache.forget(id, false)
	_ = m.publish(ctx, message{Session: id}) // logs what goes wrong
}

// Revoke ends a session: when it returns nil, the end is durable and told to
// all replicas, by the write itself. A session that is over already is no error.
func (m *Manager) Revoke(ctx context.Context, id, reason string) error {
	_, _, err := m.revoke(ctx, id, reason)
	return err
}

// end is Revoke by the Manager itself.
func (m *Manager) end(ctx context.Context, id, reason string) error {
	s, did, err := m.revoke(ctx, id, reason)
	if did {
		m.cfg.Ended(ctx, s, reason)
	}
	return err
}

// revoke says whether it was this call that ended the session.
func (m *Manager) revoke(ctx context.Context, id, reason string) (Session, bool, error) {
	s, err := m.firm.Update(ctx, id, func(v *Session) error {
		if !v.Ended.IsZero() {
			return ErrEnded
		}
		v.Ended, v.Reason = m.cfg.Now(), reason
		v.Version++
		return nil
	})
	if errors.Is(err, ErrEnded) || errors.Is(err, store.ErrNotFound) {
		m.cache.forget(id, true)
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("revoke session: %w", err)
	}
	m.cache.forget(id, true)
	return s, true, nil
}

// RevokeOthers ends all sessions of a user but one, of every kind, and says how
// many there were.
func (m *Manager) RevokeOthers(ctx context.Context, userID, keep, reason string) (int, error) {
	all, err := m.ByUser(ctx, userID)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, s := range all {
		if s.ID == keep {
			continue
		}
		if err := m.Revoke(ctx, s.ID, reason); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// EndUser takes notice that a user's epoch has changed ("" = anybody's may
// have): what is cached is read again, and watched sessions are looked at now.
func (m *Manager) EndUser(userID string) {
	var ids []string
	if userID == "" {
		m.cache.doubt(m.lastHeard())
		ids = m.cache.watchedIDs()
	} else {
		ids = m.cache.forgetUser(userID)
	}
	for _, id := range ids {
		// An error other than "unavailable" has closed the watch.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, _ = m.load(ctx, id)
		cancel()
	}
}

// Run hears other replicas, writes last uses, ends what is over and renews
// proofs, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() { defer close(done); m.listen(ctx) }()
	var workers sync.WaitGroup
	workers.Go(func() { m.renewAsked(ctx) }) // not in this loop: a slow upstream must not keep sessions from ending
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	lastFlush := m.cfg.Now()
	for {
		select {
		case <-ctx.Done():
			flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			m.flush(flush, 0)
			cancel()
			workers.Wait()
			<-done
			return nil
		case <-tick.C:
			now := m.cfg.Now()
			m.hearing(now)
			m.cache.drop(func(s Session, seen time.Time) bool {
				if s.ID == "" { // a handle
					return !now.Before(s.Expires)
				}
				s.Seen = seen
				return !now.Before(m.until(s))
			})
			m.lookAtWatched(ctx)
			if now.Sub(lastFlush) >= seenEvery/4 {
				lastFlush = now
				m.flush(ctx, seenEvery)
			}
		}
	}
}

// lookAtWatched uses the sessions of open sockets, which keeps them from idling
// out and their proof fresh, and reads them from the store while this replica
// may be missing news. When the store has been out of reach too long they end.
func (m *Manager) lookAtWatched(ctx context.Context) {
	for _, id := range m.cache.watchedIDs() {
		gctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := m.Get(gctx, id)
		cancel()
		if err != nil && ctx.Err() == nil {
			m.cache.forget(id, true)
		}
	}
}

func (m *Manager) listen(ctx context.Context) {
	for ctx.Err() == nil {
		news, err := m.cfg.Bus.Subscribe(ctx, topic)
		if err == nil {
			// What was read since the last link broke, before this one was there,
			// may have changed unheard.
			m.EndUser("")
			for raw := range news {
				var msg message
				if json.Unmarshal(raw, &msg) != nil {
					continue
				}
				if msg.Session != "" {
					m.cache.forget(msg.Session, msg.Ended)
				}
				if msg.Handle != "" {
					m.cache.forgetHandle(msg.Handle)
				}
			}
		}
		if ctx.Err() != nil {
			return
		}
		m.EndUser("") // messages may have been lost
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// flush writes last uses that are at least step newer than the store's.
func (m *Manager) flush(ctx context.Context, step time.Duration) {
	uses := m.cache.dirty(step)
	limits := m.moves.Load()
	for id, u := range uses {
		var move Move
		var moved bool
		s, err := m.sessions.Update(ctx, id, func(s *Session) error {
			if !s.Ended.IsZero() || !u.at.After(s.Seen) {
				return ErrEnded
			}
			s.Seen = u.at
			move, moved = s.Uses.add(u.traces, u.at, limits)
			return nil
		})
		if err == nil && moved {
			m.moved(ctx, s, move)
		}
		if err != nil && !errors.Is(err, ErrEnded) && !errors.Is(err, store.ErrNotFound) {
			m.cfg.Log.WarnContext(ctx, "session: the last use was not written", "err", err)
			m.cache.unwritten(uses) // the next flush tries again, and the one at shutdown
			return
		}
		delete(uses, id)
	}
}
