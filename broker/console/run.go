package console

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/remotegpu/gatehouse/broker/store"
)

const (
	// lookEvery is how often leases that have run out are looked for.
	lookEvery = 250 * time.Millisecond
	// again is the pause after the store or the bus has failed.
	again = 250 * time.Millisecond
	// leadFor is how long a replica that died is waited for as the one that
	// says what ran out.
	leadFor = 15 * time.Second
)

// Run hears of changes, reads everything into memory, and notices what runs
// out, until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { r.listen(ctx); return nil })
	g.Go(func() error { r.expire(ctx); return nil })
	g.Go(func() error { r.lead(ctx); return nil })
	return g.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (r *Registry) listen(ctx context.Context) {
	for ; ctx.Err() == nil; pause(ctx, again) {
		heard, err := r.cfg.Bus.Subscribe(ctx, topic)
		if err != nil {
			continue
		}
		r.memory.doubt() // what was read before anybody listened may have changed unheard
		r.tell("")
		loading, stop := context.WithCancel(ctx)
		loaded := make(chan struct{})
		go func() { defer close(loaded); r.load(loading) }()
		for raw := range heard {
			var n news
			if json.Unmarshal(raw, &n) != nil {
				continue
			}
			r.heard(n.ID)
			// For who lists: whoever asks by id reads it themselves.
			if _, err := r.read(ctx, n.ID); err != nil && !errors.Is(err, ErrNoLease) && ctx.Err() == nil {
				r.cfg.Log.DebugContext(ctx, "a changed lease was not read; it is when it is used", "lease", n.ID, "err", err)
			}
		}
		stop()
		<-loaded
		r.memory.doubt()
		r.tell("")
	}
}

// load reads all leases, page by page.
func (r *Registry) load(ctx context.Context) {
	const page = 500
	after := ""
	for ctx.Err() == nil {
		rd := r.memory.begin()
		some, next, err := r.told.List(ctx, "", "", after, page)
		if err == nil {
			for i := range some {
				if l := &some[i]; !l.Released && r.ready(l) == nil {
					own := *l // not the whole page for the sake of one
					r.memory.keep(rd, &own)
				}
			}
		}
		r.memory.done(rd)
		switch {
		case err != nil:
			r.cfg.Log.WarnContext(ctx, "the leases of consoles were not all read; tried again", "err", err)
			pause(ctx, time.Second)
		case next == "":
			// What was held and is there no more was not seen.
			for _, id := range r.memory.unsure() {
				if _, err := r.read(ctx, id); errors.Is(err, ErrNoLease) {
					r.tell(id)
				}
			}
			return
		default:
			after = next
		}
	}
}

// expire notices leases that nobody renewed. What the store has renewed
// meanwhile goes on.
func (r *Registry) expire(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for _, id := range r.memory.over(r.cfg.Now()) {
			was, _ := r.memory.get(id)
			if _, err := r.read(ctx, id); errors.Is(err, store.ErrUnavailable) {
				break // the rest would wait as long, one after the other
			} else if !errors.Is(err, ErrNoLease) {
				continue
			}
			r.tell(id)
			if was != nil && r.leads.Load() && r.cfg.RanOut != nil {
				r.cfg.RanOut(ctx, was)
			}
		}
	}
}

// lead makes one replica the one that says what ran out.
func (r *Registry) lead(ctx context.Context) {
	for ; ctx.Err() == nil; pause(ctx, leadFor/3) {
		held, release, err := r.cfg.Leaser.Lease(ctx, "consoles", leadFor)
		if err != nil {
			continue
		}
		r.leads.Store(true)
		select {
		case <-held.Done():
		case <-ctx.Done():
		}
		r.leads.Store(false)
		release()
	}
}
