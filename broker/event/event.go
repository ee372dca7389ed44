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
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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
	Actor     string            `json:"actor,omitempty"`  // user id, "operator" for data/admin.token, or "" for the broker itself
	Target    string            `json:"target,omitempty"` // user, session, key or client id
	Connector string            `json:"connector,omitempty"`
	Client    string            `json:"client,omitempty"`
	IP        string            `json:"ip,omitempty"`
	Agent     string            `json:"agent,omitempty"`
	RequestID string            `json:"request_id,omitempty"`
	Severity  Severity          `json:"severity,omitempty"` // that of the name, unless whoever records knows better
	Details   map[string]string `json:"details,omitempty"`
}

// Config is what New needs.
type Config struct {
	Log    store.Log
	Now    func() time.Time
	Logger *slog.Logger
	// Place says where an address is; "" is not known. It stands in the details of
	// every event with an address. May be nil.
	Place func(ctx context.Context, ip string) (country, place string)
	// Observe counts the event; may be nil.
	Observe func(Event)
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

// maxText bounds what a stranger wrote into an event, in bytes.
const maxText = 256

// Record writes the event and returns when it is durable. ID and Time are
// filled in. If it fails, a change that it belongs to must not be made.
func (r *Recorder) Record(ctx context.Context, e Event) error {
	e.ID, e.Time = rand.Text(), r.cfg.Now().UTC()
	if e.Severity == "" {
		e.Severity = e.Name.Severity()
	}
	for _, f := range []*string{&e.Actor, &e.Target, &e.Connector, &e.Client, &e.IP, &e.Agent, &e.RequestID} {
		*f = clean(*f)
	}
	if e.Details != nil {
		details := make(map[string]string, len(e.Details)) // the caller's own stays as it is
		for k, v := range e.Details {
			details[k] = clean(v)
		}
		e.Details = details
	}
	e.Details = r.placed(ctx, e)
	js, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("record %s: %w", e.Name, err)
	}
	if _, err := r.cfg.Log.Append(ctx, Topic, js); err != nil {
		return fmt.Errorf("record %s: %w", e.Name, err)
	}
	if r.cfg.Observe != nil {
		r.cfg.Observe(e)
	}
	attrs := []slog.Attr{slog.String("event", string(e.Name))}
	for _, a := range []struct{ k, v string }{{"actor", e.Actor}, {"target", e.Target}, {"connector", e.Connector}, {"client", e.Client}, {"ip", e.IP}, {"request_id", e.RequestID}} {
		if a.v != "" {
			attrs = append(attrs, slog.String(a.k, a.v))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(e.Details)) {
		attrs = append(attrs, slog.String(k, e.Details[k]))
	}
	r.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "event", attrs...)
	return nil
}

// placed are an event's details with where its address is.
func (r *Recorder) placed(ctx context.Context, e Event) map[string]string {
	if e.IP == "" || r.cfg.Place == nil {
		return e.Details
	}
	country, place := r.cfg.Place(ctx, e.IP)
	if country == "" && place == "" {
		return e.Details
	}
	details := maps.Clone(e.Details)
	if details == nil {
		details = map[string]string{}
	}
	for k, v := range map[string]string{"country": country, "place": place} {
		if v != "" {
			details[k] = clean(v)
		}
	}
	return details
}

// clean bounds a text and takes out what could forge a line of a log or turn
// its reading direction (docs/security.md G8).
func clean(s string) string {
	plain := len(s) <= maxText
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] >= 0x20 && s[i] < 0x7f
	}
	if plain {
		return s
	}
	var b strings.Builder
	for _, c := range strings.ToValidUTF8(s, "\uFFFD") {
		if unicode.Is(unicode.Cc, c) || unicode.Is(unicode.Cf, c) || c == '\u2028' || c == '\u2029' {
			c = '\uFFFD'
		}
		if b.Len()+utf8.RuneLen(c) > maxText {
			break
		}
		b.WriteRune(c)
	}
	return b.String()
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
