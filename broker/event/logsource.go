package event

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/remotegpu/gatehouse/broker/store"
)

// LogSource is the Source of a running server: the log of its store.
type LogSource struct {
	Log    store.Log
	KV     store.KV
	Sealer *store.Sealer
	Key    *AuditKey
	Chain  *Sealer
	// UpTo ends the chain with that block; 0 with the newest that there is.
	UpTo uint64
}

// sourceStep is how many blocks or records are read at once.
const sourceStep = 200

// Head says what was sealed by the sealer's own record, which nobody can make
// who has the store alone.
func (s LogSource) Head(ctx context.Context) (Head, error) {
	newest, _, err := s.Chain.Sealed(ctx)
	if err != nil {
		return Head{}, fmt.Errorf("audit log: %w", err)
	}
	pem, err := s.Key.PublicPEM()
	if err != nil {
		return Head{}, err
	}
	h := Head{Key: string(pem), Newest: Checkpoint{newest.Number, newest.Hash}, Live: true}
	if s.UpTo > 0 {
		h.Newest, h.Live = Checkpoint{}, false
	}
	h.Anchor, err = anchor(ctx, s.KV, s.Sealer)
	return h, err
}

// Items reads the blocks up to the newest of now, their records, and what is
// not sealed yet: blocks that are sealed while it reads are for the next time.
func (s LogSource) Items(ctx context.Context) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		upTo := s.UpTo
		if upTo == 0 {
			newest, _, err := s.Chain.Sealed(ctx)
			if err != nil {
				yield(Item{}, fmt.Errorf("audit log: %w", err))
				return
			}
			upTo = newest.Number
		}
		records := recordReader{log: s.Log}
		for e, err := range entries(ctx, s.Log, BlockTopic) {
			if err != nil {
				yield(Item{}, err)
				return
			}
			b, parseErr := ParseBlock(e.Raw)
			if parseErr == nil && b.Number > upTo {
				break
			}
			if !yield(Item{Block: &e}, nil) {
				return
			}
			if parseErr == nil && !records.through(ctx, b.Last(), yield) {
				return
			}
		}
		if s.UpTo == 0 {
			records.through(ctx, 1<<63-1, yield)
		}
	}
}

// recordReader gives the records of the log piece by piece.
type recordReader struct {
	log   store.Log
	after uint64
	ahead []Entry
}

// through yields the records up to a position; false means that it is over.
func (r *recordReader) through(ctx context.Context, last uint64, yield func(Item, error) bool) bool {
	for r.after < last {
		if len(r.ahead) == 0 {
			var err error
			if r.ahead, _, err = ReadEntries(ctx, r.log, r.after, sourceStep); err != nil {
				return yield(Item{}, err) && false
			}
			if len(r.ahead) == 0 {
				return true
			}
		}
		if r.ahead[0].Position > last {
			return true
		}
		e := r.ahead[0]
		r.ahead, r.after = r.ahead[1:], e.Position
		if !yield(Item{Record: &e}, nil) {
			return false
		}
	}
	return true
}

// entries yields a topic of the log.
func entries(ctx context.Context, log store.Log, topic string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for after := uint64(0); ; {
			seq, err := log.Read(ctx, topic, after, sourceStep)
			if err != nil {
				yield(Entry{}, fmt.Errorf("read the audit log: %w", err))
				return
			}
			n := 0
			for pos, raw := range seq {
				n, after = n+1, pos
				if !yield(Entry{Position: pos, Raw: raw}, nil) {
					return
				}
			}
			if n < sourceStep {
				return
			}
		}
	}
}

// anchors is where what was removed is noted: sealed, so that a writer to the
// store cannot put an earlier one of another log there.
func anchors(kv store.KV, sealer *store.Sealer) *store.Collection[Anchor] {
	return store.NewCollection(kv, store.CollectionConfig[Anchor]{Kind: "audit-anchor", Sealer: sealer, Firm: true})
}

// anchor returns what was removed last, or nil.
func anchor(ctx context.Context, kv store.KV, sealer *store.Sealer) (*Anchor, error) {
	a, err := anchors(kv, sealer).Get(ctx, "log")
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("audit log's anchor: %w", err)
	}
	return &a, nil
}
