package event

import (
	"context"
	"time"
)

// What holds where the configuration says nothing.
const (
	defaultHot       = 7 * 24 * time.Hour
	defaultRetention = 180 * 24 * time.Hour // MLPS 2.0, Cybersecurity Law of the PRC art. 21: at least six months
)

// WithDefaults fills in how long the log is kept where nothing is said.
func (c AuditConfig) WithDefaults() AuditConfig {
	if c.Hot == 0 {
		c.Hot = defaultHot
	}
	if c.Retention == 0 {
		c.Retention = defaultRetention
	}
	return c
}

// InStore is how long records stay in the store. Redis gives its memory back
// after Hot, but only where an archive has them: else the store is the only
// place that they can be proved by, and keeps them as long as an embedded one.
func (c AuditConfig) InStore(embedded bool) time.Duration {
	c = c.WithDefaults()
	if embedded || len(c.Archive) == 0 {
		return c.Retention
	}
	return min(c.Hot, c.Retention)
}

// NotArchived is an archive that has nothing yet.
type NotArchived struct{}

// Archived implements the interface of that name.
func (NotArchived) Archived(context.Context) (uint64, error) { return 0, nil }
