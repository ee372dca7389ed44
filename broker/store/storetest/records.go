package storetest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// older and newer are one record as two versions of the program know it.
type older struct {
	Name string `json:"name"`
}

type newer struct {
	Name  string         `json:"name"`
	Extra map[string]int `json:"extra"`
}

func sealed(t *testing.T) *store.Sealer {
	t.Helper()
	s, err := store.NewSealer([][]byte{[]byte(strings.Repeat("k", 32))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// unknownMembers: what a newer version wrote survives an older one's writes.
func unknownMembers(t *testing.T, s store.Store, kind string) {
	n := store.NewCollection[newer](s, store.CollectionConfig[newer]{Kind: kind, Sealer: sealed(t), Now: time.Now})
	o := store.NewCollection[older](s, store.CollectionConfig[older]{Kind: kind, Sealer: sealed(t), Now: time.Now})
	if err := n.Create(t.Context(), "a", newer{Name: "one", Extra: map[string]int{"x": 7}}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Update(t.Context(), "a", func(v *older) error { v.Name = "two"; return nil }); err != nil {
		t.Fatal(err)
	}
	if got, err := n.Get(t.Context(), "a"); err != nil || got.Name != "two" || got.Extra["x"] != 7 {
		t.Fatalf("after the older version's write: %+v, %v", got, err)
	}
}

// sealedRecords: with access to the backend alone a record can neither be moved
// to another key, nor swapped, nor made up (docs/security.md ST-1, G4).
func sealedRecords(t *testing.T, s store.Store, kind string) {
	c := store.NewCollection[older](s, store.CollectionConfig[older]{Kind: kind, Sealer: sealed(t), Now: time.Now})
	for _, id := range []string{"mine", "yours"} {
		if err := c.Create(t.Context(), id, older{Name: "secret of " + id}); err != nil {
			t.Fatal(err)
		}
	}
	raw := func(id string) store.Item {
		it, err := s.Get(t.Context(), store.Key{Kind: kind, ID: id})
		if err != nil {
			t.Fatal(err)
		}
		return it
	}
	mine, yours := raw("mine"), raw("yours")
	if strings.Contains(string(mine.Value), "secret") {
		t.Fatalf("the backend can read %q", mine.Value)
	}
	mine.Value, yours.Value = yours.Value, mine.Value
	put(t, s, mine)
	put(t, s, yours)
	put(t, s, store.Item{Key: store.Key{Kind: kind + "x", ID: "mine"}, Value: yours.Value})
	put(t, s, store.Item{Key: store.Key{Kind: kind, ID: "forged"}, Value: []byte(`{"name":"root"}`)})
	other := store.NewCollection[older](s, store.CollectionConfig[older]{Kind: kind + "x", Sealer: sealed(t), Now: time.Now})
	for what, err := range map[string]error{
		"swapped":              second(c.Get(t.Context(), "mine")),
		"swapped, updated":     second(c.Update(t.Context(), "yours", func(*older) error { return nil })),
		"moved to other kind":  second(other.Get(t.Context(), "mine")),
		"made up":              second(c.Get(t.Context(), "forged")),
		"overwritten by a Put": c.Put(t.Context(), "forged", older{}),
	} {
		if !errors.Is(err, store.ErrSealed) {
			t.Errorf("%s: %v, want ErrSealed", what, err)
		}
	}
}
