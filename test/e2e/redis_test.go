//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/redis"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
)

// redisPeer is a running peer of test/peers.
type redisPeer struct {
	t    *testing.T
	name string
	dir  string
	port int
	env  []string
}

// startRedis starts the peer on free ports and stops it with the test.
func startRedis(t *testing.T, name string, env ...string) *redisPeer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("redis-server is missing; install it: apt-get install -y redis-server redis-sentinel")
	}
	p := &redisPeer{t: t, name: name, dir: t.TempDir(), port: freePorts(t, 16), env: env}
	p.start()
	t.Cleanup(func() { p.run("stop.sh", p.dir) })
	return p
}

func (p *redisPeer) start() {
	p.t.Helper()
	p.run("start.sh", p.dir, strconv.Itoa(p.port))
}

func (p *redisPeer) run(script string, args ...string) {
	p.t.Helper()
	cmd := exec.Command(filepath.Join("..", "peers", p.name, script), args...)
	cmd.Env = append(os.Environ(), p.env...)
	// A file, since a pipe stays open in the servers that the script starts.
	out, err := os.CreateTemp(p.t.TempDir(), "out")
	if err != nil {
		p.t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		p.t.Fatalf("%s/%s: %v\n%s", p.name, script, err, said)
	}
}

func (p *redisPeer) addr(i int) string { return fmt.Sprintf("127.0.0.1:%d", p.port+i) }

// signal sends to the server in DIR/sub.
func (p *redisPeer) signal(sub string, sig syscall.Signal) {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, sub, "pid"))
	if err != nil {
		p.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		p.t.Fatal(err)
	}
}

// pause stops the server without closing its connections, until the test ends or
// resume is called.
func (p *redisPeer) pause(sub string) (resume func()) {
	p.t.Helper()
	p.signal(sub, syscall.SIGSTOP)
	resume = sync.OnceFunc(func() { p.signal(sub, syscall.SIGCONT) })
	p.t.Cleanup(resume)
	return resume
}

// freePorts finds n ports in a row on which nothing listens, below those that
// outgoing connections are given.
func freePorts(t testing.TB, n int) int {
	t.Helper()
next:
	for range 200 {
		base := 12000 + rand.IntN(18000)
		for i := range n {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+i))
			if err != nil {
				continue next
			}
			l.Close()
		}
		return base
	}
	t.Fatal("no free ports")
	return 0
}

func redisConfig(url string) redis.Config {
	return redis.Config{URL: redact.String(url), Now: time.Now, Log: slog.New(slog.DiscardHandler)}
}

func openRedisWith(t *testing.T, cfg redis.Config) *redis.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := redis.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func openRedis(t *testing.T, url string) *redis.Store {
	t.Helper()
	return openRedisWith(t, redisConfig(url))
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

func redisSuite(t *testing.T, url string) {
	t.Helper()
	storetest.Run(t, storetest.Full, func(t *testing.T) store.Store { return openRedis(t, url) })
}

func TestRedisStandalone(t *testing.T) {
	p := startRedis(t, "redis")
	redisSuite(t, "redis://"+p.addr(0)+"/0")
}

func TestRedisCluster(t *testing.T) {
	p := startRedis(t, "redis-cluster", "REPLICAS=0", "PASSWORD=pw")
	redisSuite(t, "redis+cluster://:pw@"+p.addr(0)) // one seed must do
}

func sentinelURL(p *redisPeer) string {
	return fmt.Sprintf("redis+sentinel://%s,%s,%s/gatehouse?db=0", p.addr(2), p.addr(3), p.addr(4))
}

func TestRedisSentinel(t *testing.T) {
	p := startRedis(t, "redis-sentinel")
	redisSuite(t, sentinelURL(p))
}

// TLS with our own authority, and a user who may only what the store needs.
func TestRedisTLSAndACL(t *testing.T) {
	p := startRedis(t, "redis", "TLS_ONLY=1", "PASSWORD=pw", "ACL_USER=gh", "ACL_PASSWORD=ghpw", "FSYNC=always")
	url := "rediss://gh:ghpw@" + p.addr(1)
	cfg := redisConfig(url)
	if _, err := redis.Open(t.Context(), cfg); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("a server whose authority is not known: %v", err)
	}
	cfg.CAFile = filepath.Join(p.dir, "tls", "ca.crt")
	storetest.Run(t, storetest.Short, func(t *testing.T) store.Store { return openRedisWith(t, cfg) })
	warnings, err := openRedisWith(t, cfg).Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings { // of 7.0: it may not read appendfsync
		if !strings.Contains(w, "cannot be read by this user") {
			t.Errorf("Check warns %q", w)
		}
	}
	cfg.URL = redact.String("rediss://gh:wrongSecret@" + p.addr(1))
	if _, err := redis.Open(t.Context(), cfg); err == nil || strings.Contains(err.Error(), "wrongSecret") {
		t.Errorf("a wrong password: %v", err)
	}
}

