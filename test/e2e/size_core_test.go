//go:build e2e && !full

package e2e

// Sizes of the part that CI runs; those of the full run are in size_full_test.go.
const (
	largeBody     = 64 << 20 // bytes
	socketsClosed = 500      // live WebSockets that end at once
	socketsIdle   = 1000     // whose memory is measured
)

// objectStores are those that the archive is tried with.
var objectStores = []string{"minio"}
