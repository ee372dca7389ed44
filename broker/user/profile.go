package user

import (
	"context"
	"errors"

	"github.com/remotegpu/gatehouse/broker/store"
)

// profile is a user as last read; after another doubt it is read again.
type profile struct {
	User
	doubts uint64
}

// profilesMax bounds the users held in memory.
const profilesMax = 10_000

// tell publishes that a user's record has changed.
func (d *Directory) tell(ctx context.Context, id string) {
	if err := d.cfg.Bus.Publish(ctx, topic, news(id)); err != nil {
		// The store has it; replicas that cannot hear are stale and ask the store.
		d.cfg.Log.WarnContext(ctx, "user: other replicas were not told of a change", "user", id, "err", err)
	}
}

// changed forgets what is held of a user and tells who asked to know.
func (d *Directory) changed(id string) {
	d.forget(id)
	d.onChange(id)
}

func (d *Directory) forget(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gen++
	if id == "" {
		d.doubts++
	} else {
		delete(d.profiles, id)
	}
}

// Profile is Get from memory while other replicas are heard: for what is shown
// and put into tokens. Whether the account may be used is Epoch's to say. While
// the store is out of reach it is what was last read: whose session goes on
// meanwhile, and how long, is the session's to say (docs/security.md SE-3).
func (d *Directory) Profile(ctx context.Context, id string) (User, error) {
	stale := d.cfg.Bus.Stale()
	d.mu.RLock()
	p, ok := d.profiles[id]
	gen, sure := d.gen, ok && p.doubts == d.doubts
	d.mu.RUnlock()
	if sure && !stale {
		return p.User, nil
	}
	u, err := d.Get(ctx, id)
	if ok && errors.Is(err, store.ErrUnavailable) {
		return p.User, nil
	}
	if err != nil {
		return u, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gen == gen {
		if len(d.profiles) >= profilesMax {
			clear(d.profiles)
		}
		d.profiles[id] = profile{u, d.doubts}
	}
	return u, nil
}
