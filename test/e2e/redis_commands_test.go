//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// What the gateway has seen costs Redis nothing: 10,000 requests of a cached
// session take no more commands than an idle span of the same length
// (docs/performance.md).
func TestRedisIsNotAskedForCachedRequests(t *testing.T) {
	peer := startRedis(t, "redis")
	db := redis.NewClient(&redis.Options{Addr: peer.addr(0)})
	defer db.Close()
	commands := func() (n int64) {
		t.Helper()
		said, err := db.Info(t.Context(), "stats").Result()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(said) {
			_, _ = fmt.Sscanf(line, "total_commands_processed:%d", &n)
		}
		if n == 0 {
			t.Fatal("Redis does not say how many commands there were")
		}
		return n
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": "{}\n"})
	g := serve(t, dir, []string{"--dev"}, "GATEHOUSE_STORE=redis://"+peer.addr(0)+"/0", "GATEHOUSE_SECRET_KEY="+testSecretKey)
	p := enterBy(t, g, "local", "demo", "demo")
	u, err := url.Parse(strings.Replace(g.URL, "127.0.0.1", "api.localhost", 1) + "/echo")
	if err != nil {
		t.Fatal(err)
	}
	if r := p.follow(p.send(http.MethodGet, u.String(), nil)); r.StatusCode != http.StatusOK {
		t.Fatalf("the route: %d at %s", r.StatusCode, r.Request.URL)
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, strings.TrimPrefix(g.URL, "http://"))
	}}}
	cookies := p.client.Jar.Cookies(u)
	run := func(n int) {
		t.Helper()
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				for range n / 16 {
					req, err := http.NewRequest(http.MethodGet, u.String(), nil)
					if err != nil {
						t.Error(err)
						return
					}
					for _, c := range cookies {
						req.AddCookie(c)
					}
					resp, err := client.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode != http.StatusOK {
						t.Errorf("status %d", resp.StatusCode)
						return
					}
				}
			})
		}
		all.Wait()
	}
	run(160)
	time.Sleep(3 * time.Second) // what the sign-in left to do is done
	began, before := time.Now(), commands()
	run(10_000)
	took := time.Since(began)
	busy := commands() - before
	before = commands()
	time.Sleep(took)
	idle := commands() - before
	t.Logf("in %v: %d commands for 10,000 requests, %d for none", took.Round(time.Millisecond), busy, idle)
	if busy > idle+20 { // what happens once a second or a minute may fall into one span alone
		t.Errorf("%d commands for 10,000 cached requests, %d in an idle span", busy, idle)
	}
}
