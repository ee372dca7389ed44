package detect

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// archive finds an archive that has failed for too long: each try records its
// failure, and a success ends it.
type archive struct {
	raise *Raiser
	fails map[string]*failing // by archive
}

type failing struct {
	since time.Time
	said  bool
	works bool
}

func newArchive(r *Raiser) *archive {
	a := &archive{raise: r}
	a.forget(nil)
	return a
}

func (a *archive) rule() string { return RuleArchive }

// window is long enough to see since when it fails, and a try within it.
func (a *archive) window(c Config) time.Duration { return c.ArchiveBehind + 2*time.Hour }

func (a *archive) forget(said []string) {
	a.fails = map[string]*failing{}
	for _, name := range said {
		a.fails[name] = &failing{said: true}
	}
}

func (a *archive) see(e *event.Event) {
	name := cmp.Or(e.Target, e.Details["archive"])
	switch e.Name {
	case event.AuditArchiveFailed:
		f := a.fails[name]
		if f == nil {
			f = &failing{}
			a.fails[name] = f
		}
		if f.since.IsZero() || f.works {
			f.since, f.works = e.Time, false
		}
	case event.AuditArchived:
		if f := a.fails[name]; f != nil {
			f.works = true
		}
	}
}

func (a *archive) judge(ctx context.Context, cfg Config, now time.Time) error {
	var all error
	for name, f := range a.fails {
		switch {
		case f.works:
			var err error
			if f.said {
				err = a.raise.Clear(ctx, RuleArchive, name)
				all = errors.Join(all, err)
			}
			if err == nil {
				delete(a.fails, name)
			}
		case !f.since.IsZero() && now.Sub(f.since) >= cfg.ArchiveBehind:
			err := a.raise.Raise(ctx, Finding{Rule: RuleArchive, Subject: name, Severity: event.Critical, Target: name,
				Facts: map[string]string{"since": f.since.UTC().Format(time.RFC3339)}})
			f.said = f.said || err == nil
			all = errors.Join(all, err)
		}
	}
	return all
}
