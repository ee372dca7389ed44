package gateway

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/gateway/upstream"
)

// Addresses are the upstreams of a route that can be tried before anybody asks
// for them: none of leases, of other proxies, and of hosts that hold a {name}.
func (r Route) Addresses() []string {
	if r.Lease || r.ForwardAuth {
		return nil
	}
	capture, _ := wildcard(r.Host)
	var out []string
	for _, s := range r.servers() {
		if !s.placed(capture) {
			out = append(out, s.URL)
		}
	}
	return out
}

// Probe connects to one of Addresses as requests would, TLS included, and
// returns where that was.
func (r Route) Probe(ctx context.Context, address string) (string, error) {
	u, err := console.ParseUpstream(address)
	if err != nil {
		return "", err
	}
	files, err := upstream.NewTLS(r.TLS, time.Now, nil)
	if err != nil {
		return "", fmt.Errorf("tls.%w", err)
	}
	to := hostPort(u)
	c, err := (&net.Dialer{Timeout: r.connect()}).DialContext(ctx, "tcp", to)
	if err != nil {
		return "", err
	}
	if u.Scheme == "https" {
		if c, err = files.Handshake(ctx, c, u.Hostname()); err != nil {
			return "", err
		}
	}
	return to, c.Close()
}
