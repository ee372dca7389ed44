package archive

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// Fault is one thing that is wrong with an archive, or several in a row of the
// same kind. Beside the names that event.Verification gives there are
// block.repeated, object.altered, object.removed, object.unreadable,
// manifest.removed and manifest.unsigned.
type Fault struct {
	Object string `json:"object,omitempty"` // without the prefix; where the first of them is
	event.Fault
}

// Report is what a verification found.
type Report struct {
	Objects int    `json:"objects"`
	Blocks  uint64 `json:"blocks"`
	Records uint64 `json:"records"`
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
	// More says that there were more faults than are listed.
	More bool `json:"more_faults,omitempty"`
}

// maxFaults bounds a report: whoever destroys an archive leaves more faults than
// anybody reads.
const maxFaults = 1000

// Verify goes through the whole archive: every object against its manifest here,
// every record against its block, every block against the one before and the key
// by event.Verification, as a running server's log is verified. An error is that
// the archive could not be read; what is wrong with it stands in the report.
func (r *Reader) Verify(ctx context.Context, want event.Verification) (Report, error) {
	v := &verification{reader: r, key: want.Key, report: Report{Faults: []Fault{}}}
	if v.key != nil {
		v.report.Key = event.KeyID(v.key)
	}
	chain, err := want.Run(ctx, v)
	if err != nil {
		return v.report, err
	}
	rep := &v.report
	rep.Blocks, rep.Records, rep.More = chain.Blocks, chain.Records, rep.More || chain.More
	rep.First, rep.Last, rep.To = chain.First.Number, chain.Newest.Number, chain.Sealed
	rep.Checkpoint = chain.Newest.String()
	for _, f := range chain.Faults {
		v.place(f)
	}
	slices.SortStableFunc(v.placed, func(a, b placed) int { return a.at - b.at })
	for _, p := range v.placed[:min(len(v.placed), maxFaults)] {
		rep.Faults = append(rep.Faults, p.Fault)
	}
	rep.More = rep.More || len(v.placed) > maxFaults
	return *rep, nil
}

// verification is an archive as event.Verification reads it. What is wrong with
// objects and manifests it notes itself, and goes on.
type verification struct {
	reader  *Reader
	key     ed25519.PublicKey
	anchor  *event.Anchor // the one that reaches furthest
	objects []Object
	spans   []span // what was read, in order
	last    uint64 // number of the newest block that was handed over
	placed  []placed
	report  Report
}

// span says which object the blocks up to last are in.
type span struct {
	last   uint64
	object int
}

// placed is a fault with its object's place in the archive.
type placed struct {
	at int
	Fault
}

var _ event.Source = (*verification)(nil)

// Head says where the archive may begin.
func (v *verification) Head(ctx context.Context) (event.Head, error) {
	anchors, err := v.reader.Anchors(ctx, v.key)
	if errors.Is(err, event.ErrBlockSignature) {
		v.note(-1, 0, event.AnchorForged, err.Error())
		anchors, err = nil, nil // none of them is believed
	}
	if err != nil {
		return event.Head{}, err
	}
	for _, a := range anchors {
		if v.anchor == nil || a.Number > v.anchor.Number {
			v.anchor = &a
		}
	}
	if v.objects, err = v.reader.Objects(ctx); err != nil {
		return event.Head{}, err
	}
	if len(v.objects) == 0 {
		return event.Head{}, errors.New("there is no archive here: no object is named like 2026/11/26/blocks-000000000001-000000000123.jsonl.gz; is the prefix right?")
	}
	return event.Head{Anchor: v.anchor, Whole: true}, nil
}

// Items reads one object after the other.
func (v *verification) Items(ctx context.Context) iter.Seq2[event.Item, error] {
	return func(yield func(event.Item, error) bool) {
		for i, o := range v.objects {
			blocks, err := v.object(ctx, i, o)
			if err != nil {
				yield(event.Item{}, err)
				return
			}
			for _, b := range blocks {
				if b.Number <= v.last {
					v.note(i, b.Number, event.BlockRepeated, fmt.Sprintf("block %d stands here after block %d: it was added, moved, or another server archived here too", b.Number, v.last))
					continue
				}
				if v.last == 0 {
					v.report.From = b.Time
				}
				v.last = b.Number
				v.spans = append(v.spans, span{b.Number, i})
				if !yield(event.Item{Parsed: &b.Block}, nil) {
					return
				}
				for _, e := range b.Entries {
					if !yield(event.Item{Record: &e}, nil) {
						return
					}
				}
			}
		}
	}
}

// note keeps a fault of an object; at is its place, -1 of the archive as a whole.
func (v *verification) note(at int, block uint64, name, text string) {
	if len(v.placed) == maxFaults {
		v.report.More = true
		return
	}
	f := Fault{Fault: event.Fault{Name: name, Count: 1, Block: block, ToBlock: block, Text: text}}
	if at >= 0 {
		f.Object = v.objects[at].Name
	}
	v.placed = append(v.placed, placed{at, f})
}

// place finds the object of a fault that the chain has: the one that its first
// block is in, or of a block that is nowhere, the one behind the gap.
func (v *verification) place(f event.Fault) {
	at, found := slices.BinarySearchFunc(v.spans, f.Block, func(s span, block uint64) int { return cmp.Compare(s.last, block) })
	p := placed{len(v.objects), Fault{Fault: f}}
	if found || at < len(v.spans) {
		p.at = v.spans[at].object
		p.Object = v.objects[p.at].Name
	}
	v.placed = append(v.placed, p)
}

// object reads one object and compares it with its manifest.
func (v *verification) object(ctx context.Context, at int, o Object) ([]Sealed, error) {
	v.report.Objects++
	if !o.Signed { // a server that archives meanwhile may have written it since the listing
		_, err := v.reader.src.Get(ctx, v.reader.prefix+manifestOf(o.Name))
		o.Signed = err == nil
	}
	if !o.Signed {
		v.note(at, 0, "manifest.removed", "no manifest stands beside it: it was removed, or the writer died in between and has not been back")
	}
	blocks, m, err := v.reader.Read(ctx, o, v.key)
	switch {
	case err == nil:
	case missing(err):
		if v.anchor != nil && v.anchor.Number >= o.Last { // the bucket's own rules removed half of the pair
			v.report.Objects--
			return nil, nil
		}
		v.note(at, 0, "object.removed", "its manifest is there and it is not: it was removed")
		return nil, nil
	case ctx.Err() != nil:
		return nil, err
	case errors.Is(err, errManifest):
		v.note(at, 0, "manifest.unsigned", err.Error())
	case errors.Is(err, ErrObject):
		v.note(at, 0, "object.altered", err.Error())
	case len(blocks) == 0 && transport(err):
		return nil, err
	default:
		v.note(at, 0, "object.unreadable", err.Error())
	}
	if o.Signed && m.Version == manifestVersion && len(blocks) > 0 && (m.Last.Hash != blocks[len(blocks)-1].Hash || m.First.Hash != blocks[0].Hash || m.Blocks != len(blocks)) {
		v.note(at, 0, "object.altered", "its blocks are not those of its manifest")
	}
	return blocks, nil
}

// transport reports whether an error says nothing about the archive.
func transport(err error) bool {
	var p interface{ Permanent() bool }
	return errors.As(err, &p)
}
