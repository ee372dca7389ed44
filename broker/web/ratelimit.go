package web

import (
	"sync"
	"time"
)

// LimiterConfig bounds something per key.
type LimiterConfig struct {
	Max    int           // this many
	Window time.Duration // in this time
	Size   int           // keys remembered; default 100,000
	Now    func() time.Time
}

// Limiter counts per key in fixed windows that begin with the first count. Its
// memory is bounded: when it is full, what is nearest to its end goes first.
type Limiter struct {
	cfg LimiterConfig
	*counters
}

type counters struct {
	mu sync.Mutex
	m  map[string]count
}

type count struct {
	n     int
	until time.Time
}

// NewLimiter returns a Limiter.
func NewLimiter(cfg LimiterConfig) *Limiter {
	if cfg.Size <= 0 {
		cfg.Size = 100_000
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Limiter{cfg, &counters{m: map[string]count{}}}
}

// With returns a Limiter of another bound on the same counters. A window that has
// begun ends when it would have.
func (l *Limiter) With(most int, window time.Duration) *Limiter {
	cfg := l.cfg
	cfg.Max, cfg.Window = most, window
	return &Limiter{cfg, l.counters}
}

// Check reports whether the key is under its limit, and when it will be again.
func (l *Limiter) Check(key string) (ok bool, retry time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.cfg.Now()
	c := l.m[key]
	if c.n < l.cfg.Max || !now.Before(c.until) {
		return true, 0
	}
	return false, c.until.Sub(now)
}

// Count returns how many were counted in the key's present window.
func (l *Limiter) Count(key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.m[key]; l.cfg.Now().Before(c.until) {
		return c.n
	}
	return 0
}

// Remaining returns how long the key's present window lasts; 0 without one.
func (l *Limiter) Remaining(key string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, l.m[key].until.Sub(l.cfg.Now()))
}

// Add counts one and returns how many there are.
func (l *Limiter) Add(key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.add(key, l.cfg.Now())
}

func (l *Limiter) add(key string, now time.Time) int {
	c, ok := l.m[key]
	if !ok || !now.Before(c.until) {
		if !ok && len(l.m) >= l.cfg.Size {
			l.makeRoom(now)
		}
		c = count{until: now.Add(l.cfg.Window)}
	}
	c.n++
	l.m[key] = c
	return c.n
}

// Allow is Check and, if that passes, Add.
func (l *Limiter) Allow(key string) (ok bool, retry time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.cfg.Now()
	c := l.m[key]
	if c.n >= l.cfg.Max && now.Before(c.until) {
		return false, c.until.Sub(now)
	}
	l.add(key, now)
	return true, 0
}

// Reset forgets a key.
func (l *Limiter) Reset(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.m, key)
}

// makeRoom drops what is over, and then a part of those that have counted least.
func (l *Limiter) makeRoom(now time.Time) {
	for k, c := range l.m {
		if !now.Before(c.until) {
			delete(l.m, k)
		}
	}
	for least := 1; len(l.m) >= l.cfg.Size; least *= 2 {
		n := 0
		for k, c := range l.m {
			if c.n <= least {
				delete(l.m, k)
				if n++; n > l.cfg.Size/10 {
					break
				}
			}
		}
	}
}

// Sub takes one back: what was counted has come to a good end.
func (l *Limiter) Sub(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.m[key]; ok {
		if c.n--; c.n <= 0 {
			delete(l.m, key)
		} else {
			l.m[key] = c
		}
	}
}
