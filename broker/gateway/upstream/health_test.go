package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Failures in a row take a server out; after that time one request is its trial,
// and a trial that fails doubles the time.
func TestEjection(t *testing.T) {
	var changes []string
	g, s, c := group(t, func(c *Config) {
		c.Changed = func(ctx context.Context, server string, up bool, why string) {
			changes = append(changes, server+map[bool]string{true: " up", false: " down"}[up])
		}
	}, 1, 1)
	s.set("a", status(503))
	for range 2 * ejectAfter {
		_, _ = send(t, g, "POST", nil)
	}
	s.took()
	for range 20 {
		if code, err := send(t, g, "POST", nil); err != nil || code != 200 {
			t.Fatalf("%d %v while a is out", code, err)
		}
	}
	c.t = c.t.Add(ejectFor - 1)
	if strings.Contains(strings.Join(s.took(), ""), "a") {
		t.Fatal("a is asked before its time")
	}
	trials := func() int {
		for range 10 {
			_, _ = send(t, g, "POST", nil)
		}
		return strings.Count(strings.Join(s.took(), ""), "a")
	}
	c.t = c.t.Add(1)
	if n := trials(); n != 1 {
		t.Fatalf("%d trials", n)
	}
	c.t = c.t.Add(ejectFor)
	if n := trials(); n != 0 {
		t.Fatalf("%d trials before twice the time", n)
	}
	s.set("a", nil)
	c.t = c.t.Add(ejectFor)
	if n := trials(); n != 5 {
		t.Fatalf("after a good trial a has %d of 10 requests", n)
	}
	if got := strings.Join(changes, ","); got != "a down,a up" {
		t.Errorf("changes: %s", got)
	}
	// Good answers in between begin the count anew.
	s.set("a", status(502))
	for range ejectAfter - 1 {
		g.failed(t.Context(), g.members[0], false, "test")
	}
	g.worked(t.Context(), g.members[0])
	g.failed(t.Context(), g.members[0], false, "test")
	if known, up := g.members[0].health.state(); !known || !up {
		t.Error("a is out after failures that were not in a row")
	}
}

// While the trial is under way nobody else is sent there, and one of which
// nothing was learnt leaves the next the trial.
func TestOneTrial(t *testing.T) {
	g, _, c := group(t, nil, 1, 1)
	for range ejectAfter {
		g.failed(t.Context(), g.members[0], false, "test")
	}
	c.t = c.t.Add(ejectFor)
	trial := func() (Attempt, bool) {
		var out Attempt
		found := 0
		for range 6 {
			a, ok := g.Begin(t.Context(), 0)
			if !ok {
				t.Fatal("none")
			}
			a.Release()
			if a.URL().Host == "a" {
				out = a
				found++
			}
		}
		if found > 1 {
			t.Fatalf("%d at once", found)
		}
		return out, found == 1
	}
	first, ok := trial()
	if !ok {
		t.Fatal("no trial")
	}
	if _, ok := trial(); ok {
		t.Fatal("two trials at once")
	}
	first.Dropped()
	if _, ok := trial(); !ok {
		t.Fatal("no trial after one that said nothing")
	}
}

// A 500 is about the request: it takes nobody out.
func TestServerErrorsOfTheApplication(t *testing.T) {
	g, s, _ := group(t, nil, 1, 1)
	s.set("a", status(500))
	for range 10 * ejectAfter {
		_, _ = send(t, g, "GET", nil)
	}
	if n := strings.Count(strings.Join(s.took(), ""), "a"); n != 5*ejectAfter {
		t.Errorf("a has %d requests", n)
	}
}

// Where none is well, all are tried: a check that errs must not shut a service.
func TestAllDown(t *testing.T) {
	g, s, _ := group(t, nil, 1, 1)
	for _, m := range g.members {
		m.health.down.Store(true)
	}
	if code, err := send(t, g, "POST", nil); err != nil || code != 200 {
		t.Fatalf("%d %v", code, err)
	}
	for _, m := range g.members {
		m.health.down.Store(false)
		for range ejectAfter {
			g.failed(t.Context(), m, false, "test")
		}
	}
	if code, err := send(t, g, "POST", nil); err != nil || code != 200 || len(s.took()) != 2 {
		t.Fatalf("%d %v", code, err)
	}
	up := 0
	for _, st := range g.States() {
		if st.Up {
			up++
		}
	}
	if up != 1 {
		t.Errorf("%d are up after one answered", up)
	}
}

