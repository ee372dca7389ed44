package gateway

import (
	"net/http"
	"strings"
	"testing"
)

// A route that can never be reached is found; one that can is not complained of.
func TestShadows(t *testing.T) {
	host := func(change func(*Route)) Route {
		r := Route{Host: "api.example.com"}
		change(&r)
		return r
	}
	plain := host(func(*Route) {})
	get, post := host(func(r *Route) { r.Methods = []string{"GET"} }), host(func(r *Route) { r.Methods = []string{"POST"} })
	v2 := host(func(r *Route) { r.Headers = map[string]string{"X-Api-Version": "2"} })
	for name, c := range map[string]struct {
		before, later Route
		want          bool
	}{
		"same":                        {plain, plain, true},
		"methods behind all":          {plain, get, true},
		"all behind methods":          {get, plain, false},
		"the same method":             {get, get, true},
		"another method":              {get, post, false},
		"fewer methods":               {host(func(r *Route) { r.Methods = []string{"GET", "POST"} }), post, true},
		"HEAD behind GET":             {get, host(func(r *Route) { r.Methods = []string{"HEAD"} }), true},
		"header behind all":           {plain, v2, true},
		"all behind a header":         {v2, plain, false},
		"the same header, other case": {v2, host(func(r *Route) { r.Headers = map[string]string{"x-api-version": "2"} }), true},
		"another value":               {v2, host(func(r *Route) { r.Headers = map[string]string{"X-Api-Version": "3"} }), false},
		"header and method": {v2, host(func(r *Route) {
			r.Headers, r.Methods = map[string]string{"X-Api-Version": "2", "X-B": "1"}, []string{"GET"}
		}), true},
		"longer path behind":           {plain, host(func(r *Route) { r.Path = "/v1" }), true},
		"longer path before":           {host(func(r *Route) { r.Path = "/v1" }), plain, false},
		"half a segment":               {host(func(r *Route) { r.Path = "/v1" }), host(func(r *Route) { r.Path = "/v12" }), false},
		"slash at the end":             {host(func(r *Route) { r.Path = "/v1/" }), host(func(r *Route) { r.Path = "/v1" }), true},
		"behind a label":               {Route{Host: "{tenant}.example.com"}, plain, true},
		"label behind star":            {Route{Host: "*.example.com"}, Route{Host: "{tenant}.example.com"}, true},
		"label behind another's label": {Route{Host: "{a}.example.com"}, Route{Host: "{node}.example.com", Lease: true}, true},
		"label behind one host":        {plain, Route{Host: "{tenant}.example.com"}, false},
		"deeper host":                  {Route{Host: "*.example.com"}, Route{Host: "a.b.example.com"}, false},
	} {
		if got := c.before.Shadows(c.later); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The label of the host takes the place of its name in the upstream's host.
func TestTargetByLabel(t *testing.T) {
	r := Route{Name: "tenants", Host: "{tenant}.example.com", Upstream: "http://{tenant}.apps.internal:8080/base"}
	rt, err := compile(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := rt.target("blue").String(); got != "http://blue.apps.internal:8080/base" {
		t.Error(got)
	}
	if got := rt.target("any").String(); got != "http://any.apps.internal:8080/base" {
		t.Error(got)
	}
	for _, bad := range []string{"http://{other}.apps.internal", "http://{tenant}", "http://{tenant}:80", "http://x.{tenant}.internal", "http://x{tenant}.internal", "http://apps.internal/{tenant}", "http://{tenant}.{tenant}.internal", "{tenant}://a.b"} {
		r.Upstream = bad
		if len(r.Problems()) == 0 {
			t.Errorf("%s is accepted", bad)
		}
	}
}

// What would not do as it reads is an error, at its field.
func TestRouteFeatureProblems(t *testing.T) {
	weight := 0
	two := []UpstreamConfig{{URL: "http://a"}, {URL: "http://b"}}
	for name, c := range map[string]struct {
		change func(*Route)
		field  string
	}{
		"method in lower case": {func(r *Route) { r.Methods = []string{"get"} }, "Methods[0]"},
		"CONNECT":              {func(r *Route) { r.Methods = []string{"GET", "CONNECT"} }, "Methods[1]"},
		"method twice":         {func(r *Route) { r.Methods = []string{"GET", "GET"} }, "Methods[1]"},
		"match on ours":        {func(r *Route) { r.Headers = map[string]string{"X-Forwarded-For": "1"} }, "Headers.X-Forwarded-For"},
		"match on credentials": {func(r *Route) { r.Headers = map[string]string{"Authorization": "x"} }, "Headers.Authorization"},
		"match on nothing":     {func(r *Route) { r.Headers = map[string]string{"X-A": ""} }, "Headers.X-A"},
		"two spellings":        {func(r *Route) { r.Headers = map[string]string{"X-A": "1", "x_a": "1"} }, "Headers.x_a"},
		"two ways":             {func(r *Route) { r.Upstreams = two }, "Upstreams"},
		"twice": {func(r *Route) {
			r.Upstream, r.Upstreams = "", []UpstreamConfig{{URL: "http://a"}, {URL: "http://a:80"}}
		}, "Upstreams[1].URL"},
		"other path": {func(r *Route) {
			r.Upstream, r.Upstreams = "", []UpstreamConfig{{URL: "http://a/x"}, {URL: "http://b/y"}}
		}, "Upstreams[1].URL"},
		"weight of nothing":   {func(r *Route) { r.Upstream, r.Upstreams = "", []UpstreamConfig{{URL: "http://a", Weight: &weight}} }, "Upstreams[0].Weight"},
		"several":             {func(r *Route) { r.Upstream, r.Upstreams, r.Balance, r.Sticky = "", two, "least_busy", true }, ""},
		"unknown balance":     {func(r *Route) { r.Upstream, r.Upstreams, r.Balance = "", two, "random" }, "Balance"},
		"nothing to balance":  {func(r *Route) { r.Balance = "least_busy" }, "Balance"},
		"nothing to stick to": {func(r *Route) { r.Sticky = true }, "Sticky"},
		"health":              {func(r *Route) { r.Health.Path = "/healthz" }, ""},
		"health of nothing":   {func(r *Route) { r.Health.Healthy = 2 }, "Health.Path"},
		"tls without tls":     {func(r *Route) { r.TLS.CAFile = "ca.pem" }, "TLS"},
		"half a pair":         {func(r *Route) { r.Upstream, r.TLS.CertFile = "https://a", "a.pem" }, "TLS"},
		"set ours":            {func(r *Route) { r.RequestHeaders.Set = map[string]string{"x_gatehouse_user": "root"} }, "RequestHeaders.Set.x_gatehouse_user"},
		"set hop-by-hop":      {func(r *Route) { r.RequestHeaders.Set = map[string]string{"Connection": "x"} }, "RequestHeaders.Set.Connection"},
		"remove the cookie":   {func(r *Route) { r.RequestHeaders.Remove = []string{"Cookie"} }, "RequestHeaders.Remove[0]"},
		"two lines":           {func(r *Route) { r.RequestHeaders.Set = map[string]string{"X-A": "a\r\nb"} }, "RequestHeaders.Set.X-A"},
		"unknown label":       {func(r *Route) { r.RequestHeaders.Set = map[string]string{"X-A": "{tenant}"} }, "RequestHeaders.Set.X-A"},
		"set and remove": {func(r *Route) {
			r.ResponseHeaders = HeaderRules{Set: map[string]string{"X-A": "1"}, Remove: []string{"x-a"}}
		}, "ResponseHeaders.Remove[0]"},
		"answer's cookie":       {func(r *Route) { r.ResponseHeaders.Set = map[string]string{"Set-Cookie": "a=b"} }, "ResponseHeaders.Set.Set-Cookie"},
		"size":                  {func(r *Route) { r.MaxBody = "10 apples" }, "MaxBody"},
		"no size":               {func(r *Route) { r.MaxBody = "0" }, "MaxBody"},
		"rate":                  {func(r *Route) { r.RateLimit.Burst = 3 }, "RateLimit"},
		"rate by":               {func(r *Route) { r.RateLimit = RateLimitConfig{Requests: 1, By: "user"} }, "RateLimit.By"},
		"cors for nobody":       {func(r *Route) { r.CORS.Expose = []string{"X-A"} }, "CORS"},
		"cors for every header": {func(r *Route) { r.CORS = CORSConfig{Origins: []string{"https://a.example"}, Headers: []string{"*"}} }, "CORS.Headers[0]"},
		"elsewhere":             {func(r *Route) { r.ForwardAuth, r.Upstream, r.MaxBody = true, "", "1" }, "MaxBody"},
		"of a lease":            {func(r *Route) { r.Lease, r.Host, r.Upstream, r.Upstreams = true, "{node}.example.net", "", two }, "Upstreams"},
	} {
		r := Route{Name: "api", Host: "api.example.com", Upstream: "http://127.0.0.1:9000"}
		c.change(&r)
		ps := r.Problems()
		if c.field == "" && len(ps) > 0 || c.field != "" && (len(ps) == 0 || ps[0].Field != c.field) {
			t.Errorf("%s: %v, want a problem of %q", name, ps, c.field)
		}
	}
}

// Whatever rules are accepted: no name of ours or of the connection is changed,
// and every value is one line.
func FuzzHeaderRules(f *testing.F) {
	f.Add("X-Tenant", "{tenant}", "blue", true)
	f.Add("x_gatehouse_user", "root", "a", true)
	f.Add("Connection", "close", "a", false)
	f.Add("X-A", "a\r\nX-B: c", "a", false)
	f.Fuzz(func(t *testing.T, name, value, label string, set bool) {
		r := Route{Name: "a", Host: "{tenant}.example.com", Upstream: "http://a"}
		if set {
			r.RequestHeaders.Set = map[string]string{name: value}
		} else {
			r.RequestHeaders.Remove = []string{name}
		}
		rt, err := compile(r)
		if err != nil {
			return
		}
		h := http.Header{"X-Gatehouse-User": {"u"}, "Authorization": {"Bearer x"}, "Cookie": {"a=b"}, "Connection": {"close"}, "X-Forwarded-For": {"1.2.3.4"}, "Te": {"trailers"}}
		before := h.Clone()
		rt.request.apply(h, "blue")
		for n, v := range before {
			if got := h[n]; len(got) != 1 || got[0] != v[0] {
				t.Fatalf("%q: %q changes %s to %q", name, value, n, got)
			}
		}
		for n, vs := range h {
			for _, v := range vs {
				if strings.ContainsAny(n+v, "\r\n\x00") {
					t.Fatalf("%q: %q", n, v)
				}
			}
		}
	})
}
