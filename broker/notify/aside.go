package notify

import (
	"context"
	"errors"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// refusedReader means that the other side works and refuses this reader: a full
// mailbox, a server that wants to be asked again. It says nothing about the next.
type refusedReader struct{ error }

// Unwrap returns what the other side said.
func (e refusedReader) Unwrap() error { return e.error }

// asideFactor stretches the backoff of a mail that its reader's server refuses:
// mailboxes are emptied in hours, and who greylists wants minutes.
const asideFactor = 6

// aside is a mail to a person that waits for a time of its own, while what is for
// others passes it. Its own person's later mails stay behind it.
type aside struct {
	After time.Time `json:"after"`
	First time.Time `json:"first"`
	Tries int       `json:"tries,omitempty"`
}

// choosePerson returns the next mail to a person. One that was put aside and is
// due, and one that waits in line, take turns: neither an outage of a big mail
// provider nor a busy day keeps the others from being tried.
func (s *sender) choosePerson(ctx context.Context, st progress, now time.Time) (*batch, error) {
	var late, next *item
	behind, after := map[string]bool{}, "" // people with a mail put aside
	s.late = 0
	for {
		is, more, err := s.n.queues.items.List(ctx, "channel", s.ch.id, after, maxBatch)
		if err != nil {
			return nil, err
		}
		for _, i := range is {
			switch {
			case i.Aside != nil:
				s.late++
				// Whoever put it aside may have died before the channel's place
				// was written down: everything before it was told or put aside.
				if next == nil && i.Dead == "" && i.Position > st.Done {
					if st, err = s.pass(ctx, i.Position); err != nil {
						return nil, err
					}
				}
				if !behind[i.Person] && !i.Aside.After.After(now) && (late == nil || i.Aside.After.Before(late.Aside.After)) {
					late = &i
				}
				if i.Dead == "" { // a dead letter has lost its place
					behind[i.Person] = true
				}
			case i.Dead != "":
				b, err := s.again(ctx, i, now)
				if b != nil || err != nil {
					return b, err
				}
			case i.Position <= st.Done: // told before somebody died
				if err := s.n.queues.items.Delete(ctx, i.ID); err != nil {
					return nil, err
				}
			case next != nil:
			case behind[i.Person]:
				if err := s.setAside(ctx, i.ID, aside{After: now, First: now}); err != nil {
					return nil, err
				}
				if st, err = s.pass(ctx, i.Position); err != nil {
					return nil, err
				}
			default:
				next = &i
			}
		}
		if after = more; more == "" || next != nil && late != nil {
			break
		}
	}
	switch s.lateLast = late != nil && (next == nil || !s.lateLast); {
	case s.lateLast && late.Dead != "":
		b, err := s.again(ctx, *late, late.Aside.First)
		if b != nil {
			b.Tries = late.Aside.Tries
		}
		return b, err
	case s.lateLast:
		b := one(*late, late.Aside.First)
		b.To, b.Late, b.Tries = 0, late.ID, late.Aside.Tries
		return b, nil
	case next != nil:
		return one(*next, now), nil
	}
	return nil, nil
}

// pass notes that everything up to a place in the log was told or put aside.
func (s *sender) pass(ctx context.Context, to uint64) (progress, error) {
	return s.n.queues.change(ctx, s.ch.id, func(p *progress) error { p.Done = max(p.Done, to); return nil })
}

func (s *sender) setAside(ctx context.Context, id string, a aside) error {
	_, err := s.n.queues.items.Update(ctx, id, func(i *item) error { i.Aside = &a; return nil })
	if errors.Is(err, store.ErrNotFound) { // given up meanwhile, or dropped
		return nil
	}
	return err
}

// postpone puts the mail that a channel is at aside, so that the next may go.
func (s *sender) postpone(ctx context.Context, st progress, items []item, cause error) error {
	ctx = context.WithoutCancel(ctx)
	now, b := s.n.cfg.Now(), st.Batch
	a := aside{After: now.Add(asideFactor * backoff(b.ID, b.Tries+1)), First: b.First, Tries: b.Tries + 1}
	if b.Dead != "" {
		if err := s.setAside(ctx, retryID(s.ch.id, b.Dead), a); err != nil {
			return err
		}
	} else {
		for _, i := range items {
			if err := s.setAside(ctx, i.ID, a); err != nil {
				return err
			}
		}
	}
	st, err := s.settle(ctx, st, func(p *progress) {
		p.Done, p.Batch = max(p.Done, b.To), nil
		p.Failed, p.Error, p.Sent = now, brief(cause), s.ch.pace.note(p.Sent, now)
		p.Streak++
	})
	if err != nil {
		return err
	}
	s.n.cfg.Observe(s.ch.name, resultRetried)
	if st.Streak < breakAt {
		return nil
	}
	return s.tell(ctx, st, "")
}
