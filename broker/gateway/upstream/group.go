// Package upstream is what stands behind one route: servers that do the same
// work, which of them gets a request, and which are well. It knows no route,
// user or policy.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// Ways to share requests among the servers of a group.
const (
	RoundRobin = "round_robin" // in turn, by weight
	LeastBusy  = "least_busy"  // fewest open requests for its weight
)

// MaxMembers is how many servers a group may have.
const MaxMembers = 64

// MaxWeight is the largest share that a server may have beside a share of 1.
const MaxWeight = 100

// Server is one entry of a group.
type Server struct {
	URL    *url.URL
	Weight int // 1 to MaxWeight
}

// Config is what New needs.
type Config struct {
	Servers []Server // they differ in scheme and host alone
	Balance string   // RoundRobin or LeastBusy; "" is RoundRobin
	Health  HealthConfig
	// Transport reaches the servers.
	Transport http.RoundTripper
	// Key names whose request it is, so that it stays with one server while that
	// one is well; nil, or "" of a request: any server.
	Key func(ctx context.Context) string
	// Blame reports whether a failure is the server's; nil: whenever the context
	// has not ended.
	Blame func(ctx context.Context, err error) bool
	Now   func() time.Time
	// Random is in [0, 1), for the jitter of health checks.
	Random func() float64
	// Changed is told when a server is taken out or comes back; may be nil.
	Changed func(ctx context.Context, server string, up bool, why string)
}

// Group shares requests among servers.
type Group struct {
	cfg      Config
	members  []*Member
	slots    []uint8 // round robin: indexes of members, smoothly interleaved
	turn     atomic.Uint32
	retrying atomic.Int64
}

// Member is a server of a group.
type Member struct {
	url    *url.URL
	weight int
	hash   uint64
	load   atomic.Int64 // open requests and sockets
	health health
}

// New checks the configuration and returns a group whose servers count as well.
func New(cfg Config) (*Group, error) {
	if len(cfg.Servers) == 0 || len(cfg.Servers) > MaxMembers {
		return nil, fmt.Errorf("a group has 1 to %d upstreams, not %d", MaxMembers, len(cfg.Servers))
	}
	if cfg.Transport == nil || cfg.Now == nil || cfg.Random == nil {
		return nil, errors.New("upstream: the configuration is incomplete")
	}
	if cfg.Blame == nil {
		cfg.Blame = func(ctx context.Context, _ error) bool { return ctx.Err() == nil }
	}
	if cfg.Changed == nil {
		cfg.Changed = func(context.Context, string, bool, string) {}
	}
	cfg.Health = cfg.Health.withDefaults()
	g := &Group{cfg: cfg}
	for _, s := range cfg.Servers {
		if s.Weight < 1 || s.Weight > MaxWeight {
			return nil, fmt.Errorf("the weight of %s is %d, not 1 to %d", s.URL.Host, s.Weight, MaxWeight)
		}
		h := fnv.New64a()
		_, _ = h.Write([]byte(s.URL.Scheme + "://" + s.URL.Host)) // never fails
		g.members = append(g.members, &Member{url: s.URL, weight: s.Weight, hash: h.Sum64()})
	}
	g.slots = interleave(g.members)
	return g, nil
}

// interleave lays out one round in which every member has as many turns as its
// weight, spread evenly (nginx's smooth weighted round robin).
func interleave(members []*Member) []uint8 {
	total, credit := 0, make([]int, len(members))
	for _, m := range members {
		total += m.weight
	}
	out := make([]uint8, 0, total)
	for range total {
		best := 0
		for i, m := range members {
			if credit[i] += m.weight; credit[i] > credit[best] {
				best = i
			}
		}
		credit[best] -= total
		out = append(out, uint8(best))
	}
	return out
}

// Attempt is one use of a server: it ends with one of Worked, Failed and
// Dropped, and when nothing of it is open any more with Release.
type Attempt struct {
	g     *Group
	m     *Member
	trial bool
	index int
}

