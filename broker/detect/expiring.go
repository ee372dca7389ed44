package detect

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
)

// Ending is something that stops working at a known time.
type Ending struct {
	// Kind is what it is: tls_certificate, upstream_certificate, api_key.
	Kind string
	// ID names it among its kind: a file's name, a route's, a key's id.
	ID string
	// Target and Connector are the event's; Owner is a fact.
	Target, Owner string
	// Begins is when its life began, if that is known.
	Begins, Ends time.Time
}

// warnDays are how long before the end it is spoken of; 0 is after it. They are
// those of connectors' certificates (connector.certificate_expiring).
var warnDays = [...]int{0, 1, 3, 7, 14, 30}

const day = 24 * time.Hour

// due is the threshold that an ending has reached last; false if none. What lives
// for a week is not spoken of a month before: a threshold counts that is less
// than half of the life.
func (e Ending) due(now time.Time) (days int, ok bool) {
	left := e.Ends.Sub(now)
	i := slices.IndexFunc(warnDays[:], func(d int) bool { return left <= time.Duration(d)*day })
	if i < 0 {
		return 0, false
	}
	days = warnDays[i]
	if !e.Begins.IsZero() && days > 0 && 2*time.Duration(days)*day >= e.Ends.Sub(e.Begins) {
		return 0, false
	}
	return days, true
}

// endings raises what has reached a threshold, each once for each threshold.
func endings(ctx context.Context, r *Raiser, all []Ending, now time.Time) error {
	var errs error
	for _, e := range all {
		days, ok := e.due(now)
		if !ok {
			continue
		}
		severity := event.Warning
		if days <= 3 {
			severity = event.Critical
		}
		ends := e.Ends.UTC().Format(time.RFC3339)
		f := Finding{Rule: RuleExpiring, Subject: e.Kind + " " + e.ID + " " + ends + " " + strconv.Itoa(days), Severity: severity, Target: e.Target,
			Facts: map[string]string{"kind": e.Kind, "id": e.ID, "days": strconv.Itoa(days), "ends": ends},
			// Said once for good: after the next threshold nobody needs this one.
			Until: now.Add(400 * day)}
		if e.Owner != "" {
			f.Facts["owner"] = e.Owner
		}
		err := r.Raise(ctx, f)
		errs = errors.Join(errs, err)
		if errors.Is(err, store.ErrUnavailable) {
			return errs // the others would wait for it too
		}
	}
	return errs
}
