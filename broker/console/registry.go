package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// ErrNoLease means that nothing is lent under that id.
var ErrNoLease = errors.New("no such lease")

// topic is the bus's: each message names a lease that is another now.
const topic = "lease"

type news struct{ ID string }

// tombstone is how long the mark of a lease that was taken back stays.
const tombstone = time.Hour

// Config is what New needs.
type Config struct {
	KV     store.KV
	Bus    store.Bus
	Leaser store.Leaser
	Sealer *store.Sealer
	Now    func() time.Time
	Log    *slog.Logger
	// RanOut is told of a lease that nobody renewed, on one replica; may be nil.
	RanOut func(ctx context.Context, l *Lease)
}

// Registry keeps the leases: the store has the truth, every replica holds all of
// them in memory and hears of each change.
type Registry struct {
	cfg      Config
	told     *store.Collection[Lease] // changes: firm, and every replica hears
	beats    *store.Collection[Lease] // heartbeats: neither
	rules    rules
	networks atomic.Pointer[[]netip.Prefix]
	changed  []func(id string)
	leads    atomic.Bool
	memory   memory
	feed     feed
}

// New makes a registry. It hears of nothing until Run.
func New(cfg Config) (*Registry, error) {
	if cfg.KV == nil || cfg.Bus == nil || cfg.Leaser == nil || cfg.Sealer == nil || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("console: the configuration is incomplete")
	}
	r := &Registry{cfg: cfg}
	r.memory.init()
	r.SetNetworks(nil)
	kept := store.CollectionConfig[Lease]{
		Kind: "lease", Sealer: cfg.Sealer, Now: cfg.Now, Expires: func(l Lease) time.Time { return l.Expires },
		Index: func(l Lease) map[string]string { return map[string]string{"owner": l.Owner, "node": l.Node} },
	}
	r.beats = store.NewCollection(cfg.KV, kept)
	kept.Firm = true
	kept.Tell = func(l Lease) store.Message {
		js, err := json.Marshal(news{l.ID})
		if err != nil { // a string always can
			return store.Message{}
		}
		return store.Message{Topic: topic, Data: js}
	}
	r.told = store.NewCollection(cfg.KV, kept)
	return r, nil
}

// SetNetworks says where upstreams may be (consoles.networks).
func (r *Registry) SetNetworks(networks []netip.Prefix) { r.networks.Store(&networks) }

// OnChange calls f with the id of every lease that was changed, taken back or
// ran out, and with "" when any may have. It must be called before Run.
func (r *Registry) OnChange(f func(id string)) { r.changed = append(r.changed, f) }

// Get returns a lease that has not run out, or ErrNoLease. While other replicas
// are heard it comes from memory; while the store is out of reach it is what was
// last read: how long that may be used is for the session of who asks to say
// (docs/security.md SE-3).
func (r *Registry) Get(ctx context.Context, id string) (*Lease, error) {
	held, sure := r.memory.get(id)
	alive := held != nil && r.cfg.Now().Before(held.Expires)
	if sure && alive && !r.cfg.Bus.Stale() {
		return held, nil
	}
	// A heartbeat tells nobody: at the end that was known, the store is asked.
	l, err := r.read(ctx, id)
	if alive && errors.Is(err, store.ErrUnavailable) {
		return held, nil
	}
	return l, err
}

// read takes a lease from the store into memory, unless a change was heard of
// meanwhile.
func (r *Registry) read(ctx context.Context, id string) (*Lease, error) {
	rd := r.memory.begin()
	defer r.memory.done(rd)
	v, err := r.told.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && (v.ID != id || v.Released) {
		r.memory.drop(rd, id)
		return nil, ErrNoLease
	}
	if err != nil {
		return nil, err
	}
	if err := r.ready(&v); err != nil {
		return nil, err
	}
	return r.memory.keep(rd, &v), nil
}

// ready compiles what the store says. Networks are not asked: the dialler does.
func (r *Registry) ready(l *Lease) error {
	if _, err := ParseUpstream(l.Upstream); err != nil {
		return fmt.Errorf("lease %q: %w", l.ID, err)
	}
	rule, err := r.rules.compile(l.Allow)
	if err != nil {
		return fmt.Errorf("lease %q: %w", l.ID, err)
	}
	l.rule = rule
	return nil
}

// Check refuses, with ErrInvalid, a lease that could not be put.
func (r *Registry) Check(l Lease) error {
	if err := l.check(*r.networks.Load()); err != nil {
		return err
	}
	if _, err := r.rules.compile(l.Allow); err != nil {
		return err
	}
	if !r.cfg.Now().Before(l.Expires) {
		return fmt.Errorf("%w: it would have run out already", ErrInvalid)
	}
	return nil
}

// Put lends, or changes what is lent. Saying the same again is a heartbeat: it
// moves the end and nothing else. It reports whether it was more than that.
func (r *Registry) Put(ctx context.Context, l Lease) (changed bool, err error) {
	if err := r.Check(l); err != nil {
		return false, err
	}
	errOther := errors.New("it says something else")
	_, err = r.beats.Update(ctx, l.ID, func(was *Lease) error {
		// One that ends sooner than what replicas know must be told.
		if was.Released || !was.Equal(&l) || l.Expires.Before(was.Expires) {
			return errOther
		}
		was.Expires = l.Expires
		return nil
	})
	if !errors.Is(err, errOther) && !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	if err := r.told.Put(ctx, l.ID, l); err != nil {
		return false, err
	}
	r.heard(l.ID) // the others were told by the write itself
	// Our own look at that news may have been before; what is written counts, held or not.
	if _, err := r.read(ctx, l.ID); err != nil && !errors.Is(err, ErrNoLease) {
		r.cfg.Log.DebugContext(ctx, "a lease that was put was not read back; it is when it is used", "lease", l.ID, "err", err)
	}
	return true, nil
}

// Delete takes a console back and returns what was lent, or ErrNoLease.
func (r *Registry) Delete(ctx context.Context, id string) (*Lease, error) {
	var was Lease
	_, err := r.told.Update(ctx, id, func(l *Lease) error {
		if l.Released {
			return ErrNoLease
		}
		was = *l
		l.Released, l.Expires = true, r.cfg.Now().Add(tombstone)
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNoLease
	}
	if err != nil {
		return nil, err
	}
	r.heard(id)
	return &was, nil
}

// List returns up to limit leases in order of id, those with id > after, and
// where to go on. by is "", "owner" or "node".
func (r *Registry) List(ctx context.Context, by, value, after string, limit int) (out []Lease, next string, err error) {
	for {
		some, next, err := r.told.List(ctx, by, value, after, limit-len(out))
		if err != nil {
			return nil, "", err
		}
		for _, l := range some {
			if !l.Released {
				out = append(out, l)
			}
		}
		if next == "" || len(out) == limit {
			return out, next, nil
		}
		after = next
	}
}

// For returns the leases that may let somebody in: those that name the user or
// one of the groups, and those with a rule of their own; at most limit.
func (r *Registry) For(userID string, groups []string, limit int) []*Lease {
	return r.memory.of(userID, groups, r.cfg.Now(), limit)
}

// Held is how many leases this replica knows.
func (r *Registry) Held() int { return r.memory.len() }

// heard forgets a lease that is another now, and tells who must know.
func (r *Registry) heard(id string) {
	r.memory.forget(id)
	r.tell(id)
}

func (r *Registry) tell(id string) {
	for _, f := range r.changed {
		f(id)
	}
	r.feed.tell(id)
}
