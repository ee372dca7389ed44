// Package archive copies the sealed blocks of the audit log, with their records,
// into a bucket: in order, each once, signed. What was written there can be
// verified and read again without the server that wrote it (reader.go,
// verify.go). It neither makes blocks (broker/event) nor speaks to vendors
// (broker/objectstore), and nothing waits for it.
package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
)

// Source is where an archive is read: a bucket, or a folder of what was
// downloaded from one.
type Source interface {
	// Get returns an object, or an error that is fs.ErrNotExist.
	Get(ctx context.Context, name string) ([]byte, error)
	// List yields the names that begin with prefix and stand after a name, in
	// the order of their bytes.
	List(ctx context.Context, prefix, after string) iter.Seq2[string, error]
}

// Bucket is where an archive is kept; objectstore.Bucket is one.
type Bucket interface {
	Source
	// Put writes an object that is not there yet; the error is fs.ErrExist if it
	// is. Where the bucket locks objects, this one is locked until then.
	Put(ctx context.Context, name string, body []byte, until time.Time) error
	// Delete removes an object; the error is fs.ErrPermission where the bucket
	// keeps what it has.
	Delete(ctx context.Context, name string) error
}

// Config is what New needs.
type Config struct {
	// Name is the bucket's name in the configuration.
	Name string
	// Where tells this bucket from another that had the name before: an archive
	// begins anew where it changes.
	Where  string
	Bucket Bucket
	// Prefix begins every object's name; it is empty or ends with a slash.
	Prefix string
	// Every is how long a record waits at most before it is archived.
	Every time.Duration
	// Retention is how long objects are kept.
	Retention time.Duration

	Log    store.Log
	KV     store.KV
	Leaser store.Leaser
	Key    *event.AuditKey
	// Record notes what the archive did.
	Record func(context.Context, event.Event) error
	Now    func() time.Time
	Logger *slog.Logger
}

// Archive keeps one bucket up to date.
type Archive struct {
	cfg    Config
	id     string
	states *store.Collection[state]
	// oldest is the time of the oldest record that is not archived, in
	// nanoseconds; 0 for none, -1 while another replica does the work.
	oldest atomic.Int64
	fails  failures
}

// New returns an Archive; nothing happens before Run.
func New(cfg Config) *Archive {
	where := sha256.Sum256([]byte(cfg.Where + "\x00" + cfg.Prefix))
	a := &Archive{cfg: cfg, id: cfg.Name + "-" + hex.EncodeToString(where[:6])}
	a.states = store.NewCollection(cfg.KV, store.CollectionConfig[state]{Kind: "audit-archive", Now: cfg.Now})
	a.oldest.Store(-1)
	return a
}

// state is how far the archive has come.
type state struct {
	// Block and Hash are of the newest block that is in the bucket.
	Block uint64     `json:"block"`
	Hash  event.Hash `json:"hash"`
	// Last is the position of the last record there.
	Last uint64 `json:"last"`
	// At is a position in event.BlockTopic behind which the next block stands.
	At uint64 `json:"at"`
	// Object is the name of the last object, without the prefix.
	Object string `json:"object,omitempty"`
	// Pending is the object that is being written. It is decided before the
	// first byte goes out, so that a second try, after a crash or an answer that
	// got lost, writes the same.
	Pending *pending `json:"pending,omitempty"`
	// Retained is the name of the last object whose time is over.
	Retained string `json:"retained,omitempty"`
}

// pending is one object to be.
type pending struct {
	First  uint64    `json:"first"`
	Last   uint64    `json:"last"`
	Object string    `json:"object"`
	Oldest time.Time `json:"oldest"` // of its records; zero if there is none of interest
}

const (
	// leaseTTL is how long a replica that died keeps the work from another.
	leaseTTL = 30 * time.Second
	// look is how often the log is looked at, unless audit.every is shorter.
	look = 15 * time.Second
	// slowest is the longest pause before a bucket that fails is tried again.
	slowest = 5 * time.Minute
)

// Run archives until ctx ends, on one replica at a time. A bucket that fails is
// tried again, less and less often.
func (a *Archive) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		held, release, err := a.cfg.Leaser.Lease(ctx, "audit-archive/"+a.id, leaseTTL)
		if err == nil {
			err = a.lead(held)
			a.oldest.Store(-1)
			release()
		}
		wait := leaseTTL / 3
		if err != nil && !errors.Is(err, store.ErrLeaseHeld) && ctx.Err() == nil {
			wait = a.fails.again(ctx, a, err)
		}
		sleep(ctx, wait)
	}
	return nil
}

