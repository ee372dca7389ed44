package broker

import "github.com/remotegpu/gatehouse/broker/console"

// Consoles gives the tests the leases, which only the platform writes.
func (b *Broker) Consoles() *console.Registry { return b.consoles }
