package ldap

import (
	"context"
	"errors"
	"sync"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/remotegpu/gatehouse/connectors"
)

const (
	maxService  = 8               // open connections of the service account
	maxBinds    = 16              // people who are being checked at once
	maxLifetime = 5 * time.Minute // of a connection of the service account
	refusedFor  = 30 * time.Second
)

// pool keeps connections that are bound as the service account, and are never
// bound as anybody else.
type pool struct {
	dial  *dialer
	cfg   *Config
	slots chan struct{}

	mu     sync.Mutex
	idle   []*conn
	closed bool
	// refused is the directory's last refusal of the service account. It is
	// believed for a while: asking anew at every sign-in would lock the account.
	refused   error
	refusedAt time.Time
}

func newPool(d *dialer, cfg *Config) *pool {
	return &pool{dial: d, cfg: cfg, slots: make(chan struct{}, maxService)}
}

// do runs f with a connection of the service account. Where an old connection
// breaks in spite of its health, or a server of several gives no answer, f runs
// once more with another one, so it must start afresh.
func (p *pool) do(ctx context.Context, f func(*conn) error) error {
	leave, err := enter(ctx, p.slots)
	if err != nil {
		return err
	}
	defer leave()
	for tries := 1; ; tries++ {
		c, reused, err := p.get(ctx)
		if err != nil {
			return err
		}
		start := time.Now()
		err = f(c)
		again := errors.Is(err, connectors.ErrUnavailable) && ctx.Err() == nil && tries <= len(p.dial.servers)
		// What was slow is not tried again with the same server: it would be slow
		// again.
		if again && !(reused && c.broken && time.Since(start) < healthLimit) {
			again = p.leave(ctx, c, err)
		}
		p.put(c)
		if !again {
			return err
		}
	}
}

// enter waits for a place, and not long: behind a directory that hangs a queue
// would only grow. That there are many says nothing about the directory.
func enter(ctx context.Context, places chan struct{}) (leave func(), err error) {
	wait := time.NewTimer(queueLimit)
	defer wait.Stop()
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-wait.C:
	case <-ctx.Done():
	}
	return nil, &failure{what: "too many at once", kind: connectors.ErrBusy, cause: ctx.Err()}
}

// get returns an idle connection that still answers, or a new one.
func (p *pool) get(ctx context.Context) (c *conn, reused bool, err error) {
	for {
		c := p.pop()
		if c == nil {
			c, err = p.open(ctx)
			return c, false, err
		}
		if time.Since(c.opened) < maxLifetime && c.healthy(ctx) {
			return c, true, nil
		}
		c.close()
		if err := ctx.Err(); err != nil {
			return nil, false, unavailable("search", err)
		}
	}
}

func (p *pool) pop() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	c := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	return c
}

func (p *pool) open(ctx context.Context) (*conn, error) {
	p.mu.Lock()
	refused, at := p.refused, p.refusedAt
	p.mu.Unlock()
	if refused != nil && time.Since(at) < refusedFor {
		return nil, refused
	}
	for {
		c, err := p.dial.open(ctx)
		if err != nil {
			return nil, err
		}
		err = p.introduce(ctx, c)
		if err == nil {
			return c, nil
		}
		c.close()
		if ctx.Err() != nil || !p.leave(ctx, c, err) {
			return nil, err
		}
	}
}

// introduce binds a new connection as the service account.
func (p *pool) introduce(ctx context.Context, c *conn) error {
	// Also a connection that nobody uses any more ends in time.
	c.expiry = time.AfterFunc(maxLifetime, func() { p.drop(func(d *conn) bool { return d == c }) })
	if p.cfg.BindDN == "" {
		return nil
	}
	if _, err := c.bind(ctx, p.cfg, p.cfg.BindDN, p.cfg.BindPassword.Reveal()); err != nil {
		if !goldap.IsErrorAnyOf(err, refusedResults...) {
			return unavailable("bind of the service account", err)
		}
		err = unavailable("the directory refuses bind_dn and bind_password", err)
		p.mu.Lock()
		p.refused, p.refusedAt = err, time.Now()
		p.mu.Unlock()
		return err
	}
	p.mu.Lock()
	p.refused = nil
	p.mu.Unlock()
	return nil
}

// leave sets the server of a connection aside if that did not answer, and
// reports whether to ask another one.
func (p *pool) leave(ctx context.Context, c *conn, err error) bool {
	if !c.broken && !overloaded(err) || !p.dial.failed(ctx, c.server, err) {
		return false
	}
	c.broken = true
	p.drop(func(d *conn) bool { return d.server == c.server })
	return true
}

// put keeps a connection for the next search, for the rest of its life.
func (p *pool) put(c *conn) {
	p.mu.Lock()
	keep := !c.broken && !p.closed && time.Since(c.opened) < maxLifetime
	if keep {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		c.close()
	}
}

// drop closes the idle connections that which names.
func (p *pool) drop(which func(*conn) bool) {
	p.mu.Lock()
	var gone []*conn
	kept := p.idle[:0]
	for _, c := range p.idle {
		if which(c) {
			gone = append(gone, c)
		} else {
			kept = append(kept, c)
		}
	}
	clear(p.idle[len(kept):])
	p.idle = kept
	p.mu.Unlock()
	for _, c := range gone {
		c.close()
	}
}

// close closes the idle connections, and those in use when they come back.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.drop(func(*conn) bool { return true })
}
