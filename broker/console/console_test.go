package console_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
)

// link stands before a store that can be cut off, and counts what is read.
type link struct {
	store.Store
	mu   sync.Mutex
	gets int
	cut  bool
}

func (l *link) Get(ctx context.Context, k store.Key) (store.Item, error) {
	l.mu.Lock()
	l.gets++
	cut := l.cut
	l.mu.Unlock()
	if cut {
		return store.Item{}, store.ErrUnavailable
	}
	return l.Store.Get(ctx, k)
}

func (l *link) Stale() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

func (l *link) read() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gets
}

type rig struct {
	storetest.Clock
	t    testing.TB
	link *link
	seal *store.Sealer
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, seal: storetest.Sealer(t)}
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "g.db"), Now: r.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r.link = &link{Store: s}
	return r
}

// replica starts a registry; changed gets what it hears.
func (r *rig) replica(changed func(string), ranOut func(context.Context, *console.Lease)) *console.Registry {
	r.t.Helper()
	reg, err := console.New(console.Config{KV: r.link, Bus: r.link, Leaser: r.link, Sealer: r.seal, Now: r.Now, Log: slog.New(slog.DiscardHandler), RanOut: ranOut})
	if err != nil {
		r.t.Fatal(err)
	}
	reg.SetNetworks([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
	if changed != nil {
		reg.OnChange(changed)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = reg.Run(ctx) }()
	r.t.Cleanup(func() { cancel(); <-done })
	return reg
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatal(what)
		}
	}
}

func (r *rig) lease(id, group string) console.Lease {
	return console.Lease{ID: id, Upstream: "http://10.0.0.1:8888", Owner: "owner-of-" + id, Groups: []string{group}, Expires: r.Now().Add(time.Hour)}
}

