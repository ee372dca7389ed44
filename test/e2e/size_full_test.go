//go:build e2e && full

package e2e

// Sizes of the full run; those of the part that CI runs are in size_core_test.go.
const (
	largeBody     = 2 << 30 // bytes
	socketsClosed = 5000    // live WebSockets that end at once
	socketsIdle   = 9800    // whose memory is measured
)

// objectStores are those that the archive is tried with: the second one takes ten
// minutes to build.
var objectStores = []string{"minio", "versitygw"}
