package notify

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
)

const (
	// maxBatch is how many events one message sums up at most.
	maxBatch = 500
	// maxWaiting is how many events wait for a channel that takes nothing; of
	// more the oldest are given up, and counted (docs/security.md NO-4).
	maxWaiting = 5000
	// fewAtOnce is how many events are told one by one.
	fewAtOnce = 3
	// digestEvery is how often a flood is summed up; something critical does
	// not wait for it.
	digestEvery = time.Minute
	// quietFor is how long the same news about the same thing is counted
	// instead of told.
	quietFor = 10 * time.Minute
)

// choose returns the next message of a channel: an event by itself, or, when
// they come faster than the channel may be written to, all that waits. It is nil
// when there is nothing to tell now.
func (s *sender) choose(ctx context.Context, st progress, now time.Time) (*batch, error) {
	if s.ch.kind == "people" {
		return s.choosePerson(ctx, st, now)
	}
	waiting, err := s.n.queues.waiting(ctx, s.ch.id, maxBatch)
	if err != nil {
		return nil, err
	}
	var fresh []item
	for _, i := range waiting {
		switch {
		case i.Dead != "":
			b, err := s.again(ctx, i, now)
			if b != nil || err != nil {
				return b, err
			}
		case i.Position <= st.Done: // told before somebody died
			if err := s.n.queues.items.Delete(ctx, i.ID); err != nil {
				return nil, err
			}
		default:
			fresh = append(fresh, i)
		}
	}
	if !s.ch.pace.merge {
		if len(fresh) == 0 {
			return nil, nil
		}
		return one(fresh[0], now), nil
	}
	if fresh, err = s.count(ctx, fresh, now); err != nil {
		return nil, err
	}
	due, err := s.due(ctx, now)
	if err != nil || len(fresh)+len(due) == 0 {
		return nil, err
	}
	critical := slices.ContainsFunc(fresh, func(i item) bool { return i.Event.Severity == event.Critical })
	if st.Digest.Add(digestEvery).After(now) && !critical {
		return nil, nil
	}
	left, all := s.ch.pace.left(st.Sent, now), 0
	for _, w := range s.ch.pace.windows {
		all = max(all, w.N)
	}
	if len(fresh) > 0 && len(fresh) <= fewAtOnce && len(due) == 0 && (all == 1 || left > all/2) {
		return one(fresh[0], now), nil
	}
	b := &batch{ID: strings.ToLower(rand.Text()), Count: len(fresh), Quiet: due, First: now}
	for _, id := range due {
		b.Count += s.counts[id].Count
	}
	if len(fresh) == 1 && len(due) == 0 {
		return one(fresh[0], now), nil
	}
	if len(fresh) > 0 {
		b.To = fresh[len(fresh)-1].Position
	}
	return b, nil
}

// one is the message of an event by itself. It has the event's id, so that a
// webhook's receiver knows it again whatever happened on the way.
func one(i item, now time.Time) *batch {
	return &batch{ID: i.Event.ID, To: i.Position, Count: 1, First: now}
}

// again is the message of a dead letter that somebody wants to be tried again.
func (s *sender) again(ctx context.Context, i item, now time.Time) (*batch, error) {
	l, err := s.n.queues.letters.Get(ctx, i.Dead)
	if errors.Is(err, store.ErrNotFound) { // dropped meanwhile
		return nil, s.n.queues.items.Delete(ctx, i.ID)
	}
	if err != nil {
		return nil, err
	}
	_, id, _ := strings.Cut(l.ID, "-")
	return &batch{ID: id, Dead: l.ID, Count: max(len(l.Items), 1), First: now}, nil
}

