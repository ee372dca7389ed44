package console

import (
	"context"
	"errors"
	"sync"
)

// Change is one line of a watch.
type Change struct {
	// Type is "put" (Lease is there), "gone" (only ID counts) or "synced": all
	// that was there at the beginning has been said.
	Type  string
	ID    string
	Lease *Lease
}

// ErrLost ends a watch that may have missed something: watch again.
var ErrLost = errors.New("changes may have been missed")

// Watch says all leases and then every change, until ctx ends, say fails, or
// changes may have been missed (ErrLost). Heartbeats are no changes.
func (r *Registry) Watch(ctx context.Context, say func(Change) error) error {
	w := r.feed.join()
	defer r.feed.leave(w)
	for after := ""; ; {
		some, next, err := r.List(ctx, "", "", after, 500)
		if err != nil {
			return err
		}
		for i := range some {
			if err := say(Change{Type: "put", ID: some[i].ID, Lease: &some[i]}); err != nil {
				return err
			}
		}
		if after = next; next == "" {
			break
		}
	}
	if err := say(Change{Type: "synced"}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.signal:
		}
		ids, lost := w.take()
		if lost {
			return ErrLost
		}
		for id := range ids {
			l, err := r.Get(ctx, id)
			change := Change{Type: "put", ID: id, Lease: l}
			if errors.Is(err, ErrNoLease) {
				change.Type = "gone"
			} else if err != nil {
				return err
			}
			if err := say(change); err != nil {
				return err
			}
		}
	}
}

// maxBehind is how many changes a watcher may be behind.
const maxBehind = 100_000

// feed tells watchers which leases have changed.
type feed struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

type watcher struct {
	mu     sync.Mutex
	ids    map[string]struct{}
	lost   bool
	signal chan struct{}
}

func (f *feed) join() *watcher {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &watcher{ids: map[string]struct{}{}, signal: make(chan struct{}, 1)}
	if f.watchers == nil {
		f.watchers = map[*watcher]struct{}{}
	}
	f.watchers[w] = struct{}{}
	return w
}

func (f *feed) leave(w *watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, w)
}

// tell passes on an id; "" means that any may have changed.
func (f *feed) tell(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		w.add(id)
	}
}

func (w *watcher) add(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if id == "" || len(w.ids) >= maxBehind {
		w.lost = true
	} else {
		w.ids[id] = struct{}{}
	}
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

func (w *watcher) take() (ids map[string]struct{}, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids, w.ids = w.ids, map[string]struct{}{}
	return ids, w.lost
}
