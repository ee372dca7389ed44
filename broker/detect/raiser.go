// Package detect notices what is odd: in the event log, where one replica reads
// along, and by looking at what no event tells (certificates that end, clocks, the
// store). What it finds is one more event, detection.raised, said once and again
// only after it went away or after a while. It decides nothing: nobody is locked
// out by it.
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

// Finding is something odd. It holds ids and networks, never a name
// (docs/security.md ST-5).
type Finding struct {
	Rule string
	// Subject tells findings of a rule apart: a network, a session, a certificate.
	Subject  string
	Severity event.Severity
	// Target, Connector, Actor and IP are the event's.
	Target, Connector, Actor, IP string
	// Facts are the event's details beside the rule.
	Facts map[string]string
	// Until is how long it counts as said; zero is detection.repeat.
	Until time.Time
}

// RaiserConfig is what NewRaiser needs.
type RaiserConfig struct {
	KV     store.KV
	Sealer *store.Sealer
	Record func(context.Context, event.Event) error
	// Config is the section that holds now.
	Config func() Config
	Now    func() time.Time
}

// Raiser says each finding once, whatever the number of replicas that have it.
// It is safe for concurrent use.
type Raiser struct {
	cfg  RaiserConfig
	said *store.Collection[said]

	mu    sync.Mutex
	known map[string]time.Time // until when a subject is known to be said
}

// said remembers in the store what was said.
type said struct {
	Rule    string    `json:"rule"`
	Subject string    `json:"subject"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
}

// knownMost bounds what is remembered beside the store, where the truth is.
const knownMost = 10_000

// NewRaiser returns a Raiser.
func NewRaiser(cfg RaiserConfig) (*Raiser, error) {
	if cfg.KV == nil || cfg.Sealer == nil || cfg.Record == nil || cfg.Config == nil || cfg.Now == nil {
		return nil, errors.New("detect: the configuration is incomplete")
	}
	r := &Raiser{cfg: cfg, known: map[string]time.Time{}}
	// Sealed: who writes to the store alone cannot keep an alarm from being raised.
	r.said = store.NewCollection(cfg.KV, store.CollectionConfig[said]{Kind: "detection", Sealer: cfg.Sealer, Now: cfg.Now, Expires: func(s said) time.Time { return s.Until }})
	return r, nil
}

func saidID(rule, subject string) string { return store.HashID(rule + "\x00" + subject) }

// Raise records the finding, unless it is said already. An error means that it
// may not be recorded: raise it again.
func (r *Raiser) Raise(ctx context.Context, f Finding) error {
	cfg := r.cfg.Config()
	if cfg.Off(f.Rule) {
		return nil
	}
	id, now := saidID(f.Rule, f.Subject), r.cfg.Now()
	if r.knows(id, now) {
		return nil
	}
	if f.Until.IsZero() {
		f.Until = now.Add(cfg.Repeat)
	}
	err := r.said.Create(ctx, id, said{Rule: f.Rule, Subject: f.Subject, Since: now, Until: f.Until})
	if errors.Is(err, store.ErrConflict) {
		s, err := r.said.Get(ctx, id)
		if err == nil {
			r.remember(id, s.Until, now)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("raise %s: %w", f.Rule, err)
	}
	details := map[string]string{"rule": f.Rule}
	for k, v := range f.Facts {
		details[k] = v
	}
	if err := r.cfg.Record(ctx, event.Event{Name: event.DetectionRaised, Severity: f.Severity, Target: f.Target, Connector: f.Connector, Actor: f.Actor, IP: f.IP, Details: details}); err != nil {
		// It was not said: whoever comes next says it.
		return errors.Join(fmt.Errorf("raise %s: %w", f.Rule, err), r.said.Delete(context.WithoutCancel(ctx), id))
	}
	r.remember(id, f.Until, now)
	return nil
}

// Clear takes notice that something went away: when it comes back it is said
// again.
func (r *Raiser) Clear(ctx context.Context, rule, subject string) error {
	id := saidID(rule, subject)
	if err := r.said.Delete(ctx, id); err != nil {
		return fmt.Errorf("clear %s: %w", rule, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, id)
	return nil
}

// Said returns the subjects of a rule that count as said now.
func (r *Raiser) Said(ctx context.Context, rule string) ([]string, error) {
	var out []string
	for after := ""; ; {
		page, next, err := r.said.List(ctx, "", "", after, 200)
		if err != nil {
			return nil, fmt.Errorf("what was said of %s: %w", rule, err)
		}
		for _, s := range page {
			if s.Rule == rule {
				out = append(out, s.Subject)
			}
		}
		if next == "" {
			return out, nil
		}
		after = next
	}
}

func (r *Raiser) knows(id string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.known[id]
	if ok && !now.Before(until) {
		delete(r.known, id)
		return false
	}
	return ok
}

func (r *Raiser) remember(id string, until, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= knownMost {
		for k, u := range r.known {
			if !now.Before(u) {
				delete(r.known, k)
			}
		}
		if len(r.known) >= knownMost {
			clear(r.known) // the store knows
		}
	}
	r.known[id] = until
}
