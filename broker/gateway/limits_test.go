package gateway

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"1": 1, "1048576": 1 << 20, "10MiB": 10 << 20, "10 MiB": 10 << 20, "2GiB": 2 << 30, "1kB": 1000, "3B": 3} {
		if n, err := parseSize(s); err != nil || n != want {
			t.Errorf("%s: %d %v", s, n, err)
		}
	}
	for _, s := range []string{"", "0", "-1", "MiB", "1.5GiB", "10mib", "10 apples", "9223372036854775808", "9999999999TiB", "1  MiB"} {
		if n, err := parseSize(s); err == nil {
			t.Errorf("%q is %d", s, n)
		}
	}
}

// A burst passes, then one for each interval; who waits is told how long.
func TestRateLimit(t *testing.T) {
	l := newRateLimit(RateLimitConfig{Requests: 60, Per: time.Minute, Burst: 3})
	now := time.Unix(1_800_000_000, 0)
	for i := range 3 {
		if _, ok := l.take("a", now); !ok {
			t.Fatalf("request %d of the burst", i)
		}
	}
	if wait, ok := l.take("a", now); ok || wait != time.Second {
		t.Errorf("%v %v", wait, ok)
	}
	if _, ok := l.take("b", now); !ok {
		t.Error("another's burst")
	}
	now = now.Add(time.Second)
	if _, ok := l.take("a", now); !ok {
		t.Error("a second later")
	}
	if _, ok := l.take("a", now); ok {
		t.Error("two in that second")
	}
}

// However many callers there are, memory is bounded, and who asks most is still
// remembered.
func TestRateLimitBounded(t *testing.T) {
	l := newRateLimit(RateLimitConfig{Requests: 10, Per: time.Hour})
	now := time.Unix(1_800_000_000, 0)
	for range 10 {
		l.take("heavy", now)
	}
	for i := range limitedAtOnce * 3 / 2 {
		l.take(fmt.Sprint(i), now)
	}
	if len(l.due) > limitedAtOnce {
		t.Errorf("%d are remembered", len(l.due))
	}
	if _, ok := l.take("heavy", now); ok {
		t.Error("the one that asks most was forgotten")
	}
}

func TestAddressKey(t *testing.T) {
	for in, want := range map[string]string{"10.0.0.1": "10.0.0.1", "::ffff:10.0.0.1": "10.0.0.1", "2001:db8:1:2:3::1": "2001:db8:1:2::/64"} {
		if got := addressKey(netip.MustParseAddr(in)); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// A reload gives nobody more requests than were left: an unchanged limit goes on,
// a changed one owes as many requests at its own rate.
func TestRateLimitGoesOn(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	was := newRateLimit(RateLimitConfig{Requests: 60, Per: time.Minute, Burst: 4})
	for range 3 {
		was.take("a", now)
	}
	was.take("gone by", now.Add(-time.Hour))
	left := func(what string, l *rateLimit, want int) {
		t.Helper()
		n := 0
		for ; n < 100; n++ {
			if _, ok := l.take("a", now); !ok {
				break
			}
		}
		if n != want {
			t.Errorf("%s: %d requests are left, want %d", what, n, want)
		}
	}
	larger := newRateLimit(RateLimitConfig{Requests: 600, Per: time.Minute, Burst: 8}).goOn(was, now)
	if len(larger.due) != 1 {
		t.Errorf("who owes nothing is remembered: %v", larger.due)
	}
	left("a larger burst", larger, 5)
	left("a smaller burst", newRateLimit(RateLimitConfig{Requests: 6, Per: time.Minute, Burst: 2}).goOn(was, now), 0)
	left("counted by something else", newRateLimit(RateLimitConfig{Requests: 60, Per: time.Minute, Burst: 4, By: "ip"}).goOn(was, now), 4)
	left("none before", newRateLimit(RateLimitConfig{Requests: 60, Per: time.Minute, Burst: 4}).goOn(nil, now), 4)
	same := newRateLimit(RateLimitConfig{Requests: 60, Per: time.Minute, Burst: 4}).goOn(was, now)
	left("the same", same, 1)
	left("the same, for requests that began before the reload", was, 0)
	if l := (*rateLimit)(nil).goOn(was, now); l != nil {
		t.Error("a route without a limit has one")
	}
}