// count takes out what repeats something that was told a short while ago.
func (s *sender) count(ctx context.Context, fresh []item, now time.Time) ([]item, error) {
	var rest []item
	for _, i := range fresh {
		id := repeatID(s.ch.id, i.Event)
		r, told := s.counts[id]
		if !told || !now.Before(r.Until) && r.Count == 0 {
			rest = append(rest, i)
			continue
		}
		if i.Position > r.From && i.Position > r.Last {
			r.Last, r.Event = i.Position, i.Event
			r.Count++
			if err := s.keep(ctx, r); err != nil {
				return nil, err
			}
		}
		if err := s.n.queues.items.Delete(ctx, i.ID); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// due returns the repeats whose time has come to be told, and forgets those that
// did not happen again.
func (s *sender) due(ctx context.Context, now time.Time) ([]string, error) {
	var due []string
	for _, id := range slices.Sorted(maps.Keys(s.counts)) {
		r := s.counts[id]
		switch {
		case now.Before(r.Until):
		case r.Count > 0:
			if len(due) < maxBatch {
				due = append(due, id)
			}
		default:
			if err := s.n.queues.repeats.Delete(ctx, id); err != nil {
				return nil, err
			}
			delete(s.counts, id)
		}
	}
	return due, nil
}

func (s *sender) keep(ctx context.Context, r repeats) error {
	if err := s.n.queues.repeats.Put(ctx, r.ID, r); err != nil {
		return err
	}
	s.counts[r.ID] = r
	return nil
}

// maxCounted bounds what is counted for a channel: of more, every event is told.
const maxCounted = 1000

// begin starts counting the repeats of what a message told.
func (s *sender) begin(ctx context.Context, b batch, items []item, now time.Time) error {
	if !s.ch.pace.merge {
		return nil
	}
	opened := map[string]repeats{}
	for _, i := range items {
		id := repeatID(s.ch.id, i.Event)
		r, there := opened[id]
		if !there {
			r = repeats{ID: id, Channel: s.ch.id, Batch: b.ID, From: i.Position, Until: now.Add(quietFor)}
		}
		r.Last, r.Event, r.Locale = i.Position, i.Event, i.Locale
		opened[id] = r
	}
	for _, id := range b.Quiet {
		if r, there := s.counts[id]; there && opened[id].ID == "" {
			opened[id] = repeats{ID: id, Channel: s.ch.id, Batch: b.ID, From: r.Last, Last: r.Last, Event: r.Event, Locale: r.Locale, Until: now.Add(quietFor)}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(opened)) {
		if _, there := s.counts[id]; !there && len(s.counts) >= maxCounted {
			continue
		}
		if err := s.keep(ctx, opened[id]); err != nil {
			return err
		}
	}
	return nil
}

// resolve returns what a message tells: the events that wait up to its last one,
// those of a dead letter, and the repeats that it sums up.
func (s *sender) resolve(ctx context.Context, st progress) (items []item, sums []repeats, err error) {
	b := st.Batch
	if b.Dead != "" {
		l, err := s.n.queues.letters.Get(ctx, b.Dead)
		if errors.Is(err, store.ErrNotFound) {
			return nil, nil, nil
		}
		return l.Items, l.Repeats, err
	}
	if id := cmp.Or(b.Late, itemID(s.ch.id, b.To)); s.ch.kind == "people" { // what is put aside may fill the beginning of the queue
		i, err := s.n.queues.items.Get(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return nil, nil, nil
		}
		return []item{i}, nil, err
	}
	waiting, err := s.n.queues.waiting(ctx, s.ch.id, maxBatch)
	if err != nil {
		return nil, nil, err
	}
	for _, i := range waiting {
		if i.Dead == "" && i.Position > st.Done && i.Position <= b.To {
			items = append(items, i)
		}
	}
	for _, id := range b.Quiet {
		if r, there := s.counts[id]; there && r.Count > 0 && r.Batch != b.ID {
			sums = append(sums, r)
		}
	}
	return items, sums, nil
}

// trim gives up the oldest of what waits for a channel that takes nothing.
func (s *sender) trim(ctx context.Context) error {
	waiting, err := s.n.queues.waiting(ctx, s.ch.id, maxWaiting+maxBatch)
	if err != nil || len(waiting) <= maxWaiting {
		return err
	}
	st, err := s.n.queues.state(ctx, s.ch.id)
	if err != nil {
		return err
	}
	var old []item
	for _, i := range waiting[:len(waiting)-maxWaiting] {
		if i.Dead == "" && (st.Batch == nil || i.Position > st.Batch.To) {
			old = append(old, i)
		}
	}
	if len(old) == 0 {
		return nil
	}
	if _, err := s.n.queues.change(ctx, s.ch.id, func(p *progress) error { p.Dropped += len(old); return nil }); err != nil {
		return err
	}
	for _, i := range old {
		if err := s.n.queues.items.Delete(ctx, i.ID); err != nil {
			return err
		}
		s.n.cfg.Observe(s.ch.name, "dropped")
	}
	return nil
}
