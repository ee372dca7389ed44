package gateway

import (
	"errors"
	"io"
	"sync/atomic"
	"time"
)

var errIdle = errors.New("no byte moved for longer than the route's timeouts.idle")

// idle ends a request on which nothing moves. While only the upstream's answer is
// waited for it does not count: that is response_header's time.
type idle struct {
	after    time.Duration
	timer    *time.Timer
	answered atomic.Bool
}

// newIdle returns a watch that calls end; reading tells that a request body is to
// come first.
func newIdle(after time.Duration, reading bool, end func()) *idle {
	i := &idle{after: after, timer: time.AfterFunc(after, end)}
	if !reading {
		i.timer.Stop()
	}
	return i
}

// moved notes bytes; a nil watch notes nothing.
func (i *idle) moved() {
	if i != nil {
		i.timer.Reset(i.after)
	}
}

// sent notes that the request body is at its end.
func (i *idle) sent() {
	if i != nil && !i.answered.Load() {
		i.timer.Stop()
	}
}

// answer notes that the upstream has answered, and returns the body to read.
func (i *idle) answer(body io.ReadCloser) io.ReadCloser {
	if i == nil {
		return body
	}
	i.answered.Store(true)
	i.moved()
	return &movingBody{ReadCloser: body, idle: i}
}

func (i *idle) stop() {
	if i != nil {
		i.timer.Stop()
	}
}

// movingBody notes what is read.
type movingBody struct {
	io.ReadCloser
	idle *idle
}

// Read reads on.
func (b *movingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.idle.moved()
	}
	return n, err
}
