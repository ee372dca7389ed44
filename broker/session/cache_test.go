package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// What may have changed unheard is in doubt and still there; what was read
// meanwhile is not put into the cache.
func TestCacheDoubt(t *testing.T) {
	c, now := newCache(), time.Now()
	c.put(c.generation(), Session{ID: "s", UserID: "u"}, now)
	c.putHandle(c.generation(), "h", handle{Session: "s"})
	if e, sure := c.get("s"); e == nil || !sure {
		t.Fatal("what was just read is in doubt")
	}
	gen := c.generation()
	heard := now.Add(time.Hour)
	c.doubt(heard)
	e, sure := c.get("s")
	if e == nil || sure || !e.verified.Equal(heard) {
		t.Fatalf("after a doubt: %+v, sure %v", e, sure)
	}
	if _, held, sure := c.handle("h"); !held || sure {
		t.Errorf("the handle: held %v, sure %v", held, sure)
	}
	c.put(gen, Session{ID: "s", UserID: "u"}, now)
	if _, sure := c.get("s"); sure {
		t.Error("a read from before the doubt was believed")
	}
	c.doubt(heard.Add(time.Hour)) // a second one makes it no younger
	if e, _ := c.get("s"); !e.verified.Equal(heard) {
		t.Errorf("verified %v, want %v", e.verified, heard)
	}
	c.put(c.generation(), Session{ID: "s", UserID: "u"}, now)
	if _, sure := c.get("s"); !sure {
		t.Error("read anew and still in doubt")
	}
}

// A change of one user concerns his sockets, and those of whom nobody knows
// whose they are.
func TestCacheForgetUser(t *testing.T) {
	c := newCache()
	for i, user := range []string{"u", "v"} {
		id := fmt.Sprint("s", i)
		c.put(c.generation(), Session{ID: id, UserID: user}, time.Now())
		c.watch(id)
	}
	c.watch("unknown")
	ids := c.forgetUser("u")
	slices.Sort(ids)
	if !slices.Equal(ids, []string{"s0", "unknown"}) {
		t.Errorf("to look at: %v", ids)
	}
	if e, _ := c.get("s0"); e != nil {
		t.Error("the user's session is still held")
	}
	if _, sure := c.get("s1"); !sure {
		t.Error("somebody else's session was forgotten")
	}
}

// The grace counts from when the session was last known to be true, and excuses
// an outage alone (docs/security.md SE-3).
func TestExcused(t *testing.T) {
	grace := 10 * time.Second
	m := &Manager{}
	m.SetLimits(SessionsConfig{OutageGrace: &grace}, time.Hour, time.Hour)
	now := time.Now()
	m.heard.Store(now.Add(-5 * time.Second).UnixNano())
	old, fresh := &entry{verified: now.Add(-time.Hour)}, &entry{verified: now.Add(-9 * time.Second)}
	for _, c := range []struct {
		name string
		err  error
		e    *entry
		sure bool
		want bool
	}{
		{"heard until lately", store.ErrUnavailable, old, true, true},
		{"in doubt since long ago", store.ErrUnavailable, old, false, false},
		{"in doubt since lately", store.ErrUnavailable, fresh, false, true},
		{"no answer in time", context.DeadlineExceeded, old, true, true},
		{"ended", ErrEnded, fresh, true, false},
		{"no such session", ErrNoSession, fresh, true, false},
		{"cannot be opened", store.ErrSealed, fresh, true, false},
		{"some fault", errors.New("fault"), fresh, true, false},
	} {
		if got := m.excused(c.err, c.e, c.sure, now); got != c.want {
			t.Errorf("%s: excused = %v", c.name, got)
		}
	}
	if m.excused(store.ErrUnavailable, old, true, now.Add(6*time.Second)) {
		t.Error("the grace has no end")
	}
	grace = 0
	if m.excused(store.ErrUnavailable, fresh, true, now) {
		t.Error("outage_grace 0 does not fail closed")
	}
}
