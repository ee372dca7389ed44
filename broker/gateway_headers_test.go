package broker_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
)

// GW-1, GW-2: whatever a client says under our names, in whatever spelling,
// twice, in Connection or in a trailer, the upstream reads ours alone.
func TestGatewayClientCannotSpeakForUs(t *testing.T) {
	t.Parallel()
	h, up := gate(t, plainRoutes, nil)
	tok := h.access("openid groups")
	resp := h.wire(`POST /x HTTP/1.1
Host: api.localhost
Authorization: Bearer ` + tok + `
X-Gatehouse-User: root
x-gatehouse-user: root
X_Gatehouse_User: root
X.Gatehouse.User: root
X-Gatehouse_Groups: admins
X-GATEHOUSE-ANYTHING: root
X-Gatehouse-Request-Id: mine
X-Forwarded-For: 6.6.6.6
X-Forwarded-For: 7.7.7.7
X-Forwarded-Proto: https
X-Forwarded-Host: evil.example
X-Forwarded-Prefix: /admin
X-Forwarded-User: root
X_Forwarded_For: 6.6.6.6
Forwarded: for=6.6.6.6
X-Real-IP: 6.6.6.6
True-Client-IP: 6.6.6.6
CF-Connecting-IP: 6.6.6.6
X-Client-IP: 6.6.6.6
X-Cluster-Client-IP: 6.6.6.6
X-Original-URL: /admin
X-Rewrite-URL: /admin
X-HTTP-Method-Override: DELETE
Remote-User: root
Remote_User: root
X-Remote-User: root
X-Auth-Request-Email: root
X-WebAuth-User: root
Proxy-Authorization: Basic eA==
X-Accel-Redirect: /x
Cookie: a=1; gatehouse-console=stolen; gatehouse=stolen; b=2
Keep-Alive: 5
Upgrade: h2c
HTTP2-Settings: AAMAAABkAAQAAP__
Te: gzip
Trailer: X-Gatehouse-User, X-Checksum
Connection: close, X-Gatehouse-User, X-Gatehouse-Groups, Authorization, X-Forwarded-For, Upgrade, HTTP2-Settings
Transfer-Encoding: chunked

4
body
0
X-Gatehouse-User: root
X-Checksum: 42

`)
	if status(resp) != http.StatusOK {
		t.Fatalf("answer: %d", status(resp))
	}
	got := up.last(t)
	me := claims(t, tok)
	for k, want := range map[string]string{
		"X-Gatehouse-User": fmt.Sprint(me["sub"]), "X-Gatehouse-Email": "demo@example.com", "X-Gatehouse-Name": "Demo%20User", "X-Gatehouse-Groups": "gpu-users",
		"X-Gatehouse-Request-Id": resp.Header.Get("X-Gatehouse-Request-Id"), "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "api.localhost",
		"Cookie": "a=1; b=2", "User-Agent": "", "Authorization": got.Header.Get("Authorization"), "Accept-Encoding": "",
	} {
		if have := got.Header.Values(k); len(have) > 1 || got.Header.Get(k) != want {
			t.Errorf("%s: %q, want %q", k, have, want)
		}
		delete(got.Header, k)
	}
	if len(got.Header) > 0 || got.Body != "body" {
		t.Errorf("also sent: %v; body %q", got.Header, got.Body)
	}
	if len(got.Trailer) != 1 || got.Trailer.Get("X-Checksum") != "42" {
		t.Errorf("trailers: %v", got.Trailer)
	}
}

