package archive

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// Fault is one thing that is wrong with an archive.
type Fault struct {
	Object string `json:"object,omitempty"` // without the prefix
	Block  uint64 `json:"block,omitempty"`
	// Name is one of record.altered, record.removed, block.altered,
	// block.unsigned, block.missing, block.repeated, object.altered,
	// object.removed, object.unreadable, manifest.removed, manifest.unsigned,
	// anchor.forged, truncated.start, checkpoint.gone, checkpoint.broken.
	Name string `json:"fault"`
	Text string `json:"text"`
}

// Report is what a verification found.
type Report struct {
	Objects int `json:"objects"`
	Blocks  int `json:"blocks"`
	Records int `json:"records"`
	// First and Last are the numbers of the blocks at both ends, From and To
	// their times.
	First uint64    `json:"first_block"`
	Last  uint64    `json:"last_block"`
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	// Checkpoint is the newest block's number and hash: who writes it down
	// elsewhere can tell later that the archive was not cut behind it.
	Checkpoint string `json:"checkpoint"`
	// Key is the id of the key that was given; without one the archive was
	// compared with itself alone.
	Key    string  `json:"key,omitempty"`
	Faults []Fault `json:"faults"`
}

// Verification says against what an archive is verified.
type Verification struct {
	// Key is the audit key's public half, from elsewhere than the archive; nil
	// compares the archive with itself alone.
	Key ed25519.PublicKey
	// Number and Hash are of a block that was in the archive once; 0 for none.
	Number uint64
	Hash   event.Hash
}

// maxFaults bounds a report: whoever destroys an archive leaves more faults than
// anybody reads.
const maxFaults = 1000

// Verify goes through the whole archive: every object against its manifest,
// every record against its block, every block against the one before and the
// key. An error is that the archive could not be read; what is wrong with it
// stands in the report.
func (r *Reader) Verify(ctx context.Context, want Verification) (Report, error) {
	key := want.Key
	v := verification{reader: r, key: key, want: want, report: Report{Faults: []Fault{}}}
	if key != nil {
		v.report.Key = event.KeyID(key)
	}
	anchors, err := r.Anchors(ctx, key)
	if errors.Is(err, event.ErrBlockSignature) {
		v.fault("", 0, "anchor.forged", err.Error())
		anchors, err = nil, nil // none of them is believed
	}
	if err != nil {
		return v.report, err
	}
	v.anchors = anchors
	objects, err := r.Objects(ctx)
	if err != nil {
		return v.report, err
	}
	if len(objects) == 0 {
		return v.report, errors.New("there is no archive here: no object is named like 2026/11/26/blocks-000000000001-000000000123.jsonl.gz; is the prefix right?")
	}
	for _, o := range objects {
		if err := v.object(ctx, o); err != nil {
			return v.report, err
		}
	}
	if n := want.Number; n > 0 && !v.met && !v.covered(n) {
		v.fault("", n, "checkpoint.gone", fmt.Sprintf("block %d was in the archive once and is not there: it was cut, or is an old copy", n))
	}
	v.report.Last, v.report.To = v.before.Number, v.before.Time
	v.report.Checkpoint = fmt.Sprintf("%d:%s", v.before.Number, v.before.Hash)
	return v.report, nil
}

type verification struct {
	reader  *Reader
	want    Verification
	met     bool // the block of want was seen
	key     ed25519.PublicKey
	anchors []event.Anchor
	before  event.Block // the newest that was seen
	last    uint64      // position of the last record
	report  Report
}

func (v *verification) fault(object string, block uint64, kind, text string) {
	if len(v.report.Faults) < maxFaults {
		v.report.Faults = append(v.report.Faults, Fault{Object: object, Block: block, Name: kind, Text: text})
	}
}

