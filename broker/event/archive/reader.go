package archive

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// Reader reads an archive. It needs nothing of the server that wrote it.
type Reader struct {
	src    Source
	prefix string
	key    ed25519.PublicKey // of Events; nil believes everything
}

// NewReader returns a Reader of what is under a prefix, as audit.prefix said
// when it was written.
func NewReader(src Source, prefix string) *Reader { return &Reader{src: src, prefix: prefix} }

// SignedBy returns a Reader whose Events are only those of objects that the key
// signed.
func (r *Reader) SignedBy(key ed25519.PublicKey) *Reader {
	return &Reader{src: r.src, prefix: r.prefix, key: key}
}

// Object is one object of an archive.
type Object struct {
	Name        string // without the prefix
	First, Last uint64 // numbers of its blocks, as its name says
	// Signed reports that a manifest stands beside it.
	Signed bool
}

// maxNames bounds a listing: an archive that writes two objects every minute has
// so many after four years.
const maxNames = 4 << 20

// Objects lists the archive, in the order of the blocks.
func (r *Reader) Objects(ctx context.Context) ([]Object, error) {
	var out []Object
	manifests, names := map[string]bool{}, 0
	for name, err := range r.src.List(ctx, r.prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list the archive: %w", err)
		}
		if names++; names > maxNames {
			return nil, fmt.Errorf("list the archive: there are more than %d objects below its prefix, which no archive of ours has: is %q the prefix of something else?", maxNames, r.prefix)
		}
		name = strings.TrimPrefix(name, r.prefix)
		if object, is := strings.CutSuffix(name, manifestSuffix); is {
			manifests[object] = true
		} else if _, first, last, ok := parseName(name); ok {
			out = append(out, Object{Name: name, First: first, Last: last})
		}
	}
	for i := range out {
		out[i].Signed = manifests[out[i].Name]
		delete(manifests, out[i].Name)
	}
	// A manifest that stands alone tells of an object that is gone.
	for name := range manifests {
		if _, first, last, ok := parseName(name); ok {
			out = append(out, Object{Name: name, First: first, Last: last, Signed: true})
		}
	}
	slices.SortFunc(out, func(a, b Object) int {
		if a.First != b.First {
			return int(min(max(int64(a.First)-int64(b.First), -1), 1)) //nolint:gosec // numbers of blocks
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out, nil
}

// ErrObject means that an object does not hold what its manifest says.
var ErrObject = errors.New("the object is not what its manifest says: it was altered or replaced")

// Read returns an object's blocks with their records. With a key the manifest's
// signature and the object's sum are checked first; nil leaves the signature out.
func (r *Reader) Read(ctx context.Context, o Object, key ed25519.PublicKey) ([]Sealed, Manifest, error) {
	var m Manifest
	body, err := r.src.Get(ctx, r.prefix+o.Name)
	if err != nil {
		return nil, m, fmt.Errorf("%s: %w", o.Name, err)
	}
	var faults []error
	if o.Signed {
		js, err := r.src.Get(ctx, r.prefix+manifestOf(o.Name))
		if err != nil {
			return nil, m, fmt.Errorf("%s: %w", manifestOf(o.Name), err)
		}
		switch m, err = parseManifest(js, key); {
		case err != nil:
			faults = append(faults, fmt.Errorf("%s: %w", manifestOf(o.Name), err))
		case m.Object != o.Name || m.SHA256 != sum(body) || m.Size != len(body):
			faults = append(faults, fmt.Errorf("%s: %w", o.Name, ErrObject))
		}
	}
	plain, err := unpack(body)
	if err != nil {
		return nil, m, errors.Join(append(faults, fmt.Errorf("%s: %w", o.Name, err))...)
	}
	blocks, err := parse(plain)
	if err != nil {
		faults = append(faults, fmt.Errorf("%s: %w", o.Name, err))
	}
	if len(blocks) == 0 || blocks[0].Number != o.First || blocks[len(blocks)-1].Number != o.Last {
		faults = append(faults, fmt.Errorf("%s: it does not hold the blocks that it is named after: %w", o.Name, ErrObject))
	}
	return blocks, m, errors.Join(faults...)
}

// Anchors returns what the archive says of its removed beginning, the newest
// last. With a key those that it did not sign are an error.
func (r *Reader) Anchors(ctx context.Context, key ed25519.PublicKey) ([]event.Anchor, error) {
	var out []event.Anchor
	for name, err := range r.src.List(ctx, r.prefix+anchorPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list the archive's anchors: %w", err)
		}
		body, err := r.src.Get(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		var a event.Anchor
		if err := json.Unmarshal(body, &a); err != nil {
			return nil, fmt.Errorf("%s: this is no anchor: %w", name, err)
		}
		if key != nil {
			if err := a.Check(key); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		out = append(out, a)
	}
	return out, nil
}

// Events yields the archived records with from ≤ time < to, oldest first, and
// stops at the first error. Objects of other days are not fetched.
func (r *Reader) Events(ctx context.Context, from, to time.Time) iter.Seq2[event.Entry, error] {
	return func(yield func(event.Entry, error) bool) {
		objects, err := r.Objects(ctx)
		if err != nil {
			yield(event.Entry{}, err)
			return
		}
		for i, o := range objects {
			// An object is named after the day of its first block, and may go on
			// into the next one's.
			if !to.IsZero() && dayOf(o.Name) > to.UTC().Format("2006/01/02") {
				return
			}
			if i+1 < len(objects) && dayOf(objects[i+1].Name) < from.UTC().Format("2006/01/02") {
				continue
			}
			blocks, _, err := r.Read(ctx, o, r.key)
			if r.key != nil && !o.Signed && err == nil {
				err = fmt.Errorf("%s: there is no manifest beside it", o.Name)
			}
			if err != nil {
				yield(event.Entry{}, err)
				return
			}
			for _, b := range blocks {
				for _, e := range b.Entries {
					if t := e.Event.Time; t.Before(from) || !to.IsZero() && !t.Before(to) {
						continue
					}
					if !yield(e, nil) {
						return
					}
				}
			}
		}
	}
}

func encode(v any) ([]byte, error) {
	js, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(js, '\n'), nil
}

// missing reports whether an error says that an object is not there.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