// The user of docs/store.md can do all that the store needs, and no more.
func TestRedisLeastRights(t *testing.T) {
	p := startRedis(t, "redis", "TLS=1")
	doc, err := os.ReadFile(filepath.Join(root(t), "docs", "store.md"))
	if err != nil {
		t.Fatal(err)
	}
	rule := regexp.MustCompile(`(?m)^ACL SETUSER gatehouse .*$`).Find(doc)
	if rule == nil {
		t.Fatal("docs/store.md shows no user")
	}
	redisCLI(t, p, strings.Fields(strings.Replace(string(rule), ">PASSWORD", ">p@ss/word", 1))...)
	url := "rediss://gatehouse:p%40ss%2Fword@" + p.addr(1) + "/0?ca_file=" + filepath.Join(p.dir, "tls", "ca.crt")
	storetest.Run(t, storetest.Short, func(t *testing.T) store.Store { return openRedis(t, url) })
	s := openRedis(t, url)
	if err := s.Sweep(t.Context(), time.Now()); err != nil {
		t.Errorf("Sweep: %v", err)
	}
	if _, err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	for _, denied := range [][]string{{"set", "other:k", "v"}, {"publish", "other:c", "m"}, {"keys", "*"}, {"flushall"}, {"config", "get", "*"}} {
		if said := redisCLI(t, p, append([]string{"--no-auth-warning", "--user", "gatehouse", "--pass", "p@ss/word"}, denied...)...); !strings.Contains(said, "NOPERM") {
			t.Errorf("%v: %s", denied, said)
		}
	}
}

