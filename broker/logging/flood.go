package logging

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/web"
)

// flood lets so many lines of one message a second through and counts the rest.
// The last of those is written when the second is over, with how many it stands
// for: nothing that was said is lost silently, errors least of all.
type flood struct {
	next  slog.Handler
	state *floodState
}

type floodState struct {
	most int
	now  func() time.Time

	mu     sync.Mutex
	m      map[floodKey]*tally
	closed bool
}

// floodKey is one message: those that say the code of a refusal or the name of an
// event are as many messages as there are codes and names.
type floodKey struct {
	level slog.Level
	text  string
	kind  string
}

type tally struct {
	since time.Time
	n     int // since then
	held  int // of them not written
	last  slog.Record
	to    slog.Handler // of last
	timer *time.Timer
}

const (
	floodWindow = time.Second
	// floodMost is how many messages are told apart; texts are ours, so that there
	// are a few hundred.
	floodMost = 4096
)

// SummedKey says for how many lines one stands.
const SummedKey = "summed"

func newFlood(next slog.Handler, most int, now func() time.Time) *flood {
	return &flood{next: next, state: &floodState{most: most, now: now, m: map[floodKey]*tally{}}}
}

// Enabled is the next handler's word.
func (f *flood) Enabled(ctx context.Context, l slog.Level) bool { return f.next.Enabled(ctx, l) }

// WithAttrs is slog's; all handlers that it makes count together.
func (f *flood) WithAttrs(as []slog.Attr) slog.Handler {
	return &flood{f.next.WithAttrs(as), f.state}
}

// WithGroup is slog's.
func (f *flood) WithGroup(name string) slog.Handler { return &flood{f.next.WithGroup(name), f.state} }

// Handle writes the line or counts it. The access log is a count by itself and
// always whole.
func (f *flood) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == web.AccessMessage || f.state.admit(r, f.next) {
		return f.next.Handle(ctx, r)
	}
	return nil
}

func kindOf(r slog.Record) (kind string) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Value.Kind() == slog.KindString && (a.Key == "code" || a.Key == "event" || a.Key == "connector") {
			kind = a.Value.String()
			return false
		}
		return true
	})
	return kind
}

// admit reports whether a line is written; else it is held.
func (s *floodState) admit(r slog.Record, to slog.Handler) bool {
	k := floodKey{r.Level, r.Message, kindOf(r)}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return true
	}
	t := s.m[k]
	if t == nil {
		if len(s.m) >= floodMost {
			s.forget(now)
		}
		t = &tally{since: now}
		s.m[k] = t
	}
	if t.held == 0 && now.Sub(t.since) >= floodWindow {
		t.since, t.n = now, 0
	}
	if t.n++; t.n <= s.most {
		return true
	}
	t.held++
	t.last, t.to = r.Clone(), to
	if t.timer == nil {
		t.timer = time.AfterFunc(floodWindow, func() { s.release(k) })
	}
	return false
}

// forget makes room: what holds nothing and is over goes, else whatever comes
// first among what holds nothing.
func (s *floodState) forget(now time.Time) {
	for k, t := range s.m {
		if t.held == 0 && now.Sub(t.since) >= floodWindow {
			delete(s.m, k)
		}
	}
	for k, t := range s.m {
		if len(s.m) < floodMost {
			return
		}
		if t.held == 0 {
			delete(s.m, k)
		}
	}
}

// release writes what a message held and lets it begin anew.
func (s *floodState) release(k floodKey) {
	s.mu.Lock()
	t := s.m[k]
	delete(s.m, k)
	s.mu.Unlock()
	if t != nil {
		t.write()
	}
}

func (t *tally) write() {
	if t.held == 0 {
		return
	}
	t.last.AddAttrs(slog.Int(SummedKey, t.held))
	_ = t.to.Handle(context.Background(), t.last) // as with any line: nobody hears of a log that cannot be written
}

// close writes what is held and counts no more.
func (f *flood) close() {
	f.state.mu.Lock()
	held := f.state.m
	f.state.m, f.state.closed = map[floodKey]*tally{}, true
	f.state.mu.Unlock()
	for _, t := range held {
		if t.timer != nil {
			t.timer.Stop()
		}
		t.write()
	}
}
