// Package storetest is the conformance suite that every store driver passes.
// It has no opt-outs: what the contract says holds on each.
package storetest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// Size scales the long parts.
type Size struct {
	// RaceKeys is over how many keys the compare-and-set race runs.
	RaceKeys int
	// Racers is how many callers race for each key.
	Racers int
}

// Full is the size that the project promises.
var Full = Size{RaceKeys: 1000, Racers: 64}

// Short is enough for every build.
var Short = Size{RaceKeys: 60, Racers: 64}

// Run checks the driver that open returns. open is called once per part; each
// call may return the same backend with other keys in it: the suite makes its
// own kinds.
func Run(t *testing.T, size Size, open func(t *testing.T) store.Store) {
	t.Helper()
	parts := []struct {
		name string
		run  func(*testing.T, store.Store, string)
	}{
		{"versions", versions},
		{"one winner", func(t *testing.T, s store.Store, kind string) { oneWinner(t, s, kind, size) }},
		{"delete", deletes},
		{"list", lists},
		{"index moves", indexMoves},
		{"paging under change", pagingUnderChange},
		{"expired items go", expiry},
		{"firm", firm},
		{"values", values},
		{"unknown members", unknownMembers},
		{"sealed records", sealedRecords},
		{"log", logs},
		{"trim", trims},
		{"bus", busDelivers},
		{"tells", tells},
		{"lost link", lostLink},
		{"leases", leases},
		{"lease fencing", leaseFencing},
		{"context", contexts},
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			s := open(t)
			p.run(t, s, "t"+rand.Text())
		})
	}
}

func put(t *testing.T, s store.Store, it store.Item) uint64 {
	t.Helper()
	v, err := s.Put(t.Context(), it)
	if err != nil {
		t.Fatalf("Put(%v, version %d): %v", it.Key, it.Version, err)
	}
	return v
}

func versions(t *testing.T, s store.Store, kind string) {
	k := store.Key{Kind: kind, ID: "a"}
	if _, err := s.Get(t.Context(), k); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Get of a missing item: %v, want ErrNotFound", err)
	}
	v1 := put(t, s, store.Item{Key: k, Value: []byte("one")})
	if v1 == 0 {
		t.Fatal("the first version must not be 0")
	}
	if _, err := s.Put(t.Context(), store.Item{Key: k, Value: []byte("x")}); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("creating what exists: %v, want ErrConflict", err)
	}
	v2 := put(t, s, store.Item{Key: k, Value: []byte("two"), Version: v1})
	if v2 <= v1 {
		t.Fatalf("version went from %d to %d", v1, v2)
	}
	if _, err := s.Put(t.Context(), store.Item{Key: k, Value: []byte("x"), Version: v1}); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("replacing an old version: %v, want ErrConflict", err)
	}
	if _, err := s.Put(t.Context(), store.Item{Key: store.Key{Kind: kind, ID: "none"}, Value: []byte("x"), Version: 3}); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("replacing what does not exist: %v, want ErrConflict", err)
	}
	it, err := s.Get(t.Context(), k)
	if err != nil || string(it.Value) != "two" || it.Version != v2 || it.Key != k {
		t.Fatalf("Get = %+v, %v; want two at version %d", it, err, v2)
	}
	// The same id under another kind is another item (security.md G4).
	if _, err := s.Get(t.Context(), store.Key{Kind: kind + "x", ID: "a"}); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("an item was read under another kind: %v", err)
	}
}

