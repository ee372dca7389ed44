package archive

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
)

func TestArchive(t *testing.T) {
	r := newRig(t)
	day := r.clock.Now().UTC().Format("2006/01/02") // of the first block, whatever day it is when it is written
	r.happen(3)
	r.archive()
	if n := len(r.bucket.objects); n != 0 {
		t.Fatalf("%d objects before audit.every was over", n)
	}
	r.clock.Wait(6 * time.Minute)
	r.happen(2500) // more than a block holds
	r.archive()
	r.archive() // nothing is due
	name := "audit/" + day + "/blocks-000000000001-000000000003.jsonl.gz"
	if got := r.bucket.names(); !slices.Equal(got, []string{name, name + ".manifest.json"}) {
		t.Fatal(got)
	}
	e := r.said(event.AuditArchived)
	if e.Target != "s3" || e.Details["blocks"] != "1-3" || e.Details["records"] != "2503" || e.Details["object"] == "" || len(e.Details["sha256"]) != 64 {
		t.Errorf("%+v", e)
	}
	if want := r.clock.Now().Add(180 * 24 * time.Hour); r.bucket.until[name].Sub(want).Abs() > time.Hour {
		t.Errorf("locked until %s", r.bucket.until[name])
	}
	r.happen(1)
	r.clock.Wait(6 * time.Minute)
	r.archive()
	rep := r.whole()
	if rep.Objects != 2 || rep.Blocks != 4 || rep.Records != 2504 || rep.First != 1 || rep.Last != 4 || rep.Key != r.key.ID {
		t.Errorf("%+v", rep)
	}
	other := r.open(func(c *Config) { c.Name = "oss" })
	for want, all := range map[uint64][]*Archive{4: {r.open()}, 0: {r.open(), other}} {
		if at, block, some, err := Archived(t.Context(), all); err != nil || block != want || !some || want > 0 && at != r.at {
			t.Errorf("archived up to %d in block %d, not %d: %v", at, block, want, err)
		}
	}
}

// Names are in the order of the blocks even where a clock was put back.
func TestNamesInOrder(t *testing.T) {
	r := newRig(t)
	for _, ahead := range []time.Duration{48 * time.Hour, -47 * time.Hour, 2 * time.Hour} {
		r.clock.Wait(ahead)
		r.happen(1)
		r.archive(func(c *Config) { c.Every = 0 })
	}
	r.whole()
	names := r.bucket.data()
	for i, n := range names {
		if !strings.Contains(n, fmt.Sprintf("blocks-%012d-", i+1)) {
			t.Errorf("%q", names)
		}
	}
}