// A slow subscriber is told that it missed something.
func TestRedisSlowSubscriber(t *testing.T) {
	p := startRedis(t, "redis")
	s := openRedis(t, "redis://"+p.addr(0))
	messages, err := s.Subscribe(t.Context(), "flood")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1500 {
		if err := s.Publish(t.Context(), "flood", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for m := range messages {
		if string(m) != fmt.Sprint(n) {
			t.Fatalf("message %d is %s: a gap without a close", n, m)
		}
		n++
	}
	t.Logf("%d messages before the close", n)
}

// Two replicas: bus, leases and one winner across them.
func TestRedisTwoReplicas(t *testing.T) {
	p := startRedis(t, "redis")
	a, b := openRedis(t, "redis://"+p.addr(0)), openRedis(t, "redis://"+p.addr(0))
	messages, err := b.Subscribe(t.Context(), "revocations")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Publish(t.Context(), "revocations", []byte("session 1")); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-messages:
		if string(m) != "session 1" {
			t.Errorf("message %q", m)
		}
	case <-time.After(time.Second):
		t.Error("the other replica heard nothing within a second")
	}
	_, release, err := a.Lease(t.Context(), "job", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond) // longer than its ttl: it is renewed
	if _, _, err := b.Lease(t.Context(), "job", time.Second); !errors.Is(err, store.ErrLeaseHeld) {
		t.Errorf("a second replica got the lease: %v", err)
	}
	release()
	held, _, err := b.Lease(t.Context(), "job", time.Minute)
	if err != nil {
		t.Errorf("a lease that was released: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if held.Err() == nil {
		t.Error("the lease outlives its store")
	}
	if _, _, err := a.Lease(t.Context(), "job", time.Second); err != nil {
		t.Errorf("a closed replica keeps its lease: %v", err)
	}
	if _, open := <-messages; open {
		t.Error("a subscription outlives its store")
	}
	if err := putFirm(t.Context(), b, "k", "a"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Put on a closed store: %v", err)
	}
}

func redisCLI(t *testing.T, p *redisPeer, args ...string) string {
	t.Helper()
	out, err := exec.Command("redis-cli", append([]string{"-h", "127.0.0.1", "-p", strconv.Itoa(p.port)}, args...)...).Output()
	if err != nil {
		t.Fatalf("redis-cli %q: %v", args, err)
	}
	return strings.TrimSpace(string(out))
}

// What Redis has: a time to live on all that expires, hints that go, warnings.
func TestRedisHousekeeping(t *testing.T) {
	p := startRedis(t, "redis")
	s := openRedis(t, "redis://"+p.addr(0))
	put := func(id string, expires time.Time) {
		t.Helper()
		if _, err := s.Put(t.Context(), store.Item{Key: store.Key{Kind: "k", ID: id}, Value: []byte("x"), Expires: expires, Index: map[string]string{"user": "u"}}); err != nil {
			t.Fatal(err)
		}
	}
	put("a", time.Now().Add(time.Hour))
	put("b", time.Time{})
	put("c", time.Time{})
	if ttl, _ := strconv.Atoi(redisCLI(t, p, "ttl", "gatehouse:k:a")); ttl < 3600 || ttl > 3660 {
		t.Errorf("an hour became %d s", ttl)
	}
	if ttl := redisCLI(t, p, "ttl", "gatehouse:k:b"); ttl != "-1" {
		t.Errorf("an item that never expires has a ttl of %s", ttl)
	}
	if err := s.Delete(t.Context(), store.Key{Kind: "k", ID: "b"}); err != nil {
		t.Fatal(err)
	}
	if items, err := s.List(t.Context(), "k", "user", "u", "", 10); err != nil || len(items) != 2 {
		t.Errorf("List = %v, %v", items, err)
	}
	if n := redisCLI(t, p, "zcard", "gatehouse:ix:k:user:u"); n != "2" {
		t.Errorf("List left %s hints of 2", n)
	}
	if n := redisCLI(t, p, "zcard", "gatehouse:ix:k::"); n != "3" {
		t.Errorf("%s hints of the kind", n)
	}
	if err := s.Sweep(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if n := redisCLI(t, p, "zcard", "gatehouse:ix:k::"); n != "2" {
		t.Errorf("Sweep left %s hints of 2", n)
	}

	redisCLI(t, p, "config", "set", "appendonly", "no")
	redisCLI(t, p, "config", "set", "maxmemory-policy", "allkeys-lru")
	warnings, err := s.Check(t.Context())
	if all := strings.Join(warnings, "\n"); err != nil || !strings.Contains(all, "appendonly yes") || !strings.Contains(all, "allkeys-lru") {
		t.Errorf("Check = %q, %v", warnings, err)
	}

	redisCLI(t, p, "set", "gatehouse:meta:schema", "2")
	if _, err := redis.Open(t.Context(), redisConfig("redis://"+p.addr(0))); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("a newer schema: %v", err)
	}
}

// A List that removes dangling hints must not lose those of items that come back
// at the same moment.
func TestRedisHintsUnderChange(t *testing.T) {
	p := startRedis(t, "redis")
	s := openRedis(t, "redis://"+p.addr(0))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.List(t.Context(), "k", "user", "u", "", 100); err != nil {
					t.Errorf("List: %v", err)
					return
				}
			}
		})
	}
	for n := range 3000 {
		k := store.Key{Kind: "k", ID: fmt.Sprint(n % 8)}
		if err := s.Delete(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(t.Context(), store.Item{Key: k, Value: []byte("x"), Index: map[string]string{"user": "u"}}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if items, err := s.List(t.Context(), "k", "user", "u", "", 100); err != nil || len(items) != 8 {
		t.Errorf("List finds %d items of 8, %v", len(items), err)
	}
}
