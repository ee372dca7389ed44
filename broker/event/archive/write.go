package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// An object ends where it has so many blocks or records. A record is a few
// hundred bytes, and one block has 2,000 at most.
const (
	fullBlocks  = 5000
	fullRecords = 5000
)

// quiet is how long blocks wait that say nothing but that the server lives, or
// that the archive did: otherwise each object would bring about the next.
const quiet = time.Hour

// choose decides what the next object holds, and from which position its blocks
// are read; nil while none is due. oldest is the time of the oldest record of
// interest that waits.
func (a *Archive) choose(ctx context.Context, s state) (p *pending, at uint64, oldest time.Time, err error) {
	var first, last event.Block
	blocks, records := 0, 0
	full := func() bool { return blocks >= fullBlocks || records >= fullRecords }
	var few []event.Record // to be looked at while they are few
	for from, broken := s.At, false; !full() && !broken; {
		page, next, err := event.ReadBlocks(ctx, a.cfg.Log, from, 200)
		if err != nil {
			return nil, 0, oldest, fmt.Errorf("archive %s: %w", a.cfg.Name, err)
		}
		for _, b := range page {
			if full() || broken {
				break
			}
			if b.Number <= max(s.Block, last.Number) {
				continue
			}
			if blocks == 0 {
				if err := a.follows(ctx, s, b); err != nil {
					return nil, 0, oldest, err
				}
				first, at = b, from
			} else if b.Number != last.Number+1 || b.Previous != last.Hash {
				broken = true // the chain is, there: an object of its own
				break
			}
			blocks, records, last = blocks+1, records+len(b.Records), b
			if len(b.Records) > 0 && oldest.IsZero() {
				if few = append(few, b.Records...); len(few) > 64 {
					oldest = b.Time
				} else if mine, err := a.ours(ctx, b.Records); err != nil {
					return nil, 0, oldest, err
				} else if !mine {
					oldest = b.Time
				}
			}
		}
		if len(page) == 0 {
			break
		}
		from = next
	}
	if blocks == 0 {
		return nil, 0, oldest, nil
	}
	now := a.cfg.Now()
	due := full() || now.Sub(first.Time) >= quiet || !oldest.IsZero() && now.Sub(oldest) >= a.cfg.Every
	if !due {
		return nil, 0, oldest, nil
	}
	// The names' order is the blocks' even where a clock was put back.
	day := max(first.Time.UTC().Format("2006/01/02"), dayOf(s.Object))
	return &pending{First: first.Number, Last: last.Number, Object: nameOf(day, first.Number, last.Number), Oldest: oldest}, at, oldest, nil
}

// follows judges the first block that is not archived against the last one that
// is.
func (a *Archive) follows(ctx context.Context, s state, b event.Block) error {
	switch {
	case s.Block == 0: // what was before is said by an anchor
		return nil
	case b.Number > s.Block+1:
		// What is left is worth more than a stop.
		a.failed(ctx, fmt.Errorf("blocks %d to %d: %w", s.Block+1, b.Number-1, ErrGap), true)
		return nil
	case b.Previous != s.Hash:
		return fmt.Errorf("archive %s: block %d: %w", a.cfg.Name, b.Number, ErrForeign)
	}
	return nil
}

// ours reports whether records say no more than that something was archived.
func (a *Archive) ours(ctx context.Context, records []event.Record) (bool, error) {
	for _, r := range records {
		got, _, err := event.ReadEntries(ctx, a.cfg.Log, r.Position-1, 1)
		if err != nil {
			return false, err
		}
		if len(got) == 0 || got[0].Position != r.Position || got[0].Event.Name != event.AuditArchived {
			return false, nil
		}
	}
	return true, nil
}

func dayOf(object string) string {
	day, _, _, _ := parseName(object)
	return day
}

// write puts the pending object and its manifest into the bucket and notes so.
// Each step can have been done before: then it finds what it would have written.
func (a *Archive) write(ctx context.Context, s state) (state, error) {
	blocks, err := a.read(ctx, s)
	if err != nil {
		return s, err
	}
	first, last := blocks[0].Block, blocks[len(blocks)-1].Block
	until := last.Time.Add(a.cfg.Retention)
	if s.Block == 0 && first.Number > 1 {
		if err := a.anchor(ctx, event.Anchor{Number: first.Number - 1, Hash: first.Previous, Last: before(blocks)}); err != nil {
			return s, err
		}
	}
	plain, err := content(blocks)
	if err != nil {
		return s, err
	}
	body, err := pack(plain)
	if err != nil {
		return s, err
	}
	if body, err = a.put(ctx, s.Pending.Object, body, plain, until); err != nil {
		return s, err
	}
	m := a.manifest(s, blocks, plain, body)
	js, err := signManifest(m, a.cfg.Key)
	if err != nil {
		return s, err
	}
	if err := a.cfg.Bucket.Put(ctx, a.cfg.Prefix+manifestOf(m.Object), js, until); errors.Is(err, fs.ErrExist) {
		there, err := a.cfg.Bucket.Get(ctx, a.cfg.Prefix+manifestOf(m.Object))
		if err != nil {
			return s, err
		}
		if !bytes.Equal(there, js) {
			return s, fmt.Errorf("archive %s: %s: %w", a.cfg.Name, manifestOf(m.Object), ErrConflict)
		}
	} else if err != nil {
		return s, err
	}
	s, err = a.save(ctx, s, state{Block: last.Number, Hash: last.Hash, Last: m.LastRecord, At: s.At, Object: m.Object, Retained: s.Retained})
	if err != nil {
		return s, err
	}
	a.archived(ctx, m)
	a.judge(ctx, blocks)
	return s, nil
}

