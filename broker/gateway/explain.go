package gateway

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/web"
)

// Question is a request that nobody makes.
type Question struct {
	Method string
	URL    *url.URL
	IP     string
	Time   time.Time
}

// Verdict is what the gateway would answer to it.
type Verdict struct {
	// Decision is allow, deny, step_up, no_lease or no_route.
	Decision string
	Route    string
	Lease    string
	// Rule is the name of the deny rule, Reason what who is refused would read,
	// Because what operators read.
	Rule    string
	Reason  map[string]string
	Contact string
	Because string
	// MaxAge is how old the sign-in may be, for step_up.
	MaxAge time.Duration
}

// Explain decides, by the rules and the code of real requests, what a session
// would be answered. Nothing is forwarded or recorded.
func (g *Gateway) Explain(ctx context.Context, q Question, s session.Session) (Verdict, error) {
	routes, label := g.routes.host(web.HostName(q.URL.Host))
	path := q.URL.Path
	if path == "" {
		path = "/"
	}
	rt, err := choose(routes, &http.Request{Method: cmp.Or(q.Method, http.MethodGet), URL: &url.URL{Path: path}})
	if err != nil {
		return Verdict{Decision: "no_route", Because: "no route has this host, path and method"}, nil
	}
	v := Verdict{Route: rt.Name}
	if !rt.raw {
		if err := checkPath(q.URL.EscapedPath()); err != nil && q.URL.Path != "" {
			v.Decision, v.Because = "deny", "the path can be read in two ways: "+err.Error()
			return v, nil
		}
	}
	if !rt.session {
		v.Decision, v.Because = "deny", "the route takes no browser sessions: auth"
		return v, nil
	}
	c := bySession(s)
	var l *console.Lease
	if rt.Lease {
		var err error
		v.Lease = label
		if l, err = g.cfg.Leases.Get(ctx, label); errors.Is(err, console.ErrNoLease) {
			v.Decision, v.Because = "no_lease", "nothing is lent under this name"
			return v, nil
		} else if err != nil {
			return v, err
		}
		if looksOnly(l, c) && !looking(q.Method) {
			v.Decision, v.Rule, v.Because = "deny", "read_only", "the lease is read-only for guests"
			return v, nil
		}
	}
	req := &policy.Request{Method: strings.ToUpper(q.Method), Path: path, Host: web.HostName(q.URL.Host), IP: q.IP, Time: q.Time}
	if req.Method == "" {
		req.Method = http.MethodGet
	}
	p, err := g.decide(ctx, rt, c, l, req, q.Time)
	switch {
	case err != nil:
		return v, err
	case p.allowed:
		v.Decision = "allow"
	case p.stepUp > 0:
		v.Decision, v.MaxAge, v.Because = "step_up", p.stepUp, "the sign-in is older than step_up.max_age"
	default:
		v.Decision, v.Rule, v.Reason, v.Contact, v.Because = "deny", p.refusal.rule, p.refusal.reason, p.refusal.contact, p.refusal.log
	}
	return v, nil
}