// GW-3, GW-11: the JWT for the upstream: its claims, its five minutes, the same
// bytes until four fifths of them have passed.
func TestGatewayTokenForTheUpstream(t *testing.T) {
	t.Parallel()
	h, up := gate(t, plainRoutes+"  - {name: bare, host: bare.localhost, upstream: UP}\n", nil)
	b := h.visit(h.at("api", "/"))
	ask := func() string {
		t.Helper()
		if a := b.get(h.at("api", "/")); a.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", a.StatusCode, a.Body)
		}
		return strings.TrimPrefix(up.last(t).Header.Get("Authorization"), "Bearer ")
	}
	first := ask()
	c := claims(t, first)
	life, _ := c["exp"].(float64)
	made, _ := c["iat"].(float64)
	for k, want := range map[string]any{"iss": h.URL, "aud": "demo-api", "email": "demo@example.com", "name": "Demo User", "gatehouse:kind": "user",
		"gatehouse:connector": "local", "client_id": "gatehouse-gateway", "groups": "[gpu-users]"} {
		if fmt.Sprint(c[k]) != want {
			t.Errorf("%s is %v, want %v", k, c[k], want)
		}
	}
	if life-made != 300 || c["sid"] == nil || c["jti"] == nil || c["auth_time"] == nil || c["sub"] == nil {
		t.Errorf("claims: %v", c)
	}
	h.wait(239 * time.Second)
	if ask() != first {
		t.Error("another token before four fifths of its life")
	}
	h.wait(2 * time.Second)
	second := ask()
	if second == first || claims(t, second)["jti"] == c["jti"] {
		t.Error("the same token after four fifths of its life")
	}
	// It is no access token of anybody: not here, not at userinfo.
	for _, u := range []string{h.at("api", "/"), h.URL + "/oauth2/userinfo", h.URL + "/api/v1/me"} {
		if a := h.bearer(u, second); a.StatusCode != http.StatusUnauthorized && a.StatusCode != http.StatusForbidden {
			t.Errorf("%s takes the upstream's token: %d", u, a.StatusCode)
		}
	}
	b.open(h.at("bare", "/"))
	if r := up.last(t); r.Header.Get("Authorization") != "" || r.Header.Get("X-Gatehouse-Email") == "" {
		t.Errorf("a route without audience: %v", r.Header)
	}
}

// GW-10, GW-17: what an upstream may not say in our name, 1xx and trailers too.
func TestGatewayAnswersAreFiltered(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.WriteString(c, strings.ReplaceAll(`HTTP/1.1 103 Early Hints
Link: </x.css>; rel=preload
X-Gatehouse-Request-Id: early
Connection: X-Content-Type-Options
Set-Cookie: gatehouse-console=early

HTTP/1.1 200 OK
Transfer-Encoding: chunked
Trailer: X-Checksum, X-Accel-Redirect
Connection: X-Secret-Hop
X-Secret-Hop: 1
X-Accel-Redirect: /secret
X-Sendfile: /etc/passwd
Clear-Site-Data: "cookies"
X-Gatehouse-Request-Id: forged
X-Gatehouse-User: forged
Strict-Transport-Security: max-age=1; includeSubDomains
Access-Control-Allow-Origin: *
Set-Cookie: sid=1; Path=/
Set-Cookie: gatehouse-console=evil
Set-Cookie: wide=1; Domain=localhost
Set-Cookie: own=1; Domain=api.localhost
Content-Type: text/plain
X-App: kept

4
body
0
X-Checksum: 42
X-Accel-Redirect: /late
Set-Cookie: gatehouse-console=late
Clear-Site-Data: "*"

`, "\n", "\r\n"))
			}
			c.Close()
		}
	}()
	h := start(t, strings.ReplaceAll(plainRoutes, "UP", "http://"+l.Addr().String()))
	tok := h.service("deployments:write")
	resp := h.wire("GET / HTTP/1.1\nHost: api.localhost\nOrigin: http://app.localhost\nAuthorization: Bearer " + tok + "\nTe: trailers\nConnection: close\n\n")
	if status(resp) != http.StatusOK {
		t.Fatalf("answer: %d", status(resp))
	}
	want := map[string][]string{
		"Set-Cookie": {"sid=1; Path=/", "own=1; Domain=api.localhost"}, "Content-Type": {"text/plain"}, "X-App": {"kept"}, "Vary": {"Origin"},
		"Access-Control-Allow-Origin": {"http://app.localhost"}, "Access-Control-Allow-Credentials": {"true"},
	}
	for k, v := range want {
		if !slices.Equal(resp.Header[k], v) {
			t.Errorf("%s: %q, want %q", k, resp.Header[k], v)
		}
		delete(resp.Header, k)
	}
	if id := resp.Header.Get("X-Gatehouse-Request-Id"); len(resp.Header["X-Gatehouse-Request-Id"]) != 1 || len(id) != 26 {
		t.Errorf("request id %q", resp.Header["X-Gatehouse-Request-Id"])
	}
	for _, k := range []string{"X-Gatehouse-Request-Id", "Date", "Connection", "Trailer"} {
		delete(resp.Header, k)
	}
	if len(resp.Header) > 0 {
		t.Errorf("also: %v", resp.Header)
	}
	if len(resp.Trailer) != 1 || resp.Trailer.Get("X-Checksum") != "42" {
		t.Errorf("trailers: %v", resp.Trailer)
	}
}

