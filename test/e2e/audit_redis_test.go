//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/event/audittest"
	"github.com/remotegpu/gatehouse/broker/store"
)

// ST-5: every kind of tampering with Redis, by who can send it any command, is
// found and named.
func TestTamperingRedis(t *testing.T) {
	p := startRedis(t, "redis")
	n := 0
	audittest.Run(t, func(t *testing.T) (store.Store, audittest.Rewrite) {
		n++
		cfg := redisConfig("redis://" + p.addr(0) + "/0")
		cfg.Prefix = fmt.Sprintf("tamper%d:", n)
		return openRedisWith(t, cfg), func(t *testing.T, topic string, entries []event.Entry) {
			t.Helper()
			key := cfg.Prefix + "log:" + topic
			redisCLI(t, p, "del", key)
			for _, e := range entries {
				redisCLI(t, p, "xadd", key, fmt.Sprintf("%d-0", e.Position), "e", string(e.Raw))
			}
		}
	})
}

// Two replicas on one Redis record at once and make one chain; the one that seals
// is killed, the other goes on, and nothing is left out or there twice.
func TestAuditReplicas(t *testing.T) {
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", "")
	enter := func(g *gatehouse) {
		t.Helper()
		p := newPerson(t, a)
		p.at(g)
		if r := p.signIn(p.follow(p.send(http.MethodGet, "/", nil)), "local", "demo", "demo"); r.StatusCode != http.StatusOK {
			t.Fatalf("sign-in: %d", r.StatusCode)
		}
	}
	verify := func(g *gatehouse, args ...string) (r event.Report) {
		t.Helper()
		if err := json.Unmarshal([]byte(g.run(append([]string{"audit", "verify", "--json", "--key", filepath.Join(g.dir, "audit.pub")}, args...)...)), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	pub := a.run("audit", "key")
	if other := b.run("audit", "key"); other != pub {
		t.Fatalf("two audit keys:\n%s%s", pub, other)
	}
	for _, g := range []*gatehouse{a, b} {
		write(t, g.dir, map[string]string{"audit.pub": pub})
	}
	for range 5 {
		enter(a)
		enter(b)
	}
	sealed := func(g *gatehouse, records uint64) (r event.Report) {
		t.Helper()
		eventually(t, 40*time.Second, fmt.Sprintf("%d sealed records", records), func() bool {
			r = verify(g)
			return r.Unsealed == 0 && r.Records >= records
		})
		return r
	}
	before := sealed(a, 10)
	if on := sealed(b, 10); on.Records < before.Records || on.First != before.First {
		t.Errorf("the replicas see %+v and %+v", before, on)
	}
	// Both find what either recorded.
	for _, g := range []*gatehouse{a, b} {
		if got := strings.Count(g.run("audit", "search", "--name", "signin.succeeded"), "signin.succeeded"); got != 10 {
			t.Errorf("%d of 10 sign-ins are found", got)
		}
	}
	a.stop(syscall.SIGKILL)
	for range 5 {
		enter(b)
	}
	after := sealed(b, before.Records+5)
	if len(after.Faults) > 0 || after.Newest.Number <= before.Newest.Number {
		t.Errorf("%+v", after)
	}
	verify(b, "--checkpoint", before.Newest.String())
	if out := b.run("audit", "search", "--name", "detection.raised"); strings.Contains(out, "audit.") {
		t.Errorf("a detection: %s", out)
	}
}
