package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

const (
	// busBuffer is how many messages a slow subscriber may be behind before its
	// channel is closed.
	busBuffer = 1024
	// beatEvery and staleAfter bound how long a replica that is cut off believes
	// what it has cached (docs/security.md SE-3).
	beatEvery  = 250 * time.Millisecond
	staleAfter = time.Second
	// deafAfter is when a connection on which nothing comes, not even our own
	// heartbeat, is given up: a dead link may look alive for many minutes.
	deafAfter = 2 * time.Second
	// connectWait is how long Subscribe waits for a connection.
	connectWait = 3 * time.Second
)

// bus has one connection for all topics and the heartbeat, so that hearing the
// heartbeat says something about the very connection that carries revocations.
type bus struct {
	s     *Store
	id    string
	epoch time.Time    // heartbeats count from here, on the monotonic clock
	heard atomic.Int64 // when the last heartbeat that was heard had been sent
	first chan struct{}

	mu     sync.Mutex
	closed bool
	newest *link         // perhaps not confirmed yet
	link   *link         // the confirmed one in use
	up     chan struct{} // closed while there is a link
}

// link is one connection, from its first subscription until anything goes wrong.
type link struct {
	ps   *goredis.PubSub
	gone chan struct{} // closed when messages may have been lost
	subs map[string]map[*subscriber]struct{}
	// ready is closed, per channel, when the server has confirmed it. Channels
	// are never unsubscribed: the topics are few.
	ready map[string]chan struct{}
}

type subscriber struct {
	ch   chan []byte
	stop func() bool
}

func (b *bus) init(s *Store) {
	b.s, b.id, b.epoch = s, token(), time.Now()
	b.first, b.up = make(chan struct{}), make(chan struct{})
	b.heard.Store(int64(-time.Hour))
}

func (b *bus) beatName() string           { return b.s.prefix + "beat:" + b.id }
func (s *Store) channel(t string) string  { return s.prefix + "bus:" + t }
func (b *bus) now() time.Duration         { return time.Since(b.epoch) }
func (b *bus) lastBeat() time.Duration    { return time.Duration(b.heard.Load()) }
func (b *bus) silence() (d time.Duration) { return b.now() - b.lastBeat() }

// Publish sends msg to every subscriber on every replica.
func (s *Store) Publish(ctx context.Context, topic string, msg []byte) error {
	ctx, done, err := s.ask(ctx)
	if err != nil {
		return s.fail("publish", err)
	}
	defer done()
	if _, err := s.once(ctx, "publish", s.channel(topic), msg); err != nil {
		return s.fail("publish", err)
	}
	return nil
}

// Stale reports whether revocations may be passing this replica by.
func (s *Store) Stale() bool { return s.bus.silence() > staleAfter }

// Subscribe returns the topic's messages; it returns when the server has
// confirmed that they will come.
func (s *Store) Subscribe(ctx context.Context, topic string) (<-chan []byte, error) {
	b := &s.bus
	wait, done := context.WithTimeout(ctx, connectWait)
	defer done()
	for {
		ch, err := b.subscribe(ctx, wait, s.channel(topic))
		if err == nil {
			return ch, nil
		}
		if !errors.Is(err, errLinkGone) || wait.Err() != nil {
			return nil, s.fail("subscribe", err)
		}
	}
}

var (
	errLinkGone = errors.New("the connection broke")
	errClosed   = errors.New("closed")
)

func (b *bus) subscribe(ctx, wait context.Context, channel string) (<-chan []byte, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, errClosed
	}
	l, up := b.link, b.up
	if l == nil {
		b.mu.Unlock()
		select {
		case <-up:
			return nil, errLinkGone // there is one now: again
		case <-b.s.ctx.Done():
			return nil, errClosed
		case <-wait.Done():
			return nil, wait.Err()
		}
	}
	// Listening starts before the server confirms, so that nothing falls between.
	sub := &subscriber{ch: make(chan []byte, busBuffer)}
	if l.subs[channel] == nil {
		l.subs[channel] = map[*subscriber]struct{}{}
	}
	l.subs[channel][sub] = struct{}{}
	sub.stop = context.AfterFunc(ctx, func() { b.leave(l, channel, sub) })
	ready := l.ready[channel]
	ask := ready == nil
	if ask {
		ready = make(chan struct{})
		l.ready[channel] = ready
	}
	b.mu.Unlock()
	if ask {
		// Not with the caller's context: its end is no fault of the connection.
		if err := l.ps.Subscribe(b.s.ctx, channel); err != nil {
			// The library may have replaced the connection under us.
			b.drop(l)
			return nil, errLinkGone
		}
	}
	select {
	case <-ready:
		return sub.ch, nil
	case <-l.gone:
		return nil, errLinkGone
	case <-wait.Done():
		b.leave(l, channel, sub)
		return nil, wait.Err()
	}
}

