package token

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	"github.com/remotegpu/gatehouse/connectors"
)

// newPairsRig opens a store and replicas that share it and a clock.
func newPairsRig(t *testing.T, replicas int) (all []*Pairs, wait func(time.Duration)) {
	t.Helper()
	var mu sync.Mutex
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := func() time.Time { mu.Lock(); defer mu.Unlock(); return at }
	kv, err := sqlite.Open(context.Background(), sqlite.Config{Path: filepath.Join(t.TempDir(), "g.db"), Now: now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kv.Close() })
	sealer, err := store.NewSealer([][]byte{make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	for range replicas {
		p, err := NewPairs(PairsConfig{KV: kv, Sealer: sealer, Name: "id.example.com", Now: now})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all, func(d time.Duration) { mu.Lock(); defer mu.Unlock(); at = at.Add(d) }
}

func pairsOf(t *testing.T, p *Pairs, use string) []connectors.KeyPair {
	t.Helper()
	out, err := p.Get(context.Background(), use)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// All replicas have one key for each use, made once; its successor is shown
// before it is used, and the old one decrypts for a while (SP-13).
func TestPairs(t *testing.T) {
	replicas, wait := newPairsRig(t, 3)
	a, b := replicas[0], replicas[1]
	first := pairsOf(t, a, connectors.KeySigning)
	if len(first) != 1 || first[0].State != connectors.KeyCurrent || !first[0].Until.Equal(first[0].Certificate.NotAfter.Add(-pairUsed)) {
		t.Fatalf("%+v", first)
	}
	if again := pairsOf(t, b, connectors.KeySigning); !again[0].Certificate.Equal(first[0].Certificate) {
		t.Error("another replica has another key")
	}
	enc := pairsOf(t, a, connectors.KeyEncryption)
	if enc[0].Key.Equal(first[0].Key) {
		t.Error("one key for two uses")
	}
	wait(pairLife - pairShown - time.Hour)
	if n := len(pairsOf(t, a, connectors.KeySigning)); n != 1 {
		t.Errorf("%d pairs", n)
	}
	wait(2 * time.Hour)
	shown := pairsOf(t, b, connectors.KeySigning)
	if len(shown) != 2 || !shown[0].Certificate.Equal(first[0].Certificate) || shown[1].State != connectors.KeyNext {
		t.Fatalf("%+v", shown)
	}
	wait(pairShown - pairUsed)
	used := pairsOf(t, a, connectors.KeySigning)
	if len(used) != 2 || !used[0].Certificate.Equal(shown[1].Certificate) || used[0].State != connectors.KeyCurrent || used[1].State != connectors.KeyRetired {
		t.Fatalf("%+v", used)
	}
	wait(pairUsed + pairRetired)
	if last := pairsOf(t, replicas[2], connectors.KeySigning); len(last) != 1 || !last[0].Certificate.Equal(used[0].Certificate) {
		t.Errorf("%+v", last)
	}
}

// Replicas that start at once make one key.
func TestPairsAtOnce(t *testing.T) {
	replicas, _ := newPairsRig(t, 4)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for _, p := range replicas {
		wg.Go(func() {
			out, err := p.Get(context.Background(), connectors.KeyEncryption)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			seen[string(out[0].Certificate.Raw)] = true
		})
	}
	wg.Wait()
	if len(seen) != 1 {
		t.Errorf("%d keys", len(seen))
	}
}
