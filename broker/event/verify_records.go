package event

// samples are records that did not agree, for telling apart what was altered and
// what was moved. They are few: of a log that is wrong everywhere it does not
// matter.
type samples struct {
	want []misplaced // hashes that no record at their place has
	have []misplaced // records that are none of those sealed at their place
}

type misplaced struct {
	block    uint64
	position uint64
	hash     Hash
	raw      []byte
}

const (
	maxSamples = 256
	// maxSample bounds one, in bytes: what an Event takes is far below.
	maxSample = 64 << 10
)

// record takes the next record, and compares it with what the present block
// vouches for. Both are in order of position. Nothing is held: a source may hand
// over records without end.
func (w *walk) record(e Entry) {
	switch {
	case !w.judged && w.records == nil: // no block, or none that can be read
		w.unvouched(e)
		return
	case !w.judged: // what an altered block says of its records is worth nothing
		w.report.Records++
		return
	}
	for w.looked < len(w.records) && w.records[w.looked].Position < e.Position {
		w.absent(w.records[w.looked])
	}
	switch {
	case w.looked == len(w.records):
		w.gap = false
		w.unvouched(e)
		return
	case w.records[w.looked].Position > e.Position:
		w.added(e)
		return
	}
	r := w.records[w.looked]
	w.wanted(r)
	w.report.Records++
	if HashRecord(r.Position, e.Raw) != r.Hash {
		w.want(w.previous.Number, r)
		w.sample(w.previous.Number, e)
		w.fault(Fault{Name: RecordAltered, Block: w.previous.Number, Position: r.Position, Text: "its content is not the one that was sealed"})
	} else {
		w.sound = true
	}
}

// judge ends the present block: what it vouches for and did not come is gone.
func (w *walk) judge() {
	switch {
	case !w.judged && w.records == nil:
		return
	case !w.judged:
		w.gap = !w.head.Whole // some of its records may come with the next block
	default:
		for w.looked < len(w.records) {
			w.absent(w.records[w.looked])
		}
		w.gap = false
	}
	w.judged, w.records = false, nil
}

// wanted notes a record of the present block as looked for.
func (w *walk) wanted(r Record) {
	w.looked++
	if w.firstWanted == 0 && (w.anchor == nil || r.Position > w.anchor.Last) {
		w.firstWanted = r.Position
	}
}

// absent is a record that a block vouches for and that is not there.
func (w *walk) absent(r Record) {
	w.wanted(r)
	if w.anchor != nil && r.Position <= w.anchor.Last && !w.head.Whole {
		return // removed by retention; the block is next
	}
	w.want(w.previous.Number, r)
	w.fault(Fault{Name: RecordRemoved, Block: w.previous.Number, Position: r.Position, Text: "it was sealed, and is not in the log any more"})
}

// added is a record that stands among the sealed ones. Where a block before is
// missing or unreadable it may be one of that block's: the fault is the block's.
func (w *walk) added(e Entry) {
	number := w.previous.Number
	w.report.Records++
	if !w.head.Whole && (w.gap || w.anchor != nil && e.Position <= w.anchor.Last) {
		return
	}
	w.sample(number, e)
	w.fault(Fault{Name: RecordAdded, Block: number, Position: e.Position, Text: "it stands among records that were sealed, and was not sealed with them"})
}

// unvouched is a record behind the last one of a block.
func (w *walk) unvouched(e Entry) {
	if e.Position <= w.last || w.head.Whole {
		w.added(e)
		return
	}
	w.report.Records++
	w.report.Unsealed++
}

func (w *walk) want(block uint64, r Record) {
	if len(w.moved.want) < maxSamples {
		w.moved.want = append(w.moved.want, misplaced{block: block, position: r.Position, hash: r.Hash})
	}
}

func (w *walk) sample(block uint64, e Entry) {
	if len(w.moved.have) < maxSamples && len(e.Raw) <= maxSample {
		w.moved.have = append(w.moved.have, misplaced{block: block, position: e.Position, raw: e.Raw})
	}
}

// moves finds records that were sealed at another position: somebody swapped
// them, or wrote one again elsewhere.
func (w *walk) moves() {
	for _, have := range w.moved.have {
		for _, want := range w.moved.want {
			w.sound = true // each is said by itself
			if want.position != have.position && HashRecord(want.position, have.raw) == want.hash {
				w.fault(Fault{Name: RecordReordered, Block: have.block, Position: have.position, Text: "it was sealed at another position: records were swapped or moved"})
			}
		}
	}
}

// ends renames what is gone from an end of the log: not one record was removed
// there, but everything on that side.
func (w *walk) ends() {
	if w.head.Whole { // there ends are cut by the block
		return
	}
	for i := range w.report.Faults {
		f := &w.report.Faults[i]
		if f.Name != RecordRemoved {
			continue
		}
		switch {
		case f.Position == w.firstWanted && f.ToPosition == w.last:
			f.Name, f.Text = TruncatedEnd, "all records that were sealed are gone"
		case f.Position == w.firstWanted:
			f.Name, f.Text = TruncatedStart, "the first records of the log are gone, and no anchor signed by the audit key says that retention removed them"
		case f.ToPosition == w.last:
			f.Name, f.Text = TruncatedEnd, "the last records that were sealed are gone"
		}
	}
}
