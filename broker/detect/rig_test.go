package detect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
)

// rig is an event log with readers on it; each reader is a replica.
type rig struct {
	t      *testing.T
	kv     store.Store
	cfg    Config
	events *event.Recorder
	full   error // of recording
	storetest.Clock
}

func newRig(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, cfg: cfg}
	log := slog.New(slog.DiscardHandler)
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "g.db"), Now: r.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r.kv = s
	if r.events, err = event.New(event.Config{Log: s, Now: r.Now, Logger: log}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) raiser() *Raiser {
	r.t.Helper()
	out, err := NewRaiser(RaiserConfig{KV: r.kv, Sealer: storetest.Sealer(r.t), Config: func() Config { return r.cfg.WithDefaults() }, Now: r.Now,
		Record: func(ctx context.Context, e event.Event) error {
			if r.full != nil {
				return r.full
			}
			return r.events.Record(ctx, e)
		}})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// replica reads the log as event.Following does, from where the last one stopped.
type replica struct {
	*rig
	log *Log
}

func (r *rig) replica() *replica {
	r.t.Helper()
	l, err := NewLog(LogConfig{Log: r.kv, KV: r.kv, Raiser: r.raiser()})
	if err != nil {
		r.t.Fatal(err)
	}
	return &replica{r, l}
}

// run reads what is there. The position is the store's, one for all replicas.
func (r *replica) run() {
	r.t.Helper()
	if err := r.try(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *replica) try() error {
	r.t.Helper()
	pos := r.position()
	for {
		batch, next, err := event.ReadEntries(r.t.Context(), r.kv, pos, 500)
		if err != nil {
			r.t.Fatal(err)
		}
		if len(batch) == 0 {
			return r.log.Idle(r.t.Context())
		}
		if err := r.log.Consume(r.t.Context(), batch); err != nil {
			return err
		}
		pos = next
		r.setPosition(pos)
	}
}

func (r *rig) positions() *store.Collection[uint64] {
	return store.NewCollection(r.kv, store.CollectionConfig[uint64]{Kind: "test-position", Now: r.Now})
}

func (r *rig) position() uint64 {
	p, err := r.positions().Get(r.t.Context(), "x")
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		r.t.Fatal(err)
	}
	return p
}

func (r *rig) setPosition(p uint64) {
	if err := r.positions().Put(r.t.Context(), "x", p); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) record(e event.Event) {
	r.t.Helper()
	if err := r.events.Record(r.t.Context(), e); err != nil {
		r.t.Fatal(err)
	}
}

// fail records a wrong password for an account that exists if user is not "".
func (r *rig) fail(ip, account, user string) {
	r.record(event.Event{Name: event.SigninFailed, Target: user, IP: ip, Connector: "local", Details: map[string]string{"reason": "credentials", "account": account}})
}

func (r *rig) succeed(ip, user string) {
	r.record(event.Event{Name: event.SigninSucceeded, Actor: user, Target: "s-" + user, IP: ip, Connector: "local"})
}

// raised are the findings in the log.
func (r *rig) raised() []event.Event {
	r.t.Helper()
	var out []event.Event
	for pos := uint64(0); ; {
		page, next, err := event.Read(r.t.Context(), r.kv, pos, 1000)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range page {
			if e.Name == event.DetectionRaised {
				out = append(out, e)
			}
		}
		if len(page) == 0 {
			return out
		}
		pos = next
	}
}

// want compares the findings with "rule target", in order.
func (r *rig) want(what string, findings ...string) []event.Event {
	r.t.Helper()
	got := r.raised()
	var short []string
	for _, e := range got {
		short = append(short, e.Details["rule"]+" "+e.Target)
	}
	if fmt.Sprint(short) != fmt.Sprint(findings) {
		r.t.Errorf("%s: %q, want %q", what, short, findings)
	}
	return got
}

// facts fails unless an event has these details.
func facts(t *testing.T, e event.Event, want map[string]string) {
	t.Helper()
	got := maps.Clone(e.Details)
	for k := range got {
		if _, ok := want[k]; !ok {
			delete(got, k)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("details %v, want %v", e.Details, want)
	}
}

const minute = time.Minute
