package store

import (
	"context"
	"errors"
	"time"
)

// longestPause ends the tries of Patiently, after 7.75 s of pauses.
const longestPause = 4 * time.Second

// Patiently calls f again while it fails with ErrUnavailable, for some seconds. It
// is for the first writes of a start: a store that was started with us may have a
// replica that is still copying and confirms nothing yet. Whoever is served waits
// for nothing and must not use it. f must be safe to repeat after a write that was
// made and not confirmed.
func Patiently(ctx context.Context, f func() error) error {
	for pause := 250 * time.Millisecond; ; pause *= 2 {
		err := f()
		if !errors.Is(err, ErrUnavailable) || pause > longestPause {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}
