package event

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"
)

// Source gives a verifier a log with its chain: a running server's, an archive's,
// or a file's. It only hands over what it has; the judging is Verification's.
type Source interface {
	// Head says what there should be.
	Head(ctx context.Context) (Head, error)
	// Items yields the blocks as they stand, oldest first, each followed by the
	// records up to its last position, and at the end the records that no block
	// has yet. It stops at the first error.
	Items(ctx context.Context) iter.Seq2[Item, error]
}

// Item is a block or a record, as it is stored.
type Item struct {
	Block, Record *Entry
	// Parsed is a block that the source had to parse anyway; Block is nil then.
	Parsed *Block
}

// Head is what a source says of itself. Nothing in it is believed for being said:
// it can only make more faults visible.
type Head struct {
	// Key is the public key, as AuditKey.PublicPEM writes it, that the source says
	// its blocks are signed with.
	Key string `json:"key,omitempty"`
	// Anchor says what was removed because its time was over.
	Anchor *Anchor `json:"anchor,omitempty"`
	// Newest is the newest block that was sealed, by the sealer's own account.
	Newest Checkpoint `json:"newest,omitzero"`
	// Live is true of a server that runs: it seals at least every 10 minutes.
	Live bool `json:"live,omitempty"`
	// Whole is true of an archive: what follows a block is that block's records
	// and no others, all of them, whatever an anchor says.
	Whole bool `json:"whole,omitempty"`
}

// Checkpoint names a block that somebody has seen.
type Checkpoint struct {
	Number uint64 `json:"number"`
	Hash   Hash   `json:"hash"`
}

// String returns the form that ParseCheckpoint reads.
func (c Checkpoint) String() string { return fmt.Sprintf("%d:%s", c.Number, c.Hash) }

// ParseCheckpoint reads NUMBER:HASH.
func ParseCheckpoint(text string) (Checkpoint, error) {
	var c Checkpoint
	number, hash, ok := strings.Cut(text, ":")
	n, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil || n == 0 || c.Hash.UnmarshalText([]byte(hash)) != nil {
		return Checkpoint{}, fmt.Errorf("%q is no checkpoint: NUMBER:HASH is, as an earlier `gatehouse audit verify` printed it", clean(text))
	}
	c.Number = n
	return c, nil
}

// The faults there are.
const (
	RecordAltered    = "record.altered"    // its content is another than the one that was sealed
	RecordRemoved    = "record.removed"    // it was sealed and is gone
	RecordAdded      = "record.added"      // it stands among the sealed ones and is none of them
	RecordReordered  = "record.reordered"  // it was sealed at another position
	TruncatedStart   = "truncated.start"   // the beginning is gone, and no signed anchor says why
	TruncatedEnd     = "truncated.end"     // the end is gone
	BlockMissing     = "block.missing"     // a number is left out
	BlockRepeated    = "block.repeated"    // a number comes again
	BlockAltered     = "block.altered"     // its hash is not that of its content
	BlockUnlinked    = "block.unlinked"    // it does not name the block before it
	BlockUnsigned    = "block.unsigned"    // re-hashed or made by somebody without the key
	BlockForeignKey  = "block.key_unknown" // signed by a key that is not the one given
	BlockUnreadable  = "block.unreadable"  // it is no block
	AnchorForged     = "anchor.forged"     // the audit key did not sign what was removed
	OldCopy          = "old_copy"          // the newest block is too old for a log that is alive
	CheckpointGone   = "checkpoint.gone"   // a block that was seen is not there any more: an old copy
	CheckpointBroken = "checkpoint.broken" // another block has its number: everything was rewritten
)

// Fault is something wrong, or several in a row of the same kind.
type Fault struct {
	Name  string `json:"fault"`
	Count int    `json:"count"`
	// Block and ToBlock are the numbers of the first and last block concerned; 0
	// where none is.
	Block   uint64 `json:"block,omitempty"`
	ToBlock uint64 `json:"to_block,omitempty"`
	// Position and ToPosition are those of the records concerned.
	Position   uint64 `json:"position,omitempty"`
	ToPosition uint64 `json:"to_position,omitempty"`
	Text       string `json:"text"`
}

// maxFaults bounds a report: a log that was rewritten is wrong everywhere.
const maxFaults = 1000

// Report is what a verification found.
type Report struct {
	Faults []Fault `json:"faults"`
	// More says that there were more faults than are listed.
	More    bool   `json:"more_faults,omitempty"`
	Blocks  uint64 `json:"blocks"`
	Records uint64 `json:"records"`
	// First and Newest are the blocks that the log begins and ends with.
	First  Checkpoint `json:"first,omitzero"`
	Newest Checkpoint `json:"newest,omitzero"`
	// Sealed is when the newest block was.
	Sealed time.Time `json:"sealed,omitzero"`
	// Unsealed records are those after the newest block: nothing vouches for them
	// yet but the store.
	Unsealed uint64 `json:"unsealed"`
	// Removed is the number of the last block that the retention removed.
	Removed uint64 `json:"removed_by_retention,omitempty"`
}

