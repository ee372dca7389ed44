//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

func putFirm(ctx context.Context, s store.Store, kind, id string) error {
	_, err := s.Put(ctx, store.Item{Key: store.Key{Kind: kind, ID: id}, Value: []byte("revoked"), Firm: true})
	return err
}

// A firm item is acknowledged only when it outlives the server.
func TestRedisKillLosesNothingFirm(t *testing.T) {
	p := startRedis(t, "redis", "FSYNC=always")
	s := openRedis(t, "redis://"+p.addr(0))
	var mu sync.Mutex
	var acked []string
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("%d-%d", w, n)
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				err := putFirm(ctx, s, "revocation", id)
				cancel()
				if err == nil {
					mu.Lock()
					acked = append(acked, id)
					mu.Unlock()
				} else if !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("Put while the server dies: %v", err)
				}
			}
		})
	}
	time.Sleep(700 * time.Millisecond)
	p.run("stop.sh", p.dir, "KILL")
	close(stop)
	wg.Wait()
	if len(acked) < 5 {
		t.Fatalf("only %d items were written before the kill", len(acked))
	}
	p.start()
	eventually(t, 10*time.Second, "the store works again", func() bool {
		_, err := s.Get(t.Context(), store.Key{Kind: "none", ID: "none"})
		return errors.Is(err, store.ErrNotFound)
	})
	for _, id := range acked {
		if _, err := s.Get(t.Context(), store.Key{Kind: "revocation", ID: id}); err != nil {
			t.Fatalf("an acknowledged item of %d is lost: %s: %v", len(acked), id, err)
		}
	}
	eventually(t, 5*time.Second, "the bus is heard again", func() bool { return !s.Stale() })
}

