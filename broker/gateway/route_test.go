package gateway

import "testing"

// A route that could not serve as it reads is an error when the program starts.
func TestRouteProblems(t *testing.T) {
	text := func(s string) *string { return &s }
	yes, no := true, false
	good := func(change func(*Route)) Route {
		r := Route{Name: "api", Host: "api.example.com", Upstream: "http://127.0.0.1:9000"}
		change(&r)
		return r
	}
	lease := func(change func(*Route)) Route {
		r := Route{Name: "console", Host: "{node}.consoles.example.net", Lease: true}
		change(&r)
		return r
	}
	for name, c := range map[string]struct {
		route Route
		field string // "" is fine
	}{
		"plain":          {good(func(*Route) {}), ""},
		"lease":          {lease(func(*Route) {}), ""},
		"wildcard":       {good(func(r *Route) { r.Host = "*.example.com" }), ""},
		"h2c":            {good(func(r *Route) { r.H2C = true }), ""},
		"h2c over https": {good(func(r *Route) { r.H2C, r.Upstream = true, "https://127.0.0.1:9000" }), "H2C"},
		"h2c, one over https": {good(func(r *Route) {
			r.H2C, r.Upstream, r.Upstreams = true, "", []UpstreamConfig{{URL: "http://127.0.0.1:9000"}, {URL: "https://127.0.0.1:9001"}}
		}), "H2C"},
		"no name":                {good(func(r *Route) { r.Name = "" }), "Name"},
		"slash in name":          {good(func(r *Route) { r.Name = "a/b" }), "Name"}, // aud of lease tokens is <route>/<lease>
		"no host":                {good(func(r *Route) { r.Host = "" }), "Host"},
		"host with port":         {good(func(r *Route) { r.Host = "api.example.com:8080" }), "Host"},
		"host with scheme":       {good(func(r *Route) { r.Host = "https://api.example.com" }), "Host"},
		"trailing dot":           {good(func(r *Route) { r.Host = "api.example.com." }), "Host"},
		"unicode host":           {good(func(r *Route) { r.Host = "例子.example.com" }), "Host"},
		"star inside":            {good(func(r *Route) { r.Host = "a.*.example.com" }), "Host"},
		"star in a label":        {good(func(r *Route) { r.Host = "a*.example.com" }), "Host"},
		"node without lease":     {good(func(r *Route) { r.Host = "{node}.example.com" }), "Host"},
		"node inside":            {good(func(r *Route) { r.Host = "a.{node}.example.com" }), "Host"},
		"lease without node":     {lease(func(r *Route) { r.Host = "consoles.example.net" }), "Host"},
		"path without slash":     {good(func(r *Route) { r.Path = "v1" }), "Path"},
		"path with dots":         {good(func(r *Route) { r.Path = "/a/../b" }), "Path"},
		"encoded path":           {good(func(r *Route) { r.Path = "/a%20b" }), "Path"},
		"raw path below":         {good(func(r *Route) { r.Path, r.RawPath = "/v1", &yes }), "Path"},
		"lease path below":       {lease(func(r *Route) { r.Path = "/v1" }), "Path"},
		"lease path, checked":    {lease(func(r *Route) { r.Path, r.RawPath = "/v1", &no }), ""},
		"raw path, rule on it":   {good(func(r *Route) { r.RawPath, r.Allow = &yes, text(`request.path.startsWith("/x")`) }), "Allow"},
		"raw path, spelt":        {good(func(r *Route) { r.RawPath, r.Allow = &yes, text(`request["pa" + "th"] == "/x"`) }), "Allow"},
		"raw path, rule on ip":   {good(func(r *Route) { r.RawPath, r.Allow = &yes, text(`request.ip == "1.2.3.4"`) }), ""},
		"no upstream":            {good(func(r *Route) { r.Upstream = "" }), "Upstream"},
		"upstream without host":  {good(func(r *Route) { r.Upstream = "http://" }), "Upstream"},
		"upstream of a socket":   {good(func(r *Route) { r.Upstream = "unix:///run/x" }), "Upstream"},
		"upstream with password": {good(func(r *Route) { r.Upstream = "http://a:b@x" }), "Upstream"},
		"upstream with query":    {good(func(r *Route) { r.Upstream = "http://x/?a=b" }), "Upstream"},
		"upstream of a lease":    {lease(func(r *Route) { r.Upstream = "http://x" }), "Upstream"},
		"empty rule":             {good(func(r *Route) { r.Allow = text(" ") }), "Allow"},
		"wrong rule":             {good(func(r *Route) { r.Allow = text("user.") }), "Allow"},
		"lease in another place": {good(func(r *Route) { r.Allow = text(`lease.owner == user.id`) }), "Allow"},
		"lease rule":             {lease(func(r *Route) { r.Allow = text(`lease.owner == user.id`) }), ""},
		"way to authenticate":    {good(func(r *Route) { r.Auth = []string{"session", "basic"} }), "Auth[1]"},
		"identity":               {lease(func(r *Route) { r.Identity = "all" }), "Identity"},
		"identity elsewhere":     {good(func(r *Route) { r.Identity = "jwt" }), "Identity"},
		"origin with path":       {good(func(r *Route) { r.CORS.Origins = []string{"https://a.example/"} }), "CORS.Origins[0]"},
		"origin of everybody":    {good(func(r *Route) { r.CORS.Origins = []string{"*"} }), "CORS.Origins[0]"},
		"frame ancestors":        {lease(func(r *Route) { r.FrameAncestors = []string{"https://a.example", "'self'"} }), ""},
		"frame injection":        {lease(func(r *Route) { r.FrameAncestors = []string{"https://a.example; script-src *"} }), "FrameAncestors[0]"},
		"negative timeout":       {good(func(r *Route) { r.Timeouts.Connect = -1 }), "Timeouts"},
	} {
		ps := c.route.Problems()
		switch {
		case c.field == "" && len(ps) > 0:
			t.Errorf("%s: %v", name, ps)
		case c.field != "" && (len(ps) == 0 || ps[0].Field != c.field):
			t.Errorf("%s: %v, want a problem of %s", name, ps, c.field)
		}
		if _, err := compile(c.route); (err == nil) != (c.field == "") {
			t.Errorf("%s: compile says %v", name, err)
		}
	}
}

// GW-4: where one route lets ambiguous paths through, none guards a path of its
// host; one that takes the whole host leaves it nothing.
func TestRoutesClash(t *testing.T) {
	yes := true
	raw, admin := Route{Host: "api.example.com", RawPath: &yes}, Route{Host: "API.example.com", Path: "/admin"}
	for _, c := range []struct {
		before, r Route
		want      bool
	}{
		{admin, raw, true}, {admin, Route{Host: "api.example.com"}, false}, {Route{Host: "api.example.com", Path: "/"}, raw, false}, {raw, admin, false},
		{Route{Host: "other.example.com", Path: "/admin"}, raw, false},
		{Route{Host: "*.example.com", Path: "/admin"}, raw, true}, {admin, Route{Host: "*.example.com", RawPath: &yes}, true}, {admin, Route{Host: "{node}.example.com", Lease: true}, true},
		{Route{Host: "api.example.com"}, Route{Host: "{node}.example.com", Lease: true}, false},
		{Route{Host: "a.b.example.com", Path: "/admin"}, Route{Host: "{node}.example.com", Lease: true}, false},
	} {
		if got := c.r.Clashes(c.before); got != c.want {
			t.Errorf("%s%s, then %s: %v", c.before.Host, c.before.Path, c.r.Host, got)
		}
	}
}
