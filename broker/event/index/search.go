package index

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/remotegpu/gatehouse/broker/event"
)

// MaxLimit is how many events one answer of Search may have.
const MaxLimit = 1000

// bounds are what one search may cost. A search that comes to one answers with
// what it has found, and with the cursor from which to go on.
type bounds struct {
	rows    int // of the index that are looked at
	records int // that are read for a text
	step    int // rows that are looked at in one statement
}

var usual = bounds{rows: 50_000, records: 10_000, step: 10_000}

// freshSteps is how much of what is new is indexed before a search.
const freshSteps = 3

// ErrCursor means that a cursor is none of ours.
var ErrCursor = errors.New("the cursor is none of ours")

// Page is what a search found.
type Page struct {
	Entries []event.Entry
	// Next is the cursor of the next page; "" at the end.
	Next string
	// Behind means that the index is still being filled: newer events than those
	// that it knows may be missing.
	Behind bool
}

// mark is a place in the order by time and position.
type mark struct{ time, pos int64 }

func (m mark) String() string {
	return strconv.FormatInt(m.time, 36) + "." + strconv.FormatInt(m.pos, 36)
}

func parseMark(s string) (mark, error) {
	t, p, ok := strings.Cut(s, ".")
	mt, err1 := strconv.ParseInt(t, 36, 64)
	mp, err2 := strconv.ParseInt(p, 36, 64)
	if !ok || err1 != nil || err2 != nil {
		return mark{}, ErrCursor
	}
	return mark{mt, mp}, nil
}

// row is one line of the index.
type row struct{ mark }

// Search returns up to limit events and where to go on. cursor is "" or an
// earlier answer's Next, with the same filter. An answer may be empty and still
// have a Next: then the bound of one search was reached.
func (x *Index) Search(ctx context.Context, f Filter, cursor string, limit int) (Page, error) {
	limit = min(max(limit, 1), MaxLimit)
	done, err := x.fill(ctx, freshSteps) // what has just happened is found
	if err != nil {
		return Page{}, err
	}
	page := Page{Behind: !done}
	at := f.start()
	if cursor != "" {
		if at, err = parseMark(cursor); err != nil {
			return Page{}, err
		}
	}
	left := x.bounds
	for {
		want := limit - len(page.Entries)
		if f.Text != "" {
			want = min(fillStep, left.records)
		}
		found, through, looked, end, err := x.rows(ctx, f, at, want)
		if err != nil {
			return Page{}, err
		}
		entries, err := x.records(ctx, found)
		if err != nil {
			return Page{}, err
		}
		for i, e := range entries {
			if e.Raw == nil || !f.matches(e.Event) { // gone from the log, or another text with the same hash
				continue
			}
			page.Entries = append(page.Entries, e)
			if len(page.Entries) == limit {
				if !end || i+1 < len(entries) {
					page.Next = found[i].String()
				}
				return page, nil
			}
		}
		if end {
			return page, nil
		}
		at, left.rows, left.records = through, left.rows-looked, left.records-len(found)
		if left.rows <= 0 || f.Text != "" && left.records <= 0 {
			page.Next = at.String()
			return page, nil
		}
	}
}

// start is the mark before the first event of an order.
func (f Filter) start() mark {
	if f.OldestFirst {
		return mark{-1 << 63, -1 << 63}
	}
	return mark{1<<63 - 1, 1<<63 - 1}
}

// rows looks at a step of the index after a mark. through is how far it looked
// and looked at how many rows; end says that there is nothing beyond.
func (x *Index) rows(ctx context.Context, f Filter, after mark, want int) (found []row, through mark, looked int, end bool, err error) {
	fail := func(err error) ([]row, mark, int, bool, error) {
		return nil, after, 0, false, fmt.Errorf("audit index: %w", err)
	}
	arms, rest, restArgs := f.arms()
	reach := max(x.bounds.step/len(arms), 1)
	if len(rest) == 0 {
		reach = want
	}
	inner, args := f.inner(arms, after, reach)
	query := `select time, pos from (` + inner + `)`
	if len(rest) > 0 {
		query += ` where ` + strings.Join(rest, " and ")
	}
	list, err := x.read.QueryContext(ctx, query+` limit ?`, append(append(slices.Clone(args), restArgs...), want)...)
	if err != nil {
		return fail(err)
	}
	defer list.Close()
	for list.Next() {
		var r row
		if err := list.Scan(&r.time, &r.pos); err != nil {
			return fail(err)
		}
		found = append(found, r)
	}
	if err := list.Err(); err != nil {
		return fail(err)
	}
	if len(found) == want {
		return found, found[want-1].mark, reach * len(arms), false, nil
	}
	if len(rest) == 0 {
		return found, after, reach, true, nil
	}
	// Fewer than wanted: was the reach too short, or is this all there is?
	err = x.read.QueryRowContext(ctx, `select time, pos from (`+inner+`) limit 1 offset ?`, append(slices.Clone(args), reach-1)...).Scan(&through.time, &through.pos)
	if errors.Is(err, sql.ErrNoRows) {
		return found, after, reach, true, nil
	}
	if err != nil {
		return fail(err)
	}
	return found, through, reach * len(arms), false, nil
}

