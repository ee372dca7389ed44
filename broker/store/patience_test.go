package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestPatiently(t *testing.T) {
	gone := fmt.Errorf("put: %w", ErrUnavailable)
	other := errors.New("other")
	for name, c := range map[string]struct {
		fails int // with gone, before it returns last
		last  error
		tries int
		want  error
		took  time.Duration
	}{
		"at once":           {0, nil, 1, nil, 0},
		"another error":     {0, other, 1, other, 0},
		"at the third time": {2, nil, 3, nil, 750 * time.Millisecond},
		"never":             {100, nil, 6, gone, 7750 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, tries := time.Now(), 0
				err := Patiently(t.Context(), func() error {
					if tries++; tries <= c.fails {
						return gone
					}
					return c.last
				})
				if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || tries != c.tries || time.Since(began) != c.took {
					t.Errorf("%v after %d tries and %v", err, tries, time.Since(began))
				}
			})
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tries := 0
	if err := Patiently(ctx, func() error { tries++; return gone }); !errors.Is(err, ErrUnavailable) || tries != 1 {
		t.Errorf("ended: %v after %d tries", err, tries)
	}
}
