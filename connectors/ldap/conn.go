package ldap

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	goldap "github.com/go-ldap/ldap/v3"
)

// Limits on everything that a directory could make us wait for or hold.
const (
	dialLimit   = 5 * time.Second
	tlsLimit    = 5 * time.Second
	bindLimit   = 10 * time.Second
	searchLimit = 10 * time.Second
	healthLimit = 2 * time.Second
	queueLimit  = 5 * time.Second
	totalLimit  = 30 * time.Second
	maxAnswer   = 16 << 20 // bytes of one answer
)

// The library reserves as much memory as a packet's header announces; the
// bound is a variable of the package, which is ours alone to set.
func init() { ber.MaxPacketLengthBytes = maxAnswer }

var (
	errTooMany  = errors.New("more entries than anybody uses")
	errTooLarge = errors.New("the answer is too large")
	errNoTLS    = errors.New("the directory has no StartTLS")
	errInClear  = errors.New("the connection is not encrypted")
)

// wire is the connection below LDAP and TLS. The library has neither contexts
// nor deadlines: they are set here, where its reader notices.
type wire struct {
	net.Conn
	left atomic.Int64 // bytes that may still be read for the present operation
}

// Read reads within the bound.
func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if w.left.Add(int64(-n)) < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// conn is one LDAP connection. It is used by one goroutine at a time.
type conn struct {
	ldap      *goldap.Conn
	wire      *wire
	server    *server
	encrypted bool
	broken    bool
	opened    time.Time
	expiry    *time.Timer // of a pooled connection
}

// run does one operation within limit and ctx. After a failure other than an
// answer of the directory the connection is not usable any more.
func (c *conn) run(ctx context.Context, limit time.Duration, f func(*goldap.Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.wire.left.Store(maxAnswer)
	if err := c.wire.SetDeadline(time.Now().Add(limit)); err != nil {
		c.broken = true
		return err
	}
	// Closing below the library makes its reader end the operation.
	stop := context.AfterFunc(ctx, func() { _ = c.wire.Close() })
	err := f(c.ldap)
	if !stop() {
		c.broken = true
		return errors.Join(context.Cause(ctx), err)
	}
	if err != nil && !answered(err) {
		c.broken = true
		return err
	}
	if e := c.wire.SetDeadline(time.Time{}); e != nil {
		c.broken = true
	}
	return err
}

// close ends the connection and does not wait for the directory.
func (c *conn) close() {
	if c.expiry != nil {
		c.expiry.Stop()
	}
	_ = c.wire.Close()
	_ = c.ldap.Close()
}

// bind proves name and password on this connection. The answer's controls are
// returned even with an error.
func (c *conn) bind(ctx context.Context, cfg *Config, name, password string) (*goldap.SimpleBindResult, error) {
	if !c.encrypted && !cfg.AllowPlaintext {
		return nil, errInClear // cannot be: open sees to it
	}
	if name == "" || password == "" {
		return nil, errors.New("an anonymous bind proves nothing")
	}
	var res *goldap.SimpleBindResult
	err := c.run(ctx, bindLimit, func(l *goldap.Conn) (err error) {
		// The password policy control is the only place where OpenLDAP says that
		// a password has expired or must be changed.
		controls := []goldap.Control{goldap.NewControlBeheraPasswordPolicy()}
		res, err = l.SimpleBind(goldap.NewSimpleBindRequest(name, password, controls))
		return err
	})
	return res, err
}

// search asks once. Aliases are not resolved and referrals not followed: they
// would send the search, and its account, to other hosts.
func (c *conn) search(ctx context.Context, base string, scope, sizeLimit int, filter string, attrs []string, controls ...goldap.Control) (*goldap.SearchResult, error) {
	req := goldap.NewSearchRequest(base, scope, goldap.NeverDerefAliases, sizeLimit, int(searchLimit/time.Second), false, filter, attrs, controls)
	req.EnforceSizeLimit = true
	var res *goldap.SearchResult
	err := c.run(ctx, searchLimit, func(l *goldap.Conn) (err error) {
		res, err = l.Search(req)
		return err
	})
	if res != nil && errors.Is(err, goldap.ErrSizeLimitExceeded) {
		c.broken = true // the rest of the answer is still on its way
	}
	return res, err
}

// stream asks for what may be much. At more than max entries it gives up with
// errTooMany: some directories send a million whatever they were asked for.
func (c *conn) stream(ctx context.Context, base string, max int, filter string, attrs []string, controls ...goldap.Control) (*goldap.SearchResult, error) {
	req := goldap.NewSearchRequest(base, goldap.ScopeWholeSubtree, goldap.NeverDerefAliases, 0, int(searchLimit/time.Second), false, filter, attrs, controls)
	res := &goldap.SearchResult{}
	err := c.run(ctx, searchLimit, func(l *goldap.Conn) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the library's goroutine
		r := l.SearchAsync(ctx, req, 64)
		for r.Next() {
			if e := r.Entry(); e != nil {
				if res.Entries = append(res.Entries, e); len(res.Entries) > max {
					return errTooMany
				}
			}
			res.Controls = append(res.Controls, r.Controls()...)
		}
		if err := r.Err(); err != nil {
			return err
		}
		// The library also ends in silence on a connection that is going down,
		// which must not count as an answer of nothing.
		if l.IsClosing() || l.GetLastError() != nil {
			return goldap.NewError(goldap.ErrorNetwork, errors.New("the connection ended"))
		}
		return nil
	})
	return res, err
}

// healthy asks for nothing, and takes every answer.
func (c *conn) healthy(ctx context.Context) bool {
	if c.broken || c.ldap.IsClosing() {
		return false
	}
	req := goldap.NewSearchRequest("", goldap.ScopeBaseObject, goldap.NeverDerefAliases, 1, 2, false, "(objectClass=*)", []string{"1.1"}, nil)
	err := c.run(ctx, healthLimit, func(l *goldap.Conn) error {
		_, err := l.Search(req)
		return err
	})
	return err == nil || answered(err)
}
