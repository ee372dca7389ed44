package notify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrNoChannel means that there is no channel of that id.
var ErrNoChannel = errors.New("no such notification channel")

// State is a channel as operators see it.
type State struct {
	ID      string // for paths
	Name    string // as rules name it
	Kind    string
	Address string // host and the last characters; never the whole
	// State is "ok", "waiting" (nothing was sent yet, or all is on its way),
	// "failing" (the last try did not arrive) or "down" (several did not).
	State     string
	Delivered time.Time // last success; zero if there was none
	Failed    time.Time // last failure
	Error     string    // what it said; "" since the last success
	Waiting   int       // events in the queue, up to MaxShown
	Dead      int       // dead letters, up to MaxShown
}

// MaxShown bounds what State counts.
const MaxShown = 1000

// Channels returns all channels, in the order of the configuration.
func (n *Notifier) Channels(ctx context.Context) ([]State, error) {
	var out []State
	for _, c := range n.plan.Load().channels {
		st, err := n.queues.state(ctx, c.id)
		if err != nil {
			return nil, err
		}
		waiting, err := n.queues.waiting(ctx, c.id, MaxShown)
		if err != nil {
			return nil, err
		}
		dead, _, err := n.queues.letters.List(ctx, "channel", c.id, "", MaxShown)
		if err != nil {
			return nil, err
		}
		s := State{ID: c.id, Name: c.name, Kind: c.kind, Address: c.address, Delivered: st.Delivered, Failed: st.Failed, Error: st.Error, Waiting: len(waiting), Dead: len(dead)}
		switch {
		case st.Streak >= breakAt || st.Pause.After(n.cfg.Now()):
			s.State = "down"
		case st.Error != "":
			s.State = "failing"
		case st.Delivered.IsZero() || len(waiting) > 0:
			s.State = "waiting"
		default:
			s.State = "ok"
		}
		out = append(out, s)
	}
	return out, nil
}

// Test sends a message to a channel at once and returns what came of it. One
// that arrives makes a channel that was down try again at once. ErrNoChannel:
// there is none of that id; any other error is the channel's.
func (n *Notifier) Test(ctx context.Context, id string) (took time.Duration, err error) {
	plan := n.plan.Load()
	c := plan.find(id)
	if c == nil || c.kind == "people" {
		return 0, ErrNoChannel
	}
	start := time.Now()
	err = plan.test(ctx, c, "test-"+strings.ToLower(rand.Text()), n.cfg.Now())
	took = time.Since(start)
	now := n.cfg.Now()
	_, noted := n.queues.change(ctx, c.id, func(p *progress) error {
		p.Sent = c.pace.note(p.Sent, now)
		if err != nil {
			p.Failed, p.Error = now, brief(err)
			return nil
		}
		p.Delivered, p.Pause = now, time.Time{}
		if p.Batch != nil {
			p.Batch.Next = time.Time{}
		}
		if p.Batch == nil || p.Batch.Tries == 0 {
			p.Error, p.Streak, p.Told = "", 0, false
		}
		return nil
	})
	if err == nil && noted != nil {
		return took, fmt.Errorf("the message arrived, but that could not be noted: %w", noted)
	}
	if err == nil {
		n.signal(c.id)
	}
	return took, err
}

// Probe tries one channel.
type Probe struct {
	Name string // section and name
	// Run does it, and says what it did.
	Run func(ctx context.Context) (string, error)
}

// Probes are what `gatehouse check` tries: with send a test message by every
// channel that has a reader, else what can be tried without telling anybody.
func (p *Plan) Probes(send bool, now func() time.Time) []Probe {
	var out []Probe
	for _, c := range p.channels {
		name := c.kind
		if c.name != c.kind {
			name += " " + c.name
		}
		checker, quiet := c.sender.(Checker)
		switch {
		case c.kind == "people":
		case send && !c.mute:
			out = append(out, Probe{name, func(ctx context.Context) (string, error) {
				return c.address + ": a test message was sent", p.test(ctx, c, "test-"+strings.ToLower(rand.Text()), now())
			}})
		case quiet:
			out = append(out, Probe{name, func(ctx context.Context) (string, error) { return c.address, checker.Check(ctx) }})
		}
	}
	return out
}

// Letter is a message that was given up, as operators see it.
type Letter struct {
	ID      string
	Channel string // id of the channel
	Time    time.Time
	Error   string
	Tries   int
	Events  int
	Names   []string // of its events, each once
	// Retrying says that it waits to be sent again.
	Retrying bool
}

// Letters returns up to limit dead letters, the oldest first, those after the id
// given; next is where to go on. channel "" means all.
func (n *Notifier) Letters(ctx context.Context, channel, after string, limit int) (out []Letter, next string, err error) {
	index := ""
	if channel != "" {
		index = "channel"
	}
	ls, next, err := n.queues.letters.List(ctx, index, channel, after, limit)
	for _, l := range ls {
		out = append(out, l.view())
	}
	return out, next, err
}

// Letter returns one of them. store.ErrNotFound: there is none of that id.
func (n *Notifier) Letter(ctx context.Context, id string) (Letter, error) {
	l, err := n.queues.letters.Get(ctx, id)
	return l.view(), err
}

func (l letter) view() Letter {
	v := Letter{ID: l.ID, Channel: l.Channel, Time: l.Time, Error: l.Error, Tries: l.Tries, Events: len(l.Items), Retrying: l.Retrying}
	seen := map[string]bool{}
	name := func(s string) {
		if !seen[s] {
			seen[s] = true
			v.Names = append(v.Names, s)
		}
	}
	for _, i := range l.Items {
		name(string(i.Event.Name))
	}
	for _, r := range l.Repeats {
		v.Events += r.Count
		name(string(r.Event.Name))
	}
	return v
}

// Retry puts a dead letter before what waits for its channel, and tries it at
// once even if the channel is down. store.ErrNotFound: there is none of that id;
// ErrNoChannel: its channel is not in the configuration any more.
func (n *Notifier) Retry(ctx context.Context, id string) error {
	l, err := n.queues.letters.Get(ctx, id)
	if err != nil {
		return err
	}
	if n.plan.Load().find(l.Channel) == nil {
		return ErrNoChannel
	}
	if _, err := n.queues.letters.Update(ctx, id, func(l *letter) error { l.Retrying = true; return nil }); err != nil {
		return err
	}
	if err := n.queues.add(ctx, item{ID: retryID(l.Channel, id), Channel: l.Channel, Dead: id, Queued: n.cfg.Now()}); err != nil {
		return err
	}
	if _, err := n.queues.change(ctx, l.Channel, func(p *progress) error { p.Pause = time.Time{}; return nil }); err != nil {
		return err
	}
	n.signal(l.Channel)
	return nil
}

// Drop forgets a dead letter. store.ErrNotFound: there is none of that id.
func (n *Notifier) Drop(ctx context.Context, id string) error {
	l, err := n.queues.letters.Get(ctx, id)
	if err != nil {
		return err
	}
	if err := n.queues.items.Delete(ctx, retryID(l.Channel, id)); err != nil {
		return err
	}
	return n.queues.letters.Delete(ctx, id)
}