// lead archives while this replica holds the lease.
func (a *Archive) lead(ctx context.Context) error {
	s, err := a.load(ctx)
	if err != nil {
		return err
	}
	if s, err = a.adopt(ctx, s); err != nil {
		return err
	}
	var retained time.Time
	for ctx.Err() == nil {
		if s, err = a.catchUp(ctx, s); err != nil {
			return err
		}
		a.fails.over(a)
		if now := a.cfg.Now(); now.Sub(retained).Abs() >= retainEvery {
			if s, err = a.retain(ctx, s); err != nil {
				return err
			}
			retained = now
		}
		sleep(ctx, min(look, a.cfg.Every))
	}
	return nil
}

// Once archives all that is due, as Run does from time to time.
func (a *Archive) Once(ctx context.Context) error {
	held, release, err := a.cfg.Leaser.Lease(ctx, "audit-archive/"+a.id, leaseTTL)
	if err != nil {
		return err
	}
	defer release()
	s, err := a.load(held)
	if err == nil {
		s, err = a.adopt(held, s)
	}
	if err == nil {
		s, err = a.catchUp(held, s)
	}
	if err == nil {
		_, err = a.retain(held, s)
	}
	return err
}

// catchUp writes one object after another until none is due.
func (a *Archive) catchUp(ctx context.Context, s state) (state, error) {
	for {
		if s.Pending == nil {
			p, at, oldest, err := a.choose(ctx, s)
			if err != nil {
				return s, err
			}
			a.waiting(oldest)
			if p == nil {
				return s, nil
			}
			next := s
			next.Pending, next.At = p, at
			if s, err = a.save(ctx, s, next); err != nil {
				return s, err
			}
		}
		a.waiting(s.Pending.Oldest)
		var err error
		if s, err = a.write(ctx, s); err != nil {
			return s, err
		}
	}
}

func (a *Archive) waiting(oldest time.Time) {
	if oldest.IsZero() {
		a.oldest.Store(0)
		return
	}
	a.oldest.Store(oldest.UnixNano())
}

// Lag is how long the oldest record that is not in the bucket has been waiting.
// It is known to the replica that archives alone.
func (a *Archive) Lag() (lag time.Duration, known bool) {
	switch at := a.oldest.Load(); at {
	case -1:
		return 0, false
	case 0:
		return 0, true
	default:
		return max(0, a.cfg.Now().Sub(time.Unix(0, at))), true
	}
}

// Name is the bucket's name in the configuration.
func (a *Archive) Name() string { return a.cfg.Name }

// Archived returns the position of the last record, and the number of the last
// block, that are in the bucket: what is older may be removed from the log.
func (a *Archive) Archived(ctx context.Context) (record, block uint64, err error) {
	s, err := a.load(ctx)
	return s.Last, s.Block, err
}

// Archived returns the last record and the last block that every one of the
// archives has; some is false where there is no archive at all.
func Archived(ctx context.Context, all []*Archive) (record, block uint64, some bool, err error) {
	for i, a := range all {
		r, b, err := a.Archived(ctx)
		if err != nil {
			return 0, 0, true, err
		}
		if i == 0 || b < block {
			record, block = r, b
		}
	}
	return record, block, len(all) > 0, nil
}

func (a *Archive) load(ctx context.Context) (state, error) {
	s, err := a.states.Get(ctx, a.id)
	if errors.Is(err, store.ErrNotFound) {
		return state{}, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("archive %s: %w", a.cfg.Name, err)
	}
	return s, nil
}

// save replaces the state, unless another replica has gone on meanwhile.
func (a *Archive) save(ctx context.Context, was, next state) (state, error) {
	_, err := a.states.Update(ctx, a.id, func(now *state) error {
		if now.Block != was.Block || (now.Pending == nil) != (was.Pending == nil) {
			return fmt.Errorf("another replica archives: %w", store.ErrConflict)
		}
		*now = next
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		err = a.states.Create(ctx, a.id, next)
	}
	if err != nil {
		return was, fmt.Errorf("archive %s: %w", a.cfg.Name, err)
	}
	return next, nil
}

// archived notes an object that is complete.
func (a *Archive) archived(ctx context.Context, m Manifest) {
	e := event.Event{Name: event.AuditArchived, Target: a.cfg.Name, Details: map[string]string{
		"object": m.Object, "blocks": fmt.Sprintf("%d-%d", m.First.Number, m.Last.Number), "records": strconv.Itoa(m.Records), "sha256": m.SHA256,
	}}
	if err := a.cfg.Record(ctx, e); err != nil {
		a.cfg.Logger.Error("an event was not recorded", "event", e.Name, "err", err)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
