package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/event"
)

// adopt compares what we think is in the bucket with what is. Objects that stand
// there beyond our position are ours if the audit key signed them and the log
// has the same blocks: the state was lost, or put back, and we go on after them.
func (a *Archive) adopt(ctx context.Context, s state) (state, error) {
	names, err := a.beyond(ctx, s)
	if err != nil {
		return s, err
	}
	for _, name := range names {
		if s.Pending != nil && name == s.Pending.Object {
			continue // the next try finds it there
		}
		m, err := a.manifestThere(ctx, name)
		if errors.Is(err, fs.ErrNotExist) { // its maker died in between
			if s, err = a.resume(ctx, s, name); err != nil {
				return s, err
			}
			continue
		}
		if err != nil {
			return s, err
		}
		if s, err = a.take(ctx, s, m); err != nil {
			return s, err
		}
	}
	return s, nil
}

// beyond lists the objects that stand after ours, without the prefix.
func (a *Archive) beyond(ctx context.Context, s state) ([]string, error) {
	after := ""
	if s.Object != "" {
		after = a.cfg.Prefix + manifestOf(s.Object)
	}
	var out []string
	for name, err := range a.cfg.Bucket.List(ctx, a.cfg.Prefix, after) {
		if err != nil {
			return nil, err
		}
		name = strings.TrimPrefix(name, a.cfg.Prefix)
		if _, _, _, ok := parseName(strings.TrimSuffix(name, manifestSuffix)); !ok {
			continue
		}
		if name = strings.TrimSuffix(name, manifestSuffix); !slices.Contains(out[max(0, len(out)-1):], name) {
			out = append(out, name)
		}
	}
	return out, nil
}

func (a *Archive) manifestThere(ctx context.Context, object string) (Manifest, error) {
	body, err := a.cfg.Bucket.Get(ctx, a.cfg.Prefix+manifestOf(object))
	if err != nil {
		return Manifest{}, err
	}
	m, err := parseManifest(body, a.cfg.Key.Public)
	if err != nil || m.Object != object {
		return m, fmt.Errorf("archive %s: %s: %w", a.cfg.Name, object, ErrForeign)
	}
	return m, nil
}

// take goes on after an object that is complete.
func (a *Archive) take(ctx context.Context, s state, m Manifest) (state, error) {
	if s.Block > 0 && (m.First.Number != s.Block+1 || m.First.Previous != s.Hash) {
		return s, fmt.Errorf("archive %s: %s begins with block %d, and block %d is the last that we know of: %w", a.cfg.Name, m.Object, m.First.Number, s.Block, ErrForeign)
	}
	ours, err := a.inLog(ctx, s.At, m.Last)
	if err != nil {
		return s, err
	}
	if !ours {
		return s, fmt.Errorf("archive %s: the log does not have block %d of %s: %w", a.cfg.Name, m.Last.Number, m.Object, ErrForeign)
	}
	next := state{Block: m.Last.Number, Hash: m.Last.Hash, Last: m.LastRecord, At: s.At, Object: m.Object, Retained: s.Retained}
	a.cfg.Logger.Info("the bucket is ahead of what was known; going on after it", "bucket", a.cfg.Name, "object", m.Object)
	return a.save(ctx, s, next)
}

// resume makes an object pending that has no manifest yet.
func (a *Archive) resume(ctx context.Context, s state, object string) (state, error) {
	_, first, last, _ := parseName(object)
	if s.Block > 0 && first != s.Block+1 || s.Pending != nil && s.Pending.First != first {
		return s, fmt.Errorf("archive %s: %s, after block %d: %w", a.cfg.Name, object, s.Block, ErrForeign)
	}
	next := s
	next.Pending = &pending{First: first, Last: last, Object: object}
	s, err := a.save(ctx, s, next)
	if err != nil {
		return s, err
	}
	return a.write(ctx, s)
}

// inLog reports whether the log has the block, looking from a position on. A
// log that begins after it has removed it, as the retention says.
func (a *Archive) inLog(ctx context.Context, from uint64, want End) (bool, error) {
	for first := true; ; first = false {
		page, next, err := event.ReadBlocks(ctx, a.cfg.Log, from, 200)
		if err != nil {
			return false, fmt.Errorf("archive %s: %w", a.cfg.Name, err)
		}
		for i, b := range page {
			switch {
			case b.Number == want.Number:
				return b.Hash == want.Hash, nil
			case b.Number > want.Number:
				return first && i == 0 && b.Number > want.Number, nil
			}
		}
		if len(page) == 0 {
			return false, nil
		}
		from = next
	}
}
