//go:build unix

package relay

import (
	"io"
	"net"
	"syscall"
)

// readReady waits until a connection has something to read and only then takes a
// buffer: an idle socket holds none. handled is false for connections that have
// no descriptor of their own to wait on (TLS).
func readReady(c net.Conn, buffers *Buffers) (buf *[BufferSize]byte, n int, err error, handled bool) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, 0, nil, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, 0, err, true
	}
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		buf = buffers.take()
		for {
			n, rerr = syscall.Read(int(fd), buf[:])
			if rerr != syscall.EINTR {
				break
			}
		}
		if rerr == syscall.EAGAIN {
			buffers.give(buf)
			buf = nil
			return false
		}
		return true
	})
	switch {
	case err != nil: // closed, or a deadline
		return buf, 0, err, true
	case rerr != nil:
		return buf, 0, rerr, true
	case n == 0:
		return buf, 0, io.EOF, true
	}
	return buf, n, nil, true
}
