package gateway

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// GW-2: names under which an upstream may believe a client, in every spelling.
func TestForgedNames(t *testing.T) {
	for _, base := range []string{
		"x-gatehouse-user", "x-gatehouse-anything", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-prefix", "x-forwarded-user", "x-forwarded-port",
		"x-real-ip", "true-client-ip", "cf-connecting-ip", "x-client-ip", "x-cluster-client-ip", "forwarded", "x-original-url", "x-original-uri", "x-rewrite-url",
		"x-http-method-override", "x-http-method", "x-method-override", "x-remote-user", "remote-user", "x-auth-request-email", "x-webauth-user", "proxy-authorization", "x-accel-redirect", "x-gatehouse",
	} {
		for _, name := range []string{
			base, strings.ToUpper(base), http.CanonicalHeaderKey(base), strings.ReplaceAll(base, "-", "_"), strings.ReplaceAll(base, "-", "."),
			strings.Replace(base, "-", "_", 1), strings.Replace(strings.ToUpper(base), "-", ".", 1), strings.ReplaceAll(base, "-", "~"), strings.ReplaceAll(base, "-", "!"),
		} {
			if !isForged(name) {
				t.Errorf("%q passes", name)
			}
		}
	}
	for _, name := range []string{"Accept", "Authorization", "Content-Type", "Cookie", "Te", "X-Requested-With", "X-Csrf-Token", "X-Gatehousekeeper", "Range", "Cf-Ray", "Traceparent", "Origin", "Referer", "X-Real-Ipx", "Forwarded-By"} {
		if isForged(name) {
			t.Errorf("%q is refused", name)
		}
	}
}

func TestCleanRequestRemovesTrailersToo(t *testing.T) {
	r := &http.Request{Header: http.Header{"X_gatehouse_user": {"root"}, "X.gatehouse.user": {"root"}, "Accept": {"*/*"}},
		Trailer: http.Header{"X-Gatehouse-User": nil, "X_forwarded_for": nil, "Authorization": nil, "Cookie": nil, "X-Checksum": nil}}
	cleanRequest(r)
	if len(r.Header) != 1 || len(r.Trailer) != 1 || !slices.Contains(keys(r.Trailer), "X-Checksum") {
		t.Fatalf("left: %v, %v", r.Header, r.Trailer)
	}
}

func keys(h http.Header) []string {
	var out []string
	for k := range h {
		out = append(out, k)
	}
	return out
}

// GW-10: our cookies never reach an upstream.
func TestCleanCookies(t *testing.T) {
	for in, want := range map[string]string{
		"a=1; __Host-gatehouse=s; b=2":                    "a=1; b=2",
		"__Host-gatehouse-console=s":                      "",
		"gatehouse-console=s;a=1":                         "a=1",
		"gatehouse=s; __Host-gatehouse-attempt-X=s":       "",
		"__Host-gatehouse-frame=s; gatehousekeeper=1":     "gatehousekeeper=1",
		` __Host-gatehouse-console = "s" ; c="x y"; flag`: `c="x y"; flag`,
		"":           "",
		"a=1;;;b=2;": "a=1; b=2",
	} {
		h := http.Header{"Cookie": {in}}
		cleanCookies(h)
		if got := h.Get("Cookie"); got != want {
			t.Errorf("%q becomes %q, not %q", in, got, want)
		}
	}
	two := http.Header{"Cookie": {"a=1; gatehouse-console=s", "b=2"}}
	if cleanCookies(two); two.Get("Cookie") != "a=1; b=2" || len(two["Cookie"]) != 1 {
		t.Errorf("two lines become %q", two["Cookie"])
	}
}

// GW-10: an upstream sets no cookie of ours and none above its own host.
func TestSetCookieOfUpstreams(t *testing.T) {
	const host = "n1.consoles.example.net"
	for line, want := range map[string]bool{
		"sid=1; Path=/; HttpOnly":                                   true,
		"sid=1; Domain=n1.consoles.example.net":                     true,
		"sid=1; Domain=.N1.consoles.example.net":                    true,
		"sid=1; domain=consoles.example.net":                        false,
		"sid=1; Domain = example.net":                               false,
		"sid=1; Domain=n2.consoles.example.net":                     false,
		"sid=1; Domain=":                                            false,
		"sid=1; Domain=n1.consoles.example.net; DOMAIN=example.net": false,
		"__Host-gatehouse=x":                                        false,
		"__Host-gatehouse-console=x; Secure":                        false,
		" gatehouse-console =x":                                     false,
		"gatehouse=x":                                               false,
		"=gatehouse-console=x":                                      false, // nameless: comes back as gatehouse-console=x
		" = __Host-gatehouse-console=x":                             false,
		"gatehouse-console; Path=/":                                 false,
		"gatehousekeeper=x":                                         true,
		"=x; Path=/":                                                true,
	} {
		if got := allowedSetCookie(line, host); got != want {
			t.Errorf("%q: %v, want %v", line, got, want)
		}
	}
}

