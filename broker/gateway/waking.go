package gateway

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/remotegpu/gatehouse/broker/console"
)

// wakeFor is how long a console that does not listen is called waking up; then
// its node does not answer.
const wakeFor = 5 * time.Minute

// maxWaking is how many consoles are remembered as waking up.
const maxWaking = 10_000

// waking remembers since when consoles do not listen.
type waking struct {
	n     atomic.Int32 // of since, so that who is up costs nothing
	mu    sync.Mutex
	since map[string]time.Time
}

// notListening reports whether nobody listens at an address: the console may be
// about to. An address that may not be dialled is another matter.
func notListening(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" {
		return false
	}
	return op.Timeout() || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

// failed notes that a console does not listen and returns for how long already.
func (w *waking) failed(id string, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since == nil || len(w.since) >= maxWaking {
		w.since = map[string]time.Time{}
	}
	at, ok := w.since[id]
	if !ok {
		at = now
		w.since[id] = now
	}
	w.n.Store(int32(len(w.since)))
	return now.Sub(at)
}

// answered forgets a console that is up.
func (w *waking) answered(id string) {
	if w.n.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.since, id)
	w.n.Store(int32(len(w.since)))
}

// retryAfter is when to look again: often at first.
func retryAfter(waking time.Duration) time.Duration {
	return min(max(waking/4, 2*time.Second), 15*time.Second).Round(time.Second)
}

// How consoles are looked at for the portal.
const (
	probeFor   = 300 * time.Millisecond
	probeKept  = 15 * time.Second
	probesMost = 24 // of one person's page
)

// probes remember for a short time which consoles listen.
type probes struct {
	mu   sync.Mutex
	seen map[string]probed
}

type probed struct {
	up bool
	at time.Time
}

// look says which of the consoles listen, dialling those of which that is not
// known, all at once.
func (g *Gateway) look(ctx context.Context, ls []*console.Lease) map[string]bool {
	if len(ls) > probesMost {
		ls = ls[:probesMost]
	}
	ctx, cancel := context.WithTimeout(ctx, probeFor)
	defer cancel()
	now := g.cfg.Now()
	out := map[string]bool{}
	var mu sync.Mutex
	var all errgroup.Group
	for _, l := range ls {
		g.probes.mu.Lock()
		p, known := g.probes.seen[l.Upstream]
		g.probes.mu.Unlock()
		if known && now.Sub(p.at) < probeKept {
			mu.Lock()
			out[l.ID] = p.up
			mu.Unlock()
			continue
		}
		all.Go(func() error {
			up := g.listens(ctx, l)
			g.probes.mu.Lock()
			if g.probes.seen == nil || len(g.probes.seen) >= maxWaking {
				g.probes.seen = map[string]probed{}
			}
			g.probes.seen[l.Upstream] = probed{up, now}
			g.probes.mu.Unlock()
			mu.Lock()
			out[l.ID] = up
			mu.Unlock()
			return nil
		})
	}
	_ = all.Wait() // none returns an error
	return out
}

func (g *Gateway) listens(ctx context.Context, l *console.Lease) bool {
	u, err := console.ParseUpstream(l.Upstream)
	if err != nil {
		return false
	}
	conn, err := g.proxy.dial(ctx, "tcp", hostPort(u))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
