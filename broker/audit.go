package broker

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/event/archive"
	"github.com/remotegpu/gatehouse/broker/event/index"
)

// indexName is the file of the audit log's index, in the data folder.
const indexName = "audit-index.db"

// openAudit makes what searches the event log, proves it and shortens it. A
// data folder that cannot be written costs the search and nothing else.
func (b *Broker) openAudit(ctx context.Context) {
	x, err := index.Open(ctx, index.Config{Path: filepath.Join(b.cfg.DataDir, indexName), Log: b.store, KV: b.store, Keep: !b.embedded(),
		Retention: func() time.Duration { return b.current.Load().cfg.Audit.WithDefaults().Retention }, Now: b.now, Logger: b.log})
	if err != nil {
		b.log.Error("the audit log cannot be searched on this replica; see to the data folder and restart", "err", err)
		return
	}
	b.index = x
}

// embedded reports that the store is this process's own file.
func (b *Broker) embedded() bool { return strings.HasPrefix(b.cfg.Store.Reveal(), "sqlite:") }

// auditSource is the log as a verification reads it.
func (b *Broker) auditSource() event.LogSource {
	return event.LogSource{Log: b.store, KV: b.store, Sealer: b.sealer, Key: b.auditKey, Chain: b.chain}
}

// runIndex follows the log.
func (b *Broker) runIndex(ctx context.Context) error {
	if b.index == nil {
		return nil
	}
	return b.index.Run(ctx)
}

// runRetention removes what is too old from the store.
func (b *Broker) runRetention(ctx context.Context) error {
	return event.Retention{
		Source: b.auditSource(), Leaser: b.store, Now: b.now, Logger: b.log, Tampered: b.tampered, Archive: b.archived,
		Keep: func() time.Duration { return b.current.Load().cfg.Audit.InStore(b.embedded()) },
	}.Run(ctx)
}

// archived is how far all archives have come: nothing goes that one of them
// does not have.
func (b *Broker) archived() event.Archived {
	if all := b.current.Load().archives; len(all) > 0 {
		return archived(all)
	}
	return nil
}

type archived []*archive.Archive

// Archived implements event.Archived.
func (a archived) Archived(ctx context.Context) (uint64, error) {
	_, block, _, err := archive.Archived(ctx, a)
	return block, err
}

// tampered tells the operators that the log is not as it was sealed.
func (b *Broker) tampered(ctx context.Context, f event.Fault) {
	e := event.Event{Name: event.DetectionRaised, Severity: event.Critical, Target: "audit", Details: map[string]string{"rule": "audit.tampered", "fault": f.Name, "text": f.Text}}
	if err := b.events.Record(ctx, e); err != nil {
		b.log.Error("the audit log is not as it was sealed, and that could not be recorded", "fault", f.Name, "block", f.Block, "err", err)
	}
}
