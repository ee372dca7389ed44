//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// perSession is how many sockets of one session these tests open; the gateway
// allows 128.
const perSession = 125

// openMany opens idle sockets of a console, in as many sessions of one person as
// that takes.
func openMany(t *testing.T, g *gatehouse, lease string, n int) (*person, []*socket) {
	t.Helper()
	var p *person
	var all []*socket
	for len(all) < n {
		p = enterBy(t, g, "local", "demo", "demo")
		for range min(perSession, n-len(all)) {
			all = append(all, p.consoleOf(t, g, lease))
		}
	}
	return p, all
}

// ended waits for the close frames of all sockets and returns how long each took
// from began on, in order.
func ended(t *testing.T, all []*socket, began time.Time, code int) []time.Duration {
	t.Helper()
	took := make([]time.Duration, len(all))
	var wg sync.WaitGroup
	for i, s := range all {
		wg.Go(func() {
			for {
				op, got, err := s.frame(10 * time.Second)
				if err != nil {
					t.Errorf("socket %d: no close frame: %v", i, err)
					return
				}
				if op != 8 {
					continue
				}
				took[i] = time.Since(began)
				if len(got) < 2 || int(got[0])<<8|int(got[1]) != code {
					t.Errorf("socket %d: closed with %v, not %d", i, got, code)
				}
				return
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took
}

// Hundreds of live sockets, thousands in the full run, end together with what let
// them begin: within a second, each with its code (docs/security.md GW-9).
func TestManySocketsEndAtOnce(t *testing.T) {
	g := serve(t, t.TempDir(), []string{"--dev"})
	upstream := chatter(t)
	check := func(what string, took []time.Duration) {
		t.Helper()
		worst := took[len(took)-1]
		t.Logf("%s: %d sockets, median %v, last %v", what, len(took), took[len(took)/2].Round(time.Millisecond), worst.Round(time.Millisecond))
		if worst > time.Second { // the bound that surface and docs promise, not a benchmark
			t.Errorf("%s: the last one took %v", what, worst)
		}
	}
	g.lend("many", upstream, "terminal")
	_, all := openMany(t, g, "many", socketsClosed)
	began := time.Now()
	if s, said := g.operate(http.MethodDelete, "/consoles/many", nil); s >= 300 {
		t.Fatalf("ending the lease: %d %v", s, said)
	}
	check("the lease's end", ended(t, all, began, 4403))
	for _, s := range all {
		s.conn.Close()
	}

	g.lend("more", upstream, "terminal")
	p, all := openMany(t, g, "more", socketsClosed)
	form := p.signOutForm()
	form["everywhere"] = []string{"1"}
	began = time.Now()
	if r := p.send(http.MethodPost, "/signout", url.Values(form)); r.StatusCode != http.StatusSeeOther {
		t.Fatalf("sign-out: %d", r.StatusCode)
	}
	check("signing out everywhere", ended(t, all, began, 4401))
}

// What an idle socket costs, printed for docs/performance.md: memory in use by the
// program's own count after its garbage is collected, and resident.
func TestMemoryOfIdleSockets(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "config"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config", "debug.yml"), []byte("debug: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := serve(t, dir, []string{"--dev"})
	g.lend("idle", chatter(t), "terminal")
	_, warm := openMany(t, g, "idle", 10)
	heap, stacks := g.inUse()
	before := g.memory("VmRSS")
	_, all := openMany(t, g, "idle", socketsIdle)
	heap2, stacks2 := g.inUse()
	after, n := g.memory("VmRSS"), int64(len(all))
	t.Logf("%d idle sockets: %.1f KiB of heap and %.1f KiB of stacks each; resident %d KiB each, from %d to %d MiB", n,
		float64(heap2-heap)/float64(n)/1024, float64(stacks2-stacks)/float64(n)/1024, (after-before)/n>>10, before>>20, after>>20)
	for _, s := range append(warm, all...) {
		if _, err := s.conn.Write([]byte{0x89, 0x80, 0, 0, 0, 0}); err != nil { // a ping: it still lives
			t.Fatal(err)
		}
	}
}

// inUse collects the server's garbage and returns the bytes of its heap and stacks
// that are in use.
func (g *gatehouse) inUse() (heap, stacks int64) {
	g.t.Helper()
	var said string
	for range 2 { // the second sees what finalizers and pools of the first let go
		r, err := http.Get(g.Admin + "/debug/pprof/heap?gc=1&debug=1")
		if err != nil {
			g.t.Fatal(err)
		}
		raw, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != http.StatusOK {
			g.t.Fatalf("pprof: %v %d", err, r.StatusCode)
		}
		said = string(raw)
	}
	for line := range strings.Lines(said) {
		_, _ = fmt.Sscanf(line, "# HeapAlloc = %d", &heap)
		_, _ = fmt.Sscanf(line, "# Stack = %d", &stacks)
	}
	if heap == 0 || stacks == 0 {
		g.t.Fatal("pprof names neither heap nor stacks")
	}
	return heap, stacks
}
