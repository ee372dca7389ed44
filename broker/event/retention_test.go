package event_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/event/audittest"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
)

// archive says how far an archive is.
type archive struct {
	upTo uint64
	err  error
}

// Archived implements event.Archived.
func (a *archive) Archived(context.Context) (uint64, error) { return a.upTo, a.err }

func retention(l *audittest.Log, keep time.Duration, a event.Archived) event.Retention {
	return event.Retention{Source: l.Source(), Leaser: l.Store, Keep: func() time.Duration { return keep }, Archive: func() event.Archived { return a },
		Now: l.Clock.Now, Logger: slog.New(slog.DiscardHandler)}
}

// What is too old goes, sealed, archived and signed for; the newest block and
// what is not archived stay; the rest still verifies, and a checkpoint that was
// removed is no fault.
func TestRetention(t *testing.T) {
	s, rewrite := openFile(t)
	l := audittest.New(t, s, &storetest.Clock{}, rewrite)
	day := func() {
		l.Record(t, 3)
		l.Seal(t)
		l.Clock.Wait(24 * time.Hour)
	}
	for range 5 {
		day()
	}
	all, blocks := l.Read(t, event.Topic), l.Read(t, event.BlockTopic)
	old := l.Verify(t, event.Checkpoint{}).First
	once := func(r event.Retention) {
		t.Helper()
		if _, err := r.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	left := func(records, chain int) {
		t.Helper()
		if r, b := l.Read(t, event.Topic), l.Read(t, event.BlockTopic); len(r) != records || len(b) != chain {
			t.Fatalf("%d records and %d blocks are left, want %d and %d", len(r), len(b), records, chain)
		}
	}
	once(retention(l, 0, nil))                // for ever
	once(retention(l, 200*24*time.Hour, nil)) // nothing is that old
	once(retention(l, time.Hour, &archive{})) // nothing is archived
	left(15, 5)
	if _, err := retention(l, time.Hour, &archive{err: errors.New("the bucket is away")}).Once(t.Context()); err == nil {
		t.Fatal("the archive could not be asked, and that was no error")
	}
	once(retention(l, time.Hour, &archive{upTo: 2})) // not block 3
	left(9, 3)
	if l.Read(t, event.Topic)[0].Position != all[6].Position || l.Read(t, event.BlockTopic)[0].Position != blocks[2].Position {
		t.Error("others are left than those that should be")
	}
	l.Seal(t)
	day()
	verify := func() event.Report {
		t.Helper()
		l.Clock.Wait(-24 * time.Hour)
		r := l.Verify(t, old)
		l.Clock.Wait(24 * time.Hour)
		if len(r.Faults) > 0 || r.Removed == 0 {
			t.Fatalf("%+v", r)
		}
		return r
	}
	verify()
	once(retention(l, 84*time.Hour, nil))
	left(9, 3)
	once(retention(l, time.Minute, nil))
	left(3, 1) // never the newest: the chain goes on by it
	once(retention(l, time.Minute, nil))
	day()
	if r := verify(); r.Removed != 5 || r.Blocks != 2 || r.Records != 6 {
		t.Errorf("%+v", r)
	}
}

// A part that is not as it was sealed is kept, and told: it is evidence.
func TestRetentionKeepsEvidence(t *testing.T) {
	s, rewrite := openFile(t)
	l := audittest.New(t, s, &storetest.Clock{}, rewrite)
	for range 3 {
		l.Record(t, 3)
		l.Seal(t)
	}
	es := l.Read(t, event.Topic)
	es[1].Raw[10] ^= 1
	rewrite(t, event.Topic, es)
	l.Clock.Wait(time.Hour)
	r := retention(l, time.Minute, nil)
	told := make(chan event.Fault, 10)
	r.Tampered = func(_ context.Context, f event.Fault) { told <- f }
	if f, err := r.Once(t.Context()); !errors.Is(err, event.ErrTampered) || f.Name != event.RecordAltered {
		t.Fatalf("%+v, %v", f, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	if f := <-told; f.Name != event.RecordAltered || f.Position != es[1].Position {
		t.Errorf("told %+v", f)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := len(l.Read(t, event.Topic)); n != 9 {
		t.Errorf("%d records of 9 are left", n)
	}
}
