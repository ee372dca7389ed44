package event

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
)

// A bundle is a log with its chain as lines of JSON (NDJSON): what GET
// /api/v1/audit/bundle streams, and what can be kept in a file and verified
// anywhere. The first line is the head; the last says how many lines there
// were, so that one that was cut off is noticed.
type bundleLine struct {
	Head   *Head        `json:"head,omitempty"`
	Block  *bundleEntry `json:"block,omitempty"`
	Record *bundleEntry `json:"record,omitempty"`
	End    *bundleEnd   `json:"end,omitempty"`
}

// bundleEntry is an entry byte for byte: in base64, since JSON within JSON would
// not come back as it was.
type bundleEntry struct {
	Position uint64 `json:"pos"`
	Raw      []byte `json:"raw"`
}

type bundleEnd struct {
	Lines uint64 `json:"lines"`
}

// WriteBundle writes what a source has. still, unless nil, is asked every few
// thousand lines whether to go on.
func WriteBundle(ctx context.Context, w io.Writer, src Source, still func() error) error {
	out := bufio.NewWriterSize(w, 64<<10)
	enc := json.NewEncoder(out)
	head, err := src.Head(ctx)
	if err != nil {
		return err
	}
	if err := enc.Encode(bundleLine{Head: &head}); err != nil {
		return err
	}
	lines := uint64(1)
	for item, err := range src.Items(ctx) {
		if err != nil {
			return err
		}
		var line bundleLine
		if b := item.Block; b != nil {
			line.Block = &bundleEntry{b.Position, b.Raw}
		} else if r := item.Record; r != nil {
			line.Record = &bundleEntry{r.Position, r.Raw}
		} else if item.Parsed != nil {
			raw, err := json.Marshal(item.Parsed)
			if err != nil {
				return fmt.Errorf("block %d: %w", item.Parsed.Number, err)
			}
			line.Block = &bundleEntry{Raw: raw}
		}
		if err := enc.Encode(line); err != nil {
			return err
		}
		if lines++; lines%4096 == 0 && still != nil {
			if err := still(); err != nil {
				return err
			}
		}
	}
	if err := enc.Encode(bundleLine{End: &bundleEnd{Lines: lines}}); err != nil {
		return err
	}
	return out.Flush()
}

// maxBundleLine bounds a line, in bytes: a block of maxRecords is below 200 KiB,
// and a record is of bounded texts.
const maxBundleLine = 4 << 20

// errNoBundle means that what is read is something else.
var errNoBundle = errors.New("this is no audit bundle: its lines are JSON with head, block, record or end, as `gatehouse audit verify --save` writes them")

// Bundle is the Source that a bundle is. It is read once.
type Bundle struct {
	in   *bufio.Scanner
	head Head
}

// ReadBundle begins to read a bundle.
func ReadBundle(r io.Reader) (*Bundle, error) {
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 0, 64<<10), maxBundleLine)
	b := &Bundle{in: in}
	line, err := b.line()
	if err != nil {
		return nil, err
	}
	if line.Head == nil {
		return nil, errNoBundle
	}
	b.head = *line.Head
	return b, nil
}

func (b *Bundle) line() (bundleLine, error) {
	if !b.in.Scan() {
		if err := b.in.Err(); err != nil {
			return bundleLine{}, fmt.Errorf("read the audit bundle: %w", err)
		}
		return bundleLine{}, fmt.Errorf("read the audit bundle: it was cut off; fetch it again: %w", io.ErrUnexpectedEOF)
	}
	var line bundleLine
	if err := json.Unmarshal(b.in.Bytes(), &line); err != nil {
		return bundleLine{}, errNoBundle
	}
	return line, nil
}

// Head implements Source.
func (b *Bundle) Head(context.Context) (Head, error) { return b.head, nil }

// Items implements Source.
func (b *Bundle) Items(ctx context.Context) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for lines := uint64(1); ; lines++ {
			line, err := b.line()
			if err == nil {
				err = ctx.Err()
			}
			var item Item
			switch {
			case err != nil:
			case line.End != nil && line.End.Lines == lines:
				return
			case line.End != nil:
				err = fmt.Errorf("read the audit bundle: it has %d lines and says %d: some were left out", lines, line.End.Lines)
			case line.Block != nil:
				item.Block = &Entry{Position: line.Block.Position, Raw: line.Block.Raw}
			case line.Record != nil:
				item.Record = &Entry{Position: line.Record.Position, Raw: line.Record.Raw}
			default:
				err = errNoBundle
			}
			if !yield(item, err) || err != nil {
				return
			}
		}
	}
}