// oneWinner races callers for the same version of the same key (security.md G3).
func oneWinner(t *testing.T, s store.Store, kind string, size Size) {
	var failed atomic.Bool
	for n := range size.RaceKeys {
		k := store.Key{Kind: kind, ID: fmt.Sprint("k", n)}
		v := put(t, s, store.Item{Key: k, Value: []byte("start")})
		var wins, conflicts atomic.Int32
		var wg sync.WaitGroup
		start := make(chan struct{})
		for racer := range size.Racers {
			wg.Go(func() {
				<-start
				_, err := s.Put(t.Context(), store.Item{Key: k, Value: fmt.Append(nil, racer), Version: v})
				switch {
				case err == nil:
					wins.Add(1)
				case errors.Is(err, store.ErrConflict):
					conflicts.Add(1)
				default:
					if failed.CompareAndSwap(false, true) {
						t.Errorf("Put in a race: %v", err)
					}
				}
			})
		}
		close(start)
		wg.Wait()
		if failed.Load() || wins.Load() != 1 || int(conflicts.Load()) != size.Racers-1 {
			t.Fatalf("key %d: %d winners and %d conflicts of %d", n, wins.Load(), conflicts.Load(), size.Racers)
		}
	}
}

func deletes(t *testing.T, s store.Store, kind string) {
	k := store.Key{Kind: kind, ID: "a"}
	put(t, s, store.Item{Key: k, Value: []byte("x"), Index: map[string]string{"user": "u"}})
	for range 2 { // deleting twice is no error
		if err := s.Delete(t.Context(), k); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	if _, err := s.Get(t.Context(), k); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Get after Delete: %v", err)
	}
	if items, err := s.List(t.Context(), kind, "user", "u", "", 10); err != nil || len(items) != 0 {
		t.Fatalf("List after Delete = %v, %v", items, err)
	}
	put(t, s, store.Item{Key: k, Value: []byte("again")})
}

func ids(items []store.Item) []string {
	var out []string
	for _, it := range items {
		out = append(out, it.ID)
	}
	return out
}

func lists(t *testing.T, s store.Store, kind string) {
	for i := range 25 {
		owner := "even"
		if i%2 == 1 {
			owner = "odd"
		}
		put(t, s, store.Item{Key: store.Key{Kind: kind, ID: fmt.Sprintf("%02d", i)}, Value: []byte("v"), Index: map[string]string{"owner": owner, "all": "yes"}})
	}
	for _, c := range []struct {
		index, value string
		want         int
	}{{"", "", 25}, {"owner", "even", 13}, {"owner", "odd", 12}, {"owner", "none", 0}, {"all", "yes", 25}} {
		var got []string
		after := ""
		for {
			items, err := s.List(t.Context(), kind, c.index, c.value, after, 4)
			if err != nil {
				t.Fatalf("List(%s=%s): %v", c.index, c.value, err)
			}
			got = append(got, ids(items)...)
			if len(items) < 4 {
				break
			}
			after = items[len(items)-1].ID
		}
		if len(got) != c.want {
			t.Fatalf("List(%s=%s) found %d, want %d: %v", c.index, c.value, len(got), c.want, got)
		}
		for i := 1; i < len(got); i++ {
			if got[i-1] >= got[i] {
				t.Fatalf("List(%s=%s) is not in order: %v", c.index, c.value, got)
			}
		}
	}
}

func indexMoves(t *testing.T, s store.Store, kind string) {
	k := store.Key{Kind: kind, ID: "a"}
	v := put(t, s, store.Item{Key: k, Value: []byte("1"), Index: map[string]string{"user": "ann"}})
	put(t, s, store.Item{Key: k, Value: []byte("2"), Version: v, Index: map[string]string{"user": "bob"}})
	items, err := s.List(t.Context(), kind, "user", "bob", "", 10)
	if err != nil || len(items) != 1 || string(items[0].Value) != "2" {
		t.Fatalf("List under the new value = %v, %v", items, err)
	}
	// Under the old value the item may still be hinted at, but only as it now is.
	items, err = s.List(t.Context(), kind, "user", "ann", "", 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if string(it.Value) != "2" {
			t.Fatalf("an index returned an old value: %q", it.Value)
		}
	}
}

