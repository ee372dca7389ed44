package token

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// unconfirmed is a store that does not confirm the first write of each kind:
// written all the same, or not.
type unconfirmed struct {
	store.Store
	writes bool
	mu     sync.Mutex
	failed map[string]bool
	always bool
}

func (u *unconfirmed) Put(ctx context.Context, it store.Item) (uint64, error) {
	u.mu.Lock()
	first := !u.failed[it.Kind] || u.always
	u.failed[it.Kind] = true
	u.mu.Unlock()
	if !first {
		return u.Store.Put(ctx, it)
	}
	if u.writes {
		if v, err := u.Store.Put(ctx, it); err != nil {
			return v, err
		}
	}
	return 0, fmt.Errorf("%w: no replica confirmed the write", store.ErrUnavailable)
}

// A store that was started with us may not confirm a write yet: the first keys
// are made all the same, once.
func TestFirstKeysOfAStoreThatIsNotReady(t *testing.T) {
	t.Parallel()
	for _, writes := range []bool{false, true} {
		t.Run(fmt.Sprintf("written %v", writes), func(t *testing.T) {
			t.Parallel()
			c := &clock{t: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
			db := &unconfirmed{Store: database(t), writes: writes, failed: map[string]bool{}}
			k := ringOn(t, db, c)
			again := ringOn(t, db, c)
			raw, err := k.Sign(t.Context(), ES256, TypeAccess, Claims{"sub": "u", "aud": "api", "exp": c.now().Add(time.Minute).Unix()})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := again.Verify(t.Context(), TypeAccess, raw); err != nil {
				t.Errorf("another start uses other keys: %v", err)
			}
			if k.CurrentMACKey() != again.CurrentMACKey() {
				t.Error("another start uses another key for refresh tokens")
			}
		})
	}
	// Who is told to stop does not wait.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	db := &unconfirmed{Store: database(t), failed: map[string]bool{}, always: true}
	_, err := Open(ctx, Config{Store: db, Sealer: seal(t, "a"), Issuer: issuer, MaxTokenTTL: time.Hour, MACRetire: time.Hour, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		t.Error("keys were made without a store")
	}
}
