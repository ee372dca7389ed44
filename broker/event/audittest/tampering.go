package audittest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
)

// Run tampers with the logs that open returns, each once.
func Run(t *testing.T, open func(t *testing.T) (store.Store, Rewrite)) {
	t.Helper()
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			s, rewrite := open(t)
			l, other := standard(t, s, rewrite)
			if r := l.Verify(t, event.Checkpoint{}); len(r.Faults) > 0 || r.Blocks != 4 || r.Records != 13 || r.Unsealed != 2 {
				t.Fatalf("untouched: %+v", r)
			}
			checkpoint := c.do(t, l, other)
			r := l.Verify(t, checkpoint)
			var got []string
			for _, f := range r.Faults {
				got = append(got, f.Name)
				if f.Text == "" || f.Count < 1 {
					t.Errorf("%+v says too little", f)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("found %v, want %v: %+v", got, c.want, r.Faults)
			}
		})
	}
	t.Run("anchors", func(t *testing.T) {
		s, rewrite := open(t)
		anchors(t, s, rewrite)
	})
}

type tampering struct {
	name string
	do   func(t *testing.T, l *Log, other uint64) event.Checkpoint
	want []string
}

func cases() []tampering {
	none := event.Checkpoint{}
	records := func(f func(es []event.Entry) []event.Entry) func(*testing.T, *Log, uint64) event.Checkpoint {
		return func(t *testing.T, l *Log, _ uint64) event.Checkpoint {
			l.change(t, event.Topic, f)
			return none
		}
	}
	blocks := func(f func(es []event.Entry) []event.Entry) func(*testing.T, *Log, uint64) event.Checkpoint {
		return func(t *testing.T, l *Log, _ uint64) event.Checkpoint {
			l.change(t, event.BlockTopic, f)
			return none
		}
	}
	block := func(i int, f func(b *event.Block)) func(*testing.T, *Log, uint64) event.Checkpoint {
		return func(t *testing.T, l *Log, _ uint64) event.Checkpoint {
			l.block(t, i, f)
			return none
		}
	}
	return []tampering{
		{"nothing", func(*testing.T, *Log, uint64) event.Checkpoint { return none }, nil},
		{"record altered", records(func(es []event.Entry) []event.Entry { es[5].Raw[10] ^= 1; return es }), []string{event.RecordAltered}},
		{"record that is no event any more", records(func(es []event.Entry) []event.Entry { es[5].Raw = []byte("x"); return es }), []string{event.RecordAltered}},
		{"record removed", records(func(es []event.Entry) []event.Entry { return slices.Delete(es, 5, 6) }), []string{event.RecordRemoved}},
		{"two records removed", records(func(es []event.Entry) []event.Entry { return slices.Delete(es, 3, 5) }), []string{event.RecordRemoved}},
		{"record added", func(t *testing.T, l *Log, other uint64) event.Checkpoint {
			l.rewrite(t, "gap", nil)
			l.change(t, event.Topic, func(es []event.Entry) []event.Entry {
				return slices.Insert(es, 5, event.Entry{Position: other, Raw: []byte(`{"name":"signout"}`)})
			})
			return none
		}, []string{event.RecordAdded}},
		{"records swapped", records(func(es []event.Entry) []event.Entry { es[4].Raw, es[6].Raw = es[6].Raw, es[4].Raw; return es }),
			[]string{event.RecordAltered, event.RecordAltered, event.RecordReordered, event.RecordReordered}},
		{"first record and another removed", records(func(es []event.Entry) []event.Entry { return slices.Delete(slices.Clone(es[1:]), 3, 4) }), []string{event.TruncatedStart, event.RecordRemoved}},
		{"first records removed", records(func(es []event.Entry) []event.Entry { return es[3:] }), []string{event.TruncatedStart}},
		{"last records removed", records(func(es []event.Entry) []event.Entry { return es[:9] }), []string{event.TruncatedEnd}},
		{"all records removed", records(func([]event.Entry) []event.Entry { return nil }), []string{event.TruncatedEnd}},
		{"beginning removed", func(t *testing.T, l *Log, _ uint64) event.Checkpoint {
			l.change(t, event.Topic, func(es []event.Entry) []event.Entry { return es[4:] })
			l.change(t, event.BlockTopic, func(es []event.Entry) []event.Entry { return es[1:] })
			return none
		}, []string{event.TruncatedStart}},
		{"end removed", func(t *testing.T, l *Log, _ uint64) event.Checkpoint {
			l.change(t, event.Topic, func(es []event.Entry) []event.Entry { return es[:7] })
			l.change(t, event.BlockTopic, func(es []event.Entry) []event.Entry { return es[:2] })
			return none
		}, []string{event.TruncatedEnd}},
		{"all removed", func(t *testing.T, l *Log, _ uint64) event.Checkpoint {
			l.rewrite(t, event.Topic, nil)
			l.rewrite(t, event.BlockTopic, nil)
			return none
		}, []string{event.TruncatedEnd, event.OldCopy}},
		{"block removed", blocks(func(es []event.Entry) []event.Entry { return slices.Delete(es, 1, 2) }), []string{event.BlockMissing}},
		{"blocks swapped", blocks(func(es []event.Entry) []event.Entry { es[1].Raw, es[2].Raw = es[2].Raw, es[1].Raw; return es }),
			[]string{event.BlockMissing, event.BlockRepeated}},
		{"block repeated", blocks(func(es []event.Entry) []event.Entry { es[3].Raw = es[1].Raw; return es }), []string{event.BlockRepeated, event.TruncatedEnd}},
		{"block that is none", blocks(func(es []event.Entry) []event.Entry { es[1].Raw = []byte("{}"); return es }), []string{event.BlockUnreadable}},
		{"block altered", block(1, func(b *event.Block) { b.Records = b.Records[:1] }), []string{event.BlockAltered}},
		{"block's time altered", block(2, func(b *event.Block) { b.Time = b.Time.Add(time.Hour) }), []string{event.BlockAltered}},
		{"block re-hashed without the key", block(1, func(b *event.Block) { b.Records = b.Records[:2]; b.Hash = Sum(b) }),
			[]string{event.BlockUnsigned, event.BlockUnlinked, event.RecordAdded}},
		{"record altered and its block re-hashed", func(t *testing.T, l *Log, _ uint64) event.Checkpoint {
			es := l.Read(t, event.Topic)
			es[4].Raw[10] ^= 1
			l.rewrite(t, event.Topic, es)
			l.block(t, 1, func(b *event.Block) {
				b.Records[0].Hash = event.HashRecord(es[4].Position, es[4].Raw)
				b.Hash = Sum(b)
			})
			return none
		}, []string{event.BlockUnsigned, event.BlockUnlinked}},
		{"signature of another block", func(t *testing.T, l *Log, _ uint64) event.Checkpoint {
			first, _ := event.ParseBlock(l.Read(t, event.BlockTopic)[0].Raw)
			l.block(t, 1, func(b *event.Block) { b.Signature = first.Signature })
			return none
		}, []string{event.BlockUnsigned}},
		{"all rewritten and re-hashed under another key", func(t *testing.T, l *Log, _ uint64) event.Checkpoint {
			rewrite(t, l, func(*event.Block) {})
			return none
		}, []string{event.BlockForeignKey, event.TruncatedEnd}},
		{"all rewritten, the other key under the name of ours", func(t *testing.T, l *Log, _ uint64) event.Checkpoint {
			rewrite(t, l, func(b *event.Block) { b.Key = l.Key.ID })
			return none
		}, []string{event.BlockUnsigned, event.TruncatedEnd}},
		{"old copy put back", func(t *testing.T, l *Log, _ uint64) event.Checkpoint {
			replay(t, l, 0)
			l.Clock.Wait(16 * time.Minute)
			return none
		}, []string{event.OldCopy}},
		{"old copy put back, below a checkpoint", replay, []string{event.CheckpointGone}},
		{"rewritten by who has the key", func(t *testing.T, l *Log, _ uint64) event.Checkpoint {
			c := l.Verify(t, none).Newest
			c.Hash[0] ^= 1 // what the operator noted was another block
			return c
		}, []string{event.CheckpointBroken}},
	}
}

