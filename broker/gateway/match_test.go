package gateway

import (
	"strings"
	"testing"
)

func routesOf(t testing.TB, rs ...Route) []*route {
	t.Helper()
	var out []*route
	for _, r := range rs {
		if r.Upstream == "" && !r.Lease {
			r.Upstream = "http://127.0.0.1:9"
		}
		c, err := compile(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// GW-5, GW-6: the first match in the file's order wins, the default is none.
func TestMatch(t *testing.T) {
	tab := newTable(routesOf(t,
		Route{Name: "v2", Host: "API.example.com", Path: "/v2"},
		Route{Name: "star", Host: "*.example.com", Path: "/all"},
		Route{Name: "v1", Host: "api.example.com", Path: "/v1/"},
		Route{Name: "all", Host: "api.example.com", Path: "/all/deep"},
		Route{Name: "node", Host: "{node}.consoles.example.net", Lease: true},
		Route{Name: "one", Host: "fixed.consoles.example.net"},
		Route{Name: "late", Host: "only.example.com", Path: "/x"},
	))
	for _, c := range []struct{ host, path, want, label string }{
		{"api.example.com", "/v2", "v2", "api"},
		{"api.example.com", "/v2/", "v2", "api"},
		{"api.example.com", "/v2/x", "v2", "api"},
		{"api.example.com", "/v22", "", ""},
		{"api.example.com", "/V2", "", ""},
		{"api.example.com", "/v1", "v1", "api"},
		{"api.example.com", "/v1/a", "v1", "api"},
		{"api.example.com", "/", "", ""},
		{"api.example.com", "/all/deep", "star", "api"}, // the wildcard stands before it
		{"other.example.com", "/all", "star", "other"},
		{"other.example.com", "/v2", "", ""},
		{"a.b.example.com", "/all", "", ""}, // a wildcard is one label
		{"example.com", "/all", "", ""},
		{"_x.example.com", "/all", "", ""},
		{".example.com", "/all", "", ""},
		{"n-1.consoles.example.net", "/", "node", "n-1"},
		{"fixed.consoles.example.net", "/", "node", "fixed"},
		{"x.n1.consoles.example.net", "/", "", ""},
		{strings.Repeat("a", 64) + ".consoles.example.net", "/", "", ""},
		{strings.Repeat("a", 63) + ".consoles.example.net", "/", "node", strings.Repeat("a", 63)},
		{"only.example.com", "/x/y", "late", "only"},
		{"only.example.com", "/all", "star", "only"},
		{"evilapi.example.com", "/v2", "", ""},
		{"api.example.com.evil.net", "/v2", "", ""},
	} {
		rs, label := tab.host(c.host)
		got := ""
		if r := pick(rs, c.path); r != nil {
			got = r.Name
		}
		if got != c.want || got != "" && label != c.label {
			t.Errorf("%s%s: route %q, label %q; want %q, %q", c.host, c.path, got, label, c.want, c.label)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	rs := []Route{}
	for _, n := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		rs = append(rs, Route{Name: n, Host: n + ".example.com"}, Route{Name: n + "1", Host: "api.example.com", Path: "/" + n})
	}
	tab := newTable(routesOf(b, rs...))
	b.ReportAllocs()
	for b.Loop() {
		rs, _ := tab.host("api.example.com")
		if pick(rs, "/h/deployments") == nil {
			b.Fatal("no route")
		}
	}
}
