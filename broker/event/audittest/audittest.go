// Package audittest tampers with the log of a store from behind, in every way
// that docs/audit.md names, and checks that a verification finds and names it.
// Every driver passes it: what an attacker can reach is the backend itself.
package audittest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
)

// Rewrite replaces a topic of a backend's log by entries, without the driver.
type Rewrite func(t *testing.T, topic string, entries []event.Entry)

// Log is a log with its chain, and the means to tamper with it.
type Log struct {
	Store   store.Store
	Clock   *storetest.Clock
	Key     *event.AuditKey
	Chain   *event.Sealer
	Sealer  *store.Sealer
	rewrite Rewrite
	after   uint64
	events  *event.Recorder
}

// New returns an empty log on a store.
func New(t *testing.T, s store.Store, clock *storetest.Clock, rewrite Rewrite) *Log {
	t.Helper()
	l := &Log{Store: s, Clock: clock, Sealer: storetest.Sealer(t), rewrite: rewrite}
	var err error
	if l.Key, err = event.OpenAuditKey(t.Context(), s, l.Sealer, clock.Now); err != nil {
		t.Fatal(err)
	}
	l.Chain = event.NewSealer(event.SealerConfig{KV: s, Log: s, Key: l.Key, Sealer: l.Sealer, Now: clock.Now})
	if l.events, err = event.New(event.Config{Log: s, Now: clock.Now, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	return l
}

// Record writes n events.
func (l *Log) Record(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		if err := l.events.Record(t.Context(), event.Event{Name: event.Signout, Actor: fmt.Sprint("user", i)}); err != nil {
			t.Fatal(err)
		}
	}
}

// Seal seals what is new.
func (l *Log) Seal(t *testing.T) {
	t.Helper()
	batch, after, err := event.ReadEntries(t.Context(), l.Store, l.after, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	l.after = after
	if err := l.Chain.Consume(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

// Source is the log as a running server gives it.
func (l *Log) Source() event.LogSource {
	return event.LogSource{Log: l.Store, KV: l.Store, Sealer: l.Sealer, Key: l.Key, Chain: l.Chain}
}

// Verify verifies with the log's own key.
func (l *Log) Verify(t *testing.T, c event.Checkpoint) event.Report {
	t.Helper()
	r, err := event.Verification{Key: l.Key.Public, Checkpoint: c, Now: l.Clock.Now()}.Run(t.Context(), l.Source())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Read returns a topic.
func (l *Log) Read(t *testing.T, topic string) (out []event.Entry) {
	t.Helper()
	seq, err := l.Store.Read(t.Context(), topic, 0, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for pos, raw := range seq {
		out = append(out, event.Entry{Position: pos, Raw: slices.Clone(raw)})
	}
	return out
}

// change rewrites a topic with what f makes of it.
func (l *Log) change(t *testing.T, topic string, f func([]event.Entry) []event.Entry) {
	t.Helper()
	l.rewrite(t, topic, f(l.Read(t, topic)))
}

// block changes a block as JSON, by its place.
func (l *Log) block(t *testing.T, i int, f func(b *event.Block)) {
	t.Helper()
	l.change(t, event.BlockTopic, func(es []event.Entry) []event.Entry {
		b, err := event.ParseBlock(es[i].Raw)
		if err != nil {
			t.Fatal(err)
		}
		f(&b)
		if es[i].Raw, err = json.Marshal(b); err != nil {
			t.Fatal(err)
		}
		return es
	})
}

// Sum is a block's hash, made from the description in docs/audit.md and not from
// the code under test.
func Sum(b *event.Block) event.Hash {
	h := sha256.New()
	h.Write([]byte("gatehouse-audit-block-v1\x00"))
	h.Write(binary.BigEndian.AppendUint64(nil, b.Number))
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(b.Time.UnixNano())))
	h.Write(b.Previous[:])
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b.Records))))
	for _, r := range b.Records {
		h.Write(binary.BigEndian.AppendUint64(nil, r.Position))
		h.Write(r.Hash[:])
	}
	return event.Hash(h.Sum(nil))
}

// standard is three blocks of four, three and four records (numbers 1 to 3), a
// sign of life (4), and two records that are not sealed yet. other holds a
// position between two sealed records where nothing of the log stands.
func standard(t *testing.T, s store.Store, rewrite Rewrite) (l *Log, other uint64) {
	t.Helper()
	l = New(t, s, &storetest.Clock{}, rewrite)
	l.Record(t, 4)
	l.Seal(t)
	l.Record(t, 1)
	other, err := l.Store.Append(t.Context(), "gap", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	l.Record(t, 2)
	l.Seal(t)
	l.Record(t, 4)
	l.Seal(t)
	l.Clock.Wait(11 * time.Minute)
	if err := l.Chain.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.Record(t, 2)
	return l, other
}

// anchored is a source that claims that retention removed its beginning.
type anchored struct {
	event.LogSource
	anchor event.Anchor
}

// Head is the log's with the claim.
func (a anchored) Head(ctx context.Context) (event.Head, error) {
	h, err := a.LogSource.Head(ctx)
	h.Anchor = &a.anchor
	return h, err
}

// broken is a source that fails in the middle.
type broken struct{ event.LogSource }

// ErrBroken is what it fails with.
var errBroken = errors.New("the link broke")

// Items yields one and fails.
func (b broken) Items(ctx context.Context) iter.Seq2[event.Item, error] {
	return func(yield func(event.Item, error) bool) {
		for i := range b.LogSource.Items(ctx) {
			if yield(i, nil) {
				yield(event.Item{}, errBroken)
			}
			return
		}
	}
}