// aliveWithin is how old the newest block of a running server may be: it seals
// one every ten minutes even when nothing happens.
const aliveWithin = 15 * time.Minute

// Verification walks a log with its chain.
type Verification struct {
	// Key is the audit key's public half, which must have come from outside: one
	// that was found beside the log proves nothing. Nil checks hashes alone.
	Key ed25519.PublicKey
	// Checkpoint, unless zero, is a block that was seen earlier.
	Checkpoint Checkpoint
	Now        time.Time
}

// Run reads the source to its end and reports what is wrong. An error is one of
// reading: then the report is of what was read until then.
func (v Verification) Run(ctx context.Context, src Source) (Report, error) {
	head, err := src.Head(ctx)
	if err != nil {
		return Report{}, err
	}
	w := walk{v: v, head: head, report: Report{Faults: []Fault{}}}
	if a := head.Anchor; a != nil {
		w.anchored(a)
	}
	for item, err := range src.Items(ctx) {
		if err != nil {
			return w.report, err
		}
		switch {
		case item.Parsed != nil:
			w.judge()
			w.block(*item.Parsed, item.Parsed.plausible())
		case item.Block != nil:
			w.judge()
			b, err := ParseBlock(item.Block.Raw)
			w.block(b, err)
		case item.Record != nil:
			w.record(*item.Record)
		}
	}
	w.judge()
	w.end()
	return w.report, nil
}

// walk is a verification under way. What it remembers is one block with its
// records, and samples of what did not agree.
type walk struct {
	v      Verification
	head   Head
	anchor *Anchor // signed, or believed for want of a key
	report Report

	previous Block    // the block before, without its records
	records  []Record // of the present block
	looked   int      // how many of them were looked for
	judged   bool     // the present block's records can be compared
	gap      bool     // a block before the present one is not there
	// unreadable is how many could not be read since the last block.
	unreadable uint64
	last       uint64 // position of the last record that a block had, or an anchor
	sealed     uint64 // the same of the blocks that there are
	// firstWanted is the position of the first record that should be there.
	firstWanted uint64
	moved       samples
	sound       bool // a record was as it should be since the last fault
	checked     bool // the checkpoint was met
}

func (w *walk) anchored(a *Anchor) {
	if w.v.Key != nil && a.Check(w.v.Key) != nil {
		w.fault(Fault{Name: AnchorForged, Block: a.Number, Text: "what was removed by retention is not signed by the audit key"})
		return
	}
	w.anchor, w.report.Removed = a, a.Number
	w.previous, w.last = Block{Number: a.Number, Hash: a.Hash}, a.Last
	w.meet(a.Number, a.Hash)
}

// block takes the next block; err is why it cannot be read.
func (w *walk) block(b Block, err error) {
	w.records, w.looked, w.judged = nil, 0, false
	if err != nil {
		w.gap, w.unreadable = true, w.unreadable+1
		w.fault(Fault{Name: BlockUnreadable, Block: w.previous.Number + 1, Text: fmt.Sprintf("what stands in the chain after block %d is no block", w.previous.Number)})
		return
	}
	first := w.report.Blocks == 0
	if first && w.anchor != nil && b.Number <= w.anchor.Number { // signed to be removed, and still there
		w.previous = Block{Number: b.Number - 1, Hash: b.Previous}
	}
	if !first && b.Number == w.previous.Number && b.Hash == w.previous.Hash { // its writer died and wrote it again
		return
	}
	if b.Number <= w.previous.Number {
		w.fault(Fault{Name: BlockRepeated, Block: b.Number, Text: "a block with this number, or a later one, came before"})
		return
	}
	w.gap = w.gap || b.Number > w.previous.Number+1
	for _, fault := range w.check(b, first) {
		if fault.Block == 0 {
			fault.Block = b.Number
		}
		w.fault(fault)
	}
	if w.report.Blocks > 0 && len(b.Records) > 0 && b.Records[0].Position <= w.sealed {
		w.fault(Fault{Name: BlockAltered, Block: b.Number, Text: "positions of its records are those of an earlier block"})
	}
	w.unreadable, w.sealed = 0, max(w.sealed, b.Last())
	w.judged = b.sum() == b.Hash
	w.records, w.last = b.Records, max(w.last, b.Last())
	w.meet(b.Number, b.Hash)
	w.report.Blocks++
	w.report.Newest, w.report.Sealed = Checkpoint{b.Number, b.Hash}, b.Time
	if first {
		w.report.First = w.report.Newest
	}
	b.Records = nil
	w.previous = b
}

