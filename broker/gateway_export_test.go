package broker

import "github.com/remotegpu/gatehouse/broker/gateway"

// Gateway gives tests what a platform will have by the API: lending consoles.
func (b *Broker) Gateway() *gateway.Gateway { return b.gateway }
