// Package gateway forwards authenticated traffic to the API and the GPU node
// consoles. It never writes users, grants or keys.
package gateway

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/gateway/upstream"
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/web"
)

// Route is one entry of `routes`; the first that matches a request has it.
type Route struct {
	Name string `yaml:"name"`
	// Host is exact, or begins with {node} (lease routes), * or a {name} that
	// header rules and the upstream's host may use.
	Host string `yaml:"host"`
	// Path is a prefix of whole segments; default /.
	Path string `yaml:"path"`
	// Methods and Headers limit what the route takes; GET takes HEAD as well, a
	// header's value is compared exactly.
	Methods  []string          `yaml:"methods,some"`
	Headers  map[string]string `yaml:"headers"`
	Upstream string            `yaml:"upstream"`
	// Upstreams share the requests, in place of Upstream.
	Upstreams []UpstreamConfig `yaml:"upstreams,some"`
	// Balance is round_robin (default) or least_busy.
	Balance string `yaml:"balance"`
	// Sticky keeps a session's requests with one of Upstreams while it is well.
	Sticky bool                  `yaml:"sticky"`
	Health upstream.HealthConfig `yaml:"health"`
	TLS    upstream.TLSConfig    `yaml:"tls"`
	// Audience is the aud of the JWT that the upstream gets, and of the bearer
	// tokens that the route takes. Without it there is neither.
	Audience string `yaml:"audience"`
	// Allow is CEL; absent: everybody who is signed in, on a lease route owner
	// and invited.
	Allow *string `yaml:"allow"`
	// Reason is what who is refused by Allow is told, by language; Contact is
	// whom they may ask.
	Reason  map[string]string `yaml:"reason"`
	Contact string            `yaml:"contact"`
	// Deny are asked first and win.
	Deny []DenyRule `yaml:"deny"`
	// StepUp demands a fresh sign-in.
	StepUp *StepUpConfig `yaml:"step_up"`
	// Auth are the ways to authenticate: session, bearer, api_key. Default: session, bearer.
	Auth []string `yaml:"auth,some"`
	// Scopes are those that a bearer token must hold, all of them.
	Scopes []string `yaml:"scopes"`
	Lease  bool     `yaml:"lease"`
	// ForwardAuth is a route that another proxy serves, which asks us for each
	// request (docs/forward-auth.md). It has no upstream.
	ForwardAuth bool `yaml:"forward_auth"`
	// Identity is what a lease upstream is told besides the user's id:
	// "", "headers" or "jwt".
	Identity       string         `yaml:"identity"`
	RawPath        *bool          `yaml:"raw_path"`
	StripPath      bool           `yaml:"strip_path"`
	CORS           CORSConfig     `yaml:"cors"`
	FrameAncestors []string       `yaml:"frame_ancestors"`
	Timeouts       TimeoutsConfig `yaml:"timeouts"`
	// RequestHeaders and ResponseHeaders change what goes to the upstream and
	// what comes from it.
	RequestHeaders  HeaderRules `yaml:"request_headers"`
	ResponseHeaders HeaderRules `yaml:"response_headers"`
	// MaxBody is the largest request body: bytes, or with a unit such as 10MiB.
	// Default: no limit.
	MaxBody   string          `yaml:"max_body"`
	RateLimit RateLimitConfig `yaml:"rate_limit"`
	// H2C speaks HTTP/2 without TLS by prior knowledge (RFC 9113, section 3.3) to
	// the upstream, and takes it from clients on a listener without TLS. For gRPC.
	H2C bool `yaml:"h2c"`
}

// CORSConfig names the origins whose scripts may use a route with the visitor's
// cookie.
type CORSConfig struct {
	Origins []string `yaml:"origins"`
	// Headers are those that scripts may send; default: what they ask for.
	Headers []string `yaml:"headers"`
	// Expose are headers of answers that scripts may read besides the plain ones.
	Expose []string `yaml:"expose"`
	// MaxAge is how long browsers remember a preflight; default 10m.
	MaxAge time.Duration `yaml:"max_age"`
}

// TimeoutsConfig bounds waiting for an upstream.
type TimeoutsConfig struct {
	Connect        time.Duration `yaml:"connect"`         // default 5s
	ResponseHeader time.Duration `yaml:"response_header"` // default 60s
	// Idle ends a body, stream or WebSocket on which no byte has moved either way
	// for so long; default: never.
	Idle time.Duration `yaml:"idle"`
}

// ConsolesConfig says where lease upstreams may be.
type ConsolesConfig struct {
	Networks []string `yaml:"networks"`
	CAFile   string   `yaml:"ca_file"`
}