// rewrite puts another log in the place of l, whole and consistent in itself,
// with blocks that change has seen.
func rewrite(t *testing.T, l *Log, change func(*event.Block)) {
	t.Helper()
	forged := New(t, &elsewhere{Store: l.Store}, l.Clock, l.rewrite)
	forged.Record(t, 11)
	forged.Seal(t)
	forged.Clock.Wait(11 * time.Minute)
	if err := forged.Chain.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	es, bs := forged.Read(t, event.Topic), forged.Read(t, event.BlockTopic)
	l.rewrite(t, "forged-"+event.Topic, nil)
	l.rewrite(t, "forged-"+event.BlockTopic, nil)
	l.rewrite(t, event.Topic, es)
	l.rewrite(t, event.BlockTopic, bs)
	for i := range bs {
		l.block(t, i, change)
	}
}

// replay puts back what the store was before the last records, the sealer's own
// record included, and returns a checkpoint that was taken in between.
func replay(t *testing.T, l *Log, _ uint64) event.Checkpoint {
	t.Helper()
	head, err := l.Store.Get(t.Context(), store.Key{Kind: "audit-head", ID: "head"})
	if err != nil {
		t.Fatal(err)
	}
	es, bs := l.Read(t, event.Topic), l.Read(t, event.BlockTopic)
	l.Record(t, 3)
	l.Seal(t)
	c := l.Verify(t, event.Checkpoint{}).Newest
	l.rewrite(t, event.Topic, es)
	l.rewrite(t, event.BlockTopic, bs)
	now, err := l.Store.Get(t.Context(), head.Key)
	if err != nil {
		t.Fatal(err)
	}
	head.Version = now.Version
	if _, err := l.Store.Put(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	return c
}

// anchors: what retention removed is no fault if the audit key says so, and only
// then.
func anchors(t *testing.T, s store.Store, rewrite Rewrite) {
	l, _ := standard(t, s, rewrite)
	bs := l.Read(t, event.BlockTopic)
	second, err := event.ParseBlock(bs[1].Raw)
	if err != nil {
		t.Fatal(err)
	}
	l.change(t, event.Topic, func(es []event.Entry) []event.Entry { return es[7:] })
	a := event.Anchor{Number: 2, Hash: second.Hash, Last: second.Last(), Time: l.Clock.Now()}
	l.Key.SignAnchor(&a)
	forged := a
	forged.Signature = append([]byte{forged.Signature[0] ^ 1}, forged.Signature[1:]...)
	other, err := event.OpenAuditKey(t.Context(), &elsewhere{Store: l.Store}, storetest.Sealer(t), l.Clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	stranger := a
	other.SignAnchor(&stranger)
	for _, blocksToo := range []bool{false, true} { // who removes may die in between
		if blocksToo {
			l.rewrite(t, event.BlockTopic, bs[2:])
		}
		for _, c := range []struct {
			anchor event.Anchor
			good   bool
		}{{a, true}, {forged, false}, {stranger, false}} {
			r, err := event.Verification{Key: l.Key.Public, Now: l.Clock.Now()}.Run(t.Context(), anchored{l.Source(), c.anchor})
			if err != nil || (len(r.Faults) == 0) != c.good || c.good && (r.Removed != 2 || r.Unsealed != 2) || !c.good && r.Faults[0].Name != event.AnchorForged {
				t.Errorf("blocks removed %v, signed %v: %+v, %v", blocksToo, c.good, r, err)
			}
		}
	}
	r, err := event.Verification{Key: l.Key.Public, Now: l.Clock.Now()}.Run(t.Context(), broken{l.Source()})
	if !errors.Is(err, errBroken) {
		t.Errorf("a source that breaks off: %+v, %v", r, err)
	}
}