// inner selects reach rows after a mark by the indexes of the arms, in order.
func (f Filter) inner(arms []arm, after mark, reach int) (query string, args []any) {
	// One bound on each side: of two, SQLite seeks by one and walks to the other,
	// over everything that is newer than the day that was asked for.
	order, beyond, other, bound := "time desc, pos desc", "time <= ? and (time < ? or pos < ?)", "time >= ?", f.After
	if f.OldestFirst {
		order, beyond, other, bound = "time, pos", "time >= ? and (time > ? or pos > ?)", "time <= ?", f.Before
	}
	switch { // a microsecond is cut off: the record is asked
	case !f.OldestFirst && !f.Before.IsZero() && after.time > f.Before.UnixMicro():
		after = mark{f.Before.UnixMicro(), 1<<63 - 1}
	case f.OldestFirst && !f.After.IsZero() && after.time < f.After.UnixMicro():
		after = mark{f.After.UnixMicro(), -1 << 63}
	}
	var parts []string
	for _, a := range arms {
		where := append(slices.Clone(a.where), beyond)
		args = append(append(args, a.args...), after.time, after.time, after.pos)
		if !bound.IsZero() {
			where, args = append(where, other), append(args, bound.UnixMicro())
		}
		args = append(args, reach)
		parts = append(parts, `select * from (select time, pos, name, severity, actor, target, connector, client, ip, ref from events indexed by `+a.index+
			` where `+strings.Join(where, " and ")+` order by `+order+` limit ?)`)
	}
	if len(parts) == 1 {
		return parts[0], args
	}
	return strings.Join(parts, " union ") + ` order by ` + order + ` limit ?`, append(args, reach)
}

// records reads the records of rows, in their order; one that is gone has no Raw.
func (x *Index) records(ctx context.Context, rows []row) ([]event.Entry, error) {
	raws := map[int64][]byte{}
	var missing []int64
	for _, r := range rows {
		missing = append(missing, r.pos)
	}
	slices.Sort(missing)
	if err := x.kept(ctx, missing, raws); err != nil {
		return nil, err
	}
	if !x.cfg.Keep {
		missing = slices.DeleteFunc(missing, func(pos int64) bool { return raws[pos] != nil })
		if err := x.logged(ctx, missing, raws); err != nil {
			return nil, err
		}
	}
	out := make([]event.Entry, len(rows))
	for i, r := range rows {
		raw := raws[r.pos]
		if raw == nil {
			continue
		}
		e := event.Entry{Position: uint64(r.pos), Raw: raw}
		if json.Unmarshal(raw, &e.Event) == nil {
			out[i] = e
		}
	}
	return out, nil
}

// kept reads the records that the index itself holds.
func (x *Index) kept(ctx context.Context, sorted []int64, into map[int64][]byte) error {
	if len(sorted) == 0 {
		return nil
	}
	get, err := x.read.PrepareContext(ctx, `select pos, record from records where pos >= ? order by pos limit ?`)
	if err != nil {
		return fmt.Errorf("audit index: %w", err)
	}
	defer get.Close()
	for first, n := range runs(sorted) {
		rows, err := get.QueryContext(ctx, first, n)
		if err != nil {
			return fmt.Errorf("audit index: %w", err)
		}
		for rows.Next() {
			var pos int64
			var raw []byte
			if err := rows.Scan(&pos, &raw); err != nil {
				rows.Close()
				return fmt.Errorf("audit index: %w", err)
			}
			into[pos] = raw
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return fmt.Errorf("audit index: %w", err)
		}
	}
	return nil
}

// logged reads records from the log.
func (x *Index) logged(ctx context.Context, sorted []int64, into map[int64][]byte) error {
	for first, n := range runs(sorted) {
		seq, err := x.cfg.Log.Read(ctx, event.Topic, uint64(first-1), n)
		if err != nil {
			return fmt.Errorf("audit index: %w", err)
		}
		for pos, raw := range seq {
			into[int64(pos)] = raw
		}
	}
	return nil
}

// runs yields what to read of sorted positions: a first one and how many from
// there on, at most 256 entries in one go, and no more than eight times as many
// as are wanted.
func runs(sorted []int64) func(yield func(first int64, n int) bool) {
	return func(yield func(int64, int) bool) {
		for i := 0; i < len(sorted); {
			j := i + 1
			for j < len(sorted) {
				if span := sorted[j] - sorted[i] + 1; span > 256 || span > 8*int64(j-i+1) {
					break
				}
				j++
			}
			if !yield(sorted[i], int(sorted[j-1]-sorted[i]+1)) {
				return
			}
			i = j
		}
	}
}
