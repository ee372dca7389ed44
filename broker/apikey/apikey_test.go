package apikey

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
)

type rig struct {
	*Registry
	clock storetest.Clock
	store store.Store
	mu    sync.Mutex
	dead  map[string]bool // owners who may not
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{dead: map[string]bool{}}
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "g.db"), Now: r.clock.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r.store = s
	r.Registry = r.replica(t)
	return r
}

func (r *rig) replica(t testing.TB) *Registry {
	t.Helper()
	reg, err := New(Config{KV: r.store, Bus: r.store, Sealer: storetest.Sealer(t), Now: r.clock.Now, PerOwner: 3, Log: slog.New(slog.DiscardHandler), Alive: func(_ context.Context, owner string, _ bool) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.dead[owner] {
			return ErrOwner
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = reg.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return reg
}

func (r *rig) create(t testing.TB, d Draft) (Key, string) {
	t.Helper()
	if d.Life == 0 {
		d.Life = time.Hour
	}
	k, text, err := r.Create(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return k, text
}

var here = netip.MustParseAddr("10.1.2.3")

func TestFormat(t *testing.T) {
	text, id, secret, err := generate(nil)
	if err != nil || len(text) != 67 || !strings.HasPrefix(text, "rgpu_"+id+"_"+secret) || len(id) != 12 || len(secret) != 43 {
		t.Fatalf("%q %v", text, err)
	}
	if gotID, gotSecret, err := parse(text); err != nil || gotID != id || gotSecret != secret {
		t.Fatalf("%q is parsed as %q %q, %v", text, gotID, gotSecret, err)
	}
	// One wrong character anywhere is seen without asking the store.
	for i := range text {
		wrong := []byte(text)
		wrong[i] = map[bool]byte{true: 'b', false: 'a'}[wrong[i] == 'a']
		if _, _, err := parse(string(wrong)); err == nil {
			t.Errorf("a wrong character at %d passes", i)
		}
	}
	for _, odd := range []string{"", "rgpu_", text[:66], text + "x", " " + text, strings.ToUpper(text), strings.Replace(text, "_", "-", 2)} {
		if _, _, err := parse(odd); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", odd, err)
		}
	}
	// The vector that scanners are told in docs/api-keys.md.
	if sum := checksum("rgpu_000000000000_0000000000000000000000000000000000000000000"); string(sum[:]) != "3eyt6E" {
		t.Errorf("checksum %s", sum)
	}
}

func FuzzParse(f *testing.F) {
	text, _, _, _ := generate(nil)
	f.Add(text)
	f.Add("rgpu_")
	f.Fuzz(func(t *testing.T, s string) {
		id, secret, err := parse(s)
		if err != nil {
			return
		}
		sum := checksum(Prefix + id + "_" + secret)
		if s != Prefix+id+"_"+secret+string(sum[:]) {
			t.Errorf("%q is read as %q %q", s, id, secret)
		}
	})
}

func TestVerify(t *testing.T) {
	r := newRig(t)
	k, text := r.create(t, Draft{Name: "ci", Owner: "u1", Scopes: []string{"a"}, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	got, err := r.Verify(t.Context(), text, here)
	if err != nil || got.Owner != "u1" || got.Scopes[0] != "a" {
		t.Fatalf("%+v %v", got, err)
	}
	if use, err := r.LastUse(t.Context(), k.ID); err != nil || use.IP != "10.1.2.3" {
		t.Errorf("last use %+v %v", use, err)
	}
	other, _, secret, _ := generate(nil)
	body := Prefix + k.ID + "_" + secret
	sum := checksum(body)
	for what, c := range map[string]struct {
		text string
		from string
		want error
	}{
		"another network":       {text, "192.0.2.1", ErrNetwork},
		"mapped":                {text, "::ffff:10.9.9.9", nil},
		"an unknown id":         {other, "10.1.1.1", ErrUnknown},
		"another's secret":      {body + string(sum[:]), "10.1.1.1", ErrUnknown},
		"a word":                {"word", "10.1.1.1", ErrMalformed},
		"no address, with CIDR": {text, "", ErrNetwork},
	} {
		var from netip.Addr
		if c.from != "" {
			from = netip.MustParseAddr(c.from)
		}
		if _, err := r.Verify(t.Context(), c.text, from); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	r.mu.Lock()
	r.dead["u1"] = true
	r.mu.Unlock()
	if _, err := r.Verify(t.Context(), text, here); !errors.Is(err, ErrOwner) {
		t.Errorf("a suspended owner's key: %v", err)
	}
	r.mu.Lock()
	r.dead["u1"] = false
	r.mu.Unlock()
	r.clock.Wait(time.Hour)
	if _, err := r.Verify(t.Context(), text, here); !errors.Is(err, ErrUnknown) {
		t.Errorf("after its end: %v", err)
	}
}

// What one replica revokes is dead on the other; rotation has an overlap, one
// winner, and goes on from the new key.
func TestRevokeAndRotate(t *testing.T) {
	r := newRig(t)
	other := r.replica(t)
	old, text := r.create(t, Draft{Name: "ci", Owner: "u1"})
	if _, err := other.Verify(t.Context(), text, here); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	texts := make([]string, 8)
	for i := range texts {
		wg.Go(func() { _, texts[i], _ = r.Rotate(t.Context(), old.ID, 10*time.Minute) })
	}
	wg.Wait()
	won := ""
	for _, s := range texts {
		if s != "" && won != "" {
			t.Fatal("a key was rotated twice")
		}
		won += s
	}
	if won == "" {
		t.Fatal("nobody has rotated it")
	}
	ks, err := r.Of(t.Context(), "u1")
	usable := 0
	for _, k := range ks {
		if k.Usable(r.clock.Now()) {
			usable++
		}
	}
	if err != nil || usable != 2 {
		t.Errorf("%d usable keys after a rotation, %v", usable, err)
	}
	next, err := other.Verify(t.Context(), won, here)
	if err != nil {
		t.Fatal(err)
	}
	r.clock.Wait(9 * time.Minute)
	if _, err := other.Verify(t.Context(), text, here); err != nil {
		t.Errorf("the old key within the overlap: %v", err)
	}
	r.clock.Wait(2 * time.Minute)
	if _, err := other.Verify(t.Context(), text, here); !errors.Is(err, ErrUnknown) {
		t.Errorf("the old key after the overlap: %v", err)
	}
	if _, err := r.Revoke(t.Context(), next.ID); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := other.Verify(t.Context(), won, here); errors.Is(err, ErrUnknown) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the other replica still takes it")
		}
	}
}

func TestLimits(t *testing.T) {
	r := newRig(t)
	for i := range 3 {
		r.create(t, Draft{Name: fmt.Sprint("k", i), Owner: "u1"})
	}
	if _, _, err := r.Create(t.Context(), Draft{Name: "k", Owner: "u1", Life: time.Hour}); !errors.Is(err, ErrTooMany) {
		t.Errorf("a fourth of three: %v", err)
	}
	r.create(t, Draft{Name: "k", Owner: "u2"})
	r.clock.Wait(2 * time.Hour)
	r.create(t, Draft{Name: "k", Owner: "u1"}) // the old ones have ended
	for what, d := range map[string]Draft{"no name": {Owner: "u", Life: time.Hour}, "for ever": {Name: "x", Owner: "u", Life: 10 * MaxLife}, "no life": {Name: "x", Owner: "u"}, "long name": {Name: strings.Repeat("x", 101), Owner: "u", Life: time.Hour}} {
		if _, _, err := r.Create(t.Context(), d); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Of many that make the last keys of one owner at once, on two replicas, as many
// succeed as there are places; a key that ended leaves its place to another.
func TestLimitAtOnce(t *testing.T) {
	r := newRig(t)
	replicas := []*Registry{r.Registry, r.replica(t)}
	r.create(t, Draft{Name: "before", Owner: "u1"})
	var wg sync.WaitGroup
	var made, full atomic.Int32
	for i := range 64 {
		wg.Go(func() {
			switch _, _, err := replicas[i%2].Create(t.Context(), Draft{Name: fmt.Sprint("k", i), Owner: "u1", Life: time.Hour}); {
			case err == nil:
				made.Add(1)
			case errors.Is(err, ErrTooMany):
				full.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	mine, err := r.Of(t.Context(), "u1")
	if err != nil || len(mine) != 3 || made.Load() != 2 || full.Load() != 62 {
		t.Fatalf("%d made, %d refused, %d there, %v; want 2, 62 and 3", made.Load(), full.Load(), len(mine), err)
	}
	if _, err := r.Revoke(t.Context(), mine[0].ID); err != nil {
		t.Fatal(err)
	}
	r.create(t, Draft{Name: "in its place", Owner: "u1"})
	// Rotation makes room for a successor of each, not for a chain of keys that are all good.
	last, n := mine[1].ID, 0
	for ; n < 10; n++ {
		next, _, err := r.Rotate(t.Context(), last, 10*time.Minute)
		if errors.Is(err, ErrTooMany) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		last = next.ID
	}
	if n != 3 {
		t.Errorf("a key was rotated %d times while all of them were good, want 3", n)
	}
	r.clock.Wait(11 * time.Minute)
	if _, _, err := r.Rotate(t.Context(), last, 0); err != nil {
		t.Errorf("after the overlap: %v", err)
	}
}

// 10,000 keys: what a check of a known one costs.
func BenchmarkVerify(b *testing.B) {
	r := newRig(b)
	r.SetPerOwner(1)
	texts := make([]string, 10_000)
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := w; i < len(texts); i += 32 {
				var err error
				if _, texts[i], err = r.Create(b.Context(), Draft{Name: "k", Owner: fmt.Sprint("u", i), Life: time.Hour}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, s := range texts {
		if _, err := r.Verify(b.Context(), s, here); err != nil {
			b.Fatal(err)
		}
	}
	i := 0
	for b.Loop() {
		if _, err := r.Verify(b.Context(), texts[i%len(texts)], here); err != nil {
			b.Fatal(err)
		}
		i += 7919
	}
}
