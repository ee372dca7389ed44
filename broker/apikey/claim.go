package apikey

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// claimed is how long a place is kept for a key that is being written.
const claimed = time.Minute

// begun are the keys of one owner that are being written.
type begun struct {
	Keys  map[string]time.Time `json:"keys"` // until when each has its place
	Until time.Time            `json:"until"`
}

// claim takes a place among the usable keys of an owner, of which there may be
// most; ErrTooMany if none is left. A key that is written counts by itself; until
// then its id stands in a record of its owner's, which is written by one at a
// time: of many who make the last key at once, on whichever replica, one does.
func (r *Registry) claim(ctx context.Context, owner, id string, most int) error {
	take := func(b *begun) error {
		now, usable := r.cfg.Now(), 0
		for after := ""; ; { // all of them: dead ones are listed for weeks
			written, next, err := r.keys.List(ctx, "owner", owner, after, 1000)
			if err != nil {
				return err
			}
			for _, k := range written {
				delete(b.Keys, k.ID)
				if k.Usable(now) {
					usable++
				}
			}
			if after = next; after == "" {
				break
			}
		}
		maps.DeleteFunc(b.Keys, func(_ string, until time.Time) bool { return !now.Before(until) })
		if usable+len(b.Keys) >= most {
			return ErrTooMany
		}
		if b.Keys == nil {
			b.Keys = map[string]time.Time{}
		}
		b.Until = now.Add(claimed)
		b.Keys[id] = b.Until
		return nil
	}
	for {
		_, err := r.begun.Update(ctx, owner, take)
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		var first begun
		if err := take(&first); err != nil {
			return err
		}
		if err := r.begun.Create(ctx, owner, first); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}
