package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
	"github.com/remotegpu/gatehouse/templates"
)

// receiver is the other side of a channel: it keeps what arrives, and answers
// what a test wants.
type receiver struct {
	mu     sync.Mutex
	got    []Message
	answer func(n int, m Message) error // n counts the tries from 1
	tries  int
}

// Send is the Sender of a channel.
func (r *receiver) Send(ctx context.Context, m Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries++
	if r.answer != nil {
		if err := r.answer(r.tries, m); err != nil {
			return err
		}
	}
	r.got = append(r.got, m)
	return ctx.Err()
}

func (r *receiver) titles() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, m := range r.got {
		out = append(out, m.Title)
	}
	return out
}

// rig is a Notifier on an embedded store, with channels that tests look into.
type rig struct {
	t      *testing.T
	clock  storetest.Clock
	store  store.Store
	n      *Notifier
	people map[string]Person
	failed []event.Event // notify.failed
	counts map[string]int
	next   uint64 // position of the next event
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, people: map[string]Person{}, counts: map[string]int{}}
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: t.TempDir() + "/gatehouse.db", Now: r.clock.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r.store = s
	r.n = r.notifier(s)
	return r
}

func (r *rig) notifier(s store.Store) *Notifier {
	r.t.Helper()
	n, err := New(Config{KV: s, Log: s, Leaser: s, Sealer: storetest.Sealer(r.t), Now: r.clock.Now, Logger: slog.New(slog.DiscardHandler),
		Record: func(_ context.Context, e event.Event) error { r.failed = append(r.failed, e); return nil },
		Person: func(_ context.Context, id string) (Person, bool, error) { p, ok := r.people[id]; return p, ok, nil },
		Observe: func(channel, result string) {
			r.counts[channel+" "+result]++
		}})
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// texts are the real ones.
func texts(t testing.TB) func(locale, id string, args map[string]any) string {
	t.Helper()
	all := map[string]map[string]string{}
	for _, l := range []string{"en", "zh-CN"} {
		raw, err := templates.FS.ReadFile("locale/" + l + ".json")
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]string{}
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		all[l] = m
	}
	return func(locale, id string, args map[string]any) string {
		s, ok := all[locale][id]
		if !ok {
			t.Errorf("there is no text %q in %q", id, locale)
		}
		for k, v := range args {
			s = strings.ReplaceAll(s, "{"+k+"}", fmt.Sprint(v))
		}
		return s
	}
}

// use puts channels of the given kinds to use; the names are the kinds.
func (r *rig) use(rules []Rule, kinds ...string) map[string]*receiver {
	r.t.Helper()
	to := map[string]*receiver{}
	p := &Plan{set: Settings{Rules: rules, Locale: "en", Zone: time.UTC, Issuer: "https://id.example.com", Brand: "RemoteGPU", Text: texts(r.t)}}
	for _, k := range kinds {
		to[k] = &receiver{}
		c := &channel{id: k, name: k, kind: k, print: k, pace: paceOf(k), sender: to[k]}
		if k == "people" {
			c.id = peopleID
		}
		p.channels = append(p.channels, c)
	}
	p.rules = p.compile()
	r.n.Use(p)
	return to
}

// sender is that of a channel which this replica holds.
func (r *rig) sender(id string) *sender {
	r.t.Helper()
	p := r.n.plan.Load()
	s := &sender{n: r.n, plan: p, ch: p.find(id)}
	var err error
	if s.counts, err = r.n.queues.counted(r.t.Context(), id); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// happen gives the sink one event after another.
func (r *rig) happen(es ...event.Event) {
	r.t.Helper()
	var batch []event.Entry
	for _, e := range es {
		r.next++
		if e.ID == "" {
			e.ID = fmt.Sprintf("E%d", r.next)
		}
		if e.Time.IsZero() {
			e.Time = r.clock.Now()
		}
		batch = append(batch, event.Entry{Position: r.next, Event: e})
	}
	if err := r.n.Consume(r.t.Context(), batch); err != nil {
		r.t.Fatal(err)
	}
}

// work lets a sender do all that it can do now.
func (r *rig) work(s *sender) {
	r.t.Helper()
	for range 10_000 {
		wait, err := s.step(r.t.Context())
		if err != nil && !errors.Is(err, errElsewhere) {
			r.t.Fatal(err)
		}
		if wait > 0 {
			return
		}
	}
	r.t.Fatal("the sender never rests")
}

func (r *rig) waiting(id string) int {
	r.t.Helper()
	is, err := r.n.queues.waiting(r.t.Context(), id, maxWaiting+maxBatch)
	if err != nil {
		r.t.Fatal(err)
	}
	return len(is)
}
