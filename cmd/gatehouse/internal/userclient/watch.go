package userclient

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"
)

// Watch keeps a file with a token fresh: for programs that read it whenever they
// need one.
type Watch struct {
	Path string
	// Get gets a token with as much of its life before it as can be had.
	Get func(ctx context.Context) (Secret, error)
	// Now and Sleep are the clock; Jitter returns a number from 0 up to 1.
	Now    func() time.Time
	Sleep  func(ctx context.Context, d time.Duration) error
	Jitter func() float64
	// Tell is told when renewing begins to fail, and when it works again (nil).
	Tell func(err error)
}

// Waits between tries while the issuer cannot be reached.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// Run renews after two thirds of a token's life, a little earlier by chance, so
// that a thousand nodes do not ask in the same second. What fails because nobody
// answers is tried again for as long as it takes; a refusal is the end. It
// returns nil when ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	failing, retry := false, firstRetry
	for {
		wait, err := w.once(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			if failing {
				w.Tell(nil)
			}
			failing, retry = false, firstRetry
		case !errors.Is(err, ErrUnreachable):
			return err
		default:
			if !failing {
				w.Tell(err)
			}
			failing = true
			wait = retry/2 + time.Duration(w.Jitter()*float64(retry/2))
			retry = min(2*retry, lastRetry)
		}
		if w.Sleep(ctx, wait) != nil {
			return nil
		}
	}
}

// once renews and returns how long that is enough.
func (w *Watch) once(ctx context.Context) (time.Duration, error) {
	t, err := w.Get(ctx)
	if err != nil {
		return 0, err
	}
	if err := WriteFile(w.Path, []byte(t.Value)); err != nil { // no line end: what reads it may not expect one
		return 0, err
	}
	left := t.Expires.Sub(w.Now())
	return max(left*2/3-time.Duration(w.Jitter()*float64(left/10)), firstRetry), nil
}

// Jitter is a random number from 0 up to 1.
func Jitter() float64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return float64(binary.BigEndian.Uint64(b[:])>>11) / (1 << 53)
}
