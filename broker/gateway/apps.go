package gateway

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/session"
)

// App is something that a person may open.
type App struct {
	Name, Kind, Node, URL string
	// State of a console is "up", "waking" or "" (not looked at).
	State string
	// Ends is when a console's lease runs out.
	Ends time.Time
}

// maxTiles is how many consoles the portal shows a person.
const maxTiles = 200

// Apps lists what this session may open: routes with a host of their own, and
// the consoles that are lent to it. A rule that looks at the request is asked
// about the one that opening would make now, from the same address.
func (g *Gateway) Apps(ctx context.Context, s session.Session, ip string) ([]App, error) {
	opening := func(rt *route, host string) *policy.Request {
		return &policy.Request{Method: http.MethodGet, Path: rt.Path, Host: host, IP: ip, Time: g.cfg.Now()}
	}
	c := bySession(s)
	var out []App
	for _, rt := range g.all {
		if !rt.session || rt.Lease || rt.suffix != "" || rt.match != nil && !rt.match.opens() {
			continue
		}
		if ok, err := g.mayOpen(ctx, rt, c, nil, opening(rt, rt.Host)); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		out = append(out, App{Name: rt.Name, Kind: "api", URL: g.url(rt.Host, rt.Path)})
	}
	lent := g.cfg.Leases.For(s.UserID, s.Groups, maxTiles)
	listen := g.look(ctx, lent)
	for _, rt := range g.all {
		if !rt.Lease || !rt.session {
			continue
		}
		for _, l := range lent {
			if ok, err := g.mayOpen(ctx, rt, c, l, opening(rt, l.ID+rt.suffix)); err != nil {
				return nil, err
			} else if !ok {
				continue
			}
			out = append(out, App{Name: cmp.Or(l.Title, l.ID), Kind: cmp.Or(l.Kind, "custom"), Node: l.Node, URL: g.url(l.ID+rt.suffix, rt.Path), State: stateOf(listen, l.ID), Ends: l.Expires})
		}
	}
	return out, nil
}

func stateOf(listen map[string]bool, id string) string {
	up, looked := listen[id]
	switch {
	case !looked:
		return ""
	case up:
		return "up"
	}
	return "waking"
}

// mayOpen decides without making what an upstream needs. A rule that looks at a
// request which is not there says nothing, and its route is shown.
func (g *Gateway) mayOpen(ctx context.Context, rt *route, c caller, l *console.Lease, req *policy.Request) (bool, error) {
	if req == nil && rt.rules.readsRequest(l) {
		return true, nil
	}
	p, err := g.decide(ctx, rt, c, l, req, g.cfg.Now())
	if err != nil {
		return false, err
	}
	return p.allowed || p.stepUp > 0, nil // who must sign in again may
}

// ConsoleURL is where people open a console; "" where no route leads to leases.
func (g *Gateway) ConsoleURL(id string) string {
	for _, rt := range g.all {
		if rt.Lease {
			return g.url(id+rt.suffix, rt.Path)
		}
	}
	return ""
}

// url is a gateway host as browsers call it.
func (g *Gateway) url(host, path string) string {
	if p := g.cfg.Issuer.Port(); p != "" {
		host += ":" + p
	}
	return g.cfg.Issuer.Scheme + "://" + host + path
}
