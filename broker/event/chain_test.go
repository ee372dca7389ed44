package event_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
)

func openSealer(t *testing.T, s store.Store, clock *storetest.Clock, sealer *store.Sealer, back func(seen, now event.Block)) (*event.Sealer, *event.AuditKey) {
	t.Helper()
	key, err := event.OpenAuditKey(t.Context(), s, sealer, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	return event.NewSealer(event.SealerConfig{KV: s, Log: s, Key: key, Sealer: sealer, Now: clock.Now,
		RolledBack: func(_ context.Context, seen, now event.Block) { back(seen, now) }}), key
}

// seal gives the sealer what is new after a position.
func seal(t *testing.T, c *event.Sealer, s store.Store, after uint64) uint64 {
	t.Helper()
	batch, at, err := event.ReadEntries(t.Context(), s, after, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Consume(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	return at
}

// chain reads the blocks and checks each.
func chain(t *testing.T, s store.Store, key ed25519.PublicKey) []event.Block {
	t.Helper()
	blocks, _, err := event.ReadBlocks(t.Context(), s, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var before event.Block
	for _, b := range blocks {
		if err := b.Check(before, key); err != nil {
			t.Fatal(err)
		}
		before = b
	}
	return blocks
}

func TestChain(t *testing.T) {
	clock, sealer := &storetest.Clock{}, storetest.Sealer(t)
	s := openStore(t, clock)
	c, key := openSealer(t, s, clock, sealer, func(seen, now event.Block) { t.Errorf("rolled back: %d, %d", seen.Number, now.Number) })
	record(t, s, clock, 4100, event.Signout)
	at := seal(t, c, s, 0)
	record(t, s, clock, 3, event.Signout)
	at = seal(t, c, s, at)
	seal(t, c, s, 0) // the same again: nothing new
	for range 3 {
		if err := c.Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	clock.Wait(11 * time.Minute)
	if err := c.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	blocks := chain(t, s, key.Public)
	var sizes []int
	var records []event.Record
	for _, b := range blocks {
		sizes, records = append(sizes, len(b.Records)), append(records, b.Records...)
	}
	if len(sizes) != 5 || sizes[0] != 2000 || sizes[1] != 2000 || sizes[2] != 100 || sizes[3] != 3 || sizes[4] != 0 {
		t.Errorf("blocks of %v records", sizes)
	}
	all, _, err := event.ReadEntries(t.Context(), s, 0, 10_000)
	if err != nil || len(all) != len(records) {
		t.Fatal(err, len(all), len(records))
	}
	for i, e := range all {
		if records[i] != (event.Record{Position: e.Position, Hash: event.HashRecord(e.Position, e.Raw)}) {
			t.Fatalf("record %d: %v", i, records[i])
		}
	}
	newest, last, err := c.Sealed(t.Context())
	if err != nil || newest.Hash != blocks[4].Hash || last != at {
		t.Errorf("%d, %d, %v", newest.Number, last, err)
	}
	// Another replica, or the next start, goes on with the same key and chain.
	c2, key2 := openSealer(t, s, clock, sealer, func(event.Block, event.Block) {})
	record(t, s, clock, 1, event.Signout)
	seal(t, c2, s, at)
	if blocks := chain(t, s, key2.Public); len(blocks) != 6 || key2.ID != key.ID {
		t.Errorf("%d blocks, keys %s and %s", len(blocks), key.ID, key2.ID)
	}
}

// failing is a store whose log takes a number of entries and then none.
type failing struct {
	store.Store
	takes int
}

var errLogFull = errors.New("the log is full")

func (f *failing) Append(ctx context.Context, topic string, entry []byte) (uint64, error) {
	if f.takes--; f.takes < 0 {
		return 0, errLogFull
	}
	return f.Store.Append(ctx, topic, entry)
}

// A replica that dies between deciding on a block and placing it leaves a chain
// that the next one mends.
func TestChainMaker(t *testing.T) {
	clock, sealer := &storetest.Clock{}, storetest.Sealer(t)
	s := &failing{Store: openStore(t, clock), takes: 6}
	c, key := openSealer(t, s, clock, sealer, func(event.Block, event.Block) {})
	record(t, s, clock, 5, event.Signout)
	at := seal(t, c, s, 0) // the sixth entry
	s.takes = 1
	record(t, s, clock, 1, event.Signout)
	batch, _, err := event.ReadEntries(t.Context(), s, at, 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Consume(t.Context(), batch); !errors.Is(err, errLogFull) {
		t.Fatal(err)
	}
	s.takes = 100
	c2, _ := openSealer(t, s, clock, sealer, func(event.Block, event.Block) {})
	if err := c2.Consume(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	record(t, s, clock, 1, event.Signout)
	seal(t, c2, s, at)
	if blocks := chain(t, s, key.Public); len(blocks) != 3 || len(blocks[1].Records) != 1 || len(blocks[2].Records) != 1 {
		t.Errorf("%d blocks", len(blocks))
	}
}

// Who puts an old head back is noticed by a process that knew a newer one.
func TestChainRolledBack(t *testing.T) {
	clock, sealer := &storetest.Clock{}, storetest.Sealer(t)
	s := openStore(t, clock)
	var said [][2]uint64
	c, _ := openSealer(t, s, clock, sealer, func(seen, now event.Block) { said = append(said, [2]uint64{seen.Number, now.Number}) })
	record(t, s, clock, 1, event.Signout)
	at := seal(t, c, s, 0)
	old, err := s.Get(t.Context(), store.Key{Kind: "audit-head", ID: "head"})
	if err != nil {
		t.Fatal(err)
	}
	record(t, s, clock, 1, event.Signout)
	at = seal(t, c, s, at)
	now, err := s.Get(t.Context(), old.Key)
	if err != nil {
		t.Fatal(err)
	}
	old.Version = now.Version
	if _, err := s.Put(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	record(t, s, clock, 1, event.Signout)
	seal(t, c, s, at)
	seal(t, c, s, 0)
	if len(said) != 1 || said[0] != [2]uint64{2, 1} {
		t.Errorf("said %v", said)
	}
	// One that was not sealed by us is not taken at all.
	forged := old
	forged.Value, forged.Version = []byte(`{"block":{"number":9},"before":0,"last":0}`), 0
	if now, err = s.Get(t.Context(), old.Key); err != nil {
		t.Fatal(err)
	}
	forged.Version = now.Version
	if _, err := s.Put(t.Context(), forged); err != nil {
		t.Fatal(err)
	}
	if err := c.Idle(t.Context()); err == nil {
		t.Error("a head that nobody sealed was taken")
	}
}

func TestBlockCheck(t *testing.T) {
	clock, sealer := &storetest.Clock{}, storetest.Sealer(t)
	s := openStore(t, clock)
	c, key := openSealer(t, s, clock, sealer, func(event.Block, event.Block) {})
	at := uint64(0)
	for range 3 {
		record(t, s, clock, 2, event.Signout)
		at = seal(t, c, s, at)
	}
	blocks := chain(t, s, key.Public)
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(*event.Block)) event.Block {
		b := blocks[1]
		b.Records = append([]event.Record{}, b.Records...)
		f(&b)
		return b
	}
	for name, x := range map[string]struct {
		block, before event.Block
		key           ed25519.PublicKey
		want          error
	}{
		"a record's hash":     {change(func(b *event.Block) { b.Records[0].Hash[0] ^= 1 }), blocks[0], key.Public, event.ErrBlockHash},
		"a record's position": {change(func(b *event.Block) { b.Records[1].Position++ }), blocks[0], key.Public, event.ErrBlockHash},
		"a record less":       {change(func(b *event.Block) { b.Records = b.Records[:1] }), blocks[0], key.Public, event.ErrBlockHash},
		"two records swapped": {change(func(b *event.Block) { b.Records[0], b.Records[1] = b.Records[1], b.Records[0] }), blocks[0], key.Public, event.ErrBlockHash},
		"time":                {change(func(b *event.Block) { b.Time = b.Time.Add(1) }), blocks[0], key.Public, event.ErrBlockHash},
		"number":              {change(func(b *event.Block) { b.Number++ }), blocks[0], key.Public, event.ErrBlockHash},
		"key's name":          {change(func(b *event.Block) { b.Key += "x" }), blocks[0], key.Public, event.ErrBlockSignature},
		"signature":           {change(func(b *event.Block) { b.Signature = blocks[0].Signature }), blocks[0], key.Public, event.ErrBlockSignature},
		"another's key":       {blocks[1], blocks[0], other, event.ErrBlockSignature},
		"no block":            {blocks[2], blocks[0], key.Public, event.ErrBlockOrder},
		"first removed":       {blocks[1], event.Block{}, key.Public, event.ErrBlockOrder},
		"none":                {blocks[1], blocks[0], key.Public, nil},
		"no key":              {blocks[1], blocks[0], nil, nil},
	} {
		if err := x.block.Check(x.before, x.key); !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAuditKey(t *testing.T) {
	clock, sealer := &storetest.Clock{}, storetest.Sealer(t)
	s := openStore(t, clock)
	_, key := openSealer(t, s, clock, sealer, nil)
	text, err := key.PublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	got, err := event.ParsePublicKey(text)
	if err != nil || !got.Equal(key.Public) || event.KeyID(got) != key.ID {
		t.Errorf("%v %v", got, err)
	}
	item, err := s.Get(t.Context(), store.Key{Kind: "audit-key", ID: "current"})
	if err != nil || bytes.Contains(item.Value, []byte("seed")) {
		t.Errorf("stored as %q, %v", item.Value, err)
	}
	for _, bad := range []string{"", "x", strings.Replace(string(text), "PUBLIC", "PRIVATE", 2), "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		if _, err := event.ParsePublicKey([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	a := event.Anchor{Number: 7, Last: 9, Time: clock.Now()}
	key.SignAnchor(&a)
	if err := a.Check(key.Public); err != nil {
		t.Error(err)
	}
	a.Last++
	if err := a.Check(key.Public); !errors.Is(err, event.ErrBlockSignature) {
		t.Error(err)
	}
	sig := key.Sign("manifest-v1", []byte("x"))
	if !event.VerifyOther(key.Public, "manifest-v1", []byte("x"), sig) || event.VerifyOther(key.Public, "other-v1", []byte("x"), sig) || event.VerifyOther(nil, "manifest-v1", []byte("x"), sig) {
		t.Error("a signature of one kind counts for another")
	}
}

func FuzzParseBlock(f *testing.F) {
	f.Add([]byte(`{"number":1,"time":"2026-01-02T03:04:05Z","previous":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","records":[{"pos":1,"hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}],"key":"k","hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","signature":"AA=="}`))
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := event.ParseBlock(raw)
		if err != nil {
			return
		}
		if b.Check(event.Block{}, public) == nil {
			t.Errorf("a block that nobody signed: %s", raw)
		}
		js, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := event.ParseBlock(js); err != nil || again.Hash != b.Hash || again.Last() != b.Last() {
			t.Errorf("%s is read as %+v, %v", js, again, err)
		}
	})
}
