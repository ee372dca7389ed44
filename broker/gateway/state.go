package gateway

import (
	"crypto/x509"
	"sync/atomic"

	"github.com/remotegpu/gatehouse/broker/gateway/upstream"
)

// upstreamHealth is what the last request through a route said of its upstream.
type upstreamHealth struct {
	state   atomic.Int32 // unknown, up or down
	sockets atomic.Int64
}

const (
	upstreamUp   = 1
	upstreamDown = 2
)

// saw notes an answer or its lack. Nearly always nothing has changed, and then
// nothing is written.
func (h *upstreamHealth) saw(state int32) {
	if h.state.Load() != state {
		h.state.Store(state)
	}
}

// ClientCertificate is what the gateway shows to the upstreams of a route.
type ClientCertificate struct {
	Route string
	Leaf  *x509.Certificate
}

// ClientCertificates lists those that routes have, as the next connection shows
// them.
func (g *Gateway) ClientCertificates() []ClientCertificate {
	var out []ClientCertificate
	for _, rt := range g.all {
		if rt.tls == nil {
			continue
		}
		for _, c := range rt.tls.Config("").Certificates {
			out = append(out, ClientCertificate{rt.Name, c.Leaf})
		}
	}
	return out
}

// State is a route's condition, for metrics.
type State struct {
	Route    string
	Upstream string // host and port; "" for leases, whose upstreams come and go, and where Servers are
	Known    bool   // a request has gone there
	Up       bool
	Sockets  int64
	Servers  []upstream.State // of a route that has several, or health checks
}

// States returns the conditions in the order of the routes.
func (g *Gateway) States() []State {
	out := make([]State, 0, len(g.all))
	for _, rt := range g.all {
		st := rt.health.state.Load()
		s := State{Route: rt.Name, Known: st != 0, Up: st == upstreamUp, Sockets: rt.health.sockets.Load()}
		switch {
		case rt.group != nil:
			s.Servers = rt.group.States()
		case rt.placed: // written once, whatever label it stands for
			s.Upstream = rt.Upstream
		case rt.upstream != nil:
			s.Upstream = rt.upstream.Host
		}
		out = append(out, s)
	}
	return out
}
