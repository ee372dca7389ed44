package apikey

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/remotegpu/gatehouse/broker/store"
)

// writeEvery is how often uses are written, in one batch.
const writeEvery = time.Minute

// note remembers a use; who uses a key without pause costs one look at a map.
func (r *Registry) note(id string, now time.Time, from netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if was, ok := r.fresh[id]; ok && now.Sub(was.At) < time.Second {
		return
	}
	u := Use{At: now}
	if from.IsValid() {
		u.IP = from.String()
	}
	r.fresh[id] = u
}

// LastUse is when a key was last used; the zero Use if it never was.
func (r *Registry) LastUse(ctx context.Context, id string) (Use, error) {
	r.mu.Lock()
	u, ok := r.fresh[id]
	r.mu.Unlock()
	if ok {
		return u, nil
	}
	u, err := r.used.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return Use{}, nil
	}
	return u, err
}

// Run hears of other replicas and writes uses, until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return r.cache.Run(ctx) })
	g.Go(func() error {
		t := time.NewTicker(writeEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
				defer cancel()
				r.write(last)
				return nil
			case <-t.C:
				r.write(ctx)
			}
		}
	})
	return g.Wait()
}

func (r *Registry) write(ctx context.Context) {
	r.mu.Lock()
	fresh := r.fresh
	r.fresh = map[string]Use{}
	r.mu.Unlock()
	for id, u := range fresh {
		if err := r.used.Put(ctx, id, u); err != nil {
			r.cfg.Log.DebugContext(ctx, "the last use of API keys was not written", "err", err)
			return // it will be used again
		}
	}
}