// A paused server leaves its connections up; only silence tells.
func TestRedisPaused(t *testing.T) {
	p := startRedis(t, "redis")
	s := openRedis(t, "redis://"+p.addr(0))
	eventually(t, 3*time.Second, "Stale is false while all is well", func() bool { return !s.Stale() })
	messages, err := s.Subscribe(t.Context(), "revocations")
	if err != nil {
		t.Fatal(err)
	}
	held, _, err := s.Lease(t.Context(), "job", 1500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	const items = 20
	for i := range items {
		if _, err := s.Put(t.Context(), store.Item{Key: store.Key{Kind: "mix", ID: fmt.Sprint(i)}, Value: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	resume := p.pause("")
	// Replies that nobody waits for any more must not become somebody else's.
	var wg sync.WaitGroup
	for i := range items {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if i%2 == 0 {
				_, _ = s.Get(ctx, store.Key{Kind: "mix", ID: fmt.Sprint(i)})
			} else {
				_ = putFirm(ctx, s, "mixfirm", fmt.Sprint(i))
			}
		})
	}
	wg.Wait()
	took := eventually(t, 1500*time.Millisecond, "Stale is true", s.Stale)
	t.Logf("stale after %v", took)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := s.Get(ctx, store.Key{Kind: "k", ID: "a"}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Get from a paused server: %v, want ErrUnavailable", err)
	}
	if d := time.Since(began); d > time.Second {
		t.Errorf("Get ignored its deadline: %v", d)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := putFirm(ctx, s, "k", "a"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Put to a paused server: %v, want ErrUnavailable", err)
	}
	select {
	case <-held.Done():
	case <-time.After(3 * time.Second):
		t.Error("a lease that cannot be renewed is still held")
	}
	select {
	case _, open := <-messages:
		if open {
			t.Error("a message out of nowhere")
		}
	case <-time.After(5 * time.Second):
		t.Error("the subscription stays open on a dead connection")
	}
	resume()
	for i := range 10 * items {
		want := fmt.Sprint(i % items)
		if it, err := s.Get(t.Context(), store.Key{Kind: "mix", ID: want}); err != nil || string(it.Value) != want {
			t.Fatalf("Get of %s after timeouts = %q, %v", want, it.Value, err)
		}
	}
	eventually(t, 10*time.Second, "Stale is false again", func() bool { return !s.Stale() })
	if messages, err = s.Subscribe(t.Context(), "revocations"); err != nil {
		t.Fatalf("subscribing again: %v", err)
	}
	if err := s.Publish(t.Context(), "revocations", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if got := string(<-messages); got != "x" {
		t.Errorf("message %q", got)
	}
}

// A restart breaks connections faster than silence shows; who subscribed must be
// told even when the server is back at once.
func TestRedisRestartClosesSubscriptions(t *testing.T) {
	p := startRedis(t, "redis")
	s := openRedis(t, "redis://"+p.addr(0))
	messages, err := s.Subscribe(t.Context(), "revocations")
	if err != nil {
		t.Fatal(err)
	}
	p.run("stop.sh", p.dir)
	p.start()
	select {
	case _, open := <-messages:
		if open {
			t.Error("a message out of nowhere")
		}
	case <-time.After(5 * time.Second):
		t.Error("the subscription survived the restart in silence")
	}
	if _, err := s.Get(t.Context(), store.Key{Kind: "k", ID: "a"}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the first Get after a restart: %v", err)
	}
}

// WAIT: while the replica does not answer, nothing firm is acknowledged; ordinary
// items are. A failover then loses nothing that was.
func TestRedisSentinelFirm(t *testing.T) {
	p := startRedis(t, "redis-sentinel")
	s := openRedis(t, sentinelURL(p))
	if err := putFirm(t.Context(), s, "k", "first"); err != nil {
		t.Fatalf("with a replica that follows: %v", err)
	}
	resume := p.pause("node-1")
	if err := putFirm(t.Context(), s, "k", "unconfirmed"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("with a replica that does not answer: %v, want ErrUnavailable", err)
	}
	if _, err := s.Put(t.Context(), store.Item{Key: store.Key{Kind: "k", ID: "ordinary"}, Value: []byte("x")}); err != nil {
		t.Errorf("an ordinary item: %v", err)
	}
	resume()
	var acked []string
	eventually(t, 15*time.Second, "firm items are confirmed again", func() bool { return putFirm(t.Context(), s, "k", fmt.Sprint(rand.Int())) == nil })
	for i := range 50 {
		id := fmt.Sprint("firm", i)
		if err := putFirm(t.Context(), s, "k", id); err != nil {
			t.Fatalf("Put: %v", err)
		}
		acked = append(acked, id)
	}
	messages, err := s.Subscribe(t.Context(), "revocations")
	if err != nil {
		t.Fatal(err)
	}
	p.run("failover.sh", p.dir)
	select {
	case <-messages:
	case <-time.After(15 * time.Second):
		t.Error("the subscription survived the failover in silence")
	}
	eventually(t, 15*time.Second, "the store follows the promotion", func() bool {
		_, err := s.Put(t.Context(), store.Item{Key: store.Key{Kind: "k", ID: fmt.Sprint(rand.Int())}})
		return err == nil
	})
	for _, id := range acked {
		if _, err := s.Get(t.Context(), store.Key{Kind: "k", ID: id}); err != nil {
			t.Errorf("the failover lost %s: %v", id, err)
		}
	}
	eventually(t, 15*time.Second, "Stale is false again", func() bool { return !s.Stale() })
}

// clusterCLI asks the second node, which sends it on to the right one.
func clusterCLI(t *testing.T, p *redisPeer, args ...string) {
	t.Helper()
	cmd := append([]string{"-c", "-h", "127.0.0.1", "-p", fmt.Sprint(p.port + 1)}, args...)
	if out, err := exec.Command("redis-cli", cmd...).CombinedOutput(); err != nil {
		t.Fatalf("redis-cli %q: %v: %s", args, err, out)
	}
}

// The same over the nodes of a Cluster, one of which dies.
func TestRedisClusterFailover(t *testing.T) {
	p := startRedis(t, "redis-cluster")
	s := openRedis(t, "redis+cluster://"+p.addr(0)+","+p.addr(1))
	var acked []string
	for i := range 60 {
		id := fmt.Sprint("firm", i)
		// A busy machine's replica may not confirm in time: then it is not acknowledged.
		eventually(t, 20*time.Second, "a firm item is confirmed", func() bool {
			err := putFirm(t.Context(), s, "k", id)
			return err == nil || errors.Is(err, store.ErrConflict)
		})
		acked = append(acked, id)
	}
	p.run("failover.sh", p.dir, "0") // a seed
	for _, id := range acked {
		eventually(t, 20*time.Second, "the item is there after the failover: "+id, func() bool {
			_, err := s.Get(t.Context(), store.Key{Kind: "k", ID: id})
			if errors.Is(err, store.ErrNotFound) {
				t.Fatalf("the failover lost %s", id)
			}
			return err == nil
		})
	}
	eventually(t, 20*time.Second, "firm items are written again", func() bool {
		return putFirm(t.Context(), s, "k", fmt.Sprint(rand.Int())) == nil
	})
	eventually(t, 20*time.Second, "Stale is false again", func() bool { return !s.Stale() })
	items, err := s.List(t.Context(), "k", "", "", "", 1000)
	if err != nil || len(items) < len(acked) {
		t.Errorf("List = %d items, %v", len(items), err)
	}
	// Had the new master missed a revocation, on whichever node, it would be made
	// again: the bus may live on another node and not break at all.
	for _, id := range acked[:9] {
		clusterCLI(t, p, "hset", "gatehouse:k:"+id, "d", "alive")
		clusterCLI(t, p, "hdel", "gatehouse:k:"+id, "w")
	}
	for _, id := range acked[:9] {
		eventually(t, 20*time.Second, "the revocation is made again: "+id, func() bool { return value(t, s, store.Key{Kind: "k", ID: id}) == "revoked" })
	}
}
