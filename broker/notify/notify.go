// Package notify tells people and their programs what happened. It reads the
// event log as a Sink, queues each event for the channels that the rules name,
// and sends what waits: one replica at a time for each channel, in order, below
// the vendor's limit, until it has arrived or was put aside.
//
//	sink.go      event → rules → queue
//	sender.go    queue → message → channel, and what became of it
//	plan.go      which of what waits becomes the next message
//	render.go    an event in words
//	operate.go   what operators see and do
//
// One file per vendor turns a Message into that vendor's request. Who may read an
// event, and which events there are, is not decided here.
package notify

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
)

// SinkName names the sink's position in the log.
const SinkName = "notify"

// Person is what a notification says of somebody.
type Person struct {
	Name     string // for people to read
	Username string
	Email    string // an address that somebody proved; "" if there is none
	Locale   string
}

// Config is what New needs.
type Config struct {
	KV     store.KV
	Log    store.Log
	Leaser store.Leaser
	Sealer *store.Sealer
	// Record writes an event: notify.failed.
	Record func(context.Context, event.Event) error
	// Person looks somebody up; ok is false if there is no such person.
	Person func(ctx context.Context, id string) (p Person, ok bool, err error)
	// Observe counts what became of a message; may be nil.
	Observe func(channel, result string)
	Now     func() time.Time
	Logger  *slog.Logger
}

// Notifier is one replica's part in telling. It lasts as long as the process;
// what a configuration says comes by Use.
type Notifier struct {
	cfg     Config
	queues  queues
	plan    atomic.Pointer[Plan]
	swapped chan struct{}

	mu   sync.Mutex
	wake map[string]chan struct{} // by channel id
}

// New returns a Notifier without channels.
func New(cfg Config) (*Notifier, error) {
	if cfg.KV == nil || cfg.Log == nil || cfg.Leaser == nil || cfg.Sealer == nil || cfg.Record == nil || cfg.Person == nil || cfg.Now == nil || cfg.Logger == nil {
		return nil, errors.New("notify: the configuration is incomplete")
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, string) {}
	}
	n := &Notifier{cfg: cfg, queues: newQueues(cfg.KV, cfg.Sealer, cfg.Now), swapped: make(chan struct{}, 1), wake: map[string]chan struct{}{}}
	n.plan.Store(&Plan{set: Settings{Zone: time.UTC, Text: func(_, id string, _ map[string]any) string { return id }}})
	return n, nil
}

// Use puts what Prepare made to use: from now on events go by these rules to
// these channels. What waits for a channel that is still there stays queued.
func (n *Notifier) Use(p *Plan) {
	n.plan.Store(p)
	select {
	case n.swapped <- struct{}{}:
	default:
	}
}

// Run sends what waits until ctx ends.
func (n *Notifier) Run(ctx context.Context) error {
	for {
		plan := n.plan.Load()
		running, stop := context.WithCancel(ctx)
		var all sync.WaitGroup
		for _, c := range plan.channels {
			s := &sender{n: n, plan: plan, ch: c}
			all.Go(func() { s.run(running) })
		}
		select {
		case <-ctx.Done():
		case <-n.swapped:
		}
		stop()
		all.Wait() // a message that is under way ends first: see lastWords
		if ctx.Err() != nil {
			return nil
		}
	}
}

// signal wakes the sender of a channel, if it runs here.
func (n *Notifier) signal(channel string) {
	select {
	case n.waker(channel) <- struct{}{}:
	default:
	}
}

func (n *Notifier) waker(channel string) chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.wake[channel]
	if c == nil {
		c = make(chan struct{}, 1)
		n.wake[channel] = c
	}
	return c
}
