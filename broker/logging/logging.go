// Package logging makes the handlers that every line of the log passes: the
// request's id is on it, nothing in it can pass for another line, and a flood of
// one message is counted instead of written. It has no opinion about what is
// worth a line.
package logging

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/remotegpu/gatehouse/broker/web"
)

// Config is what New needs.
type Config struct {
	// Text writes key=value lines instead of JSON.
	Text  bool
	Level slog.Leveler // default info
	// Flood is how many lines of one message a second are written; 0 is
	// DefaultFlood, a negative number is no bound.
	Flood int
	Now   func() time.Time // default time.Now
}

// DefaultFlood is how many lines of one message a second are written.
const DefaultFlood = 100

// New returns a logger that writes lines to w, and what writes out the counts
// that it still holds: call it when the process ends. The logger may be used
// afterwards, then every line is written.
func New(w io.Writer, c Config) (log *slog.Logger, flush func()) {
	opts := &slog.HandlerOptions{Level: c.Level, ReplaceAttr: plain}
	var h slog.Handler = slog.NewJSONHandler(w, opts)
	if c.Text {
		h = slog.NewTextHandler(w, opts)
	}
	if c.Flood < 0 {
		return slog.New(h), func() {}
	}
	if c.Flood == 0 {
		c.Flood = DefaultFlood
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	f := newFlood(h, c.Flood, c.Now)
	return slog.New(f), f.close
}

// WithRequest returns a handler that puts the id of the request that is being
// served on every line of it: code that has the request's context need not, and
// code that does not know requests (a connector) cannot forget it.
func WithRequest(h slog.Handler) slog.Handler {
	if _, done := h.(requests); done {
		return h
	}
	return requests{h}
}

// RequestIDKey is the key of a request's id, in lines of the log as in events.
const RequestIDKey = "request_id"

type requests struct{ slog.Handler }

// Handle adds the request's id, unless the line has it.
func (h requests) Handle(ctx context.Context, r slog.Record) error {
	if id := web.RequestID(ctx); id != "" && !has(r, RequestIDKey) {
		r = r.Clone()
		r.AddAttrs(slog.String(RequestIDKey, id))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs is slog's.
func (h requests) WithAttrs(as []slog.Attr) slog.Handler { return requests{h.Handler.WithAttrs(as)} }

// WithGroup is slog's.
func (h requests) WithGroup(name string) slog.Handler { return requests{h.Handler.WithGroup(name)} }

func has(r slog.Record, key string) (found bool) {
	r.Attrs(func(a slog.Attr) bool {
		found = a.Key == key
		return !found
	})
	return found
}
