package redis

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

func (k *known) only(t *testing.T) firmRecord {
	t.Helper()
	rs := k.list(time.Now())
	if len(rs) != 1 {
		t.Fatalf("%d records are known", len(rs))
	}
	return rs[0]
}

func told(r firmRecord) string {
	js, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return string(js)
}

// What the script puts together is the record, and it says the same.
func TestFirmRecordIsToldWhole(t *testing.T) {
	until := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	it := store.Item{Key: store.Key{Kind: "session", ID: `a"b`}, Value: []byte{0, 255}, Version: 6, Expires: until, Index: map[string]string{"user": "u"}, Firm: true,
		Tell: store.Message{Topic: "session", Data: []byte("x")}}
	var k known
	k.init()
	k.hear(`{"b":"NAME",` + firmRecordOf(&it).tail())
	r := k.only(t)
	got := r.item()
	if r.Name != "NAME" || r.Version != 7 || got.Key != it.Key || string(got.Value) != string(it.Value) || !got.Expires.Equal(until) || got.Index["user"] != "u" || !got.Firm || got.Tell.Topic != "session" || string(got.Tell.Data) != "x" {
		t.Errorf("%+v", r)
	}
	k.hear(`{"b":"NAME","v":9,` + firmRecord{Kind: "session", ID: `a"b`, Deleted: true}.tail())
	if r := k.only(t); !r.Deleted || r.Version != 9 || r.Name != "NAME" {
		t.Errorf("%+v", r)
	}
	for _, junk := range []string{"", "{}", "junk", `{"b":"x","v":1}`} {
		k.hear(junk)
	}
	k.only(t)
}

// Of one item the later write counts, whatever the order of hearing; a new item
// of the key takes the old one's place; what is over or long ago is let go.
func TestKnownKeepsTheLast(t *testing.T) {
	var k known
	k.init()
	r := func(name string, version uint64) firmRecord {
		return firmRecord{Name: name, Version: version, Kind: "k", ID: "a"}
	}
	k.hear(told(r("one", 5)))
	k.hear(told(r("one", 4)))
	if got := k.only(t); got.Version != 5 {
		t.Errorf("version %d", got.Version)
	}
	k.hear(told(r("two", 1)))
	if got := k.only(t); got.Name != "two" {
		t.Errorf("%+v", got)
	}
	over := r("three", 1)
	over.ID, over.Expires = "b", time.Now().Add(-time.Second).UnixMilli()
	k.hear(told(over))
	k.only(t)
	for i := range 2 * knownMax {
		x := r("many", 1)
		x.ID = fmt.Sprint(i)
		k.hear(told(x))
	}
	if n := len(k.list(time.Now())); n > knownMax || n < knownMax/3 {
		t.Errorf("%d are kept of %d", n, 2*knownMax)
	}
	k.mu.Lock()
	for key, r := range k.m {
		r.heard = time.Now().Add(-knownFor - time.Second)
		k.m[key] = r
	}
	k.mu.Unlock()
	if n := len(k.list(time.Now())); n != 0 {
		t.Errorf("%d are kept after an hour", n)
	}
}

func TestLost(t *testing.T) {
	for _, c := range []struct {
		name    string
		deleted bool
		have    []any // v, b, w, g
		want    bool
	}{
		{"there as it was", false, []any{"5", "n", "5", nil}, false},
		{"written since", false, []any{"9", "n", "5", nil}, false},
		{"written firmly since", false, []any{"9", "n", "8", nil}, false},
		{"back at an older version", false, []any{"4", "n", "2", nil}, true},
		{"back, and written since", false, []any{"7", "n", nil, nil}, true},
		{"gone", false, []any{nil, nil, nil, nil}, true},
		{"deleted meanwhile", false, []any{nil, nil, nil, "n"}, false},
		{"an older item was deleted", false, []any{nil, nil, nil, "o"}, true},
		{"another item of the key", false, []any{"1", "m", nil, nil}, false},
		{"deletion holds", true, []any{nil, nil, nil, "n"}, false},
		{"deletion holds, long ago", true, []any{nil, nil, nil, nil}, false},
		{"deletion lost", true, []any{"5", "n", "5", nil}, true},
		{"made anew since", true, []any{"1", "m", "1", nil}, false},
		{"an answer of another shape", false, []any{}, false},
	} {
		r := firmRecord{Name: "n", Version: 5, Kind: "k", ID: "a", Deleted: c.deleted}
		if got := r.lost(c.have); got != c.want {
			t.Errorf("%s: lost = %v", c.name, got)
		}
	}
}
