package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	goldap "github.com/go-ldap/ldap/v3"
)

// dialer makes connections that are encrypted as the configuration wants, to
// whichever server of the directory answers.
type dialer struct {
	cfg     *Config
	id      string
	log     *slog.Logger
	clear   func(context.Context) // told when passwords go unencrypted
	mu      sync.Mutex
	servers []*server
}

func newDialer(cfg *Config, id string, log *slog.Logger) (*dialer, error) {
	roots, err := cfg.roots()
	if err != nil {
		return nil, err
	}
	servers, err := cfg.servers(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots})
	if err != nil {
		return nil, err
	}
	var said sync.Once
	return &dialer{cfg: cfg, id: id, log: log, servers: servers, clear: func(ctx context.Context) {
		said.Do(func() {
			log.WarnContext(ctx, "ldap: the directory has no StartTLS; passwords travel unencrypted because of allow_plaintext", "connector", id)
		})
	}}, nil
}

// open makes a connection that nobody is bound on.
func (d *dialer) open(ctx context.Context) (*conn, error) {
	var all error
	for _, s := range d.order() {
		c, err := d.openAt(ctx, s)
		if err == nil {
			d.answers(ctx, s)
			return c, nil
		}
		if all == nil {
			all = err
		} else {
			all = fmt.Errorf("%w; %w", all, err)
		}
		if ctx.Err() != nil { // the caller's time is over, which says nothing about the server
			break
		}
		d.failed(ctx, s, err)
	}
	return nil, all
}

// openAt makes a connection to one server.
func (d *dialer) openAt(ctx context.Context, s *server) (*conn, error) {
	c, err := d.connect(ctx, s, true)
	if errors.Is(err, errNoTLS) && d.cfg.AllowPlaintext && !d.cfg.StartTLS {
		// Only a directory that says that it has no StartTLS is spoken to in
		// clear: a failed handshake is never a reason. The library ends the old
		// connection's reader with the refusal, so that it takes a new one.
		d.clear(ctx)
		c, err = d.connect(ctx, s, false)
	}
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, errNoTLS):
		return nil, unavailable("the directory offers no StartTLS and nothing is sent in clear: set use_ssl: true with its port (636), or allow_plaintext: true to send passwords unencrypted", err)
	}
	return nil, unavailable("connect to "+s.address, err)
}

func (d *dialer) connect(ctx context.Context, s *server, encrypt bool) (*conn, error) {
	raw, err := (&net.Dialer{Timeout: dialLimit}).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: raw}
	w.left.Store(maxAnswer)
	c := &conn{wire: w, server: s, opened: time.Now()}
	if d.cfg.UseSSL {
		t := tls.Client(w, s.tls)
		ctx, cancel := context.WithTimeout(ctx, tlsLimit)
		defer cancel()
		if err := t.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, fmt.Errorf("TLS: %w", err)
		}
		c.ldap, c.encrypted = goldap.NewConn(t, true), true
	} else {
		c.ldap = goldap.NewConn(w, false)
	}
	// A second bound beside the wire's deadlines, in the library's own terms.
	c.ldap.SetTimeout(searchLimit + bindLimit)
	c.ldap.Start()
	if c.encrypted || !encrypt {
		return c, nil
	}
	err = c.run(ctx, tlsLimit, func(l *goldap.Conn) error { return l.StartTLS(s.tls) })
	if err == nil {
		if state, ok := c.ldap.TLSConnectionState(); ok && state.HandshakeComplete {
			c.encrypted = true
			return c, nil
		}
		err = errInClear
	}
	c.close()
	if answered(err) {
		return nil, fmt.Errorf("%w: %w", errNoTLS, err)
	}
	return nil, err
}
