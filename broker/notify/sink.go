package notify

import (
	"context"
	"fmt"

	"github.com/remotegpu/gatehouse/broker/event"
)

// Name names the stored position and the lease.
func (n *Notifier) Name() string { return SinkName }

// Start returns the end of the log: what happened before there were
// notifications is no news.
func (n *Notifier) Start(ctx context.Context) (uint64, error) {
	var after uint64
	for {
		batch, next, err := event.ReadEntries(ctx, n.cfg.Log, after, 1000)
		if err != nil {
			return 0, fmt.Errorf("notify: find the end of the log: %w", err)
		}
		if len(batch) == 0 {
			return after, nil
		}
		after = next
	}
}

// Consume queues each event for the channels that the rules name. The same batch
// may come again: what is queued, or was told already, is not queued a second
// time.
func (n *Notifier) Consume(ctx context.Context, batch []event.Entry) error {
	plan := n.plan.Load()
	done := map[string]uint64{} // how far each channel has come
	queue := func(c *channel, e event.Entry, locale, person string) error {
		if _, known := done[c.id]; !known {
			st, err := n.queues.state(ctx, c.id)
			if err != nil {
				return err
			}
			done[c.id] = st.Done
		}
		if e.Position <= done[c.id] {
			return nil
		}
		return n.queues.add(ctx, item{ID: itemID(c.id, e.Position), Channel: c.id, Position: e.Position, Event: e.Event, Locale: locale, Person: person, Queued: n.cfg.Now()})
	}
	for _, e := range batch {
		if e.Event.Name == "" { // somebody wrote over the record; `audit verify` says so
			continue
		}
		if e.Event.Severity == "" {
			e.Event.Severity = e.Event.Name.Severity()
		}
		to, locales := plan.route(e.Event)
		for _, c := range to {
			if err := queue(c, e, locales[c.id], ""); err != nil {
				return fmt.Errorf("notify: queue %s for %s: %w", e.Event.Name, c.name, err)
			}
		}
		if c, who := plan.find(peopleID), affected(e.Event); c != nil && who != "" {
			if err := queue(c, e, "", who); err != nil {
				return fmt.Errorf("notify: queue %s for its person: %w", e.Event.Name, err)
			}
		}
	}
	for id := range done {
		n.signal(id)
	}
	return nil
}

// affected is whose account an event changes in a way that its owner must hear
// of, wherever they are: a stranger who got in would not tell them. It is "" for
// the others. Service accounts have no mail address and drop out when it is sent.
func affected(e event.Event) string {
	switch e.Name {
	case event.SigninNewDevice:
		if e.Actor != "" {
			return e.Actor
		}
		return e.Target
	case event.DeviceApproved:
		return e.Actor
	case event.IdentityLinked, event.IdentityUnlinked, event.APIKeyCreated, event.UserSuspended, event.UserResumed, event.SigninLockout:
		return e.Target
	}
	return ""
}
