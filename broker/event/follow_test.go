package event_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
)

func openStore(t *testing.T, clock *storetest.Clock) store.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "t.db"), Now: clock.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func record(t *testing.T, s store.Store, clock *storetest.Clock, n int, name event.Name) {
	t.Helper()
	r, err := event.New(event.Config{Log: s, Now: clock.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := r.Record(t.Context(), event.Event{Name: name, Actor: fmt.Sprint("u", i)}); err != nil {
			t.Fatal(err)
		}
	}
}

// collector keeps what it is given; it can fail and begin late.
type collector struct {
	mu    sync.Mutex
	got   []event.Entry
	fails int // how many calls fail
	calls int
	idle  int
	start func() uint64
}

func (c *collector) Name() string { return "collector" }

func (c *collector) Consume(_ context.Context, batch []event.Entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	if c.fails > 0 {
		c.fails--
		return errors.New("full")
	}
	c.got = append(c.got, batch...)
	return nil
}

func (c *collector) Idle(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle++
	return nil
}

func (c *collector) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.got)
}

type lateCollector struct{ *collector }

func (c lateCollector) Start(context.Context) (uint64, error) { return c.start(), nil }

func following(s store.Store, clock *storetest.Clock, out *strings.Builder) event.Following {
	return event.Following{Log: s, KV: s, Leaser: s, Now: clock.Now, Logger: slog.New(slog.NewTextHandler(out, nil)), Every: 5 * time.Millisecond, Batch: 3}
}

// run follows until the sink has n records, and stops.
func run(t *testing.T, f event.Following, s event.Sink, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- f.Run(ctx, s) }()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("the sink did not get what is in the log")
			break
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestFollowing(t *testing.T) {
	clock, out := &storetest.Clock{}, &strings.Builder{}
	s := openStore(t, clock)
	record(t, s, clock, 8, event.Signout)
	c := &collector{}
	f := following(s, clock, out)
	run(t, f, c, func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.got) == 8 && c.idle > 2 })
	for i, e := range c.got {
		if e.Event.Actor != fmt.Sprint("u", i) || e.Event.Severity != event.Info || !strings.Contains(string(e.Raw), e.Event.ID) || i > 0 && e.Position <= c.got[i-1].Position {
			t.Errorf("%d: %+v", i, e)
		}
	}
	// What came while nobody ran is given, nothing else.
	record(t, s, clock, 2, event.KeyRevoked)
	run(t, f, c, func() bool { return c.count() == 10 })
	if c.got[9].Event.Severity != event.Critical {
		t.Errorf("%+v", c.got[9])
	}
	if at, err := f.Cursor(t.Context(), "collector"); err != nil || at != c.got[9].Position {
		t.Errorf("cursor %d, %v", at, err)
	}
	if out.Len() > 0 {
		t.Errorf("logged: %s", out)
	}
}

// A sink that fails gets the same records again, and that is said once.
func TestFollowingFails(t *testing.T) {
	clock, out := &storetest.Clock{}, &strings.Builder{}
	s := openStore(t, clock)
	record(t, s, clock, 2, event.Signout)
	c := &collector{fails: 2}
	run(t, following(s, clock, out), c, func() bool { return c.count() == 2 })
	if c.calls != 3 || strings.Count(out.String(), "could not be passed on") != 1 || !strings.Contains(out.String(), "passed on again") {
		t.Errorf("%d calls; %s", c.calls, out)
	}
}

// What is recorded in the last moment is still passed on.
func TestFollowingEnds(t *testing.T) {
	clock, out := &storetest.Clock{}, &strings.Builder{}
	s := openStore(t, clock)
	f := following(s, clock, out)
	f.Every = time.Hour
	c := &collector{}
	run(t, f, c, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.idle == 1 {
			record(t, s, clock, 4, event.Signout)
			c.idle++
		}
		return c.idle == 2
	})
	if c.count() != 4 {
		t.Errorf("%d of 4", c.count())
	}
}

func TestFollowingStartsLate(t *testing.T) {
	clock, out := &storetest.Clock{}, &strings.Builder{}
	s := openStore(t, clock)
	record(t, s, clock, 5, event.Signout)
	all, _, err := event.ReadEntries(t.Context(), s, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	c := lateCollector{&collector{start: func() uint64 { return all[2].Position }}}
	run(t, following(s, clock, out), c, func() bool { return c.count() == 2 })
}

// Two replicas pass nothing on twice while both live.
func TestFollowingOnOneReplica(t *testing.T) {
	clock, out := &storetest.Clock{}, &strings.Builder{}
	s := openStore(t, clock)
	c := &collector{}
	f := following(s, clock, out)
	ctx, cancel := context.WithCancel(t.Context())
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() { _ = f.Run(ctx, c) })
	}
	for range 10 {
		record(t, s, clock, 5, event.Signout)
		time.Sleep(time.Millisecond)
	}
	for deadline := time.Now().Add(20 * time.Second); c.count() < 50 && time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
	}
	cancel()
	both.Wait()
	if c.count() != 50 {
		t.Errorf("%d of 50", c.count())
	}
}