func put(t testing.TB, reg *console.Registry, l console.Lease) bool {
	t.Helper()
	changed, err := reg.Put(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// Two replicas: what one lends the other knows, a heartbeat tells nobody and
// still moves the end, and what is taken back is gone on both.
func TestReplicas(t *testing.T) {
	r := newRig(t)
	var mu sync.Mutex
	heard := map[string]int{}
	a := r.replica(nil, nil)
	b := r.replica(func(id string) { mu.Lock(); heard[id]++; mu.Unlock() }, nil)
	count := func(id string) int { mu.Lock(); defer mu.Unlock(); return heard[id] }
	if !put(t, a, r.lease("n1", "x")) {
		t.Fatal("a new lease is called a heartbeat")
	}
	l, err := b.Get(t.Context(), "n1")
	if err != nil || l.Owner != "owner-of-n1" {
		t.Fatalf("%+v, %v", l, err)
	}
	r.eventually("b does not list what a lent", func() bool { return count("n1") > 0 && len(b.For("someone", []string{"x"}, 10)) == 1 })
	if l, err = b.Get(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	version, before := l.Version(), count("n1")
	r.Wait(50 * time.Minute)
	if put(t, a, r.lease("n1", "x")) {
		t.Fatal("a heartbeat is called a change")
	}
	r.Wait(50 * time.Minute)
	l, err = b.Get(t.Context(), "n1")
	if err != nil || l.Version() != version {
		t.Fatalf("after a heartbeat: version %d, was %d, %v", l.Version(), version, err)
	}
	if count("n1") != before {
		t.Error("a heartbeat was told")
	}
	if !put(t, a, r.lease("n1", "y")) {
		t.Fatal("a change is called a heartbeat")
	}
	r.eventually("b lists the old state", func() bool { return len(b.For("", []string{"x"}, 10)) == 0 && len(b.For("", []string{"y"}, 10)) == 1 })
	if l, err = b.Get(t.Context(), "n1"); err != nil || l.Version() == version {
		t.Errorf("a change has the old version: %v", err)
	}
	if _, err := a.Delete(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	r.eventually("b still has what a took back", func() bool { _, err := b.Get(t.Context(), "n1"); return errors.Is(err, console.ErrNoLease) })
	if ls, _, err := b.List(t.Context(), "", "", "", 10); err != nil || len(ls) != 0 {
		t.Errorf("listed: %v %v", ls, err)
	}
	if _, err := a.Delete(t.Context(), "n1"); !errors.Is(err, console.ErrNoLease) {
		t.Errorf("taken back twice: %v", err)
	}
}

// Held leases cost no store read; cut off, what was read goes on, and nothing
// that is not known.
func TestMemory(t *testing.T) {
	r := newRig(t)
	reg := r.replica(nil, nil)
	put(t, reg, r.lease("n1", "x"))
	r.eventually("it is not held", func() bool { return reg.Held() == 1 })
	if _, err := reg.Get(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	before := r.link.read()
	for range 100 {
		if _, err := reg.Get(t.Context(), "n1"); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.link.read(); got != before {
		t.Errorf("%d store reads for what is held", got-before)
	}
	r.link.mu.Lock()
	r.link.cut = true
	r.link.mu.Unlock()
	if _, err := reg.Get(t.Context(), "n1"); err != nil {
		t.Errorf("cut off, a lease that was read: %v", err)
	}
	if _, err := reg.Get(t.Context(), "n2"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("cut off, an unknown one: %v", err)
	}
	r.Wait(2 * time.Hour)
	if _, err := reg.Get(t.Context(), "n1"); err == nil {
		t.Error("cut off, one that has run out is given")
	}
}

// A registry that starts later reads all there is; what runs out is told, once.
func TestStartAndEnd(t *testing.T) {
	r := newRig(t)
	first := r.replica(nil, nil)
	for i := range 1234 { // more than two pages
		put(t, first, r.lease(fmt.Sprint("n", i), fmt.Sprint("g", i%10)))
	}
	var mu sync.Mutex
	over := map[string]int{}
	ranOut := func(_ context.Context, l *console.Lease) { mu.Lock(); over[l.ID]++; mu.Unlock() }
	second := r.replica(nil, ranOut)
	r.eventually("not all were read", func() bool { return second.Held() == 1234 })
	if got := len(second.For("owner-of-n7", []string{"g3"}, 1000)); got != 1+123 && got != 1+124 {
		t.Errorf("%d leases for an owner of one in a group of 123", got)
	}
	r.Wait(2 * time.Hour)
	r.eventually("they do not end", func() bool { return second.Held() == 0 && first.Held() == 0 })
	mu.Lock()
	defer mu.Unlock()
	for id, n := range over {
		if n != 1 {
			t.Errorf("%s ended %d times", id, n)
		}
	}
}

// A rule is compiled once for each distinct text and judged where it stands.
func TestRules(t *testing.T) {
	r := newRig(t)
	reg := r.replica(nil, nil)
	for i := range 3 {
		l := r.lease(fmt.Sprint("n", i), "x")
		l.Allow = `user.email.endsWith("@acme.com")`
		put(t, reg, l)
	}
	a, err := reg.Get(t.Context(), "n0")
	if err != nil {
		t.Fatal(err)
	}
	b, err := reg.Get(t.Context(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	if a.Rule() == nil || a.Rule() != b.Rule() {
		t.Error("the same text was compiled twice")
	}
	if got := reg.For("stranger", nil, 10); len(got) != 3 {
		t.Errorf("%d leases have a rule that may let anybody in", len(got))
	}
}

// 100,000 leases: a look-up costs what one costs, and all of them take so many
// bytes of memory.
func BenchmarkGet(b *testing.B) {
	for _, n := range []int{1, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := newRig(b)
			reg := r.replica(nil, nil)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			ids := make([]string, n)
			var wg sync.WaitGroup
			for w := range 32 {
				wg.Go(func() {
					for i := w; i < n; i += 32 {
						ids[i] = fmt.Sprintf("environment-%06d", i)
						l := console.Lease{ID: ids[i], Node: fmt.Sprintf("gpu-node-%05d", i/8), Upstream: fmt.Sprintf("https://10.1.%d.%d:8888", i/250%250, i%250), Kind: "jupyter",
							Owner: fmt.Sprintf("ABCDEFGHIJKLMNOPQRST%06d", i), Groups: []string{"ml-team"}, Expires: time.Now().Add(time.Hour)}
						if _, err := reg.Put(b.Context(), l); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			r.eventually("not all are held", func() bool { return reg.Held() == n })
			runtime.GC()
			runtime.ReadMemStats(&after)
			i := 0
			for b.Loop() {
				if _, err := reg.Get(b.Context(), ids[i%n]); err != nil {
					b.Fatal(err)
				}
				i += 7919
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MB-held")
		})
	}
}
