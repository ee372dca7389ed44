package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// lifeSign is how long the chain goes without a block when nothing happens. A
// newest block much older than this is the sign of a log that was cut or of an
// old copy put back.
const lifeSign = 10 * time.Minute

// head is the newest block. Its compare-and-set decides which block follows;
// the block's place in the log comes after it.
type head struct {
	Block Block `json:"block"`
	// Before is the position in BlockTopic behind which Block belongs.
	Before uint64 `json:"before"`
	// Last is the position of the last record that was sealed.
	Last uint64 `json:"last"`
}

// SealerConfig is what NewSealer needs.
type SealerConfig struct {
	KV     store.KV
	Log    store.Log
	Key    *AuditKey
	Sealer *store.Sealer // the head is sealed: a writer to the store can put back an old one, and make none
	Now    func() time.Time
	// RolledBack hears that the store's newest block is older than one that
	// this process has seen there: an old copy was put back, or a failover lost
	// the last second. May be nil.
	RolledBack func(ctx context.Context, seen, now Block)
}

// Sealer is the Sink that makes the chain: what has arrived since the last
// block becomes the next one, each second. Events are not held up by it, and
// replicas need not wait for one another when they record.
type Sealer struct {
	cfg   SealerConfig
	heads *store.Collection[head]
	seen  Block // the newest block that this process knows; used by one goroutine
}

// NewSealer returns a Sealer on the store's log.
func NewSealer(cfg SealerConfig) *Sealer {
	return &Sealer{cfg: cfg, heads: store.NewCollection(cfg.KV, store.CollectionConfig[head]{Kind: "audit-head", Sealer: cfg.Sealer, Now: cfg.Now})}
}

// Name implements Sink.
func (s *Sealer) Name() string { return "chain" }

// Consume seals the records into blocks.
func (s *Sealer) Consume(ctx context.Context, batch []Entry) error {
	h, err := s.current(ctx)
	if err != nil {
		return err
	}
	var records []Record
	for _, e := range batch {
		if e.Position > h.Last { // else sealed before we died
			records = append(records, Record{Position: e.Position, Hash: HashRecord(e.Position, e.Raw)})
		}
	}
	for len(records) > 0 {
		n := min(len(records), maxRecords)
		if h, err = s.next(ctx, h, records[:n]); err != nil {
			return err
		}
		records = records[n:]
	}
	return nil
}

// Idle says that we are alive when nothing happens.
func (s *Sealer) Idle(ctx context.Context) error {
	h, err := s.current(ctx)
	if err != nil || s.cfg.Now().Sub(h.Block.Time) < lifeSign {
		return err
	}
	_, err = s.next(ctx, h, nil)
	return err
}

// Sealed returns the newest block and the position of the last record that is
// in one. Before the first block both are zero.
func (s *Sealer) Sealed(ctx context.Context) (newest Block, last uint64, err error) {
	h, err := s.heads.Get(ctx, "head")
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return h.Block, h.Last, err
}

// current is the newest block, in its place in the log.
func (s *Sealer) current(ctx context.Context) (head, error) {
	h, err := s.heads.Get(ctx, "head")
	if errors.Is(err, store.ErrNotFound) {
		h, err = head{}, nil
	}
	if err != nil {
		return head{}, err
	}
	if back := h.Block.Number < s.seen.Number || h.Block.Number == s.seen.Number && h.Block.Hash != s.seen.Hash; back && s.cfg.RolledBack != nil {
		s.cfg.RolledBack(ctx, s.seen, h.Block)
	}
	s.seen = h.Block
	s.seen.Records = nil
	if h.Block.Number > 0 {
		_, err = s.place(ctx, h)
	}
	return h, err
}

// place makes sure that the newest block stands in the log, which it does not
// where its maker died in between, and returns its position. What stands there
// is for a verification to judge.
func (s *Sealer) place(ctx context.Context, h head) (uint64, error) {
	there, err := s.cfg.Log.Read(ctx, BlockTopic, h.Before, 1)
	if err != nil {
		return 0, fmt.Errorf("audit block %d: %w", h.Block.Number, err)
	}
	for at := range there {
		return at, nil
	}
	raw, err := json.Marshal(h.Block)
	if err != nil {
		return 0, fmt.Errorf("audit block %d: %w", h.Block.Number, err)
	}
	at, err := s.cfg.Log.Append(ctx, BlockTopic, raw)
	if err != nil {
		return 0, fmt.Errorf("audit block %d: %w", h.Block.Number, err)
	}
	return at, nil
}

// next seals records, or nothing, behind h.
func (s *Sealer) next(ctx context.Context, h head, records []Record) (head, error) {
	n := head{Last: h.Last, Block: Block{Number: h.Block.Number + 1, Time: s.cfg.Now().UTC(), Previous: h.Block.Hash, Records: records}}
	if len(records) > 0 {
		n.Last = records[len(records)-1].Position
	}
	s.cfg.Key.seal(&n.Block)
	if h.Block.Number == 0 {
		if err := s.heads.Create(ctx, "head", n); err != nil {
			return head{}, fmt.Errorf("audit block 1: %w", err)
		}
	} else {
		before, err := s.place(ctx, h)
		if err != nil {
			return head{}, err
		}
		n.Before = before
		if _, err := s.heads.Update(ctx, "head", func(now *head) error {
			if now.Block.Hash != h.Block.Hash {
				return fmt.Errorf("audit block %d: another replica sealed it: %w", n.Block.Number, store.ErrConflict)
			}
			*now = n
			return nil
		}); err != nil {
			return head{}, err
		}
	}
	s.seen = n.Block
	s.seen.Records = nil
	_, err := s.place(ctx, n)
	return n, err
}
