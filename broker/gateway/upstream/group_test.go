package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// servers is a transport to made-up servers: what each of them does.
type servers struct {
	mu   sync.Mutex
	do   map[string]func(*http.Request) (*http.Response, error) // by host; nil answers 200
	seen []string                                               // host and path, in order
}

func (s *servers) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.seen = append(s.seen, r.URL.Host+r.URL.Path)
	do := s.do[r.URL.Host]
	s.mu.Unlock()
	if do == nil {
		return status(200)(r)
	}
	return do(r)
}

func (s *servers) set(host string, do func(*http.Request) (*http.Response, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.do[host] = do
}

// took returns the hosts that were asked, and forgets them.
func (s *servers) took() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.seen
	s.seen = nil
	return out
}

func status(code int) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: code, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
	}
}

func failing(err error) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

var errDial = &net.OpError{Op: "dial", Err: errors.New("connection refused")}

// clock is moved by hand.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func group(t testing.TB, change func(*Config), weights ...int) (*Group, *servers, *clock) {
	t.Helper()
	s := &servers{do: map[string]func(*http.Request) (*http.Response, error){}}
	c := &clock{t: time.Unix(1_800_000_000, 0)}
	cfg := Config{Transport: s, Now: c.now, Random: func() float64 { return 0.5 }}
	for i, w := range weights {
		cfg.Servers = append(cfg.Servers, Server{URL: &url.URL{Scheme: "http", Host: string(rune('a' + i))}, Weight: w})
	}
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g, s, c
}

// send sends one request and closes its answer.
func send(t testing.TB, g *Group, method string, body io.Reader) (int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://first/x", body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := g.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	return resp.StatusCode, nil
}

func TestNewRefuses(t *testing.T) {
	at := &url.URL{Scheme: "http", Host: "a"}
	ok := Config{Servers: []Server{{at, 1}}, Transport: http.DefaultTransport, Now: time.Now, Random: func() float64 { return 0 }}
	for name, change := range map[string]func(*Config){
		"no servers":   func(c *Config) { c.Servers = nil },
		"too many":     func(c *Config) { c.Servers = slices.Repeat(c.Servers, MaxMembers+1) },
		"no weight":    func(c *Config) { c.Servers = []Server{{at, 0}} },
		"heavy":        func(c *Config) { c.Servers = []Server{{at, MaxWeight + 1}} },
		"no transport": func(c *Config) { c.Transport = nil },
		"no clock":     func(c *Config) { c.Now = nil },
	} {
		c := ok
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// Turns follow the weights, and not in blocks.
func TestRoundRobin(t *testing.T) {
	g, s, _ := group(t, nil, 5, 1, 1)
	for range 14 {
		if _, err := send(t, g, "POST", nil); err != nil {
			t.Fatal(err)
		}
	}
	got := strings.ReplaceAll(strings.Join(s.took(), ""), "/x", "")
	if n := []int{strings.Count(got, "a"), strings.Count(got, "b"), strings.Count(got, "c")}; !slices.Equal(n, []int{10, 2, 2}) {
		t.Errorf("%s: %v", got, n)
	}
	if strings.Contains(got, "aaaaa") {
		t.Errorf("%s: the heavy one has all its turns at once", got)
	}
}

// Who has fewer open requests for its weight is next.
func TestLeastBusy(t *testing.T) {
	g, s, _ := group(t, func(c *Config) { c.Balance = LeastBusy }, 1, 2)
	var open []*http.Response
	for range 6 {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://first/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := g.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, resp)
	}
	got := strings.Join(s.took(), "")
	if a, b := strings.Count(got, "a"), strings.Count(got, "b"); a != 2 || b != 4 {
		t.Errorf("%d and %d open, want 2 and 4", a, b)
	}
	for _, resp := range open {
		if resp.Request.URL.Host == "b" {
			resp.Body.Close()
			resp.Body.Close() // a second Close releases nothing
		}
	}
	for range 4 { // all of b's are free again: it has the next four
		a, ok := g.Begin(t.Context(), 0)
		if !ok || a.URL().Host != "b" && g.members[1].load.Load() < 3 {
			t.Fatalf("%v %v with %d open at b", ok, a.URL(), g.members[1].load.Load())
		}
	}
	if n := g.members[0].load.Load() + g.members[1].load.Load(); n != 6 {
		t.Errorf("%d are open", n)
	}
}

type keyOf struct{}

// A session stays with its server; when that one is out, its keys alone move,
// and they come back.
func TestSticky(t *testing.T) {
	g, s, c := group(t, func(c *Config) {
		c.Key = func(ctx context.Context) string { k, _ := ctx.Value(keyOf{}).(string); return k }
	}, 1, 1, 2)
	where := func() map[string]string {
		out := map[string]string{}
		for i := range 400 {
			key := fmt.Sprintf("session-%d", i)
			a, ok := g.Begin(context.WithValue(t.Context(), keyOf{}, key), 0)
			if !ok {
				t.Fatal("none")
			}
			a.Worked(t.Context())
			a.Release()
			out[key] = a.URL().Host
		}
		return out
	}
	before := where()
	n := map[string]int{}
	for key, host := range before {
		if again := where()[key]; again != host && len(n) == 0 {
			t.Fatalf("%s moved from %s to %s", key, host, again)
		}
		n[host]++
	}
	if n["a"] < 60 || n["b"] < 60 || n["c"] < 150 {
		t.Errorf("400 sessions are shared as %v", n)
	}
	for range ejectAfter {
		g.failed(t.Context(), g.members[0], false, "test")
	}
	moved := 0
	for key, host := range where() {
		if host == "a" || before[key] != "a" && host != before[key] {
			t.Errorf("%s is at %s, was at %s", key, host, before[key])
		}
		if before[key] == "a" {
			moved++
		}
	}
	if moved != n["a"] {
		t.Errorf("%d of %d moved", moved, n["a"])
	}
	c.t = c.t.Add(ejectFor)
	for key, host := range where() {
		if host != before[key] && key != "" {
			// the first of a's keys is the trial and brings it back for all
			t.Errorf("%s is at %s, was at %s", key, host, before[key])
		}
	}
	s.took()
}

// Another replica sends a session to the same server.
func TestStickyAcrossReplicas(t *testing.T) {
	key := func(c *Config) { c.Key = func(context.Context) string { return "a session" } }
	one, _, _ := group(t, key, 1, 1, 1, 1, 1)
	other, _, _ := group(t, key, 1, 1, 1, 1, 1)
	a, _ := one.Begin(t.Context(), 0)
	b, _ := other.Begin(t.Context(), 0)
	if a.URL().Host != b.URL().Host {
		t.Errorf("%s and %s", a.URL().Host, b.URL().Host)
	}
}

func BenchmarkBegin(b *testing.B) {
	for _, n := range []int{1, 3, 64} {
		g, _, _ := group(b, nil, slices.Repeat([]int{1}, n)...)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a, ok := g.Begin(b.Context(), 0)
				if !ok {
					b.Fatal("none")
				}
				a.Worked(b.Context())
				a.Release()
			}
		})
	}
}
