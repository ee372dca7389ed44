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

const maxSamples = 256

// judge compares the records that followed a block with what it vouches for.
// Both are in order of position.
func (w *walk) judge() {
	got := w.got
	w.got = nil
	number := w.previous.Number
	switch {
	case !w.judged && w.records == nil: // no block, or none that can be read
		w.unvouched(got)
		return
	case !w.judged: // what an altered block says of its records is worth nothing
		w.report.Records += uint64(len(got))
		w.gap, w.records = true, nil // some may come with the next block
		return
	}
	i := 0
	for _, r := range w.records {
		if w.firstWanted == 0 && (w.anchor == nil || r.Position > w.anchor.Last) {
			w.firstWanted = r.Position
		}
		for i < len(got) && got[i].Position < r.Position {
			w.added(number, got[i])
			i++
		}
		switch {
		case i == len(got) || got[i].Position > r.Position:
			if w.anchor != nil && r.Position <= w.anchor.Last {
				continue // removed by retention; the block is next
			}
			w.want(number, r)
			w.fault(Fault{Name: RecordRemoved, Block: number, Position: r.Position, Text: "it was sealed, and is not in the log any more"})
		default:
			w.report.Records++
			if HashRecord(r.Position, got[i].Raw) != r.Hash {
				w.want(number, r)
				w.sample(number, got[i])
				w.fault(Fault{Name: RecordAltered, Block: number, Position: r.Position, Text: "its content is not the one that was sealed"})
			} else {
				w.sound = true
			}
			i++
		}
	}
	w.gap, w.judged, w.records = false, false, nil
	w.unvouched(got[i:])
}

// added is a record that stands among the sealed ones. Where a block before is
// missing or unreadable it may be one of that block's: the fault is the block's.
func (w *walk) added(number uint64, e Entry) {
	w.report.Records++
	if w.gap || w.anchor != nil && e.Position <= w.anchor.Last {
		return
	}
	w.sample(number, e)
	w.fault(Fault{Name: RecordAdded, Block: number, Position: e.Position, Text: "it stands among records that were sealed, and was not sealed with them"})
}

// unvouched are the records behind the last one of a block.
func (w *walk) unvouched(got []Entry) {
	for _, e := range got {
		if e.Position <= w.last {
			w.added(w.previous.Number, e)
			continue
		}
		w.report.Records++
		w.report.Unsealed++
	}
}

func (w *walk) want(block uint64, r Record) {
	if len(w.moved.want) < maxSamples {
		w.moved.want = append(w.moved.want, misplaced{block: block, position: r.Position, hash: r.Hash})
	}
}

func (w *walk) sample(block uint64, e Entry) {
	if len(w.moved.have) < maxSamples {
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
