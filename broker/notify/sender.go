package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unicode/utf8"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
)

// What became of a message, as the metric counts it.
const (
	resultDelivered   = "delivered"
	resultRetried     = "retried"
	resultRateLimited = "rate_limited"
	resultDead        = "dead"
	resultSkipped     = "skipped" // nobody to write to
)

const (
	// senderLease is how long a replica that died keeps a channel from another.
	senderLease = 10 * time.Second
	// look is how often a channel's queue is looked at unasked.
	look = time.Second
	// lastWords is how long a message that is under way may take when this
	// replica or this configuration ends.
	lastWords = 3 * time.Second
)

// sender tells one channel what waits for it, while this replica may.
type sender struct {
	n    *Notifier
	plan *Plan
	ch   *channel
	// counts are the repeats of this channel, as they are in the store.
	counts  map[string]repeats
	trimmed time.Time
	// late counts the mails to people that were put aside; lateLast says that the
	// last one sent was one of them.
	late     int
	lateLast bool
}

// run sends until ctx ends, whenever no other replica does.
func (s *sender) run(ctx context.Context) {
	failed := false
	for ctx.Err() == nil {
		held, release, err := s.n.cfg.Leaser.Lease(ctx, "notify/"+s.ch.id, senderLease)
		if err == nil {
			err = s.lead(held)
			release()
		}
		broken := err != nil && !errors.Is(err, store.ErrLeaseHeld) && !errors.Is(err, errElsewhere) && !errors.Is(err, context.Canceled)
		if broken && !failed && ctx.Err() == nil { // said once, not at every try
			s.n.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "notifications wait for the store; tried again", slog.String("channel", s.ch.name), slog.Any("err", err))
		}
		if err == nil || broken {
			failed = broken
		}
		pause(ctx, look, nil)
	}
}

// lead sends while this replica holds the channel's lease.
func (s *sender) lead(ctx context.Context) (err error) {
	if s.counts, err = s.n.queues.counted(ctx, s.ch.id); err != nil {
		return err
	}
	wake := s.n.waker(s.ch.id)
	for ctx.Err() == nil {
		wait, err := s.step(ctx)
		if err != nil {
			return err
		}
		pause(ctx, wait, wake)
	}
	return nil
}

// pause waits for a time, a signal, or the end of ctx.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-wake:
	}
}

// step does what there is to do now, one message at most, and returns when to
// look again.
func (s *sender) step(ctx context.Context) (time.Duration, error) {
	now := s.n.cfg.Now()
	st, err := s.n.queues.state(ctx, s.ch.id)
	if err != nil {
		return 0, err
	}
	if st.Address != s.ch.print { // somebody mended the configuration: try at once
		if st, err = s.n.queues.change(ctx, s.ch.id, func(p *progress) error {
			p.Address, p.Pause = s.ch.print, time.Time{}
			if p.Batch != nil {
				p.Batch.Next = time.Time{}
			}
			return nil
		}); err != nil {
			return 0, err
		}
	}
	if (st.Streak > 0 || s.late > 0) && now.Sub(s.trimmed) > 30*time.Second {
		s.trimmed = now
		if err := s.trim(ctx); err != nil {
			return 0, err
		}
	}
	until := s.ch.pace.wait(st.Sent, now)
	if w := st.Pause.Sub(now); w > until {
		until = w
	}
	if st.Batch != nil {
		until = max(until, st.Batch.Next.Sub(now))
	}
	if until > 0 {
		return min(until, look), nil
	}
	if st.Batch == nil {
		b, err := s.choose(ctx, st, now)
		if err != nil || b == nil {
			return look, err
		}
		if st, err = s.n.queues.change(ctx, s.ch.id, func(p *progress) error {
			if p.Batch == nil {
				p.Batch = b
			}
			return nil
		}); err != nil {
			return 0, err
		}
	}
	return 0, s.attempt(ctx, st)
}

// errElsewhere means that another replica has finished the message.
var errElsewhere = errors.New("another replica has taken over the channel")

// attempt sends the message that a channel is at.
func (s *sender) attempt(ctx context.Context, st progress) error {
	items, sums, err := s.resolve(ctx, st)
	if err != nil {
		return err
	}
	if len(items)+len(sums) == 0 {
		return s.finish(ctx, st, nil, resultSkipped)
	}
	m, ok, err := s.message(ctx, st, items, sums)
	if err != nil {
		return err
	}
	if !ok {
		return s.finish(ctx, st, items, resultSkipped)
	}
	err = s.send(ctx, m)
	if err != nil && ctx.Err() != nil {
		return nil // cut short: the next replica, or the next start, tries this message again
	}
	limited, isLimited := errors.AsType[RateLimited](err)
	_, refused := errors.AsType[Permanent](err)
	_, theirs := errors.AsType[refusedReader](err)
	theirs = theirs && s.ch.kind == "people"
	switch {
	case err == nil:
		return s.finish(ctx, st, items, resultDelivered)
	case isLimited && s.n.cfg.Now().Sub(st.Batch.First) < giveUp:
		return s.later(ctx, st, err, min(max(limited.After, time.Second), pauseAfter(refusedAt)), resultRateLimited)
	case refused, s.n.cfg.Now().Sub(st.Batch.First) >= giveUp:
		return s.bury(ctx, st, items, sums, err, refused && !theirs)
	case theirs:
		return s.postpone(ctx, st, items, err)
	}
	return s.later(ctx, st, err, backoff(st.Batch.ID, st.Batch.Tries+1), resultRetried)
}

// send sends within the channel's time. When ctx ends the message has lastWords to
// arrive: to cut it off could mean to send it twice.
func (s *sender) send(ctx context.Context, m Message) error {
	sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.ch.sendTimeout())
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		pause(sending, lastWords, nil)
		cancel()
	})()
	return s.ch.sender.Send(sending, m)
}

