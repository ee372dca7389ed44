// Package relay copies WebSocket frames between two connections and ends them
// between two frames, with a code. Who may open one, and when it must end, is the
// gateway's business.
package relay

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Close codes of sockets that we end (RFC 6455 section 7.4).
const (
	Away         = 1001 // shutting down, or nothing has moved for too long
	SessionEnded = 4401
	Forbidden    = 4403 // the lease has ended or the permission is lost
)

// WriteLimit is how long a side may leave what it is sent unread.
const WriteLimit = time.Minute

// BufferSize is how much is read at once.
const BufferSize = 4 << 10

// atBoundary is how long an end waits for a frame to be finished, and for the
// other side to take notice.
const atBoundary = 250 * time.Millisecond

// Config is what New needs.
type Config struct {
	Buffers *Buffers
	// Mute keeps what the client says from the upstream, control frames apart.
	Mute bool
	// Idle ends the relay when no byte moves for so long; 0: never.
	Idle time.Duration
}

// Relay copies frames both ways and knows where they end, so that a close frame
// of ours never lands inside one.
type Relay struct {
	cfg   Config
	stop  chan int
	once  sync.Once
	moved atomic.Int64 // when one last did, in nanoseconds of Unix; only with idle
}

// New makes a relay for two connections.
func New(cfg Config) *Relay { return &Relay{cfg: cfg, stop: make(chan int, 1)} }

// Buffers are what bytes pass through; who waits holds none.
type Buffers struct{ pool sync.Pool }

func (b *Buffers) take() *[BufferSize]byte {
	if x, ok := b.pool.Get().(*[BufferSize]byte); ok {
		return x
	}
	return new([BufferSize]byte)
}

func (b *Buffers) give(x *[BufferSize]byte) { b.pool.Put(x) }

// End asks the relay to close with a code; the first one counts.
func (r *Relay) End(code int) { r.once.Do(func() { r.stop <- code }) }

// leg is one direction.
type leg struct {
	dst    net.Conn
	mu     sync.Mutex // held while a chunk is written and accounted for
	frames frames
	only   *controlFrames // what of the frames passes; nil: all
	closed bool           // a close frame of ours was sent: nothing may follow
	limit  sync.Mutex
	ending bool          // the deadline of dst is close's
	moved  *atomic.Int64 // see Relay; nil: nobody asks
}

// Run copies until a side ends, End is called, the session's end is heard by ended
// (nil: never), ctx ends or nothing moves. Then both connections are closed.
// fromClient and fromUp are what was read of a side already.
func (r *Relay) Run(ctx context.Context, ended <-chan struct{}, client net.Conn, fromClient []byte, up net.Conn, fromUp []byte) {
	toClient, toUp := &leg{dst: client}, &leg{dst: up}
	var quiet *time.Timer
	var quietC <-chan time.Time
	if r.cfg.Idle > 0 {
		r.moved.Store(time.Now().UnixNano())
		toClient.moved, toUp.moved = &r.moved, &r.moved
		quiet = time.NewTimer(r.cfg.Idle)
		defer quiet.Stop()
		quietC = quiet.C
	}
	if r.cfg.Mute {
		toUp.only = &controlFrames{}
	}
	done := make(chan struct{}, 2)
	var copies sync.WaitGroup
	copies.Go(func() { toClient.copy(r.cfg.Buffers, fromUp, up); done <- struct{}{} })
	copies.Go(func() { toUp.copy(r.cfg.Buffers, fromClient, client); done <- struct{}{} })
	code, left := 0, 2
	for waiting := true; waiting; {
		waiting = false
		select {
		case <-done: // one side has ended: what it said has reached the other
			left--
		case <-ended:
			code = SessionEnded
		case code = <-r.stop:
		case <-ctx.Done():
			code = Away
		case <-quietC:
			if more := r.cfg.Idle - time.Since(time.Unix(0, r.moved.Load())); more > 0 {
				quiet.Reset(more)
				waiting = true
			}
			code = Away
		}
	}
	deadline := time.Now().Add(atBoundary)
	if code != 0 {
		// The client first: the upstream answers a close frame with its own,
		// which must not reach the client instead of ours.
		toClient.close(code, false, deadline)
		toUp.close(Away, true, deadline)
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
func (l *leg) copy(buffers *Buffers, early []byte, from net.Conn) {
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
		_ = l.dst.SetWriteDeadline(time.Now().Add(WriteLimit))
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