// URL is the server's.
func (a Attempt) URL() *url.URL { return a.m.url }

// Worked says that the server answered.
func (a Attempt) Worked(ctx context.Context) { a.g.worked(ctx, a.m) }

// Failed says that it did not, or that what it said means so.
func (a Attempt) Failed(ctx context.Context, why string) { a.g.failed(ctx, a.m, a.trial, why) }

// Dropped says that nothing was learnt of the server.
func (a Attempt) Dropped() { a.m.health.dropped(a.trial) }

// Release says that nothing is open any more.
func (a Attempt) Release() { a.m.load.Add(-1) }

// Tried remembers which servers a request was sent to.
type Tried uint64

// Add remembers an attempt's server.
func (t *Tried) Add(a Attempt) { *t |= 1 << a.index }

// Begin chooses a server for the request of ctx among those that it was not
// sent to; false means that there is none. If none is well, one that is not is
// tried all the same: a check that errs must not shut a service whose servers
// are fine.
func (g *Group) Begin(ctx context.Context, tried Tried) (Attempt, bool) {
	key := ""
	if g.cfg.Key != nil {
		key = g.cfg.Key(ctx)
	}
	now := g.cfg.Now()
	for skip := tried; ; {
		i := g.choose(key, skip, &now)
		if i < 0 {
			break
		}
		if trial, ok := g.members[i].health.claim(now); ok {
			return g.begin(i, trial), true
		}
		skip |= 1 << i // somebody else's request is the trial
	}
	if i := g.choose(key, tried, nil); i >= 0 {
		return g.begin(i, false), true
	}
	return Attempt{}, false
}

func (g *Group) begin(i int, trial bool) Attempt {
	g.members[i].load.Add(1)
	return Attempt{g: g, m: g.members[i], trial: trial, index: i}
}

// choose returns the index of the server whose turn it is, -1 for none. Without
// a time all count as well.
func (g *Group) choose(key string, skip Tried, now *time.Time) int {
	may := func(i int) bool {
		return skip&(1<<i) == 0 && (now == nil || g.members[i].health.takes(*now))
	}
	switch {
	case key != "":
		return g.rendezvous(key, may)
	case g.cfg.Balance == LeastBusy:
		return g.leastBusy(may)
	}
	at := int(g.turn.Add(1) % uint32(len(g.slots)))
	for n := range g.slots {
		if i := int(g.slots[(at+n)%len(g.slots)]); may(i) {
			return i
		}
	}
	return -1
}

func (g *Group) leastBusy(may func(int) bool) int {
	best, least := -1, math.Inf(1)
	at := int(g.turn.Add(1) % uint32(len(g.members))) // equals take turns
	for n := range g.members {
		i := (at + n) % len(g.members)
		if !may(i) {
			continue
		}
		if busy := float64(g.members[i].load.Load()+1) / float64(g.members[i].weight); busy < least {
			best, least = i, busy
		}
	}
	return best
}

// rendezvous gives a key the same server on every replica, and when one goes
// moves its keys alone (highest random weight).
func (g *Group) rendezvous(key string, may func(int) bool) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key)) // never fails
	of := h.Sum64()
	best, most := -1, math.Inf(-1)
	for i, m := range g.members {
		if !may(i) {
			continue
		}
		// -weight/ln(u) with u uniform in (0, 1) prefers in proportion to weight.
		u := (float64(mix(of^m.hash)>>11) + 0.5) / (1 << 53)
		if score := -float64(m.weight) / math.Log(u); score > most {
			best, most = i, score
		}
	}
	return best
}

// mix spreads every bit over all (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// State is a server's condition, for metrics.
type State struct {
	Server string // host and port
	Known  bool   // a request or a check has gone there
	Up     bool
}

// States returns the conditions in the order of the configuration.
func (g *Group) States() []State {
	out := make([]State, len(g.members))
	for i, m := range g.members {
		known, up := m.health.state()
		out[i] = State{Server: m.url.Host, Known: known, Up: up}
	}
	return out
}
