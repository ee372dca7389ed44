package signin

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
)

// gate bounds how many tries of one key are under way by how many may still
// fail. A limit that is only looked at before a password is checked lets a
// hundred at once through, which is enough to lock an account of the directory
// behind us (docs/security.md LD-9).
type gate struct {
	mu    sync.Mutex
	slots map[string]*slot
}

type slot struct {
	n       int           // under way
	waiting int           // callers that keep the slot alive
	freed   chan struct{} // closed when one has left
}

// gateWait bounds how long a try waits for others of the same key.
const gateWait = 15 * time.Second

// enter waits until fewer are under way than free says, and returns how to
// leave. It fails with ErrThrottled when free is 0 or less.
func (g *gate) enter(ctx context.Context, key string, free func() int) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, gateWait)
	defer cancel()
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.slots[key]
	if s == nil {
		s = &slot{freed: make(chan struct{})}
		g.slots[key] = s
	}
	s.waiting++
	defer func() {
		s.waiting--
		g.tidy(key, s)
	}()
	for {
		left := free()
		if left <= 0 {
			return nil, connectors.ErrThrottled
		}
		if s.n < left {
			s.n++
			return func() { g.leave(key, s) }, nil
		}
		freed := s.freed
		g.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
		}
		g.mu.Lock()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("too many tries at once: %w", connectors.ErrBusy)
		}
	}
}

func (g *gate) leave(key string, s *slot) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.n--
	close(s.freed)
	s.freed = make(chan struct{})
	g.tidy(key, s)
}

func (g *gate) tidy(key string, s *slot) {
	if s.n == 0 && s.waiting == 0 {
		delete(g.slots, key)
	}
}
