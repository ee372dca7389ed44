package gateway

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	relayBuffer = 4 << 10
	// atBoundary is how long an end waits for a frame to be finished, and for
	// the other side to take notice.
	atBoundary = 250 * time.Millisecond
	// writeLimit is how long a side may leave what it is sent unread.
	writeLimit = time.Minute
)

// relay copies frames both ways and knows where they end, so that a close frame
// of ours never lands inside one.
type relay struct {
	stop    chan int
	once    sync.Once
	buffers *relayBuffers
	mute    bool          // what the client says does not reach the upstream, control frames apart
	idle    time.Duration // ends it when no byte moves for so long; 0: never
	moved   atomic.Int64  // when one last did, in nanoseconds of Unix; only with idle
}

// relayBuffers are what bytes pass through; who waits holds none.
type relayBuffers struct{ pool sync.Pool }

func (b *relayBuffers) take() *[relayBuffer]byte {
	if x, ok := b.pool.Get().(*[relayBuffer]byte); ok {
		return x
	}
	return new([relayBuffer]byte)
}

func (b *relayBuffers) give(x *[relayBuffer]byte) { b.pool.Put(x) }

// end asks the relay to close with a code; the first one counts.
func (r *relay) end(code int) { r.once.Do(func() { r.stop <- code }) }

// leg is one direction.
type leg struct {
	dst    net.Conn
	mu     sync.Mutex // held while a chunk is written and accounted for
	frames frames
	only   *controlFrames // what of the frames passes; nil: all
	closed bool           // a close frame of ours was sent: nothing may follow
	limit  sync.Mutex
	ending bool          // the deadline of dst is close's
	moved  *atomic.Int64 // see relay; nil: nobody asks
}

func (r *relay) run(ctx context.Context, ended <-chan struct{}, client net.Conn, fromClient []byte, up net.Conn, fromUp []byte) {
	toClient, toUp := &leg{dst: client}, &leg{dst: up}
	var quiet *time.Timer
	var quietC <-chan time.Time
	if r.idle > 0 {
		r.moved.Store(time.Now().UnixNano())
		toClient.moved, toUp.moved = &r.moved, &r.moved
		quiet = time.NewTimer(r.idle)
		defer quiet.Stop()
		quietC = quiet.C
	}
	if r.mute {
		toUp.only = &controlFrames{}
	}
	done := make(chan struct{}, 2)
	var copies sync.WaitGroup
	copies.Go(func() { toClient.copy(r.buffers, fromUp, up); done <- struct{}{} })
	copies.Go(func() { toUp.copy(r.buffers, fromClient, client); done <- struct{}{} })
	code, left := 0, 2
	for waiting := true; waiting; {
		waiting = false
		select {
		case <-done: // one side has ended: what it said has reached the other
			left--
		case <-ended:
			code = closeSession
		case code = <-r.stop:
		case <-ctx.Done():
			code = closeAway
		case <-quietC:
			if more := r.idle - time.Since(time.Unix(0, r.moved.Load())); more > 0 {
				quiet.Reset(more)
				waiting = true
			}
			code = closeAway
		}
	}
	deadline := time.Now().Add(atBoundary)
	if code != 0 {
		// The client first: the upstream answers a close frame with its own,
		// which must not reach the client instead of ours.
		toClient.close(code, false, deadline)
		toUp.close(closeAway, true, deadline)
	}
	// Both hear that nothing more comes, and have a moment to finish: closing at
	// once would reset the connection under what they have not read yet.
	closeWrite(client)
	closeWrite(up)
	finish := time.NewTimer(time.Until(deadline))
	defer finish.Stop()
wait:
	for ; left > 0; left-- {
		select {
		case <-done:
		case <-finish.C:
			break wait
		}
	}
	client.Close()
	up.Close()
	copies.Wait()
}

func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
}

// copy moves what comes until either side ends. After our close frame it only
// reads. early is what was read ahead of from.
func (l *leg) copy(buffers *relayBuffers, early []byte, from net.Conn) {
	if len(early) > 0 && !l.write(early) {
		return
	}
	for {
		buf, n, err, handled := readReady(from, buffers)
		if !handled {
			buf = buffers.take()
			n, err = from.Read(buf[:])
		}
		if l.moved != nil && n > 0 {
			l.moved.Store(time.Now().UnixNano())
		}
		goOn := n == 0 || l.write(buf[:n])
		if buf != nil {
			buffers.give(buf)
		}
		if err != nil || !goOn {
			return
		}
	}
}

