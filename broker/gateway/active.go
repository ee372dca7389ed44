package gateway

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/remotegpu/gatehouse/broker/policy"
)

// activity is a request or socket that is open.
type activity struct {
	caller  caller
	route   *route
	lease   Lease
	request *policy.Request
	began   time.Time
	end     func(code int)
	prev    *activity
	next    *activity
}

// active are the open requests, in lists whose locks nobody waits for long.
type active struct {
	shards [16]shard
	turn   atomic.Uint32
}

type shard struct {
	mu   sync.Mutex
	head activity
}

func (a *active) init() {
	for i := range a.shards {
		h := &a.shards[i].head
		h.next, h.prev = h, h
	}
}

func (a *active) add(x *activity) *shard {
	s := &a.shards[a.turn.Add(1)%uint32(len(a.shards))]
	s.mu.Lock()
	x.next, x.prev = s.head.next, &s.head
	s.head.next.prev = x
	s.head.next = x
	s.mu.Unlock()
	return s
}

func (s *shard) remove(x *activity) {
	s.mu.Lock()
	x.prev.next, x.next.prev = x.next, x.prev
	s.mu.Unlock()
}

// reviewAfter leaves requests alone that are younger: they were just decided.
const reviewAfter = recheckEvery

// review calls f for everything that has been open for a while.
func (a *active) review(f func(*activity) bool) {
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		var old []*activity
		for x := s.head.next; x != &s.head; x = x.next {
			if time.Since(x.began) >= reviewAfter {
				old = append(old, x)
			}
		}
		s.mu.Unlock()
		for _, x := range old {
			f(x)
		}
	}
}
