package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
)

// memory is a bucket that can fail in the ways that buckets do.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	until   map[string]time.Time
	keeps   bool // deletions are refused
	calls   int
	// fail decides about each call; after means that what was asked is done
	// before the answer gets lost.
	fail func(call int, op string) (err error, after bool)
}

func newMemory() *memory {
	return &memory{objects: map[string][]byte{}, until: map[string]time.Time{}}
}

func (m *memory) call(op string, do func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	if m.fail != nil {
		if err, after := m.fail(m.calls, op); err != nil {
			if after {
				_ = do()
			}
			return err
		}
	}
	return do()
}

func (m *memory) Put(_ context.Context, name string, body []byte, until time.Time) error {
	return m.call("put", func() error {
		if _, there := m.objects[name]; there {
			return fs.ErrExist
		}
		m.objects[name], m.until[name] = bytes.Clone(body), until
		return nil
	})
}

func (m *memory) Get(_ context.Context, name string) (body []byte, err error) {
	err = m.call("get", func() error {
		b, there := m.objects[name]
		if !there {
			return fs.ErrNotExist
		}
		body = bytes.Clone(b)
		return nil
	})
	return body, err
}

func (m *memory) Delete(_ context.Context, name string) error {
	return m.call("delete", func() error {
		if m.keeps {
			return fs.ErrPermission
		}
		delete(m.objects, name)
		return nil
	})
}

func (m *memory) List(_ context.Context, prefix, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		var names []string
		if err := m.call("list", func() error { names = m.names(); return nil }); err != nil {
			yield("", err)
			return
		}
		for _, n := range names {
			if strings.HasPrefix(n, prefix) && n > after && !yield(n, nil) {
				return
			}
		}
	}
}

func (m *memory) names() []string { return slices.Sorted(maps.Keys(m.objects)) }

// data are the names of the objects that hold blocks.
func (m *memory) data() []string {
	return slices.DeleteFunc(m.names(), func(n string) bool { return !strings.HasSuffix(n, ".gz") })
}

// rig is a log that is sealed, and a bucket.
type rig struct {
	t      *testing.T
	clock  *storetest.Clock
	store  store.Store
	sealer *event.Sealer
	key    *event.AuditKey
	bucket *memory
	at     uint64 // sealed up to
	told   []event.Event
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, clock: &storetest.Clock{}, bucket: newMemory()}
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "gatehouse.db"), Now: r.clock.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r.store = s
	if r.key, err = event.OpenAuditKey(t.Context(), s, storetest.Sealer(t), r.clock.Now); err != nil {
		t.Fatal(err)
	}
	r.sealer = event.NewSealer(event.SealerConfig{KV: s, Log: s, Key: r.key, Sealer: storetest.Sealer(t), Now: r.clock.Now})
	return r
}

// happen records n events and seals them into a block.
func (r *rig) happen(n int) {
	r.t.Helper()
	rec, err := event.New(event.Config{Log: r.store, Now: r.clock.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range n {
		if err := rec.Record(r.t.Context(), event.Event{Name: event.SigninSucceeded, Actor: fmt.Sprint("u", i), Details: map[string]string{"reason": "a <b> & \u2028"}}); err != nil {
			r.t.Fatal(err)
		}
	}
	r.seal()
}

func (r *rig) seal() {
	r.t.Helper()
	batch, at, err := event.ReadEntries(r.t.Context(), r.store, r.at, 10_000)
	if err == nil {
		err = r.sealer.Consume(r.t.Context(), batch)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.at = at
}

// open returns an archive as a server that starts has it.
func (r *rig) open(change ...func(*Config)) *Archive {
	cfg := Config{Name: "s3", Where: "bucket", Bucket: r.bucket, Prefix: "audit/", Every: 5 * time.Minute, Retention: 180 * 24 * time.Hour,
		Log: r.store, KV: r.store, Leaser: r.store, Key: r.key, Now: r.clock.Now, Logger: slog.New(slog.DiscardHandler),
		Record: func(_ context.Context, e event.Event) error { r.told = append(r.told, e); return nil }}
	for _, c := range change {
		c(&cfg)
	}
	return New(cfg)
}

func (r *rig) archive(change ...func(*Config)) {
	r.t.Helper()
	if err := r.open(change...).Once(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// verify returns the kinds of the faults, each once.
func (r *rig) verify() (Report, string) {
	r.t.Helper()
	rep, err := NewReader(r.bucket, "audit/").Verify(r.t.Context(), event.Verification{Key: r.key.Public})
	if err != nil {
		r.t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, f := range rep.Faults {
		kinds[f.Name] = true
	}
	return rep, strings.Join(slices.Sorted(maps.Keys(kinds)), " ")
}

// whole insists that the archive is the log: every record, once, in order.
func (r *rig) whole() Report {
	r.t.Helper()
	rep, faults := r.verify()
	if faults != "" {
		r.t.Fatalf("%+v", rep.Faults)
	}
	want, _, err := event.ReadEntries(r.t.Context(), r.store, 0, 100_000)
	if err != nil {
		r.t.Fatal(err)
	}
	i := 0
	for e, err := range NewReader(r.bucket, "audit/").Events(r.t.Context(), time.Time{}, time.Time{}) {
		if err != nil || i == len(want) || e.Position != want[i].Position || !bytes.Equal(e.Raw, want[i].Raw) || e.Event.ID != want[i].Event.ID {
			r.t.Fatalf("record %d of %d: %+v %v", i, len(want), e, err)
		}
		i++
	}
	if i != len(want) {
		r.t.Fatalf("%d records of %d", i, len(want))
	}
	return rep
}

// said returns the last event of a name.
func (r *rig) said(name event.Name) event.Event {
	for _, e := range slices.Backward(r.told) {
		if e.Name == name {
			return e
		}
	}
	return event.Event{}
}

var errLost = errors.New("connection reset by peer")
