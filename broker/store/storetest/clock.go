package storetest

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// Clock is the time of a test, which goes on by itself and can be moved. Its
// zero value is now.
type Clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

// Now is the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// Wait moves the time forward.
func (c *Clock) Wait(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// Sealer is one with a key that all tests share.
func Sealer(t testing.TB) *store.Sealer {
	t.Helper()
	s, err := store.NewSealer([][]byte{bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
