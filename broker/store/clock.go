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

// BackendClock returns how to ask the store's machine for its time, or nil where
// the store has no other clock than this machine's.
func BackendClock(s Store) func(context.Context) (time.Time, error) {
	for {
		switch v := s.(type) {
		case Clocked:
			return v.Clock
		case *instrumented:
			s = v.Store
		default:
			return nil
		}
	}
}
