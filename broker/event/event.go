// Package event records what happened, once, in the log of the store. It does
// not know who reads it.
package event

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// Topic is the log's topic in the store.
const Topic = "events"

// Event is one thing that happened. It holds ids, never a name or an e-mail
// address: those are looked up when an event is shown (docs/security.md ST-5).
type Event struct {
	ID        string            `json:"id"`
	Time      time.Time         `json:"time"`
	Name      Name              `json:"name"`
	Actor     string            `json:"actor,omitempty"`  // user id, "admin-token", or "" for the broker itself
	Target    string            `json:"target,omitempty"` // user, session, key or client id
	Connector string            `json:"connector,omitempty"`
	Client    string            `json:"client,omitempty"`
	IP        string            `json:"ip,omitempty"`
	Agent     string            `json:"agent,omitempty"`
	RequestID string            `json:"request_id,omitempty"`
	Details   map[string]string `json:"details,omitempty"`
}

// Config is what New needs.
type Config struct {
	Log    store.Log
	Now    func() time.Time
	Logger *slog.Logger
	// Observe counts the event; may be nil.
	Observe func(Name)
}

// Recorder writes events. It is safe for concurrent use.
type Recorder struct{ cfg Config }

// New returns a Recorder.
func New(cfg Config) (*Recorder, error) {
	if cfg.Log == nil || cfg.Now == nil || cfg.Logger == nil {
		return nil, errors.New("event: Log, Now and Logger are needed")
	}
	return &Recorder{cfg: cfg}, nil
}

// maxText bounds what a stranger wrote into an event.
const maxText = 256

// Record writes the event and returns when it is durable. ID and Time are
// filled in. If it fails, a change that it belongs to must not be made.
func (r *Recorder) Record(ctx context.Context, e Event) error {
	e.ID, e.Time = rand.Text(), r.cfg.Now().UTC()
	e.Agent = cut(e.Agent)
	for k, v := range e.Details {
		if len(v) > maxText {
			e.Details[k] = cut(v)
		}
	}
	js, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("record %s: %w", e.Name, err)
	}
	if _, err := r.cfg.Log.Append(ctx, Topic, js); err != nil {
		return fmt.Errorf("record %s: %w", e.Name, err)
	}
	if r.cfg.Observe != nil {
		r.cfg.Observe(e.Name)
	}
	attrs := []slog.Attr{slog.String("event", string(e.Name))}
	for _, a := range []struct{ k, v string }{{"actor", e.Actor}, {"target", e.Target}, {"connector", e.Connector}, {"client", e.Client}, {"ip", e.IP}, {"request_id", e.RequestID}} {
		if a.v != "" {
			attrs = append(attrs, slog.String(a.k, a.v))
		}
	}
	for k, v := range e.Details {
		attrs = append(attrs, slog.String(k, v))
	}
	r.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "event", attrs...)
	return nil
}

func cut(s string) string {
	if len(s) > maxText {
		return s[:maxText]
	}
	return s
}

// Read returns up to limit events after a position, oldest first, and the
// position to go on from.
func Read(ctx context.Context, log store.Log, after uint64, limit int) ([]Event, uint64, error) {
	seq, err := log.Read(ctx, Topic, after, limit)
	if err != nil {
		return nil, after, fmt.Errorf("read events: %w", err)
	}
	var out []Event
	for pos, js := range seq {
		var e Event
		if err := json.Unmarshal(js, &e); err != nil {
			return nil, after, fmt.Errorf("read event %d: %w", pos, err)
		}
		out, after = append(out, e), pos
	}
	return out, after, nil
}
