package main

import "os"

// heapFloor lets the collector wait until there is some garbage: a broker's
// live heap is a few megabytes, and collecting each time that it has doubled
// costs a tenth of the CPU time. The bytes are never touched, so that the
// kernel gives no memory for them, and beside a large heap they weigh nothing.
const heapFloor = 32 << 20

// newHeapFloor returns the floor; it counts as long as it is kept. Who sets
// GOGC knows better.
func newHeapFloor() []byte {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	return make([]byte, heapFloor)
}
