package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// Entry is one record of the log.
type Entry struct {
	// Position is where the record stands; positions grow and may have gaps.
	Position uint64
	// Raw is the record byte for byte as it is stored.
	Raw []byte
	// Event is what Raw says.
	Event Event
}

// Sink reads the log: notifications, the chain, the archive. What it is given
// comes in the order of the log, at least once.
type Sink interface {
	// Name names the sink's stored position and its lease.
	Name() string
	// Consume takes the next records. With nil they count as done; after an
	// error the same ones come again, later.
	Consume(ctx context.Context, batch []Entry) error
}

// Starter is a Sink that does not begin with the oldest record.
type Starter interface {
	// Start returns the position after which the first reading begins. It is
	// asked once, when no position has been stored yet.
	Start(ctx context.Context) (after uint64, err error)
}

// Idler is a Sink with something to do when nothing has arrived.
type Idler interface {
	// Idle is called whenever the sink has read all that there is.
	Idle(ctx context.Context) error
}

// Following gives sinks what is in the log.
type Following struct {
	Log    store.Log
	KV     store.KV
	Leaser store.Leaser
	Now    func() time.Time
	Logger *slog.Logger
	// Every is how often the log is looked at; a second if zero.
	Every time.Duration
	// Batch is how many records a sink is given at most; 500 if zero.
	Batch int
}

// following is how long a replica that died keeps its sinks from another, and
// slowest the longest that a sink which fails waits before it tries again.
const (
	following = 10 * time.Second
	slowest   = 30 * time.Second
)

// cursor is how far a sink has come.
type cursor struct {
	Position uint64 `json:"position"`
}

func (f Following) cursors() *store.Collection[cursor] {
	return store.NewCollection(f.KV, store.CollectionConfig[cursor]{Kind: "event-sink", Now: f.Now})
}

// Cursor returns the position up to which the sink has consumed the log: 0
// before it began.
func (f Following) Cursor(ctx context.Context, sink string) (uint64, error) {
	c, err := f.cursors().Get(ctx, sink)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	return c.Position, err
}

// Run gives s what is in the log until ctx ends, on one replica at a time;
// where that one dies another goes on within following. A sink that fails is
// given the same records again, after a second, two, four, and so on up to
// slowest; nothing that it does holds up who records events.
func (f Following) Run(ctx context.Context, s Sink) error {
	if f.Every == 0 {
		f.Every = time.Second
	}
	if f.Batch == 0 {
		f.Batch = 500
	}
	failed := 0
	for ctx.Err() == nil {
		held, release, err := f.Leaser.Lease(ctx, "event-sink/"+s.Name(), following)
		if err == nil {
			failed, err = f.lead(held, s, failed)
			if err == nil && ctx.Err() != nil {
				f.last(context.WithoutCancel(ctx), s)
			}
			release()
		}
		wait := following / 2
		if err != nil && !errors.Is(err, store.ErrLeaseHeld) && ctx.Err() == nil {
			if failed++; failed == 1 { // said once, not at every try
				f.Logger.Warn("what happened could not be passed on; tried again", "sink", s.Name(), "err", err)
			}
			wait = min(time.Second<<min(failed-1, 5), slowest)
		}
		sleep(ctx, wait)
	}
	return nil
}

// lead passes on while this replica holds the lease. It returns how often the
// sink has failed since it last succeeded.
func (f Following) lead(ctx context.Context, s Sink, failed int) (int, error) {
	after, err := f.begin(ctx, s)
	if err != nil {
		return failed, err
	}
	for ctx.Err() == nil {
		n := 0
		if after, n, err = f.pass(ctx, s, after); err != nil {
			return failed, ended(ctx, err)
		}
		if n < f.Batch {
			if i, ok := s.(Idler); ok {
				if err := i.Idle(ctx); err != nil {
					return failed, ended(ctx, fmt.Errorf("pass on to %s: %w", s.Name(), err))
				}
			}
			sleep(ctx, f.Every)
		}
		if failed > 0 {
			f.Logger.Info("what happened is passed on again", "sink", s.Name())
			failed = 0
		}
	}
	return failed, nil
}

// pass gives the sink the next records after a position, and returns the
// position to go on from and how many there were.
func (f Following) pass(ctx context.Context, s Sink, after uint64) (uint64, int, error) {
	batch, next, err := ReadEntries(ctx, f.Log, after, f.Batch)
	if err != nil || len(batch) == 0 {
		return after, 0, err
	}
	if err := s.Consume(ctx, batch); err != nil {
		return after, 0, fmt.Errorf("pass on to %s: %w", s.Name(), err)
	}
	// What has been passed on is noted even when we are told to end meanwhile:
	// else it would be passed on again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), following/2)
	defer cancel()
	if _, err := f.cursors().Update(ctx, s.Name(), func(c *cursor) error { c.Position = max(c.Position, next); return nil }); err != nil {
		return after, 0, err
	}
	return next, len(batch), nil
}

// last passes on what was recorded while we were shutting down; what it does
// not manage is passed on at the next start.
func (f Following) last(ctx context.Context, s Sink) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	after, err := f.Cursor(ctx, s.Name())
	for n := f.Batch; err == nil && n == f.Batch; {
		after, n, err = f.pass(ctx, s, after)
	}
	if err != nil {
		f.Logger.Info("the last events are passed on after the next start", "sink", s.Name(), "err", err)
	}
}

// ended drops the error of a call that was cut short because the lease is over.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// begin returns where the sink goes on.
func (f Following) begin(ctx context.Context, s Sink) (uint64, error) {
	c, err := f.cursors().Get(ctx, s.Name())
	if !errors.Is(err, store.ErrNotFound) {
		return c.Position, err
	}
	if st, ok := s.(Starter); ok {
		if c.Position, err = st.Start(ctx); err != nil {
			return 0, err
		}
	}
	if err := f.cursors().Create(ctx, s.Name(), c); err != nil && !errors.Is(err, store.ErrConflict) {
		return 0, err
	}
	return c.Position, nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// ReadEntries returns up to limit records after a position, oldest first, and
// the position to go on from. A record that is no event, since somebody wrote
// over it, has an empty Event: it must not stop those that come after it.
func ReadEntries(ctx context.Context, log store.Log, after uint64, limit int) ([]Entry, uint64, error) {
	seq, err := log.Read(ctx, Topic, after, limit)
	if err != nil {
		return nil, after, fmt.Errorf("read events: %w", err)
	}
	var out []Entry
	for pos, raw := range seq {
		e := Entry{Position: pos, Raw: raw}
		if err := json.Unmarshal(raw, &e.Event); err != nil {
			e.Event = Event{}
		}
		out, after = append(out, e), pos
	}
	return out, after, nil
}
