package gateway

import (
	"hash/maphash"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/policy"
)

// activity is a request or socket that is open.
type activity struct {
	caller  caller
	by      *Gateway // whose route this is
	route   *route
	in      *http.Request
	lease   *console.Lease // nil where the route has none
	request *policy.Request
	began   time.Time
	socket  bool
	end     func(code int)
	prev    *activity
	next    *activity
}

// Limits of what one session (or one service) may have open at a time
// (docs/security.md GW-14): far above what people and their tools need.
const (
	maxOpen    = 1024 // requests, sockets among them
	maxSockets = 128
)

// active are the open requests, in shards whose locks nobody waits for long.
type active struct {
	seed   maphash.Seed
	shards [16]shard
}

type shard struct {
	mu   sync.Mutex
	head activity
	open map[string]load
}

type load struct{ all, sockets int }

func (a *active) init() {
	a.seed = maphash.MakeSeed()
	for i := range a.shards {
		s := &a.shards[i]
		s.head.next, s.head.prev = &s.head, &s.head
		s.open = map[string]load{}
	}
}

func (x *activity) holder() string {
	if id := x.caller.session.ID; id != "" {
		return id
	}
	return x.caller.userID
}

// add registers what has begun; false means that its session has too much open.
func (a *active) add(x *activity) (*shard, bool) {
	who := x.holder()
	s := &a.shards[maphash.String(a.seed, who)%uint64(len(a.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.open[who]
	l.all++
	if x.socket {
		l.sockets++
	}
	if l.all > maxOpen || l.sockets > maxSockets {
		return nil, false
	}
	s.open[who] = l
	x.next, x.prev = s.head.next, &s.head
	s.head.next.prev = x
	s.head.next = x
	return s, true
}

func (s *shard) remove(x *activity) {
	who := x.holder()
	s.mu.Lock()
	defer s.mu.Unlock()
	x.prev.next, x.next.prev = x.next, x.prev
	l := s.open[who]
	l.all--
	if x.socket {
		l.sockets--
	}
	if l.all == 0 {
		delete(s.open, who)
	} else {
		s.open[who] = l
	}
}

// reviewAfter leaves requests alone that are younger: they were just decided.
const reviewAfter = recheckEvery

// reviewsAtOnce bounds how many look-ups wait for a store that is slow.
const reviewsAtOnce = 32

// review calls f for everything open that is meant, and returns when all calls
// have.
func (a *active) review(meant func(*activity) bool, f func(*activity)) {
	var g errgroup.Group
	g.SetLimit(reviewsAtOnce)
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		var old []*activity
		for x := s.head.next; x != &s.head; x = x.next {
			if meant(x) {
				old = append(old, x)
			}
		}
		s.mu.Unlock()
		for _, x := range old {
			g.Go(func() error { f(x); return nil })
		}
	}
	_ = g.Wait() // f returns no error
}
