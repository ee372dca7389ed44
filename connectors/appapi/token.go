package appapi

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors"
)

const (
	// fetchPatience bounds the one call for a token that all wait for.
	fetchPatience = 10 * time.Second
	// margin is how long before its end a token is no longer used, so that it
	// does not end on its way and small differences of clocks do not matter.
	margin  = 5 * time.Minute
	maxLife = 2 * time.Hour
)

// Token is the application's own token: fetched when it is needed, by one call
// however many wait for it, and kept until shortly before its end. Every
// replica has its own; the three vendors give the same token again while it
// lives, so that they do not push each other's out.
type Token struct {
	// Fetch asks the vendor for a token and says how long it lives.
	Fetch func(ctx context.Context) (token string, life time.Duration, err error)
	Now   func() time.Time

	mu     sync.Mutex
	token  redact.Box[string]
	until  time.Time
	flight singleflight.Group
}

// Get returns a token that is good as far as we know.
func (t *Token) Get(ctx context.Context) (string, error) {
	if s, ok := t.Kept(); ok {
		return s, nil
	}
	// The call outlives whoever happened to be first: the others wait for it too.
	got := t.flight.DoChan("", func() (any, error) {
		if s, ok := t.Kept(); ok {
			return s, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchPatience)
		defer cancel()
		s, life, err := t.Fetch(ctx)
		if err != nil {
			return "", err
		}
		t.keep(s, life)
		return s, nil
	})
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("the application's token: %w: %w", context.Cause(ctx), connectors.ErrUnavailable)
	case r := <-got:
		if r.Err != nil {
			return "", r.Err
		}
		return r.Val.(string), nil
	}
}

func (t *Token) keep(s string, life time.Duration) {
	life = min(life, maxLife)
	// Of a short life half is used: a margin as long as the life would mean a
	// call for every sign-in.
	life -= min(margin, life/2)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.token, t.until = redact.Hide(s), t.Now().Add(life)
}

// Kept returns the token that is there already, if it is still good.
func (t *Token) Kept() (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	token := t.token.Reveal()
	return token, token != "" && t.Now().Before(t.until)
}

// Drop forgets a token that the vendor no longer takes. Another that came in
// the meantime stays.
func (t *Token) Drop(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token.Reveal() == token {
		t.token = redact.Box[string]{}
	}
}

// Use calls f with a token, and once more with a fresh one if f reports that
// the vendor did not take it: somebody has reset the secret, or the clocks
// disagree.
func (t *Token) Use(ctx context.Context, f func(token string) (stale bool, err error)) error {
	s, err := t.Get(ctx)
	if err != nil {
		return err
	}
	stale, err := f(s)
	if !stale {
		return err
	}
	t.Drop(s)
	if s, err = t.Get(ctx); err != nil {
		return err
	}
	if stale, err = f(s); stale {
		t.Drop(s)
	}
	return err
}

// checkPatience bounds one Check.
const checkPatience = 10 * time.Second

// Check gets the application's token, which is all that can be asked without a
// person; while there is one, it only asks whether the vendor answers at
// address. A connector's own Check is this.
func (t *Token) Check(ctx context.Context, c *Client, address string) error {
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	if _, ok := t.Kept(); ok {
		return c.Reach(ctx, address)
	}
	_, err := t.Get(ctx)
	return err
}
