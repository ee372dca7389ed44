package signin

import (
	"context"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/connectors"
)

// health knows which connectors can be used. A connector that is down never
// stops anything else: it is tried again with growing pauses, and connector.down
// is raised once.
type health struct {
	door *Door
	mu   sync.Mutex
	m    map[string]*condition
}

type condition struct {
	up     bool
	known  bool
	since  time.Time
	reason string
	ends   time.Time // of its certificates; zero where it has none, or nobody has looked yet
}

const (
	checkTimeout = 15 * time.Second
	checkUp      = time.Minute
	checkDownMin = 2 * time.Second
	checkDownMax = 2 * time.Minute
)

func (h *health) init(d *Door) {
	h.door, h.m = d, map[string]*condition{}
	for id := range d.methods {
		h.m[id] = &condition{up: true, since: d.cfg.Now()}
	}
	before := d.cfg.Before
	if before == nil {
		return
	}
	before.health.mu.Lock()
	defer before.health.mu.Unlock()
	for id, m := range d.methods {
		if old := before.methods[id]; old != nil && old.Connector == m.Connector {
			*h.m[id] = *before.health.m[id]
		}
	}
}

func (h *health) state(id string) (up bool, since time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.m[id]
	if c == nil {
		return false, time.Time{}
	}
	return c.up, c.since
}

func (h *health) failed(ctx context.Context, id string, err error) { h.set(ctx, id, err) }

func (h *health) worked(ctx context.Context, id string) { h.set(ctx, id, nil) }

func (h *health) set(ctx context.Context, id string, err error) {
	h.mu.Lock()
	c := h.m[id]
	if c == nil {
		h.mu.Unlock()
		return
	}
	up := err == nil
	changed := c.up != up || !c.known && !up
	c.known = true
	if changed {
		c.up, c.since = up, h.door.cfg.Now()
	}
	c.reason = ""
	if err != nil {
		c.reason = err.Error()
	}
	h.mu.Unlock()
	if !changed {
		return
	}
	name := event.ConnectorDown
	if up {
		name = event.ConnectorUp
	} else {
		h.door.cfg.Log.WarnContext(ctx, "a connector is unavailable; tried again with back-off", "connector", id, "err", err)
	}
	if e := h.door.cfg.Events.Record(context.WithoutCancel(ctx), event.Event{Name: name, Connector: id, Target: id}); e != nil {
		h.door.cfg.Log.ErrorContext(ctx, "an event was not recorded", "event", name, "err", e)
	}
}

// certificates notes until when a connector's certificates are good: those of the
// upstream, and ours towards it, each as long as one of them is; whichever ends
// first ends the sign-ins.
func (h *health) certificates(id string, certs []connectors.Certificate) {
	var last [2]time.Time // the upstream's, ours
	for _, c := range certs {
		i := 0
		if c.Ours {
			i = 1
		}
		if c.Ends.After(last[i]) {
			last[i] = c.Ends
		}
	}
	ends := last[0]
	if ends.IsZero() || !last[1].IsZero() && last[1].Before(ends) {
		ends = last[1]
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.m[id]; c != nil {
		c.ends = ends
	}
}

// run checks every served connector until ctx ends.
func (h *health) run(ctx context.Context) {
	var wg sync.WaitGroup
	for id, m := range h.door.methods {
		if m.Connector != nil {
			wg.Go(func() { h.watch(ctx, id, m.Connector) })
		}
	}
	wg.Wait()
}

func (h *health) watch(ctx context.Context, id string, c connectors.Connector) {
	pause := checkDownMin
	for {
		cctx, cancel := context.WithTimeout(ctx, checkTimeout)
		err := c.Check(cctx)
		cancel()
		if ctx.Err() != nil {
			return
		}
		h.set(ctx, id, err)
		wait := checkUp
		if err != nil {
			wait = pause
			pause = min(pause*2, checkDownMax)
		} else {
			pause = checkDownMin
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// State is a connector's condition, for operators.
type State struct {
	ID, Name, Type string
	Served, Up     bool
	LinkOnly       bool // leads into no account
	Hidden         bool // not on the sign-in page
	Since          time.Time
	Reason         string // for the log and operators only
	// CertificatesEnd is until when its certificates are good; zero where it has
	// none, or they have not been looked at yet.
	CertificatesEnd time.Time
}

// States returns the conditions in the order of the sign-in page.
func (d *Door) States() []State {
	d.health.mu.Lock()
	defer d.health.mu.Unlock()
	out := make([]State, 0, len(d.cfg.Methods))
	for _, m := range d.cfg.Methods {
		c := d.health.m[m.ID]
		out = append(out, State{ID: m.ID, Name: m.Name, Type: m.Type, Served: m.Connector != nil, LinkOnly: m.LinkOnly, Hidden: m.Hidden, Up: c.up && m.Connector != nil, Since: c.since, Reason: c.reason, CertificatesEnd: c.ends})
	}
	return out
}