// GW-11: what a console is told, in each of the three ways.
func TestGatewayConsoleIdentity(t *testing.T) {
	t.Parallel()
	h, up := gate(t, `
routes:
  - {name: plain, host: "{node}.console.localhost", lease: true}
  - {name: told, host: "{node}.told.localhost", lease: true, identity: headers}
  - {name: signed, host: "{node}.signed.localhost", lease: true, identity: jwt}
  - {name: api, host: api.localhost, upstream: UP, audience: demo-api}
`, nil)
	h.lend(console.Lease{ID: "n1", Upstream: up.URL, Owner: "somebody", Groups: []string{"gpu-users"}})
	b := h.visit(h.at("n1.console", "/"))
	told := func(r received) string {
		var out []string
		for k := range r.Header {
			if strings.HasPrefix(k, "X-Gatehouse-") {
				out = append(out, strings.TrimPrefix(k, "X-Gatehouse-"))
			}
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	r := up.last(t)
	if told(r) != "Request-Id User" || r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" || r.Host != "n1.console.localhost:"+strings.Split(h.host, ":")[1] {
		t.Errorf("a console is told %q at %q, %v", told(r), r.Host, r.Header)
	}
	// The console's own credential passes, one of ours never, whatever came by cookie.
	tok := h.access("openid")
	for auth, want := range map[string]string{"token 3f1c9a": "token 3f1c9a", "Bearer own": "Bearer own", "Bearer " + tok: "", "token " + tok: ""} {
		b.get(h.at("n1.console", "/"), "Authorization", auth)
		if got := up.last(t).Header.Get("Authorization"); got != want {
			t.Errorf("Authorization %.20q reaches the console as %.20q", auth, got)
		}
	}
	// A bearer token of ours authenticates nowhere on a lease route: its aud is another.
	h.refused("a token at a console", h.bearer(h.at("n1.console", "/"), tok), http.StatusForbidden, "invalid_token")

	b.open(h.at("n1.told", "/"))
	if r := up.last(t); told(r) != "Email Groups Name Request-Id User" || r.Header.Get("Authorization") != "" {
		t.Errorf("identity: headers tells %q, %v", told(r), r.Header)
	}
	b.open(h.at("n1.signed", "/"))
	b.get(h.at("n1.signed", "/"), "Authorization", "token own")
	r = up.last(t)
	raw := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	c := claims(t, raw)
	if told(r) != "Email Groups Name Request-Id User" || c["aud"] != "signed/n1" || header(t, raw)["typ"] != "gateway+jwt" {
		t.Fatalf("identity: jwt gives %q, %v, %v", told(r), header(t, raw), c)
	}
	for _, u := range []string{h.at("api", "/"), h.at("n1.signed", "/"), h.at("n1.console", "/"), h.URL + "/oauth2/userinfo", h.URL + "/api/v1/me"} {
		if a := h.bearer(u, raw); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s takes a gateway+jwt: %d", u, a.StatusCode)
		}
	}
	if seen := up.requests(); len(seen) > 0 {
		t.Errorf("it reached an upstream: %v", seen)
	}
	// As a refresh token, code, or in a token exchange it is nothing either.
	for _, f := range []string{"refresh_token", "code"} {
		grant := map[string]string{"refresh_token": "refresh_token", "code": "authorization_code"}[f]
		if a := h.token(map[string][]string{"grant_type": {grant}, f: {raw}, "redirect_uri": {callback}, "code_verifier": {verifier}}); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", grant, a.StatusCode)
		}
	}
}
