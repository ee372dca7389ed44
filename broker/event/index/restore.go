package index

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// History is where events are that the log does not hold any more: the archive.
type History interface {
	// Events yields the entries with from ≤ time < to, oldest first, and stops at
	// the first error.
	Events(ctx context.Context, from, to time.Time) iter.Seq2[event.Entry, error]
}

// RestoredFor is how long restored events are found that the retention would
// have forgotten.
const RestoredFor = 30 * 24 * time.Hour

// Restore takes events of the archive into the index, records and all, and
// returns how many. They are found for at least RestoredFor. It may be called
// again: an event is in the index once.
func (x *Index) Restore(ctx context.Context, h History, from, to time.Time) (int, error) {
	until, n := x.cfg.Now().Add(RestoredFor), 0
	var batch []event.Entry
	flush := func() error {
		if err := x.add(ctx, batch, true, until, func(*sql.Tx) error { return nil }); err != nil {
			return err
		}
		n, batch = n+len(batch), batch[:0]
		return nil
	}
	for e, err := range h.Events(ctx, from, to) {
		if err != nil {
			return n, fmt.Errorf("restore into the audit index, after %d events: %w", n, err)
		}
		if batch = append(batch, e); len(batch) == fillStep {
			if err := flush(); err != nil {
				return n, err
			}
		}
	}
	return n, flush()
}
