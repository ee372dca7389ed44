package appapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
)

// However many wait, one asks; and whoever asked first may go away.
func TestTokenIsFetchedOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		answer := make(chan struct{})
		tok := &Token{Now: time.Now, Fetch: func(ctx context.Context) (string, time.Duration, error) {
			calls.Add(1)
			select {
			case <-answer:
				return "t1", time.Hour, nil
			case <-ctx.Done():
				return "", 0, ctx.Err()
			}
		}}
		first, leave := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() { _, err := tok.Get(first); gone <- err }()
		synctest.Wait()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if s, err := tok.Get(t.Context()); s != "t1" || err != nil {
					t.Errorf("%q %v", s, err)
				}
			})
		}
		synctest.Wait()
		leave()
		if err := <-gone; !errors.Is(err, connectors.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("who left: %v", err)
		}
		close(answer)
		wg.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}

// A vendor that hangs is waited for so long and no longer, and is asked again
// by the next.
func TestTokenPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		tok := &Token{Now: time.Now, Fetch: func(ctx context.Context) (string, time.Duration, error) {
			calls++
			<-ctx.Done()
			return "", 0, fmt.Errorf("%w: %w", ctx.Err(), connectors.ErrUnavailable)
		}}
		for n := 1; n <= 2; n++ {
			start := time.Now()
			if _, err := tok.Get(t.Context()); !errors.Is(err, connectors.ErrUnavailable) || time.Since(start) != fetchPatience || calls != n {
				t.Errorf("%v after %s, %d calls", err, time.Since(start), calls)
			}
		}
	})
}

func TestTokenLife(t *testing.T) {
	now, calls, life := time.Unix(1e9, 0), 0, time.Hour
	tok := &Token{Now: func() time.Time { return now }, Fetch: func(context.Context) (string, time.Duration, error) {
		calls++
		return fmt.Sprint("t", calls), life, nil
	}}
	want := func(s string) {
		t.Helper()
		if got, err := tok.Get(t.Context()); got != s || err != nil {
			t.Errorf("got %q %v, want %s", got, err, s)
		}
	}
	want("t1")
	now = now.Add(54 * time.Minute)
	want("t1")
	now, life = now.Add(2*time.Minute), time.Minute
	want("t2") // five minutes before its end
	now = now.Add(29 * time.Second)
	want("t2") // of a minute half is used
	now, life = now.Add(2*time.Second), 1000*time.Hour
	want("t3")
	now = now.Add(2 * time.Hour)
	want("t4") // whatever the vendor promises
	tok.Drop("t3")
	want("t4")
	tok.Drop("t4")
	want("t5")
}

func TestTokenUse(t *testing.T) {
	calls := 0
	tok := &Token{Now: time.Now, Fetch: func(context.Context) (string, time.Duration, error) {
		calls++
		return fmt.Sprint("t", calls), time.Hour, nil
	}}
	var used []string
	use := func(good string) error {
		used = nil
		return tok.Use(t.Context(), func(s string) (bool, error) {
			if used = append(used, s); s != good {
				return true, connectors.ErrUnavailable
			}
			return false, nil
		})
	}
	if err := use("t2"); err != nil || fmt.Sprint(used) != "[t1 t2]" {
		t.Errorf("%v %v", used, err)
	}
	if err := use("none"); !errors.Is(err, connectors.ErrUnavailable) || fmt.Sprint(used) != "[t2 t3]" {
		t.Errorf("%v %v", used, err)
	}
	refused := errors.New("refused")
	if err := tok.Use(t.Context(), func(string) (bool, error) { return false, refused }); !errors.Is(err, refused) || calls != 4 {
		t.Errorf("%v, %d calls", err, calls)
	}
	tok = &Token{Now: time.Now, Fetch: func(context.Context) (string, time.Duration, error) { return "", 0, refused }}
	if err := tok.Use(t.Context(), func(string) (bool, error) { t.Error("used without a token"); return false, nil }); !errors.Is(err, refused) {
		t.Errorf("%v", err)
	}
}
