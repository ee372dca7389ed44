package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"math"
	"runtime"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

type op int

const (
	opPut op = iota
	opDelete
	opAppend
	opSweep
	opTrim
)

// job is one write on its way through the writer.
type job struct {
	op    op
	item  store.Item
	topic string
	entry []byte
	now   time.Time
	pos   uint64

	result uint64
	err    error
	done   chan struct{}
}

// maxBatch bounds a transaction, so that a burst does not make the first
// caller wait for the last.
const maxBatch = 256

// do hands the job to the writer and waits. Once handed over, it is done even
// if ctx ends: the caller then does not know, as with any store.
func (s *Store) do(ctx context.Context, j *job) (uint64, error) {
	if err := ctx.Err(); err != nil { // a select might take the job all the same
		return 0, fmt.Errorf("sqlite: %w", err)
	}
	j.done = make(chan struct{})
	select {
	case s.jobs <- j:
	case <-ctx.Done():
		return 0, fmt.Errorf("sqlite: %w", ctx.Err())
	case <-s.closed:
		return 0, fmt.Errorf("sqlite: closed: %w", store.ErrUnavailable)
	}
	select {
	case <-j.done:
		return j.result, j.err
	case <-ctx.Done():
		return 0, fmt.Errorf("sqlite: %w", ctx.Err())
	case <-s.done:
		select {
		case <-j.done:
			return j.result, j.err
		default:
			return 0, fmt.Errorf("sqlite: closed: %w", store.ErrUnavailable)
		}
	}
}

// writer runs until Close: it takes what is waiting, up to maxBatch, into one
// transaction. Under load the batch grows by itself; alone, a write waits for
// nobody.
func (s *Store) writer() {
	defer close(s.done)
	w := &writer{s: s}
	defer w.closeStmts()
	batch := make([]*job, 0, maxBatch)
	for {
		batch = batch[:0]
		select {
		case j := <-s.jobs:
			batch = append(batch, j)
		case <-s.closed:
			for { // what was handed over before the end is still done
				select {
				case j := <-s.jobs:
					batch = append(batch, j)
					continue
				default:
				}
				break
			}
			if len(batch) > 0 {
				w.run(batch)
			}
			return
		}
		// Who is about to write goes into the same transaction: a commit costs
		// more than the turn that they are given.
		runtime.Gosched()
	more:
		for len(batch) < maxBatch {
			select {
			case j := <-s.jobs:
				batch = append(batch, j)
			default:
				break more
			}
		}
		w.run(batch)
	}
}

type writer struct {
	s     *Store
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
	full  bool // the connection's present synchronous level
}

func (w *writer) closeStmts() {
	for _, st := range w.stmts {
		st.Close()
	}
	if w.conn != nil {
		w.conn.Close()
	}
}

// exec runs a prepared statement on the writer's connection.
func (w *writer) exec(query string, args ...any) (sql.Result, error) {
	st := w.stmts[query]
	if st == nil {
		var err error
		if st, err = w.conn.PrepareContext(context.Background(), query); err != nil {
			return nil, err
		}
		w.stmts[query] = st
	}
	return st.ExecContext(context.Background(), args...)
}

func (w *writer) run(batch []*job) {
	for _, j := range batch {
		w.forget(j)
	}
	err := w.commit(batch)
	for _, j := range batch {
		switch {
		case err != nil:
			j.result, j.err = 0, unavailable("write", err)
		case j.op == opPut && j.err == nil:
			it := j.item
			it.Version = j.result
			w.s.cache.written(it)
		default: // a reader may have kept what the file had before
			w.forget(j)
		}
		// Here and not by the caller, who may have gone: what is written is told.
		if tell := j.item.Tell; j.err == nil && tell.Topic != "" {
			w.s.publish(tell)
		}
		close(j.done)
	}
}

// forget takes what a job writes out of the cache.
func (w *writer) forget(j *job) {
	switch j.op {
	case opPut, opDelete:
		w.s.cache.forget(j.item.Key)
	case opSweep:
		w.s.cache.sweep(j.now)
	}
}

// commit writes a batch as one transaction; an error is everybody's.
func (w *writer) commit(batch []*job) (err error) {
	if w.conn == nil {
		if w.conn, err = w.s.write.Conn(context.Background()); err != nil {
			return err
		}
		w.stmts = map[string]*sql.Stmt{}
	}
	full := w.s.cfg.Durability == "full"
	for _, j := range batch {
		if full {
			break
		}
		if j.op == opDelete { // as firmly as it was written
			err := w.conn.QueryRowContext(context.Background(), `select firm from items where kind = ? and id = ?`, j.item.Kind, j.item.ID).Scan(&full)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		full = full || j.item.Firm
	}
	if full != w.full {
		level := "pragma synchronous=normal"
		if full {
			level = "pragma synchronous=full"
		}
		if _, err := w.conn.ExecContext(context.Background(), level); err != nil {
			return err
		}
		w.full = full
	}
	if _, err := w.exec("begin immediate"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_, _ = w.exec("rollback")
		}
	}()
	for _, j := range batch {
		if err := w.apply(j); err != nil {
			return err
		}
	}
	if _, err = w.exec("commit"); err == nil && !full {
		w.s.dirty.Store(true)
	}
	return err
}

