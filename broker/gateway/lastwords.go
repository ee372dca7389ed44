package gateway

import (
	"context"
	"net"
	"sync"
	"time"
)

// lastWords is how long an upstream that takes no more may still be heard, and how
// long a client whose request is over may take to hear it.
const lastWords = time.Second

// hearing makes connections on which a failed write waits until the other
// direction has ended. An upstream that has enough of a body says so (413) and
// closes; http.Transport would report the broken write and lose the answer that
// is already there (docs/security.md GW-17).
func hearing(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &hearingConn{Conn: c, closed: make(chan struct{})}, nil
	}
}

type hearingConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

// Write reports a failure when nothing more can be heard.
func (c *hearingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		t := time.NewTimer(lastWords)
		defer t.Stop()
		select {
		case <-c.closed: // by http.Transport, when the answer ended or none came
		case <-t.C:
		}
	}
	return n, err
}

// Close closes the connection.
func (c *hearingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
