package notify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
)

// How long what could not be sent is kept, so that a channel which nobody
// mends does not fill the store. The audit log keeps the events themselves.
const (
	queuedFor = 14 * 24 * time.Hour
	deadFor   = 30 * 24 * time.Hour
)

// item is one event that waits for one channel. Its ID is the channel and the
// event's place in the log, so that reading the log twice queues it once.
type item struct {
	ID       string      `json:"id"`
	Channel  string      `json:"channel"`
	Position uint64      `json:"position"`
	Event    event.Event `json:"event"`
	Locale   string      `json:"locale,omitempty"`
	// Person is whom a mail to the affected user is for; "" in other channels.
	Person string    `json:"person,omitempty"`
	Queued time.Time `json:"queued"`
	// Dead is the dead letter that somebody wants to be tried again; the item
	// holds no event of its own then.
	Dead string `json:"dead,omitempty"`
	// Aside says that a mail to a person waits outside the line; nil in other
	// channels.
	Aside *aside `json:"aside,omitempty"`
}

// itemID sorts by position; a dead letter that is tried again comes first.
func itemID(channel string, position uint64) string {
	return fmt.Sprintf("%s:%020d", channel, position)
}
func retryID(channel, dead string) string { return channel + ":-" + dead }

// progress is how far a channel has come: all that must be known again by the
// replica which goes on after another died.
type progress struct {
	Channel string `json:"channel"`
	// Done is the place in the log up to which all was told, given up or put
	// aside.
	Done uint64 `json:"done"`
	// Batch is the message that is being sent. It is written before it is sent,
	// so that every try, on whichever replica, is the same message.
	Batch *batch `json:"batch,omitempty"`
	// Sent are the times of the last messages, as far as the vendor's limit
	// looks back.
	Sent []time.Time `json:"sent,omitempty"`
	// Digest is when several events were last told in one message.
	Digest time.Time `json:"digest,omitzero"`
	// Delivered and Failed are when a message last arrived and last did not.
	Delivered time.Time `json:"delivered,omitzero"`
	Failed    time.Time `json:"failed,omitzero"`
	Error     string    `json:"error,omitempty"`
	// Streak counts the failures since the last success; Told says that
	// notify.failed was recorded in it.
	Streak int  `json:"streak,omitempty"`
	Told   bool `json:"told,omitempty"`
	// Pause is until when nothing is tried, since the channel refused for good.
	Pause time.Time `json:"pause,omitzero"`
	// Address tells one configuration of the channel from another: a new one is
	// tried at once.
	Address string `json:"address,omitempty"`
	// Dropped counts events that were given up because too many waited; the next
	// message says so.
	Dropped int `json:"dropped,omitempty"`
}

// batch is one message.
type batch struct {
	ID string `json:"id"`
	// To is the place in the log of the last event in it; 0 when it tells
	// nothing new.
	To    uint64 `json:"to,omitempty"`
	Count int    `json:"count"`
	// Dead is the dead letter that it tries again.
	Dead string `json:"dead,omitempty"`
	// Late is the item that was put aside and is tried again.
	Late string `json:"late,omitempty"`
	// Quiet are the repeats that it sums up.
	Quiet []string  `json:"quiet,omitempty"`
	Tries int       `json:"tries,omitempty"`
	First time.Time `json:"first"`
	Next  time.Time `json:"next,omitzero"`
}

// repeats counts what was told a short while ago and happened again.
type repeats struct {
	ID      string `json:"id"` // channel and a hash of what repeats
	Channel string `json:"channel"`
	// Batch is the message that told it; From and Last are places in the log:
	// what lies after From up to Last is counted.
	Batch string      `json:"batch"`
	From  uint64      `json:"from"`
	Last  uint64      `json:"last"`
	Count int         `json:"count"`
	Event event.Event `json:"event"` // the last one
	// Locale is that of the rule which sends it here.
	Locale string    `json:"locale,omitempty"`
	Until  time.Time `json:"until"`
}

