package web

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

// What passes is a path of ours or a URL of an allowed host in the eyes of
// net/url and of a browser (docs/security.md SE-5, SC-4).
func FuzzSafeReturn(f *testing.F) {
	for _, s := range []string{"/", "/a?b=c", "//evil.example", "/\\evil.example", "/\t/evil.example", "https://app.example.com/x", "https://app.example.com@evil.example/", "https://evil.example/?x=app.example.com",
		"http://app.example.com/", "javascript:alert(1)", "https:app.example.com", "https:///evil.example", "/%2f/evil.example", "/%5cevil.example", "https://app.example.com:444/", "https://APP.example.com/", "https://app.example.com%2eevil.example/", "/a#b", "\\\\evil.example", "https://app.example.com\\@evil.example"} {
		f.Add(s)
	}
	issuer, err := url.Parse("https://id.example.com")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, ok := SafeReturn(raw, func(h string) bool { return h == "app.example.com" }, issuer)
		if !ok {
			return
		}
		// A browser drops tabs and line ends, and takes a backslash for a slash.
		seen := strings.NewReplacer("\t", "", "\n", "", "\r", "", "\\", "/").Replace(strings.TrimSpace(got))
		if seen != got {
			t.Fatalf("%q is read as %q", got, seen)
		}
		u, err := issuer.Parse(seen)
		if err != nil || u.Scheme != "https" || u.User != nil || u.Port() != "" || u.Host != issuer.Host && !strings.EqualFold(u.Host, "app.example.com") {
			t.Fatalf("%q leads to %v (%v)", raw, u, err)
		}
		if strings.HasPrefix(seen, "/") == (u.Host != issuer.Host) || strings.HasPrefix(seen, "//") {
			t.Fatalf("%q: a path that is none, or the reverse: %q", raw, got)
		}
	})
}

func FuzzOwnPath(f *testing.F) {
	for _, s := range []string{"/", "/a b", "//x", "/\\x", "/\tx", "x", "", "/?q=\x7f"} {
		f.Add(s)
	}
	issuer, err := url.Parse("https://id.example.com")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !OwnPath(s) {
			return
		}
		seen := strings.NewReplacer("\t", "", "\n", "", "\r", "", "\\", "/").Replace(strings.TrimSpace(s))
		if u, err := issuer.Parse(seen); err == nil && u.Host != issuer.Host || strings.HasPrefix(seen, "//") {
			t.Fatalf("%q leads to %v", s, u)
		}
	})
}

// What comes out is a host name in lower case that means itself again, or an
// address (G2).
func FuzzHostName(f *testing.F) {
	for _, s := range []string{"id.example.com", "ID.example.com:443", "[::1]:80", "[::1]", "::1", "a..b", "a.", "a:b:c", "", "[fe80::1%25eth0]:1", "1.2.3.4:5", "x:", ":80", "[x]:1", "a_b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h := HostName(s)
		if h == "" {
			return
		}
		if h != strings.ToLower(h) || strings.ContainsAny(h, "/\\@?#%[] \t\r\n\x00") || strings.HasSuffix(h, ".") || len(h) > 253 {
			t.Fatalf("%q gave %q", s, h)
		}
		if strings.Contains(h, ":") {
			if _, err := netip.ParseAddr(h); err != nil {
				t.Fatalf("%q gave %q, which is no address", s, h)
			}
		} else if HostName(h) != h {
			t.Fatalf("%q gave %q, and that %q", s, h, HostName(h))
		}
	})
}

// What passes has one @ and an ASCII domain of whole labels that no mapping
// changes (UP-7).
func FuzzValidEmail(f *testing.F) {
	for _, s := range []string{"li@corp.example", "user@evil.example@corp.example", "li@corp.example.", "\"li\"@corp.example", "li@xn--a.example", "li@corp.example(c)", "li@\u212aorp.example", "li@b\u00fccher.example", "li@[127.0.0.1]", "@corp.example", "li@corp", "li@-a.example", "li@a..b", ".li@a.b", "li+x@A.B"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		local, domain, ok := ValidEmail(s)
		if !ok {
			return
		}
		if strings.Count(s, "@") != 1 || !strings.HasPrefix(s, local+"@") || domain != strings.ToLower(domain) || !isASCII(local) || !isASCII(domain) ||
			!strings.Contains(domain, ".") || strings.HasPrefix(domain, ".") || strings.HasSuffix(domain, ".") || strings.Contains(domain, "..") {
			t.Fatalf("%q gave %q and %q", s, local, domain)
		}
		l2, d2, ok := ValidEmail(local + "@" + domain)
		if !ok || l2 != local || d2 != domain {
			t.Fatalf("%q gave %q, which gives %q %q %v", s, domain, l2, d2, ok)
		}
		typed := s[len(local)+1:]
		if isASCII(typed) && !strings.EqualFold(typed, domain) {
			t.Fatalf("the ASCII domain %q became %q", typed, domain)
		}
		if !isASCII(typed) && !strings.Contains("."+domain, ".xn--") {
			t.Fatalf("the look-alike %q became the ASCII domain %q", typed, domain)
		}
	})
}

// What is read as the session is what exactly one cookie of that name says.
func FuzzCookie(f *testing.F) {
	for _, s := range []string{"__Host-gatehouse=a", "a=b; __Host-gatehouse=c", "__Host-gatehouse=a; __Host-gatehouse=b", "__Host-gatehouse", "=__Host-gatehouse=x", ";;;", `__Host-gatehouse="a;b"`, "__Host-gatehouse =a"} {
		f.Add(s)
	}
	e, _ := edge(f, "https://id.example.com")
	f.Fuzz(func(t *testing.T, header string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Cookie"] = []string{header}
		v, ok := e.Cookie(r, "gatehouse")
		n := 0
		for _, part := range strings.Split(header, ";") {
			if k, _, has := strings.Cut(part, "="); has && strings.TrimSpace(k) == "__Host-gatehouse" {
				n++
			}
		}
		if ok && (n != 1 || v == "" || !strings.Contains(header, v)) || e.CookieSent(r, "gatehouse") != (n > 0) {
			t.Fatalf("%q: %q %v", header, v, ok)
		}
		// And no other reader sees another session there.
		std := r.CookiesNamed("__Host-gatehouse")
		if ok && len(std) == 1 && std[0].Value != v {
			t.Fatalf("%q: we read %q, net/http %q", header, v, std[0].Value)
		}
		_ = e.CookieNames(r, "gatehouse-attempt-")
	})
}
