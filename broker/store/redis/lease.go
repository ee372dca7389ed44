package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/remotegpu/gatehouse/broker/store"
)

// A lease is renewed and released only by the token that took it: after a pause
// it may be somebody else's.
const (
	renewText   = `if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0`
	releaseText = `if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`
)

var (
	renewScript   = goredis.NewScript(renewText)
	releaseScript = goredis.NewScript(releaseText)
)

// releaseTime bounds giving a lease back; one that cannot be ends with its ttl.
const releaseTime = 2 * time.Second

func token() string { return rand.Text() }

// Lease takes the named lease or returns store.ErrLeaseHeld. A failover may lose
// it, so that two hold it for a while: what runs under a lease must bear that.
func (s *Store) Lease(ctx context.Context, name string, ttl time.Duration) (context.Context, func(), error) {
	asked, done, err := s.ask(ctx)
	if err != nil {
		return nil, nil, s.fail("lease", err)
	}
	defer done()
	if ttl < 10*time.Millisecond {
		return nil, nil, fmt.Errorf("redis: lease %q: ttl %v is too short", name, ttl)
	}
	l := &lease{s: s, key: s.prefix + "lease:" + name, token: token(), ttl: ttl, done: make(chan struct{})}
	// Counted from before it was asked for, it ends here no later than there.
	began := time.Now()
	_, err = s.once(asked, "set", l.key, l.token, "nx", "px", ttl.Milliseconds())
	if errors.Is(err, goredis.Nil) {
		return nil, nil, store.ErrLeaseHeld
	}
	if err != nil {
		return nil, nil, s.fail("lease", err)
	}
	held, cancel := context.WithCancel(ctx)
	l.cancel = cancel
	l.expire = time.AfterFunc(ttl-time.Since(began), cancel)
	if !s.spawn(func() { l.keep(held) }) {
		cancel()
		l.expire.Stop()
		return nil, nil, s.fail("lease", errClosed)
	}
	var once sync.Once
	return held, func() { once.Do(func() { cancel(); <-l.done }) }, nil
}

type lease struct {
	s          *Store
	key, token string
	ttl        time.Duration
	cancel     context.CancelFunc
	expire     *time.Timer
	done       chan struct{} // closed when it is given back
}

// keep renews the lease until held or the store ends, and gives it back.
func (l *lease) keep(held context.Context) {
	defer close(l.done)
	defer l.expire.Stop()
	tick := time.NewTicker(l.ttl / 3)
	defer tick.Stop()
	for held.Err() == nil {
		select {
		case <-tick.C:
			if !l.renew(held) {
				l.cancel()
			}
		case <-l.s.ctx.Done():
			l.cancel()
		case <-held.Done():
		}
	}
	ctx, done := context.WithTimeout(context.Background(), releaseTime)
	defer done()
	if _, err := l.s.script(ctx, releaseScript, releaseText, l.key, l.token); err != nil {
		l.s.cfg.Log.DebugContext(held, "redis: a lease was not given back and ends by itself", "error", l.s.target.scrub(err.Error()))
	}
}

// renew reports whether the lease may still be ours. A renewal that fails is
// tried again until the time is over, which expire watches.
func (l *lease) renew(held context.Context) bool {
	ctx, done := context.WithTimeout(held, l.ttl/3)
	defer done()
	began := time.Now()
	v, err := l.s.script(ctx, renewScript, renewText, l.key, l.token, l.ttl.Milliseconds())
	if err != nil {
		return true
	}
	if v != int64(1) {
		return false
	}
	l.expire.Reset(l.ttl - time.Since(began))
	return true
}
