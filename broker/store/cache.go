package store

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// CacheConfig says what a Cache remembers.
type CacheConfig struct {
	Bus Bus
	// Topic is the bus's; its messages are those of Changed.
	Topic string
	// Max is how many values are remembered.
	Max int
	Now func() time.Time
	// Grace is how long after it was last sure the cache answers while the store
	// is out of reach (docs/security.md SE-3); 0 fails closed.
	Grace time.Duration
}

// Changed is the message that the value with an ID is another now.
func Changed(topic, id string) Message {
	js, err := json.Marshal(changed{id})
	if err != nil { // a string always can
		return Message{}
	}
	return Message{Topic: topic, Data: js}
}

type changed struct{ ID string }

// Cache remembers values of a Collection while other replicas are heard: a value
// of which a change was told, or may have been missed, is read again. That a
// value does not exist is not remembered.
type Cache[T any] struct {
	c      *Collection[T]
	cfg    CacheConfig
	sureAt atomic.Int64 // when memory was last as good as the store, in Unix nanoseconds

	mu     sync.RWMutex
	gen    uint64 // how often something was forgotten
	doubts uint64 // how often news may have been lost
	held   map[string]remembered[T]
}

type remembered[T any] struct {
	v      T
	doubts uint64
}

// NewCache returns a Cache that hears of nothing until Run.
func NewCache[T any](c *Collection[T], cfg CacheConfig) *Cache[T] {
	return &Cache[T]{c: c, cfg: cfg, held: map[string]remembered[T]{}}
}

// Get returns the value, ErrNotFound when there is none, or ErrUnavailable when
// the store cannot be asked and memory is too old.
func (c *Cache[T]) Get(ctx context.Context, id string) (T, error) {
	stale := c.cfg.Bus.Stale()
	c.mu.RLock()
	h, ok := c.held[id]
	gen, doubts := c.gen, c.doubts
	c.mu.RUnlock()
	now := c.cfg.Now()
	if ok && h.doubts == doubts && !stale {
		c.sureAt.Store(now.UnixNano())
		return h.v, nil
	}
	v, err := c.c.Get(ctx, id)
	if err != nil {
		if ok && errors.Is(err, ErrUnavailable) && now.Sub(time.Unix(0, c.sureAt.Load())) < c.cfg.Grace {
			return h.v, nil
		}
		return v, err
	}
	if !stale {
		c.sureAt.Store(now.UnixNano())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gen == gen {
		if len(c.held) >= c.cfg.Max {
			clear(c.held)
		}
		c.held[id] = remembered[T]{v, doubts}
	}
	return v, nil
}

// Forget makes the next Get read the value again.
func (c *Cache[T]) Forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	delete(c.held, id)
}

func (c *Cache[T]) doubt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	c.doubts++
}

// Run hears of changes until ctx ends.
func (c *Cache[T]) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		heard, err := c.cfg.Bus.Subscribe(ctx, c.cfg.Topic)
		if err == nil {
			c.doubt() // what was read before anybody listened may have changed unheard
			for raw := range heard {
				var m changed
				if json.Unmarshal(raw, &m) == nil {
					c.Forget(m.ID)
				}
			}
		}
		c.doubt()
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
	return nil
}
