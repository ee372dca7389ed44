package web

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	now := time.Unix(0, 0)
	l := NewLimiter(LimiterConfig{Max: 2, Window: time.Minute, Size: 100, Now: func() time.Time { return now }})
	for i := range 3 {
		if ok, retry := l.Allow("a"); ok != (i < 2) || !ok && retry != time.Minute {
			t.Errorf("%d: %v %s", i, ok, retry)
		}
	}
	if ok, _ := l.Check("b"); !ok || l.Count("a") != 2 || l.Count("b") != 0 {
		t.Error("keys are not apart")
	}
	l.Sub("a")
	if ok, _ := l.Check("a"); !ok || l.Count("a") != 1 {
		t.Error("what came to a good end still counts")
	}
	l.Add("a")
	now = now.Add(59 * time.Second)
	if ok, retry := l.Check("a"); ok || retry != time.Second {
		t.Errorf("before the window ends: %v %s", ok, retry)
	}
	now = now.Add(time.Second)
	if ok, _ := l.Check("a"); !ok || l.Count("a") != 0 {
		t.Error("the window does not end")
	}
	l.Add("a")
	l.Add("a")
	l.Reset("a")
	if ok, _ := l.Check("a"); !ok {
		t.Error("Reset does not")
	}
	// A crowd of strangers neither grows the memory nor frees whom it bounds.
	l.Add("bounded")
	l.Add("bounded")
	for i := range 10_000 {
		l.Add(fmt.Sprint(i))
		if len(l.m) > 100 {
			t.Fatalf("%d keys are kept", len(l.m))
		}
	}
	if ok, _ := l.Check("bounded"); ok {
		t.Error("a crowd pushed out the key that was over its limit")
	}
}

func TestClientNetwork(t *testing.T) {
	for ip, want := range map[string]string{"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "2001:db8:0:1::9": "2001:db8:0:1::/64"} {
		if got := ClientNetwork(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: %s", ip, got)
		}
	}
	if got := ClientNetwork(netip.Addr{}); got != "unknown" {
		t.Errorf("no address: %s", got)
	}
}

// Other bounds count on where the ones before are.
func TestLimiterWith(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	was := NewLimiter(LimiterConfig{Max: 3, Window: time.Minute, Now: func() time.Time { return now }})
	for range 3 {
		was.Add("a")
	}
	is := was.With(4, time.Hour)
	if ok, _ := is.Allow("a"); !ok {
		t.Error("the fourth of four")
	}
	if ok, retry := is.Check("a"); ok || retry != time.Minute {
		t.Errorf("the fifth: %v, again in %v", ok, retry)
	}
	if ok, _ := was.Check("a"); ok {
		t.Error("whoever still has the one before does not see what was counted")
	}
	now = now.Add(time.Minute)
	is.Add("a")
	if ok, retry := is.With(1, time.Hour).Check("a"); ok || retry != time.Hour {
		t.Errorf("a window of the new length: %v, again in %v", ok, retry)
	}
}