// The first check counts at once, later ones by their thresholds; a check that
// hangs is a bad one; checks end with their context.
func TestChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s, _ := group(t, func(c *Config) {
			c.Health = HealthConfig{Path: "/healthz", Every: 10 * time.Second, Timeout: 2 * time.Second}
		}, 1, 1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); g.Run(ctx) }()
		s.set("b", failing(errDial))
		step := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		up := func(i int) bool { return g.States()[i].Up }
		if g.States()[0].Known {
			t.Fatal("known before the first check")
		}
		step(time.Second)
		if !g.States()[0].Known || !up(0) || up(1) {
			t.Fatalf("after one check: %+v", g.States())
		}
		if got := s.took(); len(got) != 2 || !strings.HasSuffix(got[0], "/healthz") {
			t.Fatalf("checks: %v", got)
		}
		s.set("a", status(404))
		s.set("b", status(302))
		step(10 * time.Second)
		if !up(0) || up(1) {
			t.Fatalf("one answer turned: %+v", g.States())
		}
		step(10 * time.Second)
		if !up(0) || !up(1) {
			t.Fatalf("two good ones bring back, two bad ones do not take out: %+v", g.States())
		}
		step(10 * time.Second)
		if up(0) || !up(1) {
			t.Fatalf("three bad ones take out: %+v", g.States())
		}
		s.took()
		for range 6 {
			_, _ = send(t, g, "POST", nil)
		}
		if got := strings.Join(s.took(), ""); strings.Contains(got, "a") {
			t.Fatalf("one that is down has requests: %s", got)
		}
		s.set("b", func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() })
		step(40 * time.Second)
		if up(1) {
			t.Fatal("checks that hang do not take out")
		}
		cancel()
		<-ended
	})
}

// Two groups do not ask at the same moments.
func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		random := []float64{0, 0, 0.999, 0.25}
		g, s, _ := group(t, func(c *Config) {
			c.Health = HealthConfig{Path: "/healthz"}
			c.Random = func() float64 { return random[(n.Add(1)-1)%4] }
		}, 1)
		var at []time.Duration
		began := time.Now()
		s.set("a", func(r *http.Request) (*http.Response, error) {
			at = append(at, time.Since(began))
			return nil, io.EOF
		})
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		g.Run(ctx)
		if len(at) != 3 || at[0] != 0 || at[1] != 9*time.Second || at[2] <= 19*time.Second || at[2] >= 20*time.Second {
			t.Errorf("checks at %v", at)
		}
	})
}

func TestHealthProblems(t *testing.T) {
	for name, c := range map[string]struct {
		cfg   HealthConfig
		field string
	}{
		"none":          {HealthConfig{}, ""},
		"path alone":    {HealthConfig{Path: "/healthz?full=1"}, ""},
		"often":         {HealthConfig{Path: "/", Every: time.Second}, ""},
		"no path":       {HealthConfig{Every: time.Minute}, "Path"},
		"no slash":      {HealthConfig{Path: "healthz"}, "Path"},
		"another host":  {HealthConfig{Path: "//evil/x"}, "Path"},
		"a URL":         {HealthConfig{Path: "http://a/"}, "Path"},
		"too often":     {HealthConfig{Path: "/", Every: time.Millisecond}, "Every"},
		"negative":      {HealthConfig{Path: "/", Every: -1}, "Every"},
		"overlapping":   {HealthConfig{Path: "/", Every: time.Second, Timeout: 2 * time.Second}, "Timeout"},
		"less than one": {HealthConfig{Path: "/", Healthy: -1}, "Healthy"},
		"never":         {HealthConfig{Path: "/", Unhealthy: 1000}, "Unhealthy"},
	} {
		if field, _, _ := c.cfg.Problem(); field != c.field {
			t.Errorf("%s: %q, want %q", name, field, c.field)
		}
	}
}

// What the client broke off says nothing of the server.
func TestClientGone(t *testing.T) {
	g, s, _ := group(t, func(c *Config) { c.Blame = func(context.Context, error) bool { return false } }, 1)
	s.set("a", failing(errors.New("client gone")))
	for range 2 * ejectAfter {
		_, _ = send(t, g, "GET", nil)
	}
	if st := g.States()[0]; !st.Up || st.Known {
		t.Errorf("%+v", st)
	}
}
