package detect

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
)

// watcher is one rule over the event log. Its methods are called by one goroutine
// at a time.
type watcher interface {
	// rule is its name.
	rule() string
	// window is how far back its state reaches.
	window(Config) time.Duration
	// see takes notice of an event.
	see(e *event.Event)
	// judge raises what is over its bound now, and clears what is not any more.
	judge(ctx context.Context, cfg Config, now time.Time) error
	// forget begins anew, but for what was said: with that it goes on, so that it
	// is cleared when it has gone away.
	forget(said []string)
}

// LogConfig is what NewLog needs.
type LogConfig struct {
	Log    store.Log
	KV     store.KV
	Raiser *Raiser
}

// Log is the event log's reader: an event.Sink. What its rules know is in memory;
// whichever replica takes over reads the last window again, for which it keeps in
// the store where in the log the last minutes began.
type Log struct {
	cfg   LogConfig
	rules []watcher
	marks *store.Collection[marks]

	mu    sync.Mutex
	last  uint64    // position that the rules have seen
	alive time.Time // when this replica was last known to be the one that reads
	judge time.Time // when the rules were last asked without anything new
	noted []mark    // in the store
}

// mark says that the records after a position are of a time or later.
type mark struct {
	Time     time.Time `json:"time"`
	Position uint64    `json:"position"`
}

type marks struct {
	Marks []mark `json:"marks"`
}

const (
	markEvery = time.Minute
	markID    = "log"
	// goneAfter is for how long nobody must have called for another replica to
	// have read in between; a sink is called every second.
	goneAfter = 5 * time.Second
	// judgeEvery is how often windows that empty by themselves are looked at.
	judgeEvery = 15 * time.Second
	// replayMost bounds what is read again, in records.
	replayMost = 500_000
	replayPage = 1000
)

// NewLog returns the reader, with all rules over the log.
func NewLog(cfg LogConfig) (*Log, error) {
	if cfg.Log == nil || cfg.KV == nil || cfg.Raiser == nil {
		return nil, errors.New("detect: the configuration is incomplete")
	}
	l := &Log{cfg: cfg, rules: []watcher{newSpraying(cfg.Raiser), newDenials(cfg.Raiser), newArchive(cfg.Raiser)}}
	l.marks = store.NewCollection(cfg.KV, store.CollectionConfig[marks]{Kind: "detection-mark", Now: cfg.Raiser.cfg.Now})
	return l, nil
}

// Name names the position and the lease.
func (l *Log) Name() string { return "detection" }

// Consume lets the rules see the records, and raises what they find. Records that
// are older than any window, as those of the past at a first start, are left out.
func (l *Log) Consume(ctx context.Context, batch []event.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	cfg, now := l.cfg.Raiser.cfg.Config(), l.cfg.Raiser.cfg.Now()
	if err := l.catchUp(ctx, cfg, now, batch[0].Position); err != nil {
		return err
	}
	l.see(cfg, now, batch)
	if err := l.ask(ctx, cfg, now); err != nil {
		return err
	}
	l.alive = now
	return l.note(ctx, cfg, now)
}

// Idle lets windows empty.
func (l *Log) Idle(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	cfg, now := l.cfg.Raiser.cfg.Config(), l.cfg.Raiser.cfg.Now()
	if l.alive.IsZero() || now.Sub(l.alive) > goneAfter {
		return nil // what was read meanwhile is read again with the next record
	}
	l.alive = now
	if now.Sub(l.judge) < judgeEvery {
		return nil
	}
	return l.ask(ctx, cfg, now)
}

func (l *Log) ask(ctx context.Context, cfg Config, now time.Time) error {
	l.judge = now
	var all error
	for _, r := range l.rules {
		all = errors.Join(all, r.judge(ctx, cfg, now))
	}
	return all
}

// see gives the rules what is not older than their windows. What they have seen
// they are not given twice: after a failure the same records come again.
func (l *Log) see(cfg Config, now time.Time, batch []event.Entry) {
	for i := range batch {
		e := &batch[i]
		if e.Position <= l.last {
			continue
		}
		l.last = e.Position
		if e.Event.Name == "" || e.Event.Name == event.DetectionRaised {
			continue
		}
		for _, r := range l.rules {
			if now.Sub(e.Event.Time) < r.window(cfg) {
				r.see(&e.Event)
			}
		}
	}
}

// catchUp reads the last window again if another replica may have read since, up
// to the record that comes now.
func (l *Log) catchUp(ctx context.Context, cfg Config, now time.Time, next uint64) error {
	if !l.alive.IsZero() && now.Sub(l.alive) <= goneAfter {
		return nil
	}
	for _, r := range l.rules {
		said, err := l.cfg.Raiser.Said(ctx, r.rule())
		if err != nil {
			return err
		}
		r.forget(said)
	}
	l.last = 0
	stored, err := l.marks.Get(ctx, markID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("read where the window begins: %w", err)
	}
	l.noted = stored.Marks
	after, ok := l.windowStart(cfg, now, next)
	for ok {
		page, to, err := event.ReadEntries(ctx, l.cfg.Log, after, replayPage)
		if err != nil {
			return err
		}
		for i, e := range page {
			if e.Position >= next {
				page, ok = page[:i], false
				break
			}
		}
		l.see(cfg, now, page)
		if len(page) < replayPage {
			break
		}
		after = to
	}
	return nil
}

// windowStart is the position after which the longest window begins; false where
// there is nothing before next to be read again.
func (l *Log) windowStart(cfg Config, now time.Time, next uint64) (uint64, bool) {
	from := now.Add(-l.longest(cfg))
	after, found := uint64(0), false
	for _, m := range l.noted {
		if m.Position >= next {
			break
		}
		if !found || !m.Time.After(from) || next-m.Position > replayMost {
			after, found = m.Position, true
		}
	}
	return after, found
}

func (l *Log) longest(cfg Config) (d time.Duration) {
	for _, r := range l.rules {
		d = max(d, r.window(cfg))
	}
	return d
}

// note keeps where the log stands, some sixty times in the longest window.
func (l *Log) note(ctx context.Context, cfg Config, now time.Time) error {
	longest := l.longest(cfg)
	if n := len(l.noted); n > 0 && now.Sub(l.noted[n-1].Time) < max(markEvery, longest/60) {
		return nil
	}
	from := now.Add(-longest)
	keep := l.noted
	for len(keep) > 1 && !keep[1].Time.After(from) {
		keep = keep[1:]
	}
	keep = append(keep[:len(keep):len(keep)], mark{now, l.last})
	if err := l.marks.Put(ctx, markID, marks{keep}); err != nil {
		return fmt.Errorf("keep where the window begins: %w", err)
	}
	l.noted = keep
	return nil
}
