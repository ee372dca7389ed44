package grant

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/broker/redact"
)

// ISS-2: exact comparison, and for public clients any port of a loopback IP.
func TestRedirectAllowed(t *testing.T) {
	registered := []string{"https://app.example/cb", "https://app.example/cb?x=1", "http://127.0.0.1/cb", "http://[::1]/cb?a=b", "http://127.0.0.1:8080/fixed", "http://localhost/cb", "com.example.app:/cb"}
	public := Client{RedirectURIs: registered}
	secret := Client{RedirectURIs: registered, ClientSecret: redact.String("12345678")}
	for _, uri := range registered {
		if !public.RedirectAllowed(uri) || !secret.RedirectAllowed(uri) {
			t.Errorf("%s is registered", uri)
		}
	}
	for _, uri := range []string{"http://127.0.0.1:1/cb", "http://127.0.0.1:65535/cb", "http://[::1]:4321/cb?a=b", "http://127.0.0.1:9/fixed"} {
		if !public.RedirectAllowed(uri) {
			t.Errorf("public: %s", uri)
		}
		if secret.RedirectAllowed(uri) {
			t.Errorf("confidential: %s", uri)
		}
	}
	for _, uri := range []string{
		"", "/cb", "//app.example/cb", "https://app.example/cb/", "https://app.example/CB", "HTTPS://app.example/cb", "https://APP.example/cb", "https://app.example:443/cb", "https://app.example/cb#", "https://app.example/cb#x",
		"https://app.example/cb?", "https://app.example/cb?x=1&y=2", "https://app.example/cb?x=2", "https://app.example/x/../cb", "https://app.example/x/..;/cb", "https://app.example/%63b", "https://app.example/cb\\", "https://app.example/cb ", " https://app.example/cb",
		"https://app.example.evil.example/cb", "https://evil.example/https://app.example/cb", "https://app.example@evil.example/cb", "https://a@b@app.example/cb", "http://app.example/cb", "JaVaScRiPt:alert(1)", "data:text/html,x",
		"http://127.0.0.1:/cb", "http://127.0.0.1:0/cb", "http://127.0.0.1:65536/cb", "http://127.0.0.1:+80/cb", "http://127.0.0.1:8080x/cb", "http://127.0.0.1:80@evil.example/cb", "http://127.0.0.1@evil.example/cb", "http://127.0.0.1.evil.example/cb", "http://127.0.0.1evil/cb",
		"http://127.0.0.2:1/cb", "http://127.1:1/cb", "http://2130706433:1/cb", "http://0x7f.1:1/cb", "http://localhost:1/cb", "http://[::1]:1/cb", "http://[::1]:1/cb?a=c", "http://[0:0:0:0:0:0:0:1]:1/cb?a=b", "http://[::1]x:1/cb?a=b",
		"http://127.0.0.1:1/cb?x", "http://127.0.0.1:1/cb#x", "http://127.0.0.1:1/cb/", "http://127.0.0.1:1", "http://127.0.0.1:1\\@evil.example/cb", "https://127.0.0.1:1/cb", "HTTP://127.0.0.1:1/cb", "http://127.0.0.1/fixed", "com.example.app://cb", "com.example.app:/cb2", "http://127.0.0.1:00000/cb",
	} {
		if public.RedirectAllowed(uri) || secret.RedirectAllowed(uri) {
			t.Errorf("allowed: %q", uri)
		}
	}
}