// settle writes down what became of a message, unless another replica did.
func (s *sender) settle(ctx context.Context, st progress, f func(*progress)) (progress, error) {
	ctx = context.WithoutCancel(ctx) // it has been sent: to know that outlives the lease
	return s.n.queues.change(ctx, s.ch.id, func(p *progress) error {
		if p.Batch == nil || p.Batch.ID != st.Batch.ID {
			return errElsewhere
		}
		f(p)
		return nil
	})
}

// finish notes that a message is done with, and then takes it out of the queue.
func (s *sender) finish(ctx context.Context, st progress, items []item, result string) error {
	now := s.n.cfg.Now()
	ctx = context.WithoutCancel(ctx)
	if result == resultDelivered {
		if err := s.begin(ctx, *st.Batch, items, now); err != nil {
			return err
		}
	}
	if _, err := s.settle(ctx, st, func(p *progress) {
		p.Done, p.Batch = max(p.Done, st.Batch.To), nil
		if result == resultSkipped {
			return
		}
		p.Delivered, p.Error, p.Streak, p.Told, p.Pause = now, "", 0, false, time.Time{}
		p.Sent, p.Dropped = s.ch.pace.note(p.Sent, now), max(p.Dropped-st.Dropped, 0)
		if st.Batch.Count > 1 {
			p.Digest = now
		}
	}); err != nil {
		return err
	}
	s.n.cfg.Observe(s.ch.name, result)
	return s.clear(ctx, st, items)
}

// clear takes the events of a message out of the queue.
func (s *sender) clear(ctx context.Context, st progress, items []item) error {
	if dead := st.Batch.Dead; dead != "" {
		if err := s.n.queues.items.Delete(ctx, retryID(s.ch.id, dead)); err != nil {
			return err
		}
		return s.n.queues.letters.Delete(ctx, dead)
	}
	for _, i := range items {
		if err := s.n.queues.items.Delete(ctx, i.ID); err != nil {
			return err
		}
	}
	return nil
}

// later notes that a message did not arrive and when to try again.
func (s *sender) later(ctx context.Context, st progress, cause error, wait time.Duration, result string) error {
	now := s.n.cfg.Now()
	st, err := s.settle(ctx, st, func(p *progress) {
		p.Batch.Next, p.Sent = now.Add(wait), s.ch.pace.note(p.Sent, now)
		p.Failed, p.Error = now, brief(cause)
		if result != resultRateLimited {
			p.Batch.Tries++
			p.Streak++
		}
	})
	if err != nil {
		return err
	}
	s.n.cfg.Observe(s.ch.name, result)
	if st.Streak < breakAt {
		return nil
	}
	return s.tell(ctx, st, "")
}

// bury puts a message aside as a dead letter.
func (s *sender) bury(ctx context.Context, st progress, items []item, sums []repeats, cause error, refused bool) error {
	ctx = context.WithoutCancel(ctx)
	now, b := s.n.cfg.Now(), st.Batch
	l := letter{ID: fmt.Sprintf("%012x-%s", b.First.UnixMilli(), b.ID), Channel: s.ch.id, Time: now, Error: brief(cause), Tries: b.Tries + 1, Items: items, Repeats: sums}
	if b.Dead != "" {
		old, err := s.n.queues.letters.Get(ctx, b.Dead)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		l.ID, l.Tries = b.Dead, l.Tries+old.Tries
	}
	if err := s.n.queues.letters.Put(ctx, l.ID, l); err != nil {
		return err
	}
	for _, r := range sums { // they are in the letter
		r.From, r.Count, r.Batch, r.Until = r.Last, 0, b.ID, now.Add(quietFor)
		if err := s.keep(ctx, r); err != nil {
			return err
		}
	}
	dead := b.Dead
	st, err := s.settle(ctx, st, func(p *progress) {
		p.Done, p.Batch = max(p.Done, b.To), nil
		p.Failed, p.Error, p.Sent = now, brief(cause), s.ch.pace.note(p.Sent, now)
		if p.Streak++; refused && p.Streak >= refusedAt {
			p.Pause = now.Add(pauseAfter(p.Streak))
		}
	})
	if err != nil {
		return err
	}
	s.n.cfg.Observe(s.ch.name, resultDead)
	if dead != "" {
		err = s.n.queues.items.Delete(ctx, retryID(s.ch.id, dead))
	} else {
		for _, i := range items {
			err = errors.Join(err, s.n.queues.items.Delete(ctx, i.ID))
		}
	}
	if err != nil {
		return err
	}
	return s.tell(ctx, st, l.ID)
}

// tell records notify.failed, once until the channel works again. The event goes
// to the other channels alone: see route.
func (s *sender) tell(ctx context.Context, st progress, dead string) error {
	if st.Told {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	e := event.Event{Name: event.NotifyFailed, Target: s.ch.name, Details: map[string]string{"channel": s.ch.name, "kind": s.ch.kind, "error": st.Error}}
	if dead != "" {
		e.Details["dead_letter"] = dead
	}
	if err := s.n.cfg.Record(ctx, e); err != nil {
		return fmt.Errorf("notify: record that %s failed: %w", s.ch.name, err)
	}
	s.n.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "notifications do not arrive", slog.String("channel", s.ch.name), slog.String("err", st.Error))
	_, err := s.n.queues.change(ctx, s.ch.id, func(p *progress) error { p.Told = true; return nil })
	return err
}

// brief bounds what is kept of an error.
func brief(err error) string {
	const most = 300
	if err == nil {
		return ""
	}
	s := err.Error()
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