// leave ends one subscription.
func (b *bus) leave(l *link, channel string, sub *subscriber) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end(l, channel, sub)
}

// end closes a subscriber's channel, once; b.mu is held.
func (b *bus) end(l *link, channel string, sub *subscriber) {
	if _, there := l.subs[channel][sub]; there {
		delete(l.subs[channel], sub)
		close(sub.ch)
		sub.stop()
	}
}

// drop gives a connection up and tells all who listen on it.
func (b *bus) drop(l *link) {
	b.mu.Lock()
	if b.link == l {
		b.link, b.up = nil, make(chan struct{})
	}
	select {
	case <-l.gone:
	default:
		close(l.gone)
	}
	for channel, subs := range l.subs {
		for sub := range subs {
			b.end(l, channel, sub)
		}
	}
	b.mu.Unlock()
	l.ps.Close()
}

// shut ends everything at Close; the goroutines see the store's context.
func (b *bus) shut() {
	b.mu.Lock()
	b.closed = true
	l := b.newest
	b.mu.Unlock()
	if l != nil {
		b.drop(l)
	}
}

// listen keeps a connection until Close.
func (b *bus) listen() {
	pause := time.Duration(0)
	for lost := false; b.s.ctx.Err() == nil; {
		select {
		case <-time.After(pause):
		case <-b.s.ctx.Done():
			return
		}
		began := time.Now()
		err := b.serve(func() {
			if lost {
				b.s.cfg.Log.Info("redis: the bus is back")
				b.s.known.doubt()
			}
			lost = false
		})
		relearn(b.s.side)
		if b.s.ctx.Err() == nil && !lost {
			b.s.cfg.Log.Warn("redis: the bus is lost; caches are forgotten and the store is asked until it is back", "error", b.s.target.scrub(err.Error()))
			lost = true
		}
		if pause = min(2*pause+50*time.Millisecond, time.Second); time.Since(began) > 10*time.Second {
			pause = 0
		}
	}
}

// serve runs one connection until anything goes wrong with it.
func (b *bus) serve(connected func()) error {
	ps := b.s.side.Subscribe(b.s.ctx, b.beatName(), b.s.firmChannel())
	l := &link{ps: ps, gone: make(chan struct{}), subs: map[string]map[*subscriber]struct{}{}, ready: map[string]chan struct{}{}}
	defer b.drop(l)
	b.mu.Lock()
	closed := b.closed
	b.newest = l
	b.mu.Unlock()
	if closed {
		return errClosed
	}
	for {
		msg, err := ps.ReceiveTimeout(b.s.ctx, deafAfter)
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case *goredis.Subscription:
			if m.Channel == b.beatName() {
				// The library reconnects and subscribes again without a word;
				// this word is how it is noticed.
				if !b.attach(l) {
					return errLinkGone
				}
				connected()
				continue
			}
			b.mu.Lock()
			if ready := l.ready[m.Channel]; ready != nil {
				select {
				case <-ready:
				default:
					close(ready)
				}
			}
			b.mu.Unlock()
		case *goredis.Message:
			switch m.Channel {
			case b.beatName():
				b.hear(m.Payload)
			case b.s.firmChannel():
				b.s.known.hear(m.Payload)
			default:
				b.deliver(l, m.Channel, m.Payload)
			}
		}
	}
}

// attach makes a confirmed connection the one in use; false if it was that
// already, or the store is closed.
func (b *bus) attach(l *link) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.link != nil {
		return false
	}
	select {
	case <-l.gone:
		return false
	default:
	}
	b.link = l
	close(b.up)
	return true
}

func (b *bus) deliver(l *link, channel, payload string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for sub := range l.subs[channel] {
		select {
		case sub.ch <- []byte(payload):
		default:
			b.end(l, channel, sub)
		}
	}
}

// hear notes a heartbeat by when it was sent: everything published before that
// has been heard too. One from the future is not ours.
func (b *bus) hear(payload string) {
	sent, err := strconv.ParseInt(payload, 10, 64)
	if err != nil || sent <= b.heard.Load() || sent > int64(b.now()) {
		return
	}
	b.heard.Store(sent)
	select {
	case <-b.first:
	default:
		close(b.first)
	}
}

// beat writes and then publishes a heartbeat until Close. The write comes first,
// because a node that is cut off from its cluster still publishes to itself,
// but stops taking writes.
func (b *bus) beat() {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		b.beatOnce()
		select {
		case <-tick.C:
		case <-b.s.ctx.Done():
			return
		}
	}
}

func (b *bus) beatOnce() {
	ctx, done := context.WithTimeout(b.s.ctx, staleAfter)
	defer done()
	sent := fmt.Sprint(int64(b.now()))
	for _, args := range [][]any{
		{"set", b.beatName(), sent, "px", 10_000},
		{"publish", b.beatName(), sent},
	} {
		if _, err := once(ctx, b.s.side, args...); err != nil {
			relearn(b.s.side)
			return // silence says it
		}
	}
}