// ISS-2: what cannot be registered in the first place.
func TestValidRedirectURI(t *testing.T) {
	for uri, want := range map[string]struct{ public, confidential bool }{
		"https://app.example/cb":                {true, true},
		"https://app.example":                   {true, true},
		"https://app.example:8443/cb?x=1&y=%20": {true, true},
		"https://app.example/@user/cb":          {true, true}, // an @ in the path is no user
		"https://app.example/a..b/...":          {true, true},
		"http://127.0.0.1/cb":                   {true, true},
		"http://127.0.0.1:5555/cb":              {true, true},
		"http://[::1]/cb":                       {true, true},
		"http://localhost:5555/cb":              {true, true},
		"com.example.app:/cb":                   {true, false},
		"com.example.app://host/cb":             {true, false},

		"":                                                 {},
		"/cb":                                              {},
		"//app.example/cb":                                 {},
		"app.example/cb":                                   {},
		"https:":                                           {},
		"https:app.example/cb":                             {},
		"https:///cb":                                      {},
		"https://app.example/cb#":                          {},
		"https://app.example/cb#x":                         {},
		"https://user@app.example/cb":                      {},
		"https://user:pw@app.example/cb":                   {},
		"https://a@b@app.example/cb":                       {},
		"https://app.example\\@evil.example/":              {},
		"https://app.example/..":                           {},
		"https://app.example/a/../cb":                      {},
		"https://app.example/a/./cb":                       {},
		"https://app.example/a/%2e%2e/cb":                  {},
		"https://app.example/a/%2E./cb":                    {},
		"https://app.example/a%2f..%2fcb":                  {},
		"https://app.example/a/..;/cb":                     {},
		"https://app.example/a/..;x=1/cb":                  {},
		"https://app.example/a%5c..%5ccb":                  {},
		"https://app.example/a%0d%0aX:y":                   {},
		"https://app.example/a%00":                         {},
		"https://*.example/cb":                             {},
		"https://app.example/*":                            {},
		"https://app.example/c b":                          {},
		"https://app.example/cb\n":                         {},
		"https://app.example/é":                            {},
		"https://exämple.example/cb":                       {},
		"https://app.example:port/cb":                      {},
		"https://app.example/%zz":                          {},
		"http://app.example/cb":                            {},
		"http://10.0.0.1/cb":                               {},
		"http://127.0.0.1.evil.example/cb":                 {},
		"http://localhost.evil.example/cb":                 {},
		"http://localhost./cb":                             {},
		"http:127.0.0.1/cb":                                {},
		"javascript:alert(1)":                              {},
		"JaVaScRiPt:alert(1)":                              {},
		"javascript://app.example/%0aalert(1)":             {},
		"DATA:text/html,x":                                 {},
		"data:,x":                                          {},
		"file:///etc/passwd":                               {},
		"ftp://app.example/cb":                             {},
		"ws://app.example/cb":                              {},
		"blob:https://app.example/x":                       {},
		"about:blank":                                      {},
		"myapp:/cb":                                        {}, // no reverse domain name
		"com.example.app:cb":                               {},
		"com.example.app:":                                 {},
		"com.example.app://u@h/cb":                         {},
		"urn:ietf:wg:oauth:2.0:oob":                        {},
		"https://app.example/" + strings.Repeat("x", 2048): {},
	} {
		if err := ValidRedirectURI(uri, true); (err == nil) != want.public {
			t.Errorf("public, %q: %v", uri, err)
		}
		if err := ValidRedirectURI(uri, false); (err == nil) != want.confidential {
			t.Errorf("confidential, %q: %v", uri, err)
		}
	}
}

// What matches was registered: byte for byte, or but for the port of a loopback
// IP literal of a public client.
func FuzzRedirectAllowed(f *testing.F) {
	for _, s := range []string{"http://127.0.0.1/cb", "http://127.0.0.1:80/cb", "http://[::1]:1/x?y", "https://app.example/cb", "http://127.0.0.1@evil/cb", "http://127.0.0.1:1\\@evil/cb", "com.example.app:/cb"} {
		f.Add(s, s, true)
		f.Add("http://127.0.0.1/cb", s, true)
		f.Add("http://[::1]/x?y", s, false)
	}
	f.Fuzz(func(t *testing.T, registered, asked string, public bool) {
		c := Client{RedirectURIs: []string{registered}}
		if !public {
			c.ClientSecret = "12345678"
		}
		if ValidRedirectURI(registered, public) != nil {
			return // never gets so far
		}
		if !c.RedirectAllowed(registered) {
			t.Fatalf("%q is registered", registered)
		}
		if !c.RedirectAllowed(asked) || asked == registered {
			return
		}
		// By another parser than the matcher's: the same URI at another port.
		r, err1 := url.Parse(registered)
		a, err2 := url.Parse(asked)
		if err1 != nil || err2 != nil || !public {
			t.Fatalf("%q matches %q: %v, %v", asked, registered, err1, err2)
		}
		ip, err := netip.ParseAddr(a.Hostname())
		if err != nil || !ip.IsLoopback() || a.Scheme != "http" || a.User != nil || a.Fragment != "" || a.Port() == "" || a.Hostname() != r.Hostname() {
			t.Fatalf("%q matches %q", asked, registered)
		}
		a.Host, r.Host = "", ""
		if a.String() != r.String() {
			t.Fatalf("%q matches %q", asked, registered)
		}
	})
}

// What can be registered leads to a host over https, to this machine, or to an
// application.
func FuzzValidRedirectURI(f *testing.F) {
	for _, s := range []string{"https://app.example/cb", "http://127.0.0.1/cb", "com.example.app:/cb", "JaVaScRiPt:alert(1)", "https://a@b/", "https://a/%2e%2e/"} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, raw string, public bool) {
		if ValidRedirectURI(raw, public) != nil {
			return
		}
		u, err := url.Parse(raw)
		if err != nil || u.User != nil || u.Fragment != "" || strings.ContainsAny(raw, "\\#* \t\r\n") {
			t.Fatalf("%q: %v", raw, err)
		}
		if decoded, err := url.PathUnescape(u.EscapedPath()); err != nil || slices.Contains(strings.Split(decoded, "/"), "..") {
			t.Fatalf("%q walks upwards", raw)
		}
		switch u.Scheme {
		case "https":
			if u.Hostname() == "" {
				t.Fatalf("%q has no host", raw)
			}
		case "http":
			if ip, err := netip.ParseAddr(u.Hostname()); u.Hostname() != "localhost" && (err != nil || !ip.IsLoopback()) {
				t.Fatalf("%q leaves this machine in clear", raw)
			}
		default:
			if !public || !strings.Contains(u.Scheme, ".") {
				t.Fatalf("%q has the scheme %q", raw, u.Scheme)
			}
		}
	})
}