// put writes the object. Where one is there already, it counts as ours if it
// unpacks to the same; then what it is, byte for byte, is returned.
func (a *Archive) put(ctx context.Context, object string, body, plain []byte, until time.Time) ([]byte, error) {
	err := a.cfg.Bucket.Put(ctx, a.cfg.Prefix+object, body, until)
	if !errors.Is(err, fs.ErrExist) {
		return body, err
	}
	there, err := a.cfg.Bucket.Get(ctx, a.cfg.Prefix+object)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(there, body) {
		return body, nil
	}
	// Another version of Go compresses otherwise.
	if had, err := unpack(there); err != nil || !bytes.Equal(had, plain) {
		return nil, fmt.Errorf("archive %s: %s: %w", a.cfg.Name, object, ErrConflict)
	}
	return there, nil
}

func (a *Archive) manifest(s state, blocks []Sealed, plain, body []byte) Manifest {
	m := Manifest{
		Version: manifestVersion, Object: s.Pending.Object, Size: len(body), SHA256: sum(body), ContentSHA256: sum(plain),
		First: end(blocks[0].Block), Last: end(blocks[len(blocks)-1].Block), Blocks: len(blocks), LastRecord: s.Last,
		Key: a.cfg.Key.ID, PublicKey: a.cfg.Key.Public,
	}
	for _, b := range blocks {
		m.Records += len(b.Entries)
		m.Missing += len(b.Missing)
		m.LastRecord = max(m.LastRecord, b.Last())
	}
	return m
}

// read returns the pending blocks with their records.
func (a *Archive) read(ctx context.Context, s state) ([]Sealed, error) {
	var out []Sealed
	for from, want := s.At, s.Pending.First; want <= s.Pending.Last; {
		page, next, err := event.ReadBlocks(ctx, a.cfg.Log, from, 200)
		if err != nil {
			return nil, fmt.Errorf("archive %s: %w", a.cfg.Name, err)
		}
		for _, b := range page {
			if b.Number == want && want <= s.Pending.Last {
				out = append(out, Sealed{Block: b})
				want++
			}
		}
		if len(page) == 0 && want <= s.Pending.Last {
			return nil, fmt.Errorf("archive %s: block %d: %w", a.cfg.Name, want, ErrGap)
		}
		from = next
	}
	return out, a.records(ctx, out)
}

// records fills in what the blocks vouch for, in one reading of the log.
func (a *Archive) records(ctx context.Context, blocks []Sealed) error {
	var page []event.Entry
	var at uint64
	for i := range blocks {
		b := &blocks[i]
		for _, r := range b.Records {
			for (len(page) == 0 || page[len(page)-1].Position < r.Position) && at < r.Position {
				var err error
				if page, at, err = event.ReadEntries(ctx, a.cfg.Log, max(at, r.Position-1), 500); err != nil {
					return fmt.Errorf("archive %s: %w", a.cfg.Name, err)
				}
				if len(page) == 0 {
					break
				}
			}
			for len(page) > 0 && page[0].Position < r.Position {
				page = page[1:]
			}
			if len(page) > 0 && page[0].Position == r.Position {
				b.Entries, page = append(b.Entries, page[0]), page[1:]
			} else {
				b.Missing = append(b.Missing, r.Position)
			}
		}
	}
	return nil
}

// judge says at once if what was archived is not what was sealed: the archive
// keeps the log as it stands, for whoever looks into it.
func (a *Archive) judge(ctx context.Context, blocks []Sealed) {
	altered, missing := 0, 0
	for _, b := range blocks {
		altered += len(b.altered())
		missing += len(b.Missing)
	}
	if altered+missing == 0 {
		return
	}
	e := event.Event{Name: event.DetectionRaised, Severity: event.Critical, Target: "audit", Details: map[string]string{
		"rule": "audit.altered", "bucket": a.cfg.Name, "blocks": fmt.Sprintf("%d-%d", blocks[0].Number, blocks[len(blocks)-1].Number),
		"altered": strconv.Itoa(altered), "missing": strconv.Itoa(missing),
	}}
	if err := a.cfg.Record(ctx, e); err != nil {
		a.cfg.Logger.Error("an event was not recorded", "event", e.Name, "err", err)
	}
}

// altered returns the positions of records that are not what the block says.
func (b *Sealed) altered() []uint64 {
	var out []uint64
	hashes := make(map[uint64]event.Hash, len(b.Records))
	for _, r := range b.Records {
		hashes[r.Position] = r.Hash
	}
	for _, e := range b.Entries {
		if event.HashRecord(e.Position, e.Raw) != hashes[e.Position] {
			out = append(out, e.Position)
		}
	}
	return out
}

// before is the position before the blocks' first record.
func before(blocks []Sealed) uint64 {
	for _, b := range blocks {
		if len(b.Records) > 0 {
			return b.Records[0].Position - 1
		}
	}
	return 0
}
