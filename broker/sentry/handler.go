package sentry

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	sdk "github.com/getsentry/sentry-go"
	"go.opentelemetry.io/otel/trace"
)

// Handler returns next with every record of the level error reported besides. Of
// a record's attributes only those of known names are in the report.
func (c *Client) Handler(next slog.Handler) slog.Handler {
	if c == nil {
		return next
	}
	return &handler{Handler: next, c: c}
}

type handler struct {
	slog.Handler
	c     *Client
	attrs []slog.Attr
	group bool // within one, names mean something else
}

// Handle writes the record, then reports it.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelError {
		h.c.report(ctx, r, h.attrs, h.group)
	}
	return err
}

// WithAttrs keeps them for the report too.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *h
	out.Handler = h.Handler.WithAttrs(attrs)
	if !h.group {
		out.attrs = append(slices.Clip(h.attrs), attrs...)
	}
	return &out
}

// WithGroup makes what comes after it nobody's business but the log's.
func (h *handler) WithGroup(name string) slog.Handler {
	out := *h
	out.Handler, out.group = h.Handler.WithGroup(name), true
	return &out
}

// tags are the attributes whose values are words of ours or of the configuration.
var tags = []string{"request_id", "ref", "status", "code", "handler", "connector", "route", "event", "channel", "sink", "op"}

// report makes a report of a record. An error that a request met is one only if
// it is a fault of ours, or the store's absence.
func (c *Client) report(ctx context.Context, r slog.Record, with []slog.Attr, group bool) {
	found, errText, panicked := map[string]string{}, "", ""
	look := func(a slog.Attr) bool {
		switch {
		case a.Key == "err":
			errText = a.Value.Resolve().String()
		case a.Key == "value":
			panicked = a.Value.Resolve().String()
		case slices.Contains(tags, a.Key):
			if v := word(a.Value.Resolve().String()); v != "" {
				found[a.Key] = v
			}
		}
		return true
	}
	for _, a := range with {
		look(a)
	}
	if !group {
		r.Attrs(look)
	}
	status := found["status"]
	if status != "" && status != "500" && found["code"] != "store.unavailable" {
		return
	}
	e := sdk.NewEvent()
	e.Timestamp, e.Level, e.Logger, e.Tags, e.Transaction = r.Time, sdk.LevelError, "gatehouse", found, found["handler"]
	e.Contexts["runtime"] = sdk.Context{"name": "go", "version": runtime.Version()}
	e.Contexts["os"] = sdk.Context{"name": runtime.GOOS}
	if s := trace.SpanContextFromContext(ctx); s.IsValid() {
		e.Contexts["trace"] = sdk.Context{"trace_id": s.TraceID().String(), "span_id": s.SpanID().String()}
	}
	x := sdk.Exception{Type: r.Message, Value: Scrub(errText)}
	e.Fingerprint = []string{r.Message, found["code"], found["handler"], x.Value}
	if r.Message == "panic" {
		// What was given to panic may be anything; only the runtime's own words are known.
		e.Level, x.Value = sdk.LevelFatal, ""
		if strings.HasPrefix(panicked, "runtime error: ") {
			x.Value = Scrub(panicked)
		}
		x.Stacktrace = stack()
		e.Fingerprint = []string{"{{ default }}"}
	} else if strings.HasPrefix(errText, "internal: panic: ") { // reported as a panic already
		return
	}
	key := strings.Join(e.Fingerprint, "\x00")
	if x.Stacktrace != nil && len(x.Stacktrace.Frames) > 0 {
		f := x.Stacktrace.Frames[len(x.Stacktrace.Frames)-1]
		key += f.Module + f.Function
	}
	if !c.seen.first(key) {
		return
	}
	e.Exception = []sdk.Exception{x}
	c.sdk.CaptureEvent(e, nil, nil)
}

// stack is the caller's stack without what reports it.
func stack() *sdk.Stacktrace {
	st := sdk.NewStacktrace()
	if st == nil {
		return nil
	}
	frames := st.Frames[:0]
	for _, f := range st.Frames { // from the outermost to the innermost
		if f.Module == "log/slog" || strings.HasSuffix(f.Module, "/broker/sentry") {
			break
		}
		frames = append(frames, f)
	}
	st.Frames = frames
	return st
}

const (
	// quiet is how long the same fault is not reported again.
	quiet = time.Minute
	// maxKinds bounds what is remembered: more kinds of faults at once are told
	// when the minute is over.
	maxKinds = 256
)

// repeats keeps the same fault from being reported again and again.
type repeats struct {
	now func() time.Time
	mu  sync.Mutex
	m   map[string]time.Time
}

func newRepeats(now func() time.Time) *repeats {
	return &repeats{now: now, m: map[string]time.Time{}}
}

func (r *repeats) first(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if until, ok := r.m[key]; ok && now.Before(until) {
		return false
	}
	if len(r.m) >= maxKinds {
		for k, until := range r.m {
			if !now.Before(until) {
				delete(r.m, k)
			}
		}
		if len(r.m) >= maxKinds {
			return false
		}
	}
	r.m[key] = now.Add(quiet)
	return true
}
