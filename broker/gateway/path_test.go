package gateway

import (
	"bufio"
	"bytes"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// GW-4: what an upstream may read in another way is refused.
func TestCheckPath(t *testing.T) {
	for _, p := range []string{"/", "/a", "/a/", "/a/b.c", "/a/.b", "/a/..b", "/a/b..", "/...", "/a%20b", "/%E4%B8%AD", "/a@b:c,d=e+f!$&'()*", "/~u", "/a|b", "/%25"[:1], "/[x]", "/%41"} {
		if err := checkPath(p); err != nil {
			t.Errorf("%q is refused", p)
		}
	}
	for _, p := range []string{
		"", "a", "*", "http://x/", "//", "//a", "/a//b", "/a/b//", "/.", "/..", "/./a", "/../a", "/a/.", "/a/..", "/a/./b", "/a/../b",
		"/%2e", "/%2E%2e/a", "/a/%2e%2e/b", "/a/.%2e", "/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", `/a\b`, "/a%00", "/a%0d%0a", "/a%7f", "/a\x00", "/a\x7f", "/a b", "/a\tb",
		"/a;b", "/a/;/b", "/a%3bb", "/..;/a", "/a#b", "/a?b", "/%", "/%4", "/%zz", "/%4g", "/%ff", "/%c0%af", "/%ed%a0%80", "/\xff", "/%25", "/%252e", "/%2525",
	} {
		if err := checkPath(p); err == nil {
			t.Errorf("%q passes", p)
		}
	}
}

func requestFor(raw string) (*http.Request, error) {
	return http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + raw + " HTTP/1.1\r\nHost: api.example.com\r\n\r\n")))
}

// sent is the request target that an upstream reads.
func sent(t *testing.T, rt *route, in *http.Request) string {
	t.Helper()
	out := &http.Request{Method: http.MethodGet, URL: &url.URL{}, Header: http.Header{}}
	rt.setTarget(out.URL, in.URL, rawPath(in), rt.upstream)
	var wire bytes.Buffer
	if err := out.Write(&wire); err != nil {
		t.Fatalf("%q cannot be sent: %v", in.RequestURI, err)
	}
	back, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		t.Fatalf("%q reaches the upstream broken: %v", in.RequestURI, err)
	}
	return back.RequestURI
}

// G2: what was checked is sent, byte for byte.
func TestTargetIsSentAsItStood(t *testing.T) {
	yes := true
	for _, c := range []struct {
		route         Route
		target, wants string
	}{
		{Route{}, "/a/b?x=%2f;y&&z=|", "/a/b?x=%2f;y&&z=|"},
		{Route{}, "/%61b/%E4?", "/%61b/%E4?"},
		{Route{}, "/a|b^c\"<>{}`", "/a|b^c\"<>{}`"},
		{Route{}, "/\xe4\xb8\xad", "/\xe4\xb8\xad"},
		{Route{RawPath: &yes}, "/a%2fb/../c;d//e", "/a%2fb/../c;d//e"},
		{Route{RawPath: &yes}, "//evil.example/a%2f", "//evil.example/a%2f"},
		{Route{Upstream: "http://u/base/"}, "/a|b", "/base/a|b"},
		{Route{Upstream: "http://u/base/", RawPath: &yes}, "/x%2fy", "/base/x%2fy"},
		{Route{Upstream: "http://u/ba%20se"}, "/x%41", "/ba%20se/x%41"},
		{Route{Path: "/v1", StripPath: true}, "/v1/a%41|", "/a%41|"},
		{Route{Path: "/v1", StripPath: true}, "/%76%31/a%41", "/a%41"},
		{Route{Path: "/v1/", StripPath: true}, "/v1", "/"},
		{Route{Path: "/v1", StripPath: true, Upstream: "http://u/base"}, "/v1?q", "/base/?q"},
	} {
		c.route.Name, c.route.Host = "r", "api.example.com"
		if c.route.Upstream == "" {
			c.route.Upstream = "http://u"
		}
		in, err := requestFor(c.target)
		if err != nil {
			t.Fatalf("%q: %v", c.target, err)
		}
		if got := sent(t, routesOf(t, c.route)[0], in); got != c.wants {
			t.Errorf("%q is sent as %q, not %q", c.target, got, c.wants)
		}
	}
}

// What passes the check is sent byte for byte, and however often it is decoded
// and cleaned it stays the path that was checked.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "/a%2fb", "/..;/x", "/%2e%2e/", "/\xe4\xb8\xad", "/a|b", "/%E4%B8%AD/ü", "//a", "/%25%32%65"} {
		f.Add(s)
	}
	rt := routesOf(f, Route{Name: "r", Host: "api.example.com", Upstream: "http://u"})[0]
	f.Fuzz(func(t *testing.T, raw string) {
		if checkPath(raw) != nil {
			return
		}
		in, err := requestFor(raw)
		if err != nil {
			return // net/http refuses it before us
		}
		if got := sent(t, rt, in); got != raw {
			t.Fatalf("%q is sent as %q", raw, got)
		}
		once, err := url.PathUnescape(raw)
		if err != nil || once != in.URL.Path {
			t.Fatalf("%q: decided on %q, decodes to %q (%v)", raw, in.URL.Path, once, err)
		}
		if twice, err := url.PathUnescape(once); err == nil && twice != once {
			t.Fatalf("%q decodes twice: %q, %q", raw, once, twice)
		}
		if strings.Count(once, "/") != strings.Count(raw, "/") || strings.ContainsAny(once, "\\;#?\x00\r\n") || strings.Contains(once, "//") {
			t.Fatalf("%q is ambiguous: %q", raw, once)
		}
		for seg := range strings.SplitSeq(once, "/") {
			if seg == "." || seg == ".." {
				t.Fatalf("%q holds a dot segment", raw)
			}
		}
	})
}

func BenchmarkCheckPath(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if err := checkPath("/v1/deployments/42"); err != nil {
			b.Fatal(err)
		}
	}
}