// letter is a message that was given up.
type letter struct {
	ID      string    `json:"id"`
	Channel string    `json:"channel"`
	Time    time.Time `json:"time"`
	Error   string    `json:"error"`
	Tries   int       `json:"tries"`
	Items   []item    `json:"items"`
	// Repeats were summed up in it.
	Repeats []repeats `json:"repeats,omitempty"`
	// Retrying says that it waits in the queue again.
	Retrying bool `json:"retrying,omitempty"`
}

// queues is what notifications keep in the store, sealed: events name people.
type queues struct {
	items    *store.Collection[item]
	progress *store.Collection[progress]
	repeats  *store.Collection[repeats]
	letters  *store.Collection[letter]
}

func newQueues(kv store.KV, sealer *store.Sealer, now func() time.Time) queues {
	return queues{
		items: store.NewCollection(kv, store.CollectionConfig[item]{Kind: "notify-item", Sealer: sealer, Now: now,
			Expires: func(i item) time.Time { return i.Queued.Add(queuedFor) },
			Index:   func(i item) map[string]string { return map[string]string{"channel": i.Channel} }}),
		progress: store.NewCollection(kv, store.CollectionConfig[progress]{Kind: "notify-channel", Sealer: sealer, Now: now}),
		repeats: store.NewCollection(kv, store.CollectionConfig[repeats]{Kind: "notify-repeats", Sealer: sealer, Now: now,
			Expires: func(r repeats) time.Time { return r.Until.Add(queuedFor) },
			Index:   func(r repeats) map[string]string { return map[string]string{"channel": r.Channel} }}),
		letters: store.NewCollection(kv, store.CollectionConfig[letter]{Kind: "notify-dead", Sealer: sealer, Now: now,
			Expires: func(l letter) time.Time { return l.Time.Add(deadFor) },
			Index:   func(l letter) map[string]string { return map[string]string{"channel": l.Channel} }}),
	}
}

// add queues an item unless it is there.
func (q queues) add(ctx context.Context, i item) error {
	if err := q.items.Create(ctx, i.ID, i); err != nil && !errors.Is(err, store.ErrConflict) {
		return err
	}
	return nil
}

// waiting returns the first items of a channel, oldest first.
func (q queues) waiting(ctx context.Context, channel string, limit int) ([]item, error) {
	is, _, err := q.items.List(ctx, "channel", channel, "", limit)
	return is, err
}

// state returns how far a channel has come; of a new one that is nowhere.
func (q queues) state(ctx context.Context, channel string) (progress, error) {
	p, err := q.progress.Get(ctx, channel)
	if errors.Is(err, store.ErrNotFound) {
		return progress{Channel: channel}, nil
	}
	return p, err
}

// change alters how far a channel has come.
func (q queues) change(ctx context.Context, channel string, f func(*progress) error) (progress, error) {
	p, err := q.progress.Update(ctx, channel, f)
	if !errors.Is(err, store.ErrNotFound) {
		return p, err
	}
	if err := q.progress.Create(ctx, channel, progress{Channel: channel}); err != nil && !errors.Is(err, store.ErrConflict) {
		return p, err
	}
	return q.progress.Update(ctx, channel, f)
}

// counted returns the repeats that a channel counts.
func (q queues) counted(ctx context.Context, channel string) (map[string]repeats, error) {
	out, after := map[string]repeats{}, ""
	for {
		rs, next, err := q.repeats.List(ctx, "channel", channel, after, 200)
		if err != nil {
			return nil, err
		}
		for _, r := range rs {
			out[r.ID] = r
		}
		if after = next; next == "" {
			return out, nil
		}
	}
}

// repeatID says which events are one and the same news for a channel: those of
// one name about one thing, by the same reason.
func repeatID(channel string, e event.Event) string {
	parts := []string{string(e.Name), e.Target, e.Connector, e.Client}
	for _, k := range []string{"account", "action", "alg", "change", "channel", "days", "reason", "rule"} {
		parts = append(parts, e.Details[k])
	}
	return channel + ":" + store.HashID(strings.Join(parts, "\x00"))
}
