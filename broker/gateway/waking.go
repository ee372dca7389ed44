package gateway

import (
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/web"
)

const (
	// wakingFor is how long a console that is not up yet is waited for.
	wakingFor = 5 * time.Minute
	// wakingMax is for how many consoles that is remembered.
	wakingMax = 4096
)

// waking remembers since when consoles refuse connections, so that people are
// told to wait at first and that something is wrong later.
type waking struct {
	n     atomic.Int64 // how many there are: nothing is locked while all are up
	mu    sync.Mutex
	since map[wakingKey]time.Time
}

// wakingKey is a console at its address; one that moves is waited for anew.
type wakingKey struct{ id, upstream string }

func keyOf(l *console.Lease) wakingKey { return wakingKey{l.ID, l.Upstream} }

// notUp reports whether nobody listens yet, unlike an upstream that is slow,
// breaks off, or must not be reached.
func notUp(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH)
}

// up forgets a console that has answered.
func (w *waking) up(l *console.Lease) {
	if l == nil || w.n.Load() == 0 {
		return
	}
	w.mu.Lock()
	delete(w.since, keyOf(l))
	w.n.Store(int64(len(w.since)))
	w.mu.Unlock()
}

// down returns how long a console has been away.
func (w *waking) down(l *console.Lease, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since == nil {
		w.since = map[wakingKey]time.Time{}
	}
	k := keyOf(l)
	first, ok := w.since[k]
	if !ok {
		w.makeRoom(now)
		first = now
		w.since[k] = now
		w.n.Store(int64(len(w.since)))
	}
	return now.Sub(first)
}

// makeRoom keeps the map bounded: what was given up an hour ago goes, and if
// that is not enough, any.
func (w *waking) makeRoom(now time.Time) {
	if len(w.since) < wakingMax {
		return
	}
	for k, first := range w.since {
		if now.Sub(first) > time.Hour {
			delete(w.since, k)
		}
	}
	for k := range w.since {
		if len(w.since) < wakingMax {
			return
		}
		delete(w.since, k)
	}
}

// answer turns "the node is down" into "wait": a page that loads itself again by
// Refresh, which needs no script, ever less often; for programs Retry-After.
func (w *waking) answer(e *web.Error, a *activity, now time.Time) {
	away := w.down(a.lease, now)
	if away >= wakingFor {
		return
	}
	wait := strconv.Itoa(2 + int(min(away/4, 28*time.Second)/time.Second))
	e.Status, e.Code, e.Text, e.Down = http.StatusServiceUnavailable, "node.waking", "error.node_waking", ""
	e.Header = http.Header{"Retry-After": {wait}, "Refresh": {wait}}
}