func TestCleanResponse(t *testing.T) {
	h := http.Header{
		"X-Accel-Redirect": {"/secret"}, "X_accel_buffering": {"no"}, "X-Sendfile": {"/etc/passwd"}, "Clear-Site-Data": {`"cookies"`}, "X-Gatehouse-User": {"root"},
		"X-Gatehouse-Request-Id": {"forged"}, "Strict-Transport-Security": {"max-age=1", "max-age=31536000; IncludeSubDomains"},
		"Set-Cookie": {"gatehouse=x", "a=1"}, "Content-Type": {"text/plain"}, "X-Frame-Options": {"DENY"},
	}
	cleanResponse(h, "api.example.com")
	if len(h) != 3 || len(h["Set-Cookie"]) != 1 || h.Get("Set-Cookie") != "a=1" {
		t.Fatalf("left: %v", h)
	}
	h = http.Header{"Strict-Transport-Security": {"max-age=60"}}
	if cleanResponse(h, "x"); len(h) != 1 {
		t.Fatal("an upstream's word about its own host alone stays")
	}
}

// GW-3: values are plain ASCII, and what is too long is left out and said so.
func TestIdentityHeaders(t *testing.T) {
	h := http.Header{}
	newIdentity("u1", "zoë@例子.example", "张 三\r\nX-Evil: 1", []string{"local:a,b", "gpu users", "研发"}).set(h, true)
	want := http.Header{"X-Gatehouse-User": {"u1"}, "X-Gatehouse-Email": {"zo%C3%AB@%E4%BE%8B%E5%AD%90.example"}, "X-Gatehouse-Name": {"%E5%BC%A0%20%E4%B8%89%0D%0AX-Evil%3A%201"},
		"X-Gatehouse-Groups": {"local%3Aa%2Cb,gpu%20users,%E7%A0%94%E5%8F%91"}}
	for k, v := range want {
		if !slices.Equal(h[k], v) {
			t.Errorf("%s: %q, want %q", k, h[k], v)
		}
	}
	if len(h) != len(want) {
		t.Errorf("headers: %v", h)
	}
	many := make([]string, 1000)
	for i := range many {
		many[i] = "group-name"
	}
	h = http.Header{}
	newIdentity("u1", "", strings.Repeat("n", maxHeaderValue+1), many).set(h, true)
	if len(h) != 2 || h.Get("X-Gatehouse-Groups-Truncated") != "1" || h.Get("X-Gatehouse-User") != "u1" {
		t.Errorf("too long: %v", keys(h))
	}
	h = http.Header{}
	newIdentity("u1", "", "", []string{strings.Repeat("g", maxHeaderValue)}).set(h, true)
	if len(h.Get("X-Gatehouse-Groups")) != maxHeaderValue || h.Get("X-Gatehouse-Groups-Truncated") != "" {
		t.Errorf("exactly 8 KiB: %v", keys(h))
	}
	h = http.Header{}
	newIdentity("u1", "a@b.example", "n", nil).set(h, false)
	if len(h) != 1 {
		t.Errorf("a lease upstream is told %v", h)
	}
	h = http.Header{}
	newIdentity("u1", "", "", nil).set(h, true)
	if v, ok := h["X-Gatehouse-Groups"]; !ok || v[0] != "" {
		t.Errorf("no groups: %v", h)
	}
}

func FuzzIdentityHeader(f *testing.F) {
	f.Add("张三", "a@b.example", "g,h")
	f.Add("\r\nX: y", "\x00", "\xff")
	f.Fuzz(func(t *testing.T, name, email, group string) {
		h := http.Header{}
		newIdentity("u", email, name, []string{group, "last"}).set(h, true)
		for k, vs := range h {
			for i := range len(vs[0]) {
				if c := vs[0][i]; c <= 0x20 || c >= 0x7f {
					t.Fatalf("%s: %q", k, vs[0])
				}
			}
		}
		if g := h.Get("X-Gatehouse-Groups"); g != "" && strings.Count(g, ",") != 1 {
			t.Fatalf("a group reads as two: %q", g)
		}
	})
}

// GW-16: the frame-ancestors of a route stand alone, other directives stay.
func TestFrame(t *testing.T) {
	h := http.Header{"Content-Security-Policy": {"default-src 'self'; Frame-Ancestors *, frame-ancestors https://evil.example", "script-src 'self'"}, "X-Frame-Options": {"DENY"}}
	frame(h, []string{"https://app.example.com"})
	if got := h["Content-Security-Policy"]; !slices.Equal(got, []string{"default-src 'self'", "script-src 'self'", "frame-ancestors https://app.example.com"}) || h.Get("X-Frame-Options") != "" {
		t.Fatalf("%q", h)
	}
	h = http.Header{"Content-Security-Policy": {"frame-ancestors *"}, "X-Frame-Options": {"DENY"}}
	frame(h, nil)
	if got := h["Content-Security-Policy"]; !slices.Equal(got, []string{"frame-ancestors *", "frame-ancestors 'self'"}) || h.Get("X-Frame-Options") == "" {
		t.Fatalf("%q", h)
	}
}

func BenchmarkCleanRequest(b *testing.B) {
	h := http.Header{"Accept": {"*/*"}, "User-Agent": {"curl/8"}, "Accept-Encoding": {"gzip"}, "Content-Type": {"application/json"}, "X-Requested-With": {"x"},
		"Cookie": {"a=1; gatehouse-console=" + strings.Repeat("A", 52)}, "Sec-Fetch-Site": {"same-origin"}, "Referer": {"https://api.example.com/"}}
	r := &http.Request{Header: h.Clone()}
	b.ReportAllocs()
	for b.Loop() {
		r.Header["Cookie"] = h["Cookie"]
		cleanRequest(r)
		cleanCookies(r.Header)
	}
}