// check judges a block by itself and by the one before.
func (w *walk) check(b Block, first bool) (faults []Fault) {
	before := w.previous
	if b.Number > before.Number+1 {
		missing := b.Number - before.Number - 1
		f := Fault{Name: BlockMissing, Block: before.Number + 1, ToBlock: b.Number - 1, Count: int(min(missing, 1<<31)), Text: "there are blocks left out"} //nolint:gosec // bounded
		if first {
			f.Name, f.Text = TruncatedStart, "the log does not begin with its first block, and no anchor signed by the audit key says that what came before was removed by retention"
		}
		if missing > w.unreadable {
			faults = append(faults, f)
		}
		before = Block{Number: b.Number - 1, Hash: b.Previous} // the rest of it is judged all the same
	}
	key := w.v.Key
	if key != nil && b.Key != KeyID(key) {
		faults = append(faults, Fault{Name: BlockForeignKey, Text: fmt.Sprintf("it is signed by the key %q, not by %s", clean(b.Key), KeyID(key))})
		key = nil
	}
	if a := w.anchor; a != nil && b.Number == a.Number && b.Hash != a.Hash {
		faults = append(faults, Fault{Name: BlockUnlinked, Text: "it is not the block that the anchor names"})
	}
	err := b.Check(before, key)
	for sentinel, name := range map[error]string{ErrBlockHash: BlockAltered, ErrBlockSignature: BlockUnsigned, ErrBlockOrder: BlockUnlinked, ErrBlockRecords: BlockAltered} {
		if errors.Is(err, sentinel) {
			faults = append(faults, Fault{Name: name, Text: sentinel.Error()})
		}
	}
	if errors.Is(err, ErrBlockSignature) && b.Previous != before.Hash {
		faults = append(faults, Fault{Name: BlockUnlinked, Text: ErrBlockOrder.Error()})
	}
	return faults
}

// meet compares a block with the checkpoint.
func (w *walk) meet(number uint64, hash Hash) {
	c := w.v.Checkpoint
	if c.Number == 0 || number != c.Number || w.checked {
		return
	}
	w.checked = true
	if hash != c.Hash {
		w.fault(Fault{Name: CheckpointBroken, Block: number, Text: "this block was another when the checkpoint was taken: the log was rewritten from here or earlier"})
	}
}

// end judges what only the end shows.
func (w *walk) end() {
	newest := w.previous.Number
	if h := w.head.Newest; h.Number > newest {
		w.fault(Fault{Name: TruncatedEnd, Block: newest + 1, ToBlock: h.Number, Text: "blocks that were sealed are not in the log"})
	} else if h.Number > 0 && h.Number == newest && h.Hash != w.previous.Hash {
		w.fault(Fault{Name: TruncatedEnd, Block: newest, Text: "the newest block is not the one that was sealed last"})
	}
	if w.head.Live && (w.report.Blocks == 0 || w.v.Now.Sub(w.report.Sealed) > aliveWithin) {
		text := "there is no block, although the server runs"
		if w.report.Blocks > 0 {
			text = fmt.Sprintf("the newest block is of %s, although the server runs and seals one every ten minutes: an old copy was put back, or the end was cut", w.report.Sealed.Format(time.RFC3339))
		}
		w.fault(Fault{Name: OldCopy, Block: newest, Text: text})
	}
	if c := w.v.Checkpoint; c.Number > newest {
		w.fault(Fault{Name: CheckpointGone, Block: c.Number, Text: fmt.Sprintf("block %d was there when the checkpoint was taken, and the log ends with block %d: an old copy was put back, or the end was cut", c.Number, newest)})
	} else if c.Number > 0 && !w.checked && (w.anchor == nil || c.Number > w.anchor.Number) {
		w.fault(Fault{Name: CheckpointGone, Block: c.Number, Text: "the block of the checkpoint is not in the log"})
	}
	w.moves()
	w.ends()
}

// fault notes a fault; one that goes on from the last of its kind extends it.
func (w *walk) fault(f Fault) {
	f.Count = max(f.Count, 1)
	f.ToBlock, f.ToPosition = max(f.ToBlock, f.Block), max(f.ToPosition, f.Position)
	defer func() { w.sound = false }()
	if n := len(w.report.Faults); n > 0 {
		l := &w.report.Faults[n-1]
		if l.Name == f.Name && l.Text == f.Text && (f.Position == 0 && f.Block == l.ToBlock+1 || f.Position > l.ToPosition && f.Block <= l.ToBlock+1 && !w.sound) {
			l.Count, l.ToBlock, l.ToPosition = l.Count+f.Count, f.ToBlock, f.ToPosition
			return
		}
	}
	if len(w.report.Faults) == maxFaults {
		w.report.More = true
		return
	}
	w.report.Faults = append(w.report.Faults, f)
}
