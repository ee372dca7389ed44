package gateway

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/gateway/upstream"
)

// UpstreamConfig is one of several servers that do the same work.
type UpstreamConfig struct {
	URL    string `yaml:"url"`
	Weight *int   `yaml:"weight"` // its share, 1 to 100; default 1
}

// servers are the upstreams of a route that is no lease's, however written.
func (r Route) servers() []UpstreamConfig {
	if len(r.Upstreams) > 0 {
		return r.Upstreams
	}
	return []UpstreamConfig{{URL: r.Upstream}}
}

// grouped reports whether more is to be done than sending to the one upstream.
func (r Route) grouped() bool { return len(r.Upstreams) > 0 || r.Health.Path != "" }

// placed reports whether the host of the URL begins with the capture of the
// route's host: http://{name}.svc.example:8080.
func (u UpstreamConfig) placed(capture string) bool {
	_, after, ok := strings.Cut(u.URL, "://")
	return ok && captureName.MatchString(capture) && strings.HasPrefix(after, capture+".")
}

// plain is the URL with a label in the place of the capture.
func (u UpstreamConfig) plain(capture string) string {
	if u.placed(capture) {
		return strings.Replace(u.URL, capture, "any", 1)
	}
	return u.URL
}

// target is where a request of a host with this first label goes.
func (rt *route) target(label string) *url.URL {
	if !rt.placed {
		return rt.upstream
	}
	u := *rt.upstream
	u.Host = label + strings.TrimPrefix(u.Host, "any")
	return &u
}

// weight is the share.
func (u UpstreamConfig) weight() int {
	if u.Weight == nil {
		return 1
	}
	return *u.Weight
}

// hostPort is where to dial for a URL.
func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	return net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
}

// openGroup makes the group of a route that has one, over its transport.
func (g *Gateway) openGroup(rt *route, transport http.RoundTripper) error {
	var servers []upstream.Server
	for _, s := range rt.servers() {
		u, err := console.ParseUpstream(s.URL)
		if err != nil {
			return fmt.Errorf("route %q: %w", rt.Name, err)
		}
		servers = append(servers, upstream.Server{URL: u, Weight: s.weight()})
	}
	cfg := upstream.Config{Servers: servers, Balance: rt.Balance, Health: rt.Health, Transport: transport, Blame: blame, Now: g.cfg.Now, Random: fraction,
		Changed: func(ctx context.Context, server string, up bool, why string) {
			g.cfg.Log.WarnContext(ctx, "upstream", "route", rt.Name, "upstream", server, "up", up, "reason", why)
		}}
	if rt.Sticky {
		cfg.Key = func(ctx context.Context) string {
			if pg, ok := ctx.Value(passageKey{}).(*passage); ok {
				return pg.holder()
			}
			return ""
		}
	}
	var err error
	if rt.group, err = upstream.New(cfg); err != nil {
		return fmt.Errorf("route %q: %w", rt.Name, err)
	}
	return nil
}

// blame reports whether a failure is the upstream's and not the client's or ours.
func blame(ctx context.Context, _ error) bool {
	pg, _ := ctx.Value(passageKey{}).(*passage)
	return ctx.Err() == nil && (pg == nil || pg.body.err() == nil)
}

// fraction is a random number from 0 to 1, 1 excluded.
func fraction() float64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return float64(binary.BigEndian.Uint64(b[:])>>11) / (1 << 53)
}

// watchUpstreams runs the health checks of all routes until ctx ends.
func (g *Gateway) watchUpstreams(ctx context.Context) {
	var all sync.WaitGroup
	for _, rt := range g.all {
		if rt.group != nil {
			all.Go(func() { rt.group.Run(ctx) })
		}
	}
	all.Wait()
}

