package archive

import (
	"context"
	"errors"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// What is wrong with a bucket's content; somebody has to look.
var (
	// ErrConflict means that the bucket has another object under the name of
	// ours.
	ErrConflict = errors.New("the bucket holds something else under this name than the log says; nothing was overwritten")
	// ErrForeign means that the bucket continues otherwise than the log.
	ErrForeign = errors.New("the bucket continues otherwise than the log: another Gatehouse archives there, or the store was put back to an older state; archive under another audit.prefix")
	// ErrGap means that blocks left the log before they were archived.
	ErrGap = errors.New("blocks are gone from the log that were never archived")
)

// failures are what is said of a bucket that fails: once, not at every try.
type failures struct {
	count int
	told  bool
}

// patience is how many tries may fail before an event says so: a store that was
// busy for a moment is nobody's concern.
const patience = 3

// again notes a failure and returns how long to wait.
func (f *failures) again(ctx context.Context, a *Archive, err error) time.Duration {
	f.count++
	if f.count == 1 {
		a.cfg.Logger.Warn("the audit log could not be archived; tried again", "bucket", a.cfg.Name, "err", err)
	}
	lasting, grave := grade(err)
	if !f.told && (lasting || grave || f.count >= patience) {
		f.told = true
		a.failed(ctx, err, grave)
	}
	return min(time.Second<<min(f.count-1, 20), slowest)
}

// over notes that it works.
func (f *failures) over(a *Archive) {
	if f.count > 0 {
		a.cfg.Logger.Info("the audit log is archived again", "bucket", a.cfg.Name)
	}
	*f = failures{}
}

// grade tells whether somebody has to change something before the bucket works,
// and whether the archive itself may have been touched.
func grade(err error) (lasting, grave bool) {
	var p interface{ Permanent() bool }
	if errors.As(err, &p) {
		lasting = p.Permanent()
	}
	return lasting, errors.Is(err, ErrConflict) || errors.Is(err, ErrForeign) || errors.Is(err, ErrGap)
}

// failed records audit.archive_failed.
func (a *Archive) failed(ctx context.Context, why error, grave bool) {
	e := event.Event{Name: event.AuditArchiveFailed, Target: a.cfg.Name, Details: map[string]string{"reason": why.Error()}}
	if grave {
		e.Severity = event.Critical
	}
	if err := a.cfg.Record(ctx, e); err != nil {
		a.cfg.Logger.Error("an event was not recorded", "event", e.Name, "err", err)
	}
}
