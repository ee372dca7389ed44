package gateway

import (
	"context"
	"slices"
	"sync"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/policy"
)

// leases are what the gateway asks of console.Registry.
type leases interface {
	Get(ctx context.Context, id string) (*console.Lease, error)
	For(userID string, groups []string, limit int) []*console.Lease
	OnChange(f func(id string))
}

// leaseID is "" where a route has no lease.
func leaseID(l *console.Lease) string {
	if l == nil {
		return ""
	}
	return l.ID
}

// admits is what the lease itself says of somebody: the owner, the invited, and
// whom its own rule lets in. An error of the rule is a refusal (docs/security.md AD-10).
func (g *Gateway) admits(ctx context.Context, l *console.Lease, c caller, in policy.Input) bool {
	if l.Names(c.userID, c.groups) {
		return true
	}
	if l.Rule() == nil {
		return false
	}
	in.Lease = l.Vars(false)
	d, err := l.Rule().Decide(ctx, in)
	if err != nil {
		g.cfg.Log.InfoContext(ctx, "a lease's rule failed, which refuses", "lease", l.ID, "err", err)
	}
	return err == nil && d.Allowed
}

// looksOnly reports whether somebody may see a console and not act on it.
func looksOnly(l *console.Lease, c caller) bool {
	return l != nil && l.ReadOnly && l.Owner != c.userID
}

// looking are the methods of who looks only.
func looking(method string) bool {
	return slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, method)
}

// news are the leases whose open requests must be decided again.
type news struct {
	mu   sync.Mutex
	ids  map[string]struct{}
	all  bool
	set  bool // the configuration is another
	wake chan struct{}
}

func (n *news) init() { n.ids, n.wake = map[string]struct{}{}, make(chan struct{}, 1) }

// add notes a lease; "" is any. It never waits.
func (n *news) add(id string) {
	n.mu.Lock()
	if id == "" {
		n.all = true
	} else {
		n.ids[id] = struct{}{}
	}
	n.mu.Unlock()
	n.ring()
}

// everything has all that is open decided again.
func (n *news) everything() {
	n.mu.Lock()
	n.set = true
	n.mu.Unlock()
	n.ring()
}

func (n *news) ring() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// concerns takes what was noted and returns who is concerned.
func (n *news) concerns() func(*activity) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	ids, all, set := n.ids, n.all, n.set
	n.ids, n.all, n.set = map[string]struct{}{}, false, false
	return func(a *activity) bool {
		if set {
			return true
		}
		if a.lease == nil {
			return false
		}
		_, is := ids[a.lease.ID]
		return all || is
	}
}
