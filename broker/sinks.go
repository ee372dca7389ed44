package broker

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/remotegpu/gatehouse/broker/event"
)

// openSinks makes the readers of the event log. Each goes at its own pace, on
// one replica at a time, and none can hold up who records.
func (b *Broker) openSinks(ctx context.Context) error {
	key, err := event.OpenAuditKey(ctx, b.store, b.sealer, b.now)
	if err != nil {
		return err
	}
	b.auditKey = key
	b.chain = event.NewSealer(event.SealerConfig{KV: b.store, Log: b.store, Key: key, Sealer: b.sealer, Now: b.now, RolledBack: b.rolledBack})
	if b.notifier, err = b.openNotifier(); err != nil {
		return err
	}
	if err := b.openDetection(); err != nil {
		return err
	}
	b.sinks = []event.Sink{b.chain, b.detection.log, b.notifier}
	return nil
}

// following says how sinks read the log.
func (b *Broker) following() event.Following {
	return event.Following{Log: b.store, KV: b.store, Leaser: b.store, Now: b.now, Logger: b.log}
}

// runSinks is the job that passes on what is recorded, lets it be found, and
// removes it when its time is over.
func (b *Broker) runSinks(ctx context.Context) error {
	var running errgroup.Group
	running.Go(func() error { return b.runIndex(ctx) })
	running.Go(func() error { return b.runRetention(ctx) })
	for _, s := range b.sinks {
		running.Go(func() error { return b.following().Run(ctx, s) })
	}
	return running.Wait()
}

// rolledBack tells the operators that the store's log is older than it was.
func (b *Broker) rolledBack(ctx context.Context, seen, now event.Block) {
	e := event.Event{Name: event.DetectionRaised, Severity: event.Critical, Target: "audit", Details: map[string]string{
		"rule": "audit.rolled_back", "seen": blockName(seen), "now": blockName(now),
	}}
	if err := b.events.Record(ctx, e); err != nil {
		b.log.LogAttrs(ctx, slog.LevelError, "the audit log in the store is older than it was, and that could not be recorded", slog.String("seen", blockName(seen)), slog.String("now", blockName(now)), slog.Any("err", err))
	}
}

// blockName is how people and `audit verify --checkpoint` name a block.
func blockName(b event.Block) string { return fmt.Sprintf("%d:%s", b.Number, b.Hash) }
