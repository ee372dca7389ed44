//go:build e2e

package e2e

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// value is the item's value, "" when it is not there.
func value(t *testing.T, s store.Store, k store.Key) string {
	t.Helper()
	it, err := s.Get(t.Context(), k)
	if errors.Is(err, store.ErrNotFound) {
		return ""
	}
	if err != nil {
		return "unknown: " + err.Error()
	}
	return string(it.Value)
}

// A failover to a replica that had not heard of a revocation revives what was
// revoked. Whoever knows of it, the replica that wrote or one that only heard,
// makes it again, tells it again, and leaves alone what was written since
// (docs/security.md ST-3).
func TestRedisRevocationSurvivesFailover(t *testing.T) {
	p := startRedis(t, "redis-sentinel")
	writer, hearer := openRedis(t, sentinelURL(p)), openRedis(t, sentinelURL(p))
	create := func(id string) {
		t.Helper()
		eventually(t, 10*time.Second, "a firm item is confirmed", func() bool {
			_, err := writer.Put(t.Context(), store.Item{Key: store.Key{Kind: "session", ID: id}, Value: []byte("alive"), Firm: true, Index: map[string]string{"user": "u"}})
			return err == nil || errors.Is(err, store.ErrConflict)
		})
	}
	for _, id := range []string{"revoked", "deleted", "later", "kept"} {
		create(id)
	}
	p.pause("node-1") // the replica hears no more
	session := func(id string) store.Key { return store.Key{Kind: "session", ID: id} }
	revoke := func(id, text string) {
		it, err := writer.Get(t.Context(), session(id))
		if err != nil {
			t.Fatal(err)
		}
		it.Value, it.Firm, it.Tell = []byte(text), true, store.Message{Topic: "news", Data: []byte(id)}
		if _, err := writer.Put(t.Context(), it); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("a revocation that no replica confirmed: %v", err)
		}
	}
	revoke("revoked", "ended")
	revoke("later", "ended")
	if err := writer.Delete(t.Context(), session("deleted")); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("a deletion that no replica confirmed: %v", err)
	}
	// It holds at once all the same, and the writer dies with the master.
	if v := value(t, hearer, session("revoked")); v != "ended" {
		t.Fatalf("the revocation is not there: %q", v)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	p.signal("node-0", syscall.SIGKILL)
	p.signal("node-1", syscall.SIGCONT)
	eventually(t, 30*time.Second, "the revocation is made again", func() bool { return value(t, hearer, session("revoked")) == "ended" })
	eventually(t, 10*time.Second, "the deletion is made again", func() bool { return value(t, hearer, session("deleted")) == "" })
	if v := value(t, hearer, session("later")); v != "ended" {
		t.Errorf("the other revocation: %q", v)
	}
	if v := value(t, hearer, session("kept")); v != "alive" {
		t.Errorf("an item that nobody touched: %q", v)
	}
	items, err := hearer.List(t.Context(), "session", "user", "u", "", 10)
	if err != nil || len(items) != 3 {
		t.Errorf("List = %d items, %v", len(items), err)
	}
	// What comes afterwards stays: neither is a newer write undone, nor is a
	// deletion taken for a loss.
	if err := hearer.Delete(t.Context(), session("kept")); err != nil {
		t.Fatal(err)
	}
	if _, err := hearer.Put(t.Context(), store.Item{Key: session("deleted"), Value: []byte("new"), Firm: true}); err != nil {
		t.Fatal(err)
	}
	it, err := hearer.Get(t.Context(), session("later"))
	if err != nil {
		t.Fatal(err)
	}
	it.Value, it.Firm = []byte("newer"), true
	if _, err := hearer.Put(t.Context(), it); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < 5*time.Second; time.Sleep(200 * time.Millisecond) {
		if a, b, c := value(t, hearer, session("kept")), value(t, hearer, session("deleted")), value(t, hearer, session("later")); a != "" || b != "new" || c != "newer" {
			t.Fatalf("written since: %q %q %q", a, b, c)
		}
	}
}

// The message of a revocation that is made again reaches who may have read what
// was alive in between.
func TestRedisRevocationIsToldAgain(t *testing.T) {
	p := startRedis(t, "redis")
	s := openRedis(t, "redis://"+p.addr(0))
	k := store.Key{Kind: "session", ID: "a"}
	v, err := s.Put(t.Context(), store.Item{Key: k, Value: []byte("alive")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), store.Item{Key: k, Value: []byte("ended"), Version: v, Firm: true, Tell: store.Message{Topic: "news", Data: []byte("a")}}); err != nil {
		t.Fatal(err)
	}
	news, err := s.Subscribe(t.Context(), "news")
	if err != nil {
		t.Fatal(err)
	}
	redisCLI(t, p, "client", "kill", "type", "pubsub")
	if _, open := <-news; open {
		t.Fatal("the subscription survived")
	}
	if news, err = s.Subscribe(t.Context(), "news"); err != nil {
		t.Fatal(err)
	}
	// As after a failover: the record is back at what it was.
	redisCLI(t, p, "hset", "gatehouse:session:a", "v", "1", "d", "alive")
	redisCLI(t, p, "hdel", "gatehouse:session:a", "w")
	select {
	case m := <-news:
		if string(m) != "a" {
			t.Errorf("message %q", m)
		}
	case <-time.After(10 * time.Second):
		t.Error("nothing was told")
	}
	if v := value(t, s, k); v != "ended" {
		t.Errorf("the record is %q", v)
	}
}