// What only says that the server lives, or that something was archived, waits
// for an hour: otherwise each object would bring about the next.
func TestQuiet(t *testing.T) {
	r := newRig(t)
	rec, err := event.New(event.Config{Log: r.store, Now: r.clock.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	record := func(c *Config) { c.Record = rec.Record }
	r.happen(1)
	for range 60 {
		r.clock.Wait(5 * time.Minute)
		r.seal()
		if err := r.sealer.Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.archive(record)
	}
	if n := len(r.bucket.data()); n < 5 || n > 7 {
		t.Errorf("%d objects in five quiet hours", n)
	}
	if lag, known := r.open().Lag(); known {
		t.Errorf("a replica that does not archive knows a lag of %s", lag)
	}
	rep, faults := r.verify()
	if faults != "" || rep.Blocks < 25 {
		t.Errorf("%+v", rep)
	}
}

// At every call the bucket may fail, before or after it did what was asked, and
// the server may die: in the end each record is there, once.
func TestCrashes(t *testing.T) {
	for _, after := range []bool{false, true} {
		calls := 1
		for k := 1; k <= calls; k++ {
			r := newRig(t)
			r.happen(3)
			r.clock.Wait(6 * time.Minute)
			r.bucket.fail = func(call int, _ string) (error, bool) {
				if call == k {
					return errLost, after
				}
				return nil, false
			}
			if err := r.open().Once(t.Context()); !errors.Is(err, errLost) {
				t.Fatalf("call %d: %v", k, err)
			}
			r.happen(2)
			r.clock.Wait(6 * time.Minute)
			r.archive()
			r.whole()
			if k == 1 {
				r.bucket.fail = nil
				before := r.bucket.calls
				r.happen(1)
				r.clock.Wait(6 * time.Minute)
				r.archive()
				calls = r.bucket.calls - before - 1
			}
		}
		if calls < 3 {
			t.Fatalf("an archive took %d calls", calls)
		}
	}
}

// A state that was lost is found again in the bucket, an object without its
// manifest included.
func TestStateLost(t *testing.T) {
	for _, half := range []bool{false, true} {
		r := newRig(t)
		for range 3 {
			r.happen(2)
			r.clock.Wait(6 * time.Minute)
			r.archive()
		}
		if half {
			names := r.bucket.names()
			delete(r.bucket.objects, names[len(names)-1])
		}
		r.forget()
		r.happen(2)
		r.clock.Wait(6 * time.Minute)
		r.archive()
		if rep := r.whole(); rep.Objects != 4 {
			t.Errorf("%+v", rep)
		}
	}
}

// forget removes what is stored about archives.
func (r *rig) forget() {
	r.t.Helper()
	items, err := r.store.List(r.t.Context(), "audit-archive", "", "", "", 10)
	if err != nil || len(items) == 0 {
		r.t.Fatal(len(items), err)
	}
	for _, it := range items {
		if err := r.store.Delete(r.t.Context(), it.Key); err != nil {
			r.t.Fatal(err)
		}
	}
}

// Nothing is written over, or after, what is not ours.
func TestForeign(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*rig)
		want  error
	}{
		"another object under the name": {func(r *rig) {
			for _, n := range r.bucket.data() {
				r.bucket.objects[n] = []byte("else")
				delete(r.bucket.objects, n+manifestSuffix)
			}
		}, ErrConflict},
		"another Gatehouse's": {func(r *rig) {
			other := newRig(r.t)
			other.happen(5)
			other.clock.Wait(6 * time.Minute)
			other.archive()
			r.bucket.objects = other.bucket.objects
		}, ErrForeign},
		"a store that was put back": {func(r *rig) {
			old := newRig(r.t)
			old.key = r.key // it signs, and its log is another
			r.store = old.store
			r.sealer = event.NewSealer(event.SealerConfig{KV: r.store, Log: r.store, Key: r.key, Sealer: nil, Now: r.clock.Now})
			r.at = 0
			r.happen(1)
		}, ErrForeign},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.happen(2)
			r.clock.Wait(6 * time.Minute)
			r.archive()
			r.forget()
			c.spoil(r)
			before := r.bucket.names()
			err := r.open().Once(t.Context())
			if !errors.Is(err, c.want) {
				t.Fatal(err)
			}
			if now := r.bucket.names(); !slices.Equal(now, before) {
				t.Errorf("%q became %q", before, now)
			}
			if _, grave := grade(err); !grave {
				t.Error("not grave")
			}
		})
	}
}

// Blocks that left the log before they were archived are said, and those after
// them archived.
func TestGap(t *testing.T) {
	r := newRig(t)
	r.happen(1)
	r.clock.Wait(6 * time.Minute)
	r.archive()
	r.happen(1)
	r.happen(1)
	r.clock.Wait(6 * time.Minute)
	r.archive(func(c *Config) { c.Log = without{r.store, 2} })
	if e := r.said(event.AuditArchiveFailed); e.Severity != event.Critical || !strings.Contains(e.Details["reason"], "blocks 2 to 2") {
		t.Errorf("%+v", e)
	}
	if _, faults := r.verify(); faults != "block.missing" {
		t.Errorf("%q", faults)
	}
}

// A bucket that fails is tried again, and said once; it works again, and that is
// known too.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in its own time: the tries are seconds apart
		r := newRig(t)
		r.happen(2)
		r.clock.Wait(10 * time.Minute)
		r.bucket.fail = func(call int, _ string) (error, bool) {
			if call <= patience {
				return errLost, false
			}
			return nil, false
		}
		a := r.open(func(c *Config) { c.Every = 10 * time.Millisecond })
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		deadline := time.Now().Add(time.Minute)
		for {
			if lag, known := a.Lag(); known && lag == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("nothing was archived")
			}
			time.Sleep(time.Second)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		r.whole()
		failed := 0
		for _, e := range r.told {
			if e.Name == event.AuditArchiveFailed {
				failed++
			}
		}
		if failed != 1 || r.said(event.AuditArchived).Name == "" {
			t.Errorf("%d failures told: %+v", failed, r.told)
		}
	})
}

// without is a log from which one block was removed.
type without struct {
	store.Log
	number uint64
}

// Read leaves the block out.
func (w without) Read(ctx context.Context, topic string, after uint64, limit int) (iter.Seq2[uint64, []byte], error) {
	seq, err := w.Log.Read(ctx, topic, after, limit)
	if err != nil || topic != event.BlockTopic {
		return seq, err
	}
	return func(yield func(uint64, []byte) bool) {
		for pos, raw := range seq {
			if b, err := event.ParseBlock(raw); (err != nil || b.Number != w.number) && !yield(pos, raw) {
				return
			}
		}
	}, nil
}
