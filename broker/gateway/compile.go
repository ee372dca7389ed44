package gateway

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/gateway/upstream"
)

// route is a Route made ready.
type route struct {
	Route
	rules    rules
	upstream *url.URL // the first one where there are several
	placed   bool     // the upstream's host begins with the host's capture
	group    *upstream.Group
	tls      *upstream.TLS // nil: the system's roots, no certificate of ours
	raw      bool
	session  bool
	bearer   bool
	apiKey   bool
	suffix   string // of a wildcard host: ".consoles.example.net"
	match    *conditions
	request  *headerRules
	response *headerRules
	maxBody  int64 // 0: none
	limit    *rateLimit
	cors     corsAnswer
	health   *upstreamHealth
}

func compile(r Route) (*route, error) {
	if ps := r.Problems(); len(ps) > 0 {
		return nil, fmt.Errorf("route %q: %w", r.Name, ps[0])
	}
	c := &route{Route: r, raw: r.raw(), match: newConditions(r), cors: newCORSAnswer(r), health: &upstreamHealth{}}
	c.Host = strings.ToLower(r.Host)
	if c.Path == "" {
		c.Path = "/"
	}
	name, rest := wildcard(c.Host)
	if name != "" {
		c.suffix = "." + rest
	}
	c.request, c.response = newHeaderRules(r.RequestHeaders, name), newHeaderRules(r.ResponseHeaders, name)
	if !r.Lease && !r.ForwardAuth {
		u, err := console.ParseUpstream(r.servers()[0].plain(name))
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", r.Name, err)
		}
		c.upstream, c.placed = u, r.servers()[0].placed(name)
	}
	var err error
	if c.rules, err = r.compileRules(); err != nil {
		return nil, fmt.Errorf("route %q: %w", r.Name, err)
	}
	auth := r.Auth
	if len(auth) == 0 {
		auth = []string{"session", "bearer"}
	}
	c.session, c.bearer = slices.Contains(auth, "session"), slices.Contains(auth, "bearer")
	c.apiKey = slices.Contains(auth, "api_key")
	if r.MaxBody != "" {
		n, err := parseSize(r.MaxBody)
		if err != nil {
			return nil, fmt.Errorf("route %q: max_body: %w", r.Name, err)
		}
		c.maxBody = n
	}
	if r.RateLimit != (RateLimitConfig{}) {
		c.limit = newRateLimit(r.RateLimit)
	}
	return c, nil
}
