package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/remotegpu/gatehouse/broker/store"
)

// ErrInUse means that another process holds the data folder.
var ErrInUse = errors.New("another gatehouse uses this data folder")

// lockFile holds the data folder for this process. The lock goes with the
// process, so a killed one leaves nothing behind.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("sqlite: %s is locked: %w; stop it first, or use store: redis://… for several replicas", path, ErrInUse)
		}
		return nil, fmt.Errorf("sqlite: lock %s: %w", path, err)
	}
	return f, nil
}

// busBuffer is how many messages a slow subscriber may be behind before its
// channel is closed: it must then forget what it cached.
const busBuffer = 1024

// bus tells subscribers in this process. It cannot be cut off from itself, so
// it is never stale.
type bus struct {
	mu     sync.Mutex
	subs   map[string]map[*subscriber]struct{}
	closed bool
}

type subscriber struct{ ch chan []byte }

func (b *bus) init() { b.subs = map[string]map[*subscriber]struct{}{} }

// Publish sends msg to every subscriber of the topic.
func (s *Store) Publish(_ context.Context, topic string, msg []byte) error {
	s.publish(store.Message{Topic: topic, Data: msg})
	return nil
}

func (s *Store) publish(m store.Message) {
	b := &s.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	for sub := range b.subs[m.Topic] {
		select {
		case sub.ch <- m.Data:
		default:
			close(sub.ch)
			delete(b.subs[m.Topic], sub)
		}
	}
}

// Subscribe returns the topic's messages until ctx ends.
func (s *Store) Subscribe(ctx context.Context, topic string) (<-chan []byte, error) {
	b := &s.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("sqlite: closed: %w", store.ErrUnavailable)
	}
	sub := &subscriber{ch: make(chan []byte, busBuffer)}
	if b.subs[topic] == nil {
		b.subs[topic] = map[*subscriber]struct{}{}
	}
	b.subs[topic][sub] = struct{}{}
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if _, there := b.subs[topic][sub]; there {
			close(sub.ch)
			delete(b.subs[topic], sub)
		}
	})
	return sub.ch, nil
}

// Stale is false: one process cannot be cut off from itself.
func (s *Store) Stale() bool { return false }

func (b *bus) closeAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, subs := range b.subs {
		for sub := range subs {
			close(sub.ch)
		}
	}
	b.subs = map[string]map[*subscriber]struct{}{}
}

// leases are held by goroutines of this process: the folder's lock excludes
// every other.
type leases struct {
	mu   sync.Mutex
	now  func() time.Time
	held map[string]context.CancelFunc
}

func (l *leases) init(now func() time.Time) {
	l.now, l.held = now, map[string]context.CancelFunc{}
}

// Lease takes the named lease or returns store.ErrLeaseHeld. It lasts until it
// is released, ctx ends or the store closes: a holder in this process cannot be
// silent, so ttl is not needed.
func (s *Store) Lease(ctx context.Context, name string, _ time.Duration) (context.Context, func(), error) {
	l := &s.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		return nil, nil, fmt.Errorf("sqlite: closed: %w", store.ErrUnavailable)
	}
	if _, taken := l.held[name]; taken {
		return nil, nil, store.ErrLeaseHeld
	}
	held, cancel := context.WithCancel(ctx)
	l.held[name] = cancel
	var once sync.Once
	release := func() {
		once.Do(func() {
			cancel()
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.held, name)
		})
	}
	context.AfterFunc(held, release)
	return held, release, nil
}

func (l *leases) closeAll() {
	l.mu.Lock()
	cancels := l.held
	l.held = nil
	l.mu.Unlock()
	for _, cancel := range cancels {
		cancel()
	}
}
