package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// Archived says how far the archive has come.
type Archived interface {
	// Archived returns the number of the last block that every bucket has.
	Archived(ctx context.Context) (uint64, error)
}

// Retention removes from the store what is older than it has to be: only what
// is sealed, archived where there is an archive, and still as it was sealed.
// What it removes it signs for, so that a verification can tell it from theft.
type Retention struct {
	Source LogSource // the whole log; UpTo is not used
	Leaser store.Leaser
	// Keep is how long the log stays in the store; 0 is for ever. It may change
	// with the configuration.
	Keep func() time.Duration
	// Archive returns the archive, or nil where none is configured.
	Archive func() Archived
	// Tampered hears that the log is not removed because it is not as it was
	// sealed. May be nil.
	Tampered func(ctx context.Context, f Fault)
	Now      func() time.Time
	Logger   *slog.Logger
}

// retentionEvery is how often it is looked whether something is too old.
const retentionEvery = 10 * time.Minute

// ErrTampered means that a part of the log whose time is over is not as it was
// sealed: it is kept, since it is evidence.
var ErrTampered = errors.New("the log is not as it was sealed, and is kept; run gatehouse audit verify")

// Run removes until ctx ends, on one replica at a time.
func (r Retention) Run(ctx context.Context) error {
	told := uint64(0)
	for ctx.Err() == nil {
		held, release, err := r.Leaser.Lease(ctx, "audit-retention", retentionEvery)
		if err == nil {
			var fault Fault
			fault, err = r.Once(held)
			release()
			if errors.Is(err, ErrTampered) && r.Tampered != nil && told != fault.Block+1 {
				told = fault.Block + 1
				r.Tampered(ctx, fault)
			}
		}
		if err != nil && !errors.Is(err, store.ErrLeaseHeld) && ctx.Err() == nil {
			r.Logger.Warn("the audit log was not shortened; tried again", "err", err)
		}
		sleep(ctx, retentionEvery)
	}
	return nil
}

// Once removes what may go now. With ErrTampered it says what it found.
func (r Retention) Once(ctx context.Context) (Fault, error) {
	keep := r.Keep()
	if keep <= 0 {
		return Fault{}, nil
	}
	limit := uint64(1<<63 - 1)
	if a := r.Archive(); a != nil {
		var err error
		if limit, err = a.Archived(ctx); err != nil {
			return Fault{}, fmt.Errorf("how far the audit log is archived: %w", err)
		}
	}
	old, err := anchor(ctx, r.Source.KV, r.Source.Sealer)
	if err != nil {
		return Fault{}, err
	}
	next, err := r.next(ctx, old, r.Now().Add(-keep), limit)
	if err != nil {
		return Fault{}, err
	}
	if next != nil {
		src := r.Source
		src.UpTo = next.Number
		report, err := Verification{Key: src.Key.Public, Now: r.Now()}.Run(ctx, src)
		if err != nil {
			return Fault{}, err
		}
		if len(report.Faults) > 0 {
			return report.Faults[0], fmt.Errorf("%w: %s at block %d", ErrTampered, report.Faults[0].Name, report.Faults[0].Block)
		}
		next.Time = r.Now().UTC()
		src.Key.SignAnchor(next)
		if err := anchors(src.KV, src.Sealer).Put(ctx, "log", *next); err != nil {
			return Fault{}, fmt.Errorf("audit log's anchor: %w", err)
		}
		old = next
	}
	if old == nil {
		return Fault{}, nil
	}
	return Fault{}, r.trim(ctx, *old) // again too: the one who signed may have died
}

// next is the anchor that may be set: after the last block that is too old and
// archived, and never after the newest of all, by which the chain goes on.
func (r Retention) next(ctx context.Context, old *Anchor, before time.Time, limit uint64) (*Anchor, error) {
	newest, _, err := r.Source.Chain.Sealed(ctx)
	if err != nil {
		return nil, err
	}
	var a Anchor
	if old != nil {
		a = *old
	}
	number := a.Number
	for e, err := range entries(ctx, r.Source.Log, BlockTopic) {
		if err != nil {
			return nil, err
		}
		b, err := ParseBlock(e.Raw)
		if err != nil { // for the verification to name
			continue
		}
		if b.Number >= newest.Number || !b.Time.Before(before) || b.Number > limit {
			break
		}
		if b.Number > a.Number {
			a.Number, a.Hash, a.Last = b.Number, b.Hash, max(a.Last, b.Last())
		}
	}
	if a.Number == number {
		return nil, nil
	}
	return &a, nil
}

// trim removes the records first and then the blocks that vouch for them.
func (r Retention) trim(ctx context.Context, a Anchor) error {
	if err := r.Source.Log.Trim(ctx, Topic, a.Last+1); err != nil {
		return fmt.Errorf("shorten the audit log: %w", err)
	}
	for e, err := range entries(ctx, r.Source.Log, BlockTopic) {
		if err != nil {
			return err
		}
		var b struct{ Number uint64 }
		if json.Unmarshal(e.Raw, &b) == nil && b.Number > a.Number {
			if err := r.Source.Log.Trim(ctx, BlockTopic, e.Position); err != nil {
				return fmt.Errorf("shorten the audit log's chain: %w", err)
			}
			return nil
		}
	}
	return nil
}