// Prefixes are the networks parsed.
func (c ConsolesConfig) Prefixes() ([]netip.Prefix, error) {
	out := make([]netip.Prefix, len(c.Networks))
	for i, n := range c.Networks {
		var err error
		if out[i], err = netip.ParsePrefix(n); err != nil {
			return nil, fmt.Errorf("consoles.networks[%d]: %w", i, err)
		}
	}
	return out, nil
}

// Problems complains about networks that are none.
func (c ConsolesConfig) Problems() []problem.Problem {
	var ps []problem.Problem
	for i, n := range c.Networks {
		if _, err := netip.ParsePrefix(n); err != nil {
			ps = append(ps, problem.Problem{Field: fmt.Sprintf("Networks[%d]", i), Rule: "consoles.network", Text: fmt.Sprintf("%q is not a network.", n), Fix: "for example 10.8.0.0/16"})
		}
	}
	return ps
}

// Problems complains about a route that could not serve.
func (r Route) Problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	if r.H2C && (r.Lease || r.ForwardAuth || slices.ContainsFunc(r.servers(), func(s UpstreamConfig) bool { return strings.HasPrefix(s.URL, "https:") })) {
		add("H2C", "route.h2c", "h2c is HTTP/2 without TLS to a fixed upstream; over https HTTP/2 is negotiated.", "an http upstream, or leave h2c out")
	}
	if r.Name == "" || strings.ContainsAny(r.Name, " \t\n/") {
		add("Name", "route.name", "A route needs a name without spaces and slashes.", "name: api")
	}
	_, host := wildcard(r.Host)
	switch {
	case r.Host == "":
		add("Host", "route.host", "A route needs a host.", "host: api.example.com")
	case web.HostName(host) != strings.ToLower(host) || strings.Contains(host, ":") || host == "":
		add("Host", "route.host", fmt.Sprintf("%q is not a host name.", r.Host), "a name without scheme and port; {node}, {name} or * may stand for its first label")
	case r.Lease && !strings.HasPrefix(r.Host, nodeLabel+"."):
		add("Host", "route.lease_host", "The host of a lease route begins with {node}.", "host: \"{node}.consoles.example.net\"")
	case !r.Lease && strings.Contains(r.Host, nodeLabel):
		add("Host", "route.lease_host", "{node} stands in lease routes alone.", "lease: true")
	}
	if r.Path != "" && (checkPath(r.Path) != nil || strings.Contains(r.Path, "%")) {
		add("Path", "route.path", "A route's path begins with / and is plain.", "path: /v1")
	}
	if r.raw() && r.Path != "" && r.Path != "/" {
		// What an upstream makes of a raw path is not known, so only the host decides (docs/security.md GW-4).
		add("Path", "route.raw_path", "A route with raw_path takes all paths of its host.", "leave path out, or raw_path: false")
	}
	ps = append(ps, r.ruleProblems()...)
	for i, a := range r.Auth {
		if !slices.Contains([]string{"session", "bearer", "api_key"}, a) {
			add(fmt.Sprintf("Auth[%d]", i), "route.auth", fmt.Sprintf("%q is no way to authenticate.", a), "session, bearer, api_key")
		}
	}
	switch r.Identity {
	case "", "headers":
	case "jwt":
	default:
		add("Identity", "route.identity", fmt.Sprintf("%q is unknown.", r.Identity), "headers or jwt")
	}
	if r.Identity != "" && !r.Lease {
		add("Identity", "route.identity", "identity is for lease routes; the others always tell who it is.", "leave it out")
	}
	r.corsProblems(add)
	for i, a := range r.FrameAncestors {
		if a != "'self'" && !isOrigin(a) {
			add(fmt.Sprintf("FrameAncestors[%d]", i), "route.frame_ancestors", fmt.Sprintf("%q is not an origin.", a), "https://app.example.com")
		}
	}
	if r.Timeouts.Connect < 0 || r.Timeouts.ResponseHeader < 0 || r.Timeouts.Idle < 0 {
		add("Timeouts", "route.timeouts", "A timeout cannot be negative.", "")
	}
	r.matchProblems(add)
	r.upstreamProblems(add)
	r.headerProblems(add)
	r.limitProblems(add)
	return ps
}

// raw reports whether ambiguous paths pass: by default on lease routes, since
// the file names of Jupyter hold such.
func (r Route) raw() bool {
	if r.RawPath != nil {
		return *r.RawPath
	}
	return r.Lease
}

// connect is how long dialling the upstream may take.
func (r Route) connect() time.Duration {
	if r.Timeouts.Connect > 0 {
		return r.Timeouts.Connect
	}
	return 5 * time.Second
}

// isOrigin reports whether a text is an origin as browsers write it.
func isOrigin(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && u.Scheme+"://"+u.Host == s && !strings.ContainsAny(s, " ;,")
}