// object verifies one object.
func (v *verification) object(ctx context.Context, o Object) error {
	v.report.Objects++
	if !o.Signed {
		v.fault(o.Name, 0, "manifest.removed", "no manifest stands beside it: it was removed, or the writer died in between and has not been back")
	}
	blocks, m, err := v.reader.Read(ctx, o, v.key)
	switch {
	case err == nil:
	case missing(err):
		if v.covered(o.Last) { // the bucket's own rules removed half of the pair
			v.report.Objects--
			return nil
		}
		v.fault(o.Name, 0, "object.removed", "its manifest is there and it is not: it was removed")
		return nil
	case ctx.Err() != nil:
		return err
	case errors.Is(err, errManifest):
		v.fault(o.Name, 0, "manifest.unsigned", err.Error())
	case errors.Is(err, ErrObject):
		v.fault(o.Name, 0, "object.altered", err.Error())
	case len(blocks) == 0 && transport(err):
		return err
	default:
		v.fault(o.Name, 0, "object.unreadable", err.Error())
	}
	for _, b := range blocks {
		v.block(o.Name, b)
	}
	if o.Signed && m.Version == manifestVersion && len(blocks) > 0 && (m.Last.Hash != blocks[len(blocks)-1].Hash || m.First.Hash != blocks[0].Hash || m.Blocks != len(blocks)) {
		v.fault(o.Name, 0, "object.altered", "its blocks are not those of its manifest")
	}
	return nil
}

// transport reports whether an error says nothing about the archive.
func transport(err error) bool {
	var p interface{ Permanent() bool }
	return errors.As(err, &p)
}

// covered reports whether an anchor says that a block may be gone.
func (v *verification) covered(number uint64) bool {
	for _, a := range v.anchors {
		if a.Number >= number {
			return true
		}
	}
	return false
}

// block verifies one block and its records.
func (v *verification) block(object string, b Sealed) {
	v.report.Blocks++
	v.report.Records += len(b.Entries)
	before := v.before
	switch {
	case before.Number == 0:
		v.report.First, v.report.From = b.Number, b.Time
		before = v.beginning(object, b)
	case b.Number <= before.Number:
		v.fault(object, b.Number, "block.repeated", fmt.Sprintf("block %d stands here after block %d: it was added, moved, or another server archived here too", b.Number, before.Number))
		return
	case b.Number > before.Number+1:
		v.fault(object, b.Number, "block.missing", fmt.Sprintf("blocks %d to %d are not in the archive: they were removed, or left the log before they were archived", before.Number+1, b.Number-1))
		before = event.Block{Number: b.Number - 1, Hash: b.Previous}
	}
	if err := b.Check(before, v.key); err != nil {
		kind := "block.altered"
		switch {
		case errors.Is(err, event.ErrBlockSignature):
			kind = "block.unsigned"
		case errors.Is(err, event.ErrBlockOrder):
			kind = "block.missing"
		}
		v.fault(object, b.Number, kind, err.Error())
	}
	v.records(object, b)
	if v.want.Number == b.Number {
		if v.met = true; v.want.Hash != b.Hash {
			v.fault(object, b.Number, "checkpoint.broken", fmt.Sprintf("block %d was another one when its hash was written down: the archive was written anew", b.Number))
		}
	}
	v.before = b.Block
	v.before.Records = nil
}

// beginning judges where the archive begins, and returns what the first block
// must follow.
func (v *verification) beginning(object string, b Sealed) event.Block {
	if b.Number == 1 {
		return event.Block{}
	}
	for _, a := range v.anchors {
		if a.Number == b.Number-1 {
			return event.Block{Number: a.Number, Hash: a.Hash}
		}
	}
	if !v.covered(b.Number - 1) {
		v.fault(object, b.Number, "truncated.start", fmt.Sprintf("the archive begins with block %d, and no anchor says that those before were removed because their time was over", b.Number))
	}
	return event.Block{Number: b.Number - 1, Hash: b.Previous}
}

// records verifies that the records are those of the block, all of them and no
// others.
func (v *verification) records(object string, b Sealed) {
	for _, pos := range b.altered() {
		v.fault(object, b.Number, "record.altered", fmt.Sprintf("the record at position %d is not the one that was sealed", pos))
	}
	there := make(map[uint64]bool, len(b.Entries))
	for _, e := range b.Entries {
		there[e.Position] = true
	}
	for _, r := range b.Records {
		if !there[r.Position] {
			v.fault(object, b.Number, "record.removed", fmt.Sprintf("the record at position %d is not there", r.Position))
		}
		if r.Position <= v.last {
			v.fault(object, b.Number, "block.altered", fmt.Sprintf("position %d comes after position %d", r.Position, v.last))
		}
		v.last = r.Position
	}
}
