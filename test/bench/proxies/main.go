// Command proxies compares ways to guard an upstream, all on this machine in one
// run and turn by turn: nginx and httputil.ReverseProxy without any sign-in,
// oauth2-proxy alone and behind nginx, Gatehouse as the gateway and as the
// forward-auth of nginx. It prints tables in Markdown: requests per second,
// latencies, and the CPU time of all processes of a contender for one request.
//
//	go run ./test/bench/proxies -gatehouse bin/gatehouse -oauth2-proxy PATH [-runs 3] [-small 20000] [-large 600]
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	gatehouse := flag.String("gatehouse", "bin/gatehouse", "the program")
	oauth2 := flag.String("oauth2-proxy", "oauth2-proxy", "oauth2-proxy's program")
	runs := flag.Int("runs", 3, "runs of each; the best counts")
	small := flag.Int("small", 20_000, "requests of 200 B a run")
	large := flag.Int("large", 600, "requests of 1 MiB a run")
	bare := flag.String("bare-proxy", "", "LISTEN=URL: be the bare proxy (used by the program itself)")
	flag.Parse()
	if listen, target, ok := strings.Cut(*bare, "="); ok {
		log.Fatal(bareProxy(listen, target))
	}
	if err := compare(*gatehouse, *oauth2, *runs, *small, *large); err != nil {
		log.Fatal("proxies: ", err)
	}
}

func compare(gatehouse, oauth2 string, runs, small, large int) error {
	dir, err := os.MkdirTemp("", "gatehouse-proxies")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if gatehouse, err = filepath.Abs(gatehouse); err != nil {
		return err
	}
	s := &stage{dir: dir, gatehouse: gatehouse, oauth2: oauth2}
	defer s.stop()
	all, err := s.contenders()
	if err != nil {
		return err
	}
	fmt.Printf("%d cores, %s.\n", runtime.NumCPU(), runtime.Version())
	for _, body := range []struct {
		path, name string
		n          int
	}{{"/small", "200 B", small}, {"/large", "1 MiB", large}} {
		for _, connections := range []int{1, 16, 64} {
			best, err := turns(all, body.path, connections, body.n, runs)
			if err != nil {
				return err
			}
			fmt.Printf("\n%s, %d connections\n\n| | requests/s | p50 | p99 | CPU for a request |\n|---|---|---|---|---|\n", body.name, connections)
			for i, c := range all {
				fmt.Printf("| %s | %.0f | %.2f ms | %.2f ms | %.0f µs |\n", c.name, best[i].perSec, ms(best[i].p50), ms(best[i].p99), float64(best[i].cpu.Nanoseconds())/1000)
			}
		}
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// turns lets each have its turn, run after run, and keeps the best of each.
func turns(all []contender, path string, connections, n, runs int) ([]figures, error) {
	best := make([]figures, len(all))
	for run := range runs {
		for i, c := range all {
			if _, err := load(c.addr, c.request(path), connections, max(connections, n/10)); err != nil { // connections and caches are warm
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			before, err := c.cpu()
			if err != nil {
				return nil, err
			}
			f, err := load(c.addr, c.request(path), connections, n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			after, err := c.cpu()
			if err != nil {
				return nil, err
			}
			f.cpu = (after - before) / time.Duration(n/connections*connections)
			if b := &best[i]; run == 0 {
				*b = f
			} else {
				b.perSec, b.p50, b.p99, b.cpu = max(b.perSec, f.perSec), min(b.p50, f.p50), min(b.p99, f.p99), min(b.cpu, f.cpu)
			}
		}
	}
	return best, nil
}
