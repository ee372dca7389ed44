package redis

import (
	"context"
	"time"
)

// Clock asks one of the servers for its time (the command TIME).
func (s *Store) Clock(ctx context.Context) (time.Time, error) {
	ctx, cancel, err := s.ask(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer cancel()
	at, err := s.c.Time(ctx).Result()
	if err != nil {
		return time.Time{}, s.fail("clock", err)
	}
	return at, nil
}
