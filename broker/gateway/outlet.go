package gateway

import (
	"net/http"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/gateway/relay"
)

// outlet ends waiting for a client that does not read, or sends no more.
// Cancelling the request does not: that ends what comes from the upstream, while a
// write waits for the client as long as it keeps the connection, and http.Transport
// gives no request up before reading its body has returned (docs/security.md GW-14).
type outlet struct {
	rc    *http.ResponseController
	timer *time.Timer // runs while something is being written

	mu   sync.Mutex
	left bool // the handler is done: the connection is the next request's
}

// writing begins a write, which may take relay.WriteLimit.
func (o *outlet) writing() {
	if o.timer == nil {
		o.timer = time.AfterFunc(relay.WriteLimit, func() { o.end(nil, 0) })
		return
	}
	o.timer.Reset(relay.WriteLimit)
}

// wrote ends a write.
func (o *outlet) wrote() { o.timer.Stop() }

// interrupt ends reading a body that is not at its end, and writing after a
// moment for last words.
func (o *outlet) interrupt(body *requestBody) { o.end(body, lastWords) }

func (o *outlet) end(body *requestBody, after time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.left {
		return
	}
	if body.open() {
		_ = o.rc.SetReadDeadline(time.Unix(1, 0))
	}
	_ = o.rc.SetWriteDeadline(time.Now().Add(after))
}

// leave is called when the handler is done.
func (o *outlet) leave() {
	o.mu.Lock()
	o.left = true
	o.mu.Unlock()
	if o.timer != nil {
		o.timer.Stop()
	}
}
