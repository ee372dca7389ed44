//go:build !unix

package relay

import "net"

// readReady is for systems that can wait on a descriptor.
func readReady(net.Conn, *Buffers) (*[BufferSize]byte, int, error, bool) {
	return nil, 0, nil, false
}
