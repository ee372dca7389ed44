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

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/web"
)

// Route is one entry of `routes`; the first that matches a request has it.
type Route struct {
	Name string `yaml:"name"`
	// Host is exact, or has one label {node} (lease routes) or * in front.
	Host string `yaml:"host"`
	// Path is a prefix of whole segments; default /.
	Path     string `yaml:"path"`
	Upstream string `yaml:"upstream"`
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
	// H2C speaks HTTP/2 without TLS by prior knowledge (RFC 9113, section 3.3) to
	// the upstream, and takes it from clients on a listener without TLS. For gRPC.
	H2C bool `yaml:"h2c"`
}

// CORSConfig names the origins whose scripts may use a route with the visitor's
// cookie.
type CORSConfig struct {
	Origins []string `yaml:"origins"`
}

// TimeoutsConfig bounds waiting for an upstream.
type TimeoutsConfig struct {
	Connect        time.Duration `yaml:"connect"`         // default 5s
	ResponseHeader time.Duration `yaml:"response_header"` // default 60s
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

const nodeLabel = "{node}"

// Problems complains about a route that could not serve.
func (r Route) Problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	if r.H2C && (r.Lease || r.ForwardAuth || strings.HasPrefix(r.Upstream, "https:")) {
		add("H2C", "route.h2c", "h2c is HTTP/2 without TLS to a fixed upstream; over https HTTP/2 is negotiated.", "an http upstream, or leave h2c out")
	}
	if r.Name == "" || strings.ContainsAny(r.Name, " \t\n/") {
		add("Name", "route.name", "A route needs a name without spaces and slashes.", "name: api")
	}
	host := r.Host
	for _, wild := range []string{nodeLabel + ".", "*."} {
		if rest, ok := strings.CutPrefix(r.Host, wild); ok {
			host = rest
		}
	}
	switch {
	case r.Host == "":
		add("Host", "route.host", "A route needs a host.", "host: api.example.com")
	case web.HostName(host) != strings.ToLower(host) || strings.Contains(host, ":") || host == "":
		add("Host", "route.host", fmt.Sprintf("%q is not a host name.", r.Host), "a name without scheme and port; {node} or * may stand for its first label")
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
	switch {
	case r.Lease && r.Upstream != "":
		add("Upstream", "route.upstream", "The upstream of a lease route is in the lease.", "leave upstream out")
	case r.ForwardAuth && (r.Upstream != "" || r.Lease):
		add("Upstream", "route.forward_auth", "A route with forward_auth is served by another proxy: it has neither upstream nor lease.", "leave upstream and lease out")
	case !r.Lease && !r.ForwardAuth:
		if _, err := console.ParseUpstream(r.Upstream); err != nil {
			add("Upstream", "route.upstream", "A route needs the URL of its upstream, without query and user.", "upstream: http://127.0.0.1:9000")
		}
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
	for i, o := range r.CORS.Origins {
		if u, err := url.Parse(o); err != nil || u.Host == "" || u.Scheme+"://"+u.Host != o {
			add(fmt.Sprintf("CORS.Origins[%d]", i), "route.cors", fmt.Sprintf("%q is not an origin.", o), "https://app.example.com")
		}
	}
	for i, a := range r.FrameAncestors {
		if u, err := url.Parse(a); a != "'self'" && (err != nil || u.Host == "" || u.Scheme+"://"+u.Host != a || strings.ContainsAny(a, " ;,")) {
			add(fmt.Sprintf("FrameAncestors[%d]", i), "route.frame_ancestors", fmt.Sprintf("%q is not an origin.", a), "https://app.example.com")
		}
	}
	if r.Timeouts.Connect < 0 || r.Timeouts.ResponseHeader < 0 {
		add("Timeouts", "route.timeouts", "A timeout cannot be negative.", "")
	}
	return ps
}

// Clashes reports whether the route lets ambiguous paths through to a host of
// which a route before it guards some: what that one keeps in would be reached
// around it (docs/security.md GW-4).
func (r Route) Clashes(before Route) bool {
	return r.raw() && before.Path != "" && before.Path != "/" && (r.Takes(before.Host) || before.Takes(r.Host))
}

// Takes reports whether a host as routes write it, a wildcard too, is this
// route's with all that it stands for.
func (r Route) Takes(host string) bool {
	mine, host := strings.ToLower(r.Host), strings.ToLower(host)
	for _, wild := range []string{nodeLabel, "*"} {
		if suffix, ok := strings.CutPrefix(mine, wild); ok {
			first, rest, _ := strings.Cut(host, ".")
			return "."+rest == suffix && (first == nodeLabel || first == "*" || console.ValidID(first))
		}
	}
	return mine == host
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

// route is a Route made ready.
type route struct {
	Route
	rules    rules
	upstream *url.URL
	raw      bool
	session  bool
	bearer   bool
	apiKey   bool
	suffix   string // of a wildcard host: ".consoles.example.net"
	health   upstreamHealth
}

func compile(r Route) (*route, error) {
	if ps := r.Problems(); len(ps) > 0 {
		return nil, fmt.Errorf("route %q: %w", r.Name, ps[0])
	}
	c := &route{Route: r, raw: r.raw()}
	c.Host = strings.ToLower(r.Host)
	if c.Path == "" {
		c.Path = "/"
	}
	for _, wild := range []string{nodeLabel, "*"} {
		if rest, ok := strings.CutPrefix(c.Host, wild); ok {
			c.suffix = rest
		}
	}
	if !r.Lease && !r.ForwardAuth {
		u, err := console.ParseUpstream(r.Upstream)
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", r.Name, err)
		}
		c.upstream = u
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
	return c, nil
}