// upstreamProblems complains about upstreams that could not be reached as they
// are written.
func (r Route) upstreamProblems(add func(field, rule, text, fix string)) {
	if r.Lease && !r.ForwardAuth {
		for _, f := range []struct {
			field, key string
			set        bool
		}{
			{"Upstream", "upstream", r.Upstream != ""}, {"Upstreams", "upstreams", len(r.Upstreams) > 0}, {"Balance", "balance", r.Balance != ""}, {"Sticky", "sticky", r.Sticky},
			{"Health", "health", r.Health != upstream.HealthConfig{}}, {"TLS", "tls", r.TLS != upstream.TLSConfig{}},
		} {
			if f.set {
				add(f.field, "route.upstream", "The upstream of a lease route is in the lease.", "leave "+f.key+" out")
			}
		}
		return
	}
	if r.ForwardAuth {
		r.forwardAuthProblems(add)
		return
	}
	switch {
	case r.Upstream == "" && len(r.Upstreams) == 0:
		add("Upstream", "route.upstream", "A route needs the URL of its upstream, without query and user.", "upstream: http://127.0.0.1:9000")
	case r.Upstream != "" && len(r.Upstreams) > 0:
		add("Upstreams", "route.upstream", "A route has upstream or upstreams.", "leave one of them out")
	case len(r.Upstreams) > upstream.MaxMembers:
		add("Upstreams", "route.upstream", fmt.Sprintf("A route has at most %d upstreams.", upstream.MaxMembers), "")
	default:
		r.serverProblems(add)
	}
	if r.Balance != "" && r.Balance != upstream.RoundRobin && r.Balance != upstream.LeastBusy {
		add("Balance", "route.balance", fmt.Sprintf("%q is no way to balance.", r.Balance), upstream.RoundRobin+" or "+upstream.LeastBusy)
	}
	if len(r.Upstreams) == 0 && (r.Balance != "" || r.Sticky) {
		field := "Balance"
		if r.Balance == "" {
			field = "Sticky"
		}
		add(field, "route.balance", "There is nothing to balance between.", "upstreams: [{url: …}, {url: …}]")
	}
	if field, text, fix := r.Health.Problem(); field != "" {
		add("Health."+field, "route.health", text, fix)
	}
	if (r.TLS.CertFile == "") != (r.TLS.KeyFile == "") {
		add("TLS", "route.tls", "cert_file and key_file belong together.", "")
	}
}

// forwardAuthProblems complains about what another proxy would have to do.
func (r Route) forwardAuthProblems(add func(field, rule, text, fix string)) {
	if r.Upstream != "" || r.Lease {
		add("Upstream", "route.forward_auth", "A route with forward_auth is served by another proxy: it has neither upstream nor lease.", "leave upstream and lease out")
	}
	for _, f := range []struct {
		field, key string
		set        bool
	}{
		{"Upstreams", "upstreams", len(r.Upstreams) > 0}, {"Balance", "balance", r.Balance != ""}, {"Sticky", "sticky", r.Sticky}, {"Health", "health", r.Health != upstream.HealthConfig{}},
		{"TLS", "tls", r.TLS != upstream.TLSConfig{}}, {"RequestHeaders", "request_headers", len(r.RequestHeaders.Set)+len(r.RequestHeaders.Remove) > 0},
		{"ResponseHeaders", "response_headers", len(r.ResponseHeaders.Set)+len(r.ResponseHeaders.Remove) > 0}, {"MaxBody", "max_body", r.MaxBody != ""}, {"Timeouts", "timeouts", r.Timeouts != TimeoutsConfig{}},
	} {
		if f.set {
			add(f.field, "route.forward_auth", "A route with forward_auth is served by another proxy, which has to do this.", "leave "+f.key+" out")
		}
	}
}

// serverProblems look at each upstream, and whether they fit together.
func (r Route) serverProblems(add func(field, rule, text, fix string)) {
	capture, _ := wildcard(r.Host)
	seen, first := map[string]bool{}, ""
	for i, s := range r.servers() {
		field := "Upstream"
		if len(r.Upstreams) > 0 {
			field = fmt.Sprintf("Upstreams[%d].URL", i)
		}
		u, err := console.ParseUpstream(s.plain(capture))
		switch {
		case err != nil || strings.ContainsAny(s.plain(capture), "{}"):
			add(field, "route.upstream", "A route needs the URL of its upstream, without query and user. Only the {name} of the route's host may stand in it, as the first label of the host.", "upstream: http://127.0.0.1:9000")
			continue
		case s.placed(capture) && strings.Count(u.Hostname(), ".") < 1:
			add(field, "route.upstream", "After the first label the upstream's host has a domain of its own.", "upstream: http://"+capture+".apps.internal:8080")
		case s.placed(capture) && r.grouped():
			add(field, "route.upstream", "Health checks and upstreams need hosts that are known.", "upstream: alone")
		case u.Scheme != "https" && r.TLS != upstream.TLSConfig{}:
			add("TLS", "route.tls", "tls is for upstreams with https.", "upstream: https://…")
		case seen[u.Scheme+hostPort(u)]:
			add(field, "route.upstream", fmt.Sprintf("%s is there twice.", u.Host), "weight: 2")
		case i > 0 && strings.TrimSuffix(u.EscapedPath(), "/") != first:
			add(field, "route.upstream", "The upstreams of a route differ in scheme, host and port alone, not in their path.", "the same path on all")
		}
		if i == 0 {
			first = strings.TrimSuffix(u.EscapedPath(), "/")
		}
		seen[u.Scheme+hostPort(u)] = true
		if w := s.weight(); w < 1 || w > upstream.MaxWeight {
			add(fmt.Sprintf("Upstreams[%d].Weight", i), "route.upstream", fmt.Sprintf("A weight is 1 to %d.", upstream.MaxWeight), "weight: 1; leave the entry out to send nothing there")
		}
	}
}
