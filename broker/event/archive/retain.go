package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

const (
	// retainEvery is how often the bucket is looked through for what is too old.
	retainEvery = time.Hour
	// retainAtOnce bounds how many objects go at a time.
	retainAtOnce = 1000
)

// anchors are objects that say up to which block the archive's time is over:
// without one, a beginning that is gone is a fault.
const anchorPrefix = "anchors/"

func anchorName(number uint64) string {
	return fmt.Sprintf("%sanchor-%012d.json", anchorPrefix, number)
}

// retain removes objects whose retention is over, the oldest first, after an
// anchor that says so. A bucket that keeps what it has gets the anchor alone;
// its own rules may then remove what the anchor covers.
func (a *Archive) retain(ctx context.Context, s state) (state, error) {
	over, anchor, err := a.over(ctx, s)
	if err != nil || len(over) == 0 {
		return s, err
	}
	if err := a.anchor(ctx, anchor); err != nil {
		return s, err
	}
	refused := false
	for _, object := range over {
		for _, name := range []string{object, manifestOf(object)} {
			err := a.cfg.Bucket.Delete(ctx, a.cfg.Prefix+name)
			if refused = errors.Is(err, fs.ErrPermission); refused {
				break
			}
			if err != nil {
				return s, err
			}
		}
		if refused {
			a.cfg.Logger.Info("the bucket keeps what is older than the retention; its own rules may remove it", "bucket", a.cfg.Name, "object", object)
			break
		}
	}
	if !refused {
		if err := a.dropAnchors(ctx, anchor.Number); err != nil {
			return s, err
		}
	}
	next := s
	next.Retained = over[len(over)-1]
	return a.save(ctx, s, next)
}

// over lists the oldest objects whose last block is older than the retention,
// and makes the anchor that stands for them.
func (a *Archive) over(ctx context.Context, s state) (out []string, anchor event.Anchor, err error) {
	limit := a.cfg.Now().Add(-a.cfg.Retention)
	day := limit.UTC().Format("2006/01/02")
	after := ""
	if s.Retained != "" {
		after = a.cfg.Prefix + manifestOf(s.Retained)
	}
	for name, err := range a.cfg.Bucket.List(ctx, a.cfg.Prefix, after) {
		if err != nil {
			return nil, anchor, err
		}
		object := strings.TrimSuffix(strings.TrimPrefix(name, a.cfg.Prefix), manifestSuffix)
		began, _, last, ok := parseName(object)
		if !ok || !strings.HasSuffix(name, manifestSuffix) {
			continue
		}
		if began > day || last >= s.Block || len(out) == retainAtOnce {
			break
		}
		m, err := a.manifestThere(ctx, object)
		if errors.Is(err, fs.ErrNotExist) { // the bucket's own rules were first
			continue
		}
		if err != nil {
			return nil, anchor, err
		}
		if !m.Last.Time.Before(limit) {
			break
		}
		out = append(out, object)
		anchor = event.Anchor{Number: m.Last.Number, Hash: m.Last.Hash, Last: m.LastRecord}
	}
	return out, anchor, nil
}

// anchor signs and writes an anchor; one for that block may be there already.
func (a *Archive) anchor(ctx context.Context, anchor event.Anchor) error {
	anchor.Time = a.cfg.Now().UTC()
	a.cfg.Key.SignAnchor(&anchor)
	js, err := encode(anchor)
	if err != nil {
		return err
	}
	if err := a.cfg.Bucket.Put(ctx, a.cfg.Prefix+anchorName(anchor.Number), js, time.Time{}); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// dropAnchors removes anchors that a newer one makes needless.
func (a *Archive) dropAnchors(ctx context.Context, newest uint64) error {
	for name, err := range a.cfg.Bucket.List(ctx, a.cfg.Prefix+anchorPrefix, "") {
		if err != nil {
			return err
		}
		if strings.TrimPrefix(name, a.cfg.Prefix) >= anchorName(newest) {
			return nil
		}
		if err := a.cfg.Bucket.Delete(ctx, name); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}