func (l *leg) write(b []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return true
	}
	if l.only != nil {
		if b = l.only.filter(b); len(b) == 0 {
			return true
		}
	}
	l.limit.Lock()
	if !l.ending {
		_ = l.dst.SetWriteDeadline(time.Now().Add(writeLimit))
	}
	l.limit.Unlock()
	if _, err := l.dst.Write(b); err != nil {
		return false
	}
	l.frames.pass(b)
	return true
}

// close sends a close frame between two frames, if there is a boundary in time.
func (l *leg) close(code int, masked bool, deadline time.Time) {
	l.limit.Lock()
	l.ending = true
	_ = l.dst.SetWriteDeadline(deadline) // for a write that hangs, too
	l.limit.Unlock()
	for {
		l.mu.Lock()
		if l.closed || l.frames.closing {
			l.mu.Unlock()
			return
		}
		if l.frames.boundary() {
			l.closed = true
			_, _ = l.dst.Write(closeFrame(code, masked))
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		if !time.Now().Before(deadline) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// closeFrame is a close frame with a code and no reason (RFC 6455 section 5.5.1).
func closeFrame(code int, masked bool) []byte {
	payload := binary.BigEndian.AppendUint16(nil, uint16(code))
	if !masked {
		return append([]byte{0x88, 2}, payload...)
	}
	// A mask of zeros leaves the payload as it is and is a valid mask.
	return append([]byte{0x88, 0x80 | 2, 0, 0, 0, 0}, payload...)
}

// frames follows the frames of one direction by their headers alone (RFC 6455
// section 5.2).
type frames struct {
	head    [14]byte
	have    int    // bytes of the header seen
	size    int    // of the last header that was whole
	left    uint64 // bytes of the payload to come
	closing bool   // a close frame has begun
}

func (f *frames) boundary() bool { return f.have == 0 && f.left == 0 }

// pass accounts for bytes that were sent on.
func (f *frames) pass(b []byte) {
	for len(b) > 0 {
		b = b[f.next(b):]
	}
}

// next takes a part of a payload or one byte of a header, and returns how much.
func (f *frames) next(b []byte) int {
	if f.left > 0 {
		n := min(uint64(len(b)), f.left)
		f.left -= n
		return int(n)
	}
	f.head[f.have] = b[0]
	f.have++
	if f.have < 2 {
		return 1
	}
	need := 2
	switch f.head[1] & 0x7f {
	case 126:
		need += 2
	case 127:
		need += 8
	}
	payloadAt := need
	if f.head[1]&0x80 != 0 {
		need += 4
	}
	if f.have < need {
		return 1
	}
	switch n := f.head[1] & 0x7f; n {
	case 126:
		f.left = uint64(binary.BigEndian.Uint16(f.head[2:payloadAt]))
	case 127:
		f.left = binary.BigEndian.Uint64(f.head[2:payloadAt])
	default:
		f.left = uint64(n)
	}
	if f.head[0]&0x0f == 8 {
		f.closing = true
	}
	f.size, f.have = need, 0
	return 1
}

// controlFrames lets ping, pong and close pass and drops the frames of messages:
// for who may look and not act.
type controlFrames struct {
	frames frames
	keep   bool
	out    []byte
}

// filter returns what of b passes; it is good until the next call.
func (c *controlFrames) filter(b []byte) []byte {
	c.out = c.out[:0]
	for len(b) > 0 {
		payload := c.frames.left > 0
		n := c.frames.next(b)
		switch {
		case payload && c.keep:
			c.out = append(c.out, b[:n]...)
		case !payload && c.frames.have == 0: // a header is whole
			if c.keep = c.frames.head[0]&0x0f >= 8; c.keep {
				c.out = append(c.out, c.frames.head[:c.frames.size]...)
			}
		}
		b = b[n:]
	}
	return c.out
}
