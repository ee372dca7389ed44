package gateway

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/gateway/relay"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/web"
)

// live is what outlives a configuration: all that is open, and which Gateway
// decides about it. Everything else of a Gateway is made of one configuration
// and never changes, so that no decision can mix two.
type live struct {
	current atomic.Pointer[Gateway]
	news    news
	waking  waking
	probes  probes
	active  active
	base    context.Context // ends at shutdown; sockets hang on it
	stop    context.CancelFunc
	relays  relays
	buffers relay.Buffers // the WebSockets'
	retired retired
}

func newLive() *live {
	l := &live{}
	l.news.init()
	l.active.init()
	l.base, l.stop = context.WithCancel(context.Background())
	return l
}

// Next makes a Gateway of another configuration. Until its Use is called nothing
// has changed; where it fails, nothing will.
func (g *Gateway) Next(cfg Config) (*Gateway, error) { return build(cfg, g.live) }

// Use makes this Gateway the one that decides, also about what is open: that
// goes on by its own configuration until it is decided again, which begins now.
// The caller sends new requests here.
func (g *Gateway) Use() {
	old := g.current.Swap(g)
	if old != nil && old != g {
		g.retired.add(old)
	}
	g.news.everything()
}

// retired are Gateways of earlier configurations whose connections to upstreams
// are closed as they fall idle.
type retired struct {
	mu  sync.Mutex
	all []leaving
}

type leaving struct {
	g     *Gateway
	since time.Time
}

// retiredFor is how long a retired Gateway's connections are looked after;
// their transports close them by themselves later on.
const retiredFor = 10 * time.Minute

func (r *retired) add(g *Gateway) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, leaving{g, time.Now()})
}

func (r *retired) closeIdle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.all {
		l.g.proxy.closeIdle()
	}
	r.all = slices.DeleteFunc(r.all, func(l leaving) bool { return time.Since(l.since) > retiredFor })
}

// closeIdle closes the connections that nothing uses.
func (p *proxies) closeIdle() {
	idle := func(t any) {
		if c, ok := t.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	}
	for _, rp := range p.byRoute {
		idle(rp.Transport)
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, rp := range p.consoles {
		idle(rp.Transport)
	}
}

// keep lets routes know what those of their names knew: who asked how often, and
// what was seen of the same upstream.
func (g *Gateway) keep(before *Gateway) {
	for _, rt := range g.all {
		for _, old := range before.all {
			if old.Name != rt.Name {
				continue
			}
			rt.limit = rt.limit.goOn(old.limit, g.cfg.Now())
			if old.Upstream == rt.Upstream && old.Lease == rt.Lease {
				rt.health = old.health
			}
		}
	}
}

// routeOf finds the route that has now what began under another configuration,
// with what its rules read of the request. It is nil where there is none, or
// where it would not let this caller in this way (docs/security.md GW-9, GW-13).
func (g *Gateway) routeOf(a *activity) (*route, *policy.Request) {
	q := web.RequestOf(a.in)
	routes, label := g.routes.host(q.Host)
	rt, err := choose(routes, a.in)
	switch {
	case err != nil, rt == nil, rt.ForwardAuth, rt.Lease != a.route.Lease, rt.Lease && label != a.lease.ID, !rt.takes(a):
		return nil, nil
	case !rt.raw && a.route.raw && checkPath(rawPath(a.in)) != nil:
		return nil, nil
	case rt.Lease && !g.reaches(a.lease):
		return nil, nil
	}
	if a.request != nil || !rt.rules.readsRequest(a.lease) {
		return rt, a.request
	}
	return rt, &policy.Request{Method: a.in.Method, Path: a.in.URL.Path, Host: q.Host, IP: q.IP.String(), Time: g.cfg.Now()}
}

// takes reports whether the route would let the caller in by what it was let in
// with: that was for the audience of the route that it had then.
func (rt *route) takes(a *activity) bool {
	c := a.caller
	scoped := !slices.ContainsFunc(rt.Scopes, func(need string) bool { return !slices.Contains(c.scope, need) })
	switch {
	case c.cookie:
		return rt.session && (!a.socket || originAllowed(a, rt))
	case c.keyID != "":
		return rt.apiKey && scoped
	}
	return rt.bearer && scoped && rt.Audience == a.route.Audience
}

// originAllowed asks again whether the page that opened a socket may: it was of
// the host itself or one that the route named.
func originAllowed(a *activity, rt *route) bool {
	origin := a.in.Header.Get("Origin")
	return slices.Contains(rt.CORS.Origins, origin) || !slices.Contains(a.route.CORS.Origins, origin)
}

// reaches reports whether consoles.networks still has a lease's address. Names
// are resolved, and checked, when they are dialled.
func (g *Gateway) reaches(l *console.Lease) bool {
	u, err := console.ParseUpstream(l.Upstream)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err != nil || console.Within(g.networks, ip)
}