// apply runs one job inside the transaction. A conflict is the job's own
// result; only a fault of the database is returned.
func (w *writer) apply(j *job) error {
	switch j.op {
	case opPut:
		return w.put(j)
	case opDelete:
		if _, err := w.exec(`delete from entries where kind = ? and id = ?`, j.item.Kind, j.item.ID); err != nil {
			return err
		}
		_, err := w.exec(`delete from items where kind = ? and id = ?`, j.item.Kind, j.item.ID)
		return err
	case opAppend:
		res, err := w.exec(`insert into log (topic, entry) values (?, ?)`, j.topic, j.entry)
		if err != nil {
			return err
		}
		id, err := res.LastInsertId()
		j.result = uint64(id)
		return err
	case opSweep:
		return w.sweep(j)
	case opTrim:
		res, err := w.exec(`delete from log where pos in (select pos from log where topic = ? and pos < ? order by pos limit ?)`, j.topic, int64(min(j.pos, math.MaxInt64)), sweepStep)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		j.result = uint64(n)
		return err
	}
	return errors.New("unknown write")
}

func (w *writer) put(j *job) error {
	it := &j.item
	if it.Value == nil {
		it.Value = []byte{} // nil would be NULL
	}
	var res sql.Result
	var err error
	if it.Version == 0 {
		res, err = w.exec(`insert into items (kind, id, value, version, expires, firm) values (?, ?, ?, 1, ?, ?) on conflict do nothing`,
			it.Kind, it.ID, it.Value, millis(it.Expires), it.Firm)
	} else {
		res, err = w.exec(`update items set value = ?, version = version + 1, expires = ?, firm = ? where kind = ? and id = ? and version = ?`,
			it.Value, millis(it.Expires), it.Firm, it.Kind, it.ID, it.Version)
	}
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n == 0 {
		j.err = store.ErrConflict
		return nil
	}
	j.result = it.Version + 1
	for name, value := range it.Index {
		if _, err := w.exec(`insert or ignore into entries (kind, name, value, id) values (?, ?, ?, ?)`, it.Kind, name, value, it.ID); err != nil {
			return err
		}
	}
	return nil
}

// sweepStep bounds one sweep's transaction.
const sweepStep = 1000

func (w *writer) sweep(j *job) error {
	now := millis(j.now)
	if _, err := w.exec(`delete from entries where (kind, id) in (select kind, id from items where expires > 0 and expires < ? limit ?)`, now, sweepStep); err != nil {
		return err
	}
	res, err := w.exec(`delete from items where (kind, id) in (select kind, id from items where expires > 0 and expires < ? limit ?)`, now, sweepStep)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	j.result = uint64(n)
	return err
}

// sweepGrace keeps what has expired a little longer than our clock says, for
// the sake of replicas whose clock is behind.
const sweepGrace = time.Minute

// Sweep removes what has expired, in steps that let others write in between.
func (s *Store) Sweep(ctx context.Context, now time.Time) error {
	for {
		n, err := s.do(ctx, &job{op: opSweep, now: now.Add(-sweepGrace)})
		if err != nil {
			return err
		}
		if n < sweepStep {
			return nil
		}
	}
}

// Trim removes the entries with position < before, in steps that let others
// write in between. The key of the table is autoincrement: a position is never
// given again.
func (s *Store) Trim(ctx context.Context, topic string, before uint64) error {
	for {
		n, err := s.do(ctx, &job{op: opTrim, topic: topic, pos: before})
		if err != nil {
			return err
		}
		if n < sweepStep {
			return nil
		}
	}
}

// Append adds an entry to the topic's log.
func (s *Store) Append(ctx context.Context, topic string, entry []byte) (uint64, error) {
	return s.do(ctx, &job{op: opAppend, topic: topic, entry: entry})
}

// Read returns entries with position > after.
func (s *Store) Read(ctx context.Context, topic string, after uint64, limit int) (iter.Seq2[uint64, []byte], error) {
	rows, err := s.read.QueryContext(ctx, `select pos, entry from log where topic = ? and pos > ? order by pos limit ?`, topic, int64(after), limit)
	if err != nil {
		return nil, unavailable("read log", err)
	}
	defer rows.Close()
	type line struct {
		pos   uint64
		entry []byte
	}
	var lines []line
	for rows.Next() {
		var l line
		if err := rows.Scan(&l.pos, &l.entry); err != nil {
			return nil, unavailable("read log", err)
		}
		lines = append(lines, l)
	}
	if err := rows.Err(); err != nil {
		return nil, unavailable("read log", err)
	}
	return func(yield func(uint64, []byte) bool) {
		for _, l := range lines {
			if !yield(l.pos, l.entry) {
				return
			}
		}
	}, nil
}
