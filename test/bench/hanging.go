package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// What sign-ins lose while everything that is told of them hangs: every notifier,
// the archive, Sentry, a webhook and the monitor take connections and never
// answer. Nobody who signs in may wait for any of them (docs/notifications.md).

// hole takes connections, reads what comes and says nothing.
func hole() (addr string, taken *atomic.Int64) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	taken = &atomic.Int64{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				log.Fatal(err)
			}
			taken.Add(1)
			go func() {
				_, _ = io.Copy(io.Discard, c)
				c.Close()
			}()
		}
	}()
	return l.Addr().String(), taken
}

// hangingConf leads everything that is told of events into the hole.
func hangingConf(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		log.Fatal(err)
	}
	return fmt.Sprintf(`
dingtalk: {webhook_url: "http://%[1]s/robot/send?access_token=bench-0123456789", secret: bench, private: true}
wechat: {webhook_url: "http://%[1]s/cgi-bin/webhook/send?key=bench-0123456789", private: true}
feishu: {webhook_url: "http://%[1]s/open-apis/bot/v2/hook/bench-0123456789", private: true}
slack: {webhook_url: "http://%[1]s/services/T0/B0/bench-0123456789", private: true}
webhooks: [{name: siem, url: "http://%[1]s/hook", secret: whsec_d2ViaG9vay1zZWNyZXQtd2ViaG9vay1zZWNyZXQ=, events: ["*"]}]
smtp: {host: 127.0.0.1, port: %[2]s, tls: none, from: bench@example.com, to: [ops@example.com]}
notify: [{events: ["*"], to: [dingtalk, wechat, feishu, slack, smtp]}]
minio: {endpoint: "%[1]s", use_ssl: false, access_key: bench, secret_key: bench-secret, bucket: audit}
audit: {archive: [minio], every: 1s}
sentry: {dsn: "http://bench@%[1]s/1", traces_sample_rate: 0.1}
uptime_kuma: {push_url: "http://%[1]s/api/push/bench", every: 20s}
`, addr, port)
}

// paced is what a run at a fixed rate came to.
type paced struct {
	perSec   float64
	cpu      time.Duration // of the server, per sign-in
	p50, p99 time.Duration
}

// pace begins sign-ins at a rate, whether those before have ended or not, for some
// time, and counts what ended.
func pace(p *process, base string, rate float64, took time.Duration) (paced, error) {
	n := int(rate * took.Seconds())
	times := make([]time.Duration, n)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	before, start := p.cpu(), time.Now()
	for range 8 * workers {
		wg.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				due := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
				time.Sleep(time.Until(due))
				if _, err := signIn(base, "es", i%500, "openid profile email groups"); err != nil {
					failed.Store(&err)
					return
				}
				times[i] = time.Since(due) // the wait for a free worker is the server's too
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return paced{}, *err
	}
	all, cpu := time.Since(start), p.cpu()-before
	slices.Sort(times)
	return paced{perSec: float64(n) / all.Seconds(), cpu: cpu / time.Duration(n), p50: times[n/2], p99: times[n*99/100]}, nil
}

// hanging measures sign-ins at half the rate that the program can do, with nothing
// that is told of them and with everything told and hanging, in turns.
func hanging(bin string, runs int, took time.Duration) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gatehouse-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	calm := conf(upstreams())
	at, taken := hole()
	run := func(name, conf string, rate float64) (r paced, err error) {
		addr := freeAddr()
		p, _ := server(bin, filepath.Join(dir, name), conf, addr)
		defer p.stop()
		base := "http://" + addr
		for i := range 500 { // everybody has an account, and the pools are warm
			if _, err := signIn(base, "es", i, "openid"); err != nil {
				return r, err
			}
		}
		if rate > 0 {
			return pace(p, base, rate, took)
		}
		best := measure(p, 3, 2000, "as fast as it goes", func(_, i int) error {
			_, err := signIn(base, "es", i%500, "openid profile email groups")
			return err
		})
		return paced{perSec: best.perSec, cpu: best.cpu}, nil
	}
	most, err := run("calm", calm, 0)
	if err != nil {
		return err
	}
	rate := most.perSec / 2
	fmt.Printf("\n%d cores, %s. Sign-ins through a redirect connector to a client with ES256: %.0f a second at most; now %.0f a second for %s, %d times in turns.\n\n", runtime.NumCPU(), runtime.Version(), most.perSec, rate, took, runs)
	fmt.Println("| run | nothing told | told, all hang | CPU | CPU, all hang | p50 | p50, all hang | p99 | p99, all hang |\n|---|---|---|---|---|---|---|---|---|")
	var sum [2]paced
	for i := range runs {
		var got [2]paced
		order := []int{i % 2, 1 - i%2} // neither always comes first
		for _, which := range order {
			name, text := "calm", calm
			if which == 1 {
				name, text = "hanging", calm+hangingConf(at)
			}
			if got[which], err = run(name, text, rate); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			sum[which].perSec += got[which].perSec
			sum[which].cpu += got[which].cpu
		}
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		fmt.Printf("| %d | %.1f/s | %.1f/s | %.3f ms | %.3f ms | %.1f ms | %.1f ms | %.1f ms | %.1f ms |\n", i+1, got[0].perSec, got[1].perSec, ms(got[0].cpu), ms(got[1].cpu), ms(got[0].p50), ms(got[1].p50), ms(got[0].p99), ms(got[1].p99))
	}
	if taken.Load() == 0 {
		return errors.New("nothing was told to anybody: what was measured is not what was meant")
	}
	fmt.Printf("\nWhile all hang, %.1f %% of the sign-ins are lost (aim: 5 %% at most), at %.2f times the CPU each. %d connections hung.\n", 100*(1-sum[1].perSec/sum[0].perSec), float64(sum[1].cpu)/float64(sum[0].cpu), taken.Load())
	return nil
}
