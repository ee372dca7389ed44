//go:build !unix

package gateway

import "net"

// readReady is for systems that can wait on a descriptor.
func readReady(net.Conn, *relayBuffers) (*[relayBuffer]byte, int, error, bool) {
	return nil, 0, nil, false
}
