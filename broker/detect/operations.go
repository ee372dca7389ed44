package detect

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// Operations counts the store's operations and how many were slow. Its zero value
// is ready; it is safe for concurrent use.
type Operations struct {
	all, slow atomic.Int64
	over      atomic.Int64 // nanoseconds; what takes longer is slow

	bad, good int // minutes in a row; of judge alone
	said      bool
}

// Observe takes notice of an operation. Leases wait by their nature, and
// publishing is waited for by nobody: they do not count.
func (o *Operations) Observe(op string, took time.Duration) {
	if op == "lease" || op == "publish" {
		return
	}
	o.all.Add(1)
	if over := o.over.Load(); over > 0 && int64(took) > over {
		o.slow.Add(1)
	}
}

const (
	// fewOperations say nothing about a store.
	fewOperations = 20
	// slowMinutes must be slow, or good again, before it is said.
	slowMinutes = 2
)

// judge looks at the minute that is over.
func (o *Operations) judge(ctx context.Context, r *Raiser, replica string, cfg StoreConfig) error {
	o.over.Store(int64(cfg.Over))
	all, slow := o.all.Swap(0), o.slow.Swap(0)
	switch {
	case all < fewOperations && slow == 0: // neither good nor bad
		return nil
	case all >= fewOperations && slow*100 >= all*int64(cfg.Percent):
		o.bad, o.good = o.bad+1, 0
	default:
		o.bad, o.good = 0, o.good+1
	}
	switch {
	case o.bad >= slowMinutes:
		err := r.Raise(ctx, Finding{Rule: RuleStore, Subject: replica, Severity: event.Warning, Target: "store",
			Facts: map[string]string{"replica": replica, "operations": strconv.FormatInt(all, 10), "slow": strconv.FormatInt(slow, 10), "over": cfg.Over.String()}})
		o.said = o.said || err == nil
		return err
	case o.good == slowMinutes: // at the start too: of the last process it may still count as said
		if err := r.Clear(ctx, RuleStore, replica); err != nil {
			o.good--
			return err
		}
		o.said = false
	}
	return nil
}
