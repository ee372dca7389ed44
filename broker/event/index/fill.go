package index

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/web"
)

// fillStep is how many entries are indexed in one transaction: the bound of what
// is in memory.
const fillStep = 1000

// fillEvery is how often the log is asked for what is new; a search asks too.
const fillEvery = time.Second

// pruneEvery is how often what is too old is forgotten.
const pruneEvery = time.Minute

// Run follows the log until ctx ends. Every process fills its own: no lease.
func (x *Index) Run(ctx context.Context) error {
	tick := time.NewTicker(fillEvery)
	defer tick.Stop()
	var pruned time.Time
	failing := false
	for {
		_, err := x.fill(ctx, 1<<62)
		if now := x.cfg.Now(); err == nil && now.Sub(pruned).Abs() >= pruneEvery {
			pruned = now
			err = x.prune(ctx, now)
		}
		if err != nil && ctx.Err() == nil && !failing {
			x.cfg.Logger.Warn("the audit log's index is behind; tried again each second", "file", x.cfg.Path, "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// fill indexes what is new in the log, at most so many steps of it. It reports
// whether it came to the end.
func (x *Index) fill(ctx context.Context, steps int) (done bool, err error) {
	for range steps {
		n, err := x.fillOnce(ctx)
		if err != nil {
			return false, err
		}
		if n < fillStep {
			return true, nil
		}
	}
	return false, nil
}

// fillOnce is one transaction: entries and cursor. Processes that share the file
// take turns; who finds that another was first has nothing to do.
func (x *Index) fillOnce(ctx context.Context) (int, error) {
	x.filling.Lock()
	defer x.filling.Unlock()
	after, err := x.cursor(ctx, x.write)
	if err != nil {
		return 0, err
	}
	entries, last, err := event.ReadEntries(ctx, x.cfg.Log, after, fillStep)
	if err != nil || len(entries) == 0 {
		return 0, err
	}
	n, sum := len(entries), sha256.Sum256(entries[len(entries)-1].Raw)
	entries = slices.DeleteFunc(entries, func(e event.Entry) bool {
		unreadable := e.Event.Name == ""
		if unreadable { // `gatehouse audit verify` names it
			x.cfg.Logger.Warn("a record of the audit log cannot be read; it is not found by search", "position", e.Position)
		}
		return unreadable
	})
	return n, x.add(ctx, entries, x.cfg.Keep, time.Time{}, func(tx *sql.Tx) error {
		if now, err := x.cursor(ctx, tx); err != nil || now != after {
			return errors.Join(err, errOthers)
		}
		for name, value := range map[string]string{"cursor": strconv.FormatUint(last, 10), "last": hex.EncodeToString(sum[:])} {
			if _, err := tx.ExecContext(ctx, `insert into meta (name, value) values (?, ?) on conflict do update set value = excluded.value`, name, value); err != nil {
				return err
			}
		}
		return nil
	})
}

// errOthers means that another process that shares the file was first.
var errOthers = errors.New("filled by another process")

// add writes entries in one transaction with what first does.
func (x *Index) add(ctx context.Context, entries []event.Entry, keep bool, until time.Time, first func(*sql.Tx) error) error {
	tx, err := x.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("audit index: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if err := first(tx); errors.Is(err, errOthers) {
		return nil
	} else if err != nil {
		return fmt.Errorf("audit index: %w", err)
	}
	put, err := tx.PrepareContext(ctx, `insert or replace into events (pos, time, name, severity, actor, target, connector, client, ip, ref, until) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	if err != nil {
		return fmt.Errorf("audit index: %w", err)
	}
	defer put.Close()
	record, err := tx.PrepareContext(ctx, `insert or replace into records (pos, record) values (?, ?)`)
	if err != nil {
		return fmt.Errorf("audit index: %w", err)
	}
	defer record.Close()
	for _, e := range entries {
		v := e.Event
		var ref, end any
		if v.RequestID != "" {
			ref = hash(web.RequestRef(v.RequestID))
		}
		if !until.IsZero() {
			end = until.UnixMicro()
		}
		if _, err := put.ExecContext(ctx, int64(e.Position), v.Time.UnixMicro(), hash(string(v.Name)), severity(v), hash(v.Actor), hash(v.Target), hash(v.Connector), hash(v.Client), hash(v.IP), ref, end); err != nil {
			return fmt.Errorf("audit index: %w", err)
		}
		if keep {
			if _, err := record.ExecContext(ctx, int64(e.Position), e.Raw); err != nil {
				return fmt.Errorf("audit index: %w", err)
			}
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("audit index: %w", err)
	}
	return nil
}

// severity is the rank of an event's severity; records of before there were
// severities have their name's.
func severity(e event.Event) int {
	s := e.Severity
	if s == "" {
		s = e.Name.Severity()
	}
	switch {
	case s.AtLeast(event.Critical):
		return 2
	case s.AtLeast(event.Warning):
		return 1
	}
	return 0
}

type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// cursor is the position up to which the log is indexed.
func (x *Index) cursor(ctx context.Context, q queryer) (uint64, error) {
	var text string
	err := q.QueryRowContext(ctx, `select value from meta where name = 'cursor'`).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("audit index: %w", err)
	}
	pos, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("audit index: its cursor is no number")
	}
	return pos, nil
}

// sameLog compares the last entry that was indexed with the log's: a store that
// was put back from a copy gives the same positions to other events. An index
// that holds the records keeps them and reads on from the log's beginning.
func (x *Index) sameLog(ctx context.Context) error {
	after, err := x.cursor(ctx, x.write)
	if err != nil || after == 0 {
		return err
	}
	var last string
	if err := x.write.QueryRowContext(ctx, `select value from meta where name = 'last'`).Scan(&last); err != nil {
		return err
	}
	seq, err := x.cfg.Log.Read(ctx, event.Topic, after-1, 1)
	if err != nil {
		return err
	}
	for pos, raw := range seq {
		sum := sha256.Sum256(raw)
		want, err := hex.DecodeString(last)
		if err == nil && pos == after && bytes.Equal(sum[:], want) {
			return nil
		}
		if pos > after { // trimmed since; what follows is the log's own
			return nil
		}
	}
	if x.cfg.Keep {
		_, err := x.write.ExecContext(ctx, `delete from meta where name = 'cursor'`)
		return err
	}
	return errors.New("the log is not the one that it was filled from")
}

// prune forgets what is older than the retention, in steps that let others write.
func (x *Index) prune(ctx context.Context, now time.Time) error {
	keep := x.cfg.Retention()
	if keep <= 0 {
		return nil
	}
	for {
		n, err := x.pruneOnce(ctx, now.Add(-keep).UnixMicro(), now.UnixMicro())
		if err != nil {
			return fmt.Errorf("audit index: forget what is old: %w", err)
		}
		if n < fillStep {
			return nil
		}
	}
}

func (x *Index) pruneOnce(ctx context.Context, before, now int64) (int64, error) {
	tx, err := x.write.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	const old = `(select pos from events where time < ? and (until is null or until < ?) order by time limit ?)`
	if _, err := tx.ExecContext(ctx, `delete from records where pos in `+old, before, now, fillStep); err != nil {
		return 0, err
	}
	res, err := tx.ExecContext(ctx, `delete from events where pos in `+old, before, now, fillStep)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, err
	}
	return n, tx.Commit()
}
