package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
)

type older struct {
	Name  string    `json:"name"`
	Until time.Time `json:"until"`
}

type newer struct {
	Name  string         `json:"name"`
	Until time.Time      `json:"until"`
	Extra map[string]int `json:"extra"`
}

func sealer(t testing.TB, key byte) *store.Sealer {
	t.Helper()
	s, err := store.NewSealer([][]byte{[]byte(strings.Repeat(string(rune(key)), 32))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func kv(t testing.TB) store.Store {
	t.Helper()
	s, err := sqlite.Open(context.Background(), sqlite.Config{Path: filepath.Join(t.TempDir(), "a.db"), Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A record written by a newer version keeps the members that an older one does not know.
func TestUnknownMembersSurvive(t *testing.T) {
	db, seal := kv(t), sealer(t, 'a')
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	n := store.NewCollection[newer](db, store.CollectionConfig[newer]{Kind: "k", Sealer: seal, Now: time.Now})
	o := store.NewCollection[older](db, store.CollectionConfig[older]{Kind: "k", Sealer: seal, Now: time.Now})
	if err := n.Create(t.Context(), "1", newer{Name: "a", Until: until, Extra: map[string]int{"x": 7}}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Update(t.Context(), "1", func(v *older) error { v.Name = "b"; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := o.Put(t.Context(), "1", older{Name: "c", Until: until}); err != nil {
		t.Fatal(err)
	}
	got, err := n.Get(t.Context(), "1")
	if err != nil || got.Name != "c" || got.Extra["x"] != 7 {
		t.Fatalf("after the older one wrote: %+v, %v", got, err)
	}
}

// Expiry is judged by our clock, whatever the backend does.
func TestExpiryByOurClock(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := store.NewCollection[older](kv(t), store.CollectionConfig[older]{Kind: "k", Now: func() time.Time { return now }, Expires: func(v older) time.Time { return v.Until }})
	if err := c.Create(t.Context(), "1", older{Name: "a", Until: now.Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), "1", older{Name: "b"}); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("creating over a live record: %v", err)
	}
	now = now.Add(time.Minute)
	if _, err := c.Get(t.Context(), "1"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("an expired record: %v", err)
	}
	if _, err := c.Update(t.Context(), "1", func(*older) error { return nil }); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("updating an expired record: %v", err)
	}
	if vs, _, err := c.List(t.Context(), "", "", "", 10); err != nil || len(vs) != 0 {
		t.Fatalf("List = %v, %v", vs, err)
	}
	if err := c.Create(t.Context(), "1", older{Name: "c", Until: now.Add(time.Minute)}); err != nil {
		t.Fatalf("creating over an expired record: %v", err)
	}
}

// ST-1: with access to the database alone nobody can swap two records, read
// one, or mint one.
func TestSealedRecordsCannotBeMoved(t *testing.T) {
	db := kv(t)
	c := store.NewCollection[older](db, store.CollectionConfig[older]{Kind: "session", Sealer: sealer(t, 'a'), Now: time.Now})
	if err := c.Create(t.Context(), "mine", older{Name: "secret"}); err != nil {
		t.Fatal(err)
	}
	it, err := db.Get(t.Context(), store.Key{Kind: "session", ID: "mine"})
	if err != nil || strings.Contains(string(it.Value), "secret") {
		t.Fatalf("stored: %q, %v", it.Value, err)
	}
	for _, k := range []store.Key{{Kind: "session", ID: "yours"}, {Kind: "grant", ID: "mine"}} {
		if _, err := db.Put(t.Context(), store.Item{Key: k, Value: it.Value}); err != nil {
			t.Fatal(err)
		}
		moved := store.NewCollection[older](db, store.CollectionConfig[older]{Kind: k.Kind, Sealer: sealer(t, 'a'), Now: time.Now})
		if _, err := moved.Get(t.Context(), k.ID); !errors.Is(err, store.ErrSealed) {
			t.Errorf("moved to %v: %v, want ErrSealed", k, err)
		}
	}
	if _, err := db.Put(t.Context(), store.Item{Key: store.Key{Kind: "session", ID: "forged"}, Value: []byte(`{"name":"root"}`)}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), "forged"); !errors.Is(err, store.ErrSealed) {
		t.Errorf("a record written without the key: %v", err)
	}
	other := store.NewCollection[older](db, store.CollectionConfig[older]{Kind: "session", Sealer: sealer(t, 'b'), Now: time.Now})
	if _, err := other.Get(t.Context(), "mine"); !errors.Is(err, store.ErrSealed) {
		t.Errorf("another deployment's key: %v", err)
	}
}

// G3: of 64 callers that move one value to its tombstone, one succeeds.
func TestUpdateHasOneWinner(t *testing.T) {
	c := store.NewCollection[older](kv(t), store.CollectionConfig[older]{Kind: "code", Now: time.Now})
	if err := c.Create(t.Context(), "1", older{Name: "fresh"}); err != nil {
		t.Fatal(err)
	}
	errUsed := errors.New("used")
	var won, used atomic.Int32
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			_, err := c.Update(t.Context(), "1", func(v *older) error {
				if v.Name != "fresh" {
					return errUsed
				}
				v.Name = "used"
				return nil
			})
			switch {
			case err == nil:
				won.Add(1)
			case errors.Is(err, errUsed):
				used.Add(1)
			default:
				t.Errorf("Update: %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || used.Load() != 63 {
		t.Fatalf("%d winners, %d told that it is used", won.Load(), used.Load())
	}
}

// Every write of a collection tells what its configuration says, a refused one
// nothing.
func TestCollectionTells(t *testing.T) {
	db := kv(t)
	news, err := db.Subscribe(t.Context(), "news")
	if err != nil {
		t.Fatal(err)
	}
	c := store.NewCollection[older](db, store.CollectionConfig[older]{Kind: "k", Now: time.Now, Firm: true,
		Tell: func(v older) store.Message { return store.Message{Topic: "news", Data: []byte(v.Name)} }})
	if err := c.Create(t.Context(), "1", older{Name: "made"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), "1", older{Name: "refused"}); !errors.Is(err, store.ErrConflict) {
		t.Fatal(err)
	}
	if _, err := c.Update(t.Context(), "1", func(v *older) error { v.Name = "changed"; return nil }); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"made", "changed"} {
		if got := string(<-news); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
}

// ST-1: the first key seals, all open.
func TestSecretKeyRotation(t *testing.T) {
	a, b := []byte(strings.Repeat("a", 32)), []byte(strings.Repeat("b", 32))
	old, _ := store.NewSealer([][]byte{a})
	both, _ := store.NewSealer([][]byte{b, a})
	alone, _ := store.NewSealer([][]byte{b})
	sealed := old.Seal("x", []byte("v"))
	if v, err := both.Open("x", sealed); err != nil || string(v) != "v" {
		t.Fatalf("with both keys: %q, %v", v, err)
	}
	if _, err := alone.Open("x", sealed); !errors.Is(err, store.ErrSealed) {
		t.Fatalf("without the old key: %v", err)
	}
	if v, err := alone.Open("x", both.Seal("x", []byte("w"))); err != nil || string(v) != "w" {
		t.Fatalf("sealed by the first of two: %q, %v", v, err)
	}
	if !both.CheckMAC("l", []byte("d"), old.MAC("l", []byte("d"))) || alone.CheckMAC("l", []byte("d"), old.MAC("l", []byte("d"))) {
		t.Fatal("a MAC must hold under every present key and no other")
	}
	p, err := old.For("cookies")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open("x", sealed); !errors.Is(err, store.ErrSealed) {
		t.Fatal("what was sealed for one purpose opens for another")
	}
}

func TestParseSecretKeys(t *testing.T) {
	good := "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
	for text, want := range map[string]int{good: 1, "# comment\n\n" + good + "\n" + good + "\n": 2, "": -1, "abc": -1, good + "\nQUFB": -1} {
		keys, err := store.ParseSecretKeys(text)
		if want < 0 && err == nil || want >= 0 && (err != nil || len(keys) != want) {
			t.Errorf("ParseSecretKeys(%q) = %d keys, %v", text, len(keys), err)
		}
	}
}

func FuzzSealerOpen(f *testing.F) {
	s := sealer(f, 'a')
	f.Add("aad", s.Seal("aad", []byte("plain")))
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, aad string, sealed []byte) {
		plain, err := s.Open(aad, sealed)
		if err == nil && (aad != "aad" || string(plain) != "plain") {
			t.Fatalf("opened what nobody sealed: %q", plain)
		}
	})
}

func BenchmarkCollectionUpdate(b *testing.B) {
	c := store.NewCollection[json.RawMessage](kv(b), store.CollectionConfig[json.RawMessage]{Kind: "k", Sealer: sealer(b, 'a'), Now: time.Now})
	if err := c.Create(b.Context(), "1", json.RawMessage(`{"a":1}`)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Update(b.Context(), "1", func(*json.RawMessage) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
