package store

import (
	"context"
	"time"
)

// Clocked is a Store on another machine, whose clock may be another.
type Clocked interface {
	// Clock asks the backend for its time.
	Clock(ctx context.Context) (time.Time, error)
}

// BackendClock returns how to ask a driver's machine for its time, or nil where
// the store has no other clock than this machine's.
func BackendClock(s Store) func(context.Context) (time.Time, error) {
	if c, ok := s.(Clocked); ok {
		return c.Clock
	}
	return nil
}