func pagingUnderChange(t *testing.T, s store.Store, kind string) {
	for i := range 40 {
		put(t, s, store.Item{Key: store.Key{Kind: kind, ID: fmt.Sprintf("%03d", i*2)}, Value: []byte("v"), Index: map[string]string{"x": "y"}})
	}
	seen := map[string]int{}
	after := ""
	for page := 0; ; page++ {
		items, err := s.List(t.Context(), kind, "x", "y", after, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			seen[it.ID]++
		}
		if len(items) < 7 {
			break
		}
		after = items[len(items)-1].ID
		// Between pages one item goes and one comes; neither disturbs the rest.
		if err := s.Delete(t.Context(), store.Key{Kind: kind, ID: items[0].ID}); err != nil {
			t.Fatal(err)
		}
		put(t, s, store.Item{Key: store.Key{Kind: kind, ID: fmt.Sprintf("%03d", page*2+1)}, Value: []byte("new"), Index: map[string]string{"x": "y"}})
	}
	for i := range 40 {
		if id := fmt.Sprintf("%03d", i*2); seen[id] != 1 {
			t.Fatalf("item %s was seen %d times", id, seen[id])
		}
	}
}

func expiry(t *testing.T, s store.Store, kind string) {
	now := time.Now()
	gone := store.Key{Kind: kind, ID: "gone"}
	put(t, s, store.Item{Key: gone, Value: []byte("x"), Expires: now.Add(-time.Hour), Index: map[string]string{"a": "b"}})
	stays := store.Key{Kind: kind, ID: "stays"}
	put(t, s, store.Item{Key: stays, Value: []byte("x"), Expires: now.Add(time.Hour), Index: map[string]string{"a": "b"}})
	forever := store.Key{Kind: kind, ID: "forever"}
	put(t, s, store.Item{Key: forever, Value: []byte("x")})
	if err := s.Sweep(t.Context(), now); err != nil {
		t.Fatalf("Sweep: %v", err)
	}
	if _, err := s.Get(t.Context(), gone); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an item that expired an hour ago survives a sweep: %v", err)
	}
	it, err := s.Get(t.Context(), stays)
	if err != nil {
		t.Errorf("a living item is gone: %v", err)
	}
	if d := it.Expires.Sub(now.Add(time.Hour)).Abs(); d > time.Second {
		t.Errorf("Expires came back %v away", d)
	}
	if _, err := s.Get(t.Context(), forever); err != nil {
		t.Errorf("an item without expiry is gone: %v", err)
	}
	items, err := s.List(t.Context(), kind, "a", "b", "", 10)
	if err != nil || len(items) != 1 || items[0].ID != "stays" {
		t.Errorf("List after the sweep = %v, %v; want stays alone", ids(items), err)
	}
}

func firm(t *testing.T, s store.Store, kind string) {
	k := store.Key{Kind: kind, ID: "a"}
	v := put(t, s, store.Item{Key: k, Value: []byte("x"), Firm: true})
	put(t, s, store.Item{Key: k, Value: []byte("y"), Version: v, Firm: true})
	if it, err := s.Get(t.Context(), k); err != nil || string(it.Value) != "y" {
		t.Fatalf("Get = %v, %v", it, err)
	}
}

func values(t *testing.T, s store.Store, kind string) {
	big := make([]byte, 256<<10)
	for i := range big {
		big[i] = byte(i * 7)
	}
	for name, v := range map[string][]byte{"nul": {0, 1, 2, 0xff, '\r', '\n'}, "empty": {}, "nil": nil, "big": big} {
		k := store.Key{Kind: kind, ID: "id with: odd {characters} / " + name}
		put(t, s, store.Item{Key: k, Value: v, Index: map[string]string{"odd:name": "odd:value {x}"}})
		it, err := s.Get(t.Context(), k)
		if err != nil || string(it.Value) != string(v) {
			t.Errorf("%s did not come back as it was: %v", name, err)
		}
	}
	items, err := s.List(t.Context(), kind, "odd:name", "odd:value {x}", "", 10)
	if err != nil || len(items) != 4 {
		t.Errorf("List by an odd index = %d items, %v", len(items), err)
	}
}
