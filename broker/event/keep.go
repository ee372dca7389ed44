package event

import "time"

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
