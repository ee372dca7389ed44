package broker_test

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// AD-11: a page that leads a name of its own to the private listener reads nothing
// there, nor does one of another origin; Prometheus and the CLI ask as ever.
func TestPrivateListenerKnowsItsNames(t *testing.T) {
	t.Parallel()
	h := start(t, "admin_hosts: [Ops.Example.com]\n")
	machine, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(host, path string, header ...string) answer {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, h.Admin+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			req.Host = host
		}
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		return h.browser().do(req)
	}
	for host, want := range map[string]int{
		"": 200, "localhost:9091": 200, "127.0.0.1": 200, "10.8.0.2:9091": 200, "[::1]:9091": 200, machine: 200,
		"gatehouse:9091": 200, "gatehouse-0.gatehouse.sso.svc.cluster.local:9091": 200, "gh.internal": 200, "gh.local": 200,
		"ops.example.com": 200, "OPS.example.com:9091": 200,
		"evil.example.com": 421, "evil.example.com:9091": 421, "EVIL.EXAMPLE": 200, // no domain of the Internet
		"example.com": 421, "evil.dev": 421, "127.0.0.1.nip.io": 421, "xn--fiqs8s.xn--fiqs8s": 421, "ops.example.com.evil.net": 421, "evil.github.io": 421,
	} {
		for _, path := range []string{"/metrics", "/readyz", "/api/v1/openapi.json"} {
			a := ask(host, path)
			if a.StatusCode != want {
				t.Errorf("%s%s: %d, want %d", host, path, a.StatusCode, want)
			}
			if want == 421 && (strings.Contains(a.Body, "gatehouse_") || !strings.Contains(a.Body, "admin.host")) {
				t.Errorf("%s%s: %s", host, path, a.Body)
			}
		}
		if a := ask(host, "/healthz"); a.StatusCode != http.StatusOK {
			t.Errorf("%s/healthz: %d", host, a.StatusCode)
		}
	}
	if a := ask("evil.example.com", "/api/v1/users", "Authorization", "Bearer "+h.adminToken()); a.StatusCode != 421 {
		t.Errorf("with the operator's token: %d", a.StatusCode)
	}
	for what, c := range map[string]struct {
		header []string
		status int
	}{
		"another origin":            {[]string{"Origin", "https://evil.example.com"}, 403},
		"an origin without a name":  {[]string{"Origin", "null"}, 403},
		"its own":                   {[]string{"Origin", h.Admin}, 200},
		"another site's script":     {[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "script"}, 403},
		"another port's fetch":      {[]string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, 403},
		"a frame":                   {[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, 403},
		"a link":                    {[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 200},
		"typed":                     {[]string{"Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 200},
		"its own page":              {[]string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, 200},
		"Prometheus, without words": {nil, 200},
	} {
		if a := ask("", "/metrics", c.header...); a.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", what, a.StatusCode, c.status)
		}
	}
}

// HEAD of a page is GET without its body (RFC 9110 section 9.3.2), and acts on
// nothing.
func TestHeadOfPages(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	b.enter("demo", "demo")
	head := func(b *browser, u string) answer {
		t.Helper()
		req, err := http.NewRequest(http.MethodHead, u, nil)
		if err != nil {
			t.Fatal(err)
		}
		return b.do(req)
	}
	asset := regexp.MustCompile(`/static/app\.[0-9a-f]{12}\.css`).FindString(b.get("/").Body)
	for path, want := range map[string]int{
		"/": 200, "/account": 200, "/account/security-log": 200, "/signin": 303, "/signin/local": 200, "/signout": 200, "/signed-out": 200, asset: 200, "/healthz": 200,
		"/.well-known/openid-configuration": 200, "/oauth2/jwks": 200, "/no-such-page": 404, "/account/apps/revoke": 405,
		"/oauth2/authorize?client_id=demo-app": 405, "/resume/x": 405, "/gateway/start?rd=x": 405, // these act
	} {
		got := head(b, h.URL+path)
		if got.StatusCode != want || got.Body != "" {
			t.Errorf("HEAD %s: %d %q, want %d", path, got.StatusCode, got.Body, want)
		}
		if as := b.get(path); want == 200 && (as.StatusCode != got.StatusCode || as.Header.Get("Content-Type") != got.Header.Get("Content-Type") || as.Header.Get("Cache-Control") != got.Header.Get("Cache-Control")) {
			t.Errorf("HEAD %s: %v\nGET: %d %v", path, got.Header, as.StatusCode, as.Header)
		}
	}
	if a := head(b, h.URL+"/signout"); a.StatusCode != http.StatusOK || b.get("/account").StatusCode != http.StatusOK {
		t.Errorf("HEAD of a form signs out: %d", a.StatusCode)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if a := head(h.browser(), h.Admin+path); a.StatusCode != http.StatusOK {
			t.Errorf("HEAD %s on the private listener: %d", path, a.StatusCode)
		}
	}
}
