package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// HealthConfig says how servers are asked whether they are well. Without a path
// they are not asked; failures of requests count all the same.
type HealthConfig struct {
	// Path is asked for by GET; 200 to 399 is well. It may have a query.
	Path      string        `yaml:"path"`
	Every     time.Duration `yaml:"every"`     // default 10s, at least 1s
	Timeout   time.Duration `yaml:"timeout"`   // default 2s
	Healthy   int           `yaml:"healthy"`   // good answers in a row that bring it back; default 2
	Unhealthy int           `yaml:"unhealthy"` // bad ones that take it out; default 3
}

// Problem says what is wrong: the field's Go name and why; "" if nothing is.
func (c HealthConfig) Problem() (field, text, fix string) {
	set := c.withDefaults()
	u, err := url.Parse(c.Path)
	switch {
	case c == HealthConfig{}:
		return "", "", ""
	case err != nil || !strings.HasPrefix(c.Path, "/") || strings.HasPrefix(c.Path, "//") || u.Fragment != "":
		return "Path", "A health check needs a path.", "path: /healthz"
	case set.Every < time.Second:
		return "Every", "Health checks are at least one second apart.", "every: 10s"
	case set.Timeout < 0 || set.Timeout > set.Every:
		return "Timeout", "A health check ends before the next one begins.", "timeout: 2s"
	case c.Healthy < 0 || c.Healthy > 100:
		return "Healthy", "The number of good answers is 1 to 100.", "healthy: 2"
	case c.Unhealthy < 0 || c.Unhealthy > 100:
		return "Unhealthy", "The number of bad answers is 1 to 100.", "unhealthy: 3"
	}
	return "", "", ""
}

func (c HealthConfig) withDefaults() HealthConfig {
	if c.Every == 0 {
		c.Every = 10 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = min(2*time.Second, c.Every)
	}
	if c.Healthy == 0 {
		c.Healthy = 2
	}
	if c.Unhealthy == 0 {
		c.Unhealthy = 3
	}
	return c
}

// Failures of requests take a server out after so many in a row, for so long;
// each time that its trial fails as well for twice as long.
const (
	ejectAfter   = 5
	ejectFor     = 10 * time.Second
	ejectAtMost  = 5 * time.Minute
	checkJitter  = 0.2      // of the time between two checks
	checkMaximum = 64 << 10 // bytes of a check's answer that are read
)

// health is what is known of one server.
type health struct {
	known    atomic.Bool
	down     atomic.Bool // by the checks
	troubled atomic.Bool // failures or until is not zero: look under mu
	mu       sync.Mutex
	failures int       // in a row
	ejected  int       // times in a row
	until    time.Time // out till then, and then one trial
	trying   bool
}

// takes reports whether the server may be chosen.
func (h *health) takes(now time.Time) bool {
	if h.down.Load() {
		return false
	}
	if !h.troubled.Load() {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.until.IsZero() || !now.Before(h.until) && !h.trying
}

// claim is takes for a server that was chosen: after its time out only one
// request gets it, as a trial.
func (h *health) claim(now time.Time) (trial, ok bool) {
	if !h.troubled.Load() {
		return false, true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.until.IsZero() {
		return false, true
	}
	if now.Before(h.until) || h.trying {
		return false, false
	}
	h.trying = true
	return true, true
}

func (h *health) dropped(trial bool) {
	if trial {
		h.mu.Lock()
		h.trying = false
		h.mu.Unlock()
	}
}

func (h *health) state() (known, up bool) {
	if h.troubled.Load() {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.known.Load(), !h.down.Load() && h.until.IsZero()
	}
	return h.known.Load(), !h.down.Load()
}

// worked notes a good answer; of a server without trouble nothing is written.
func (g *Group) worked(ctx context.Context, m *Member) {
	h := &m.health
	if !h.known.Load() {
		h.known.Store(true)
	}
	if !h.troubled.Load() {
		return
	}
	h.mu.Lock()
	back := !h.until.IsZero()
	h.failures, h.ejected, h.until, h.trying = 0, 0, time.Time{}, false
	h.troubled.Store(false)
	h.mu.Unlock()
	if back {
		g.cfg.Changed(ctx, m.url.Host, true, "it answered")
	}
}

func (g *Group) failed(ctx context.Context, m *Member, trial bool, why string) {
	h := &m.health
	h.known.Store(true)
	h.mu.Lock()
	defer h.mu.Unlock()
	if trial {
		h.trying = false
	}
	if !trial && !h.until.IsZero() { // began before it was taken out, or for want of a better one
		return
	}
	h.troubled.Store(true)
	if h.failures++; h.failures < ejectAfter && !trial {
		return
	}
	pause := min(ejectFor<<min(h.ejected, 10), ejectAtMost)
	h.failures, h.until = 0, g.cfg.Now().Add(pause)
	if h.ejected++; !trial {
		g.cfg.Changed(ctx, m.url.Host, false, fmt.Sprintf("%d failures in a row, the last: %s", ejectAfter, why))
	}
}

// Run asks the servers whether they are well, until ctx ends.
func (g *Group) Run(ctx context.Context) {
	if g.cfg.Health.Path == "" {
		return
	}
	var all sync.WaitGroup
	for _, m := range g.members {
		all.Go(func() { g.watch(ctx, m) })
	}
	all.Wait()
}

// watch asks one server again and again. The first answer counts at once, since
// nothing is known before it.
func (g *Group) watch(ctx context.Context, m *Member) {
	good, bad := 0, 0
	// All begin soon, but not all at one moment.
	wait := time.Duration(g.cfg.Random() * float64(min(g.cfg.Health.Every, time.Second)))
	for first := true; ; first = false {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		err := g.check(ctx, m)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			good, bad = good+1, 0
		} else {
			good, bad = 0, bad+1
		}
		m.health.known.Store(true)
		switch down := m.health.down.Load(); {
		case down && good >= g.cfg.Health.Healthy:
			m.health.down.Store(false)
			g.cfg.Changed(ctx, m.url.Host, true, "its health check is good again")
		case !down && err != nil && (first || bad >= g.cfg.Health.Unhealthy):
			m.health.down.Store(true)
			g.cfg.Changed(ctx, m.url.Host, false, "its health check failed: "+err.Error())
		}
		wait = time.Duration(float64(g.cfg.Health.Every) * (1 + checkJitter*(g.cfg.Random()-0.5)))
	}
}

func (g *Group) check(ctx context.Context, m *Member) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Health.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url.Scheme+"://"+m.url.Host+g.cfg.Health.Path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "gatehouse-health")
	resp, err := g.cfg.Transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, checkMaximum) // so that the connection can be used again
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}
