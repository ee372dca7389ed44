package broker_test

import (
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
)

// introspect asks about a token as a client.
func (h *harness) introspect(client string, token any) answer {
	h.t.Helper()
	a := h.raw(http.MethodPost, "/oauth2/introspect", url.Values{"token": {token.(string)}, "token_type_hint": {"access_token"}}.Encode(),
		"Authorization", basicAuth(client, strings.TrimSuffix(client, "-app")+"-secret"))
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "no-store" {
		h.t.Fatalf("%d %v %s", a.StatusCode, a.Header, a.Body)
	}
	return a
}

// active reports whether the answer says so; one that does not says nothing else.
func (h *harness) active(client string, token any) bool {
	h.t.Helper()
	a := h.introspect(client, token)
	m := a.json(h.t)
	if m["active"] != true && a.Body != `{"active":false}` {
		h.t.Errorf("an inactive token: %s", a.Body)
	}
	return m["active"] == true
}

// ISS-14, RFC 7662: who is answered about which token, and what.
func TestIntrospection(t *testing.T) {
	t.Parallel()
	h, _ := exchanger(t)
	b := h.signedIn()
	tok := h.grantOf(b, "demo-secret", with(authRequest(), "scope", "openid profile groups offline_access"))
	access, id, refresh := tok["access_token"].(string), tok["id_token"].(string), tok["refresh_token"].(string)
	says := h.introspect("service", access).json(t)
	for k, want := range h.verifiedClaims(access) {
		if got := says[k]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", k, got, want)
		}
	}
	if says["active"] != true || says["token_type"] != "Bearer" || says["username"] != "demo" || says["aud"] != "demo-api" || says["client_id"] != "demo-app" {
		t.Errorf("%v", says)
	}
	exchanged := h.exchange("service", access, "scope", "openid").json(t)["access_token"].(string)
	program := h.service("")
	for name, c := range map[string]struct {
		token, client string
		want          bool
	}{
		"its own":                         {access, "demo-app", true},
		"of its resource":                 {access, "service", true},
		"of its resource, without a rule": {access, "quiet", true},
		"of another resource":             {access, "inner", false},
		"nobody's business":               {access, "stranger", false},
		"exchanged, for its audience":     {exchanged, "inner", true},
		"exchanged, to whom it was given": {exchanged, "service", true},
		"exchanged, where it came from":   {exchanged, "demo-app", false},
		"a program's":                     {program, "service", true},
		"a program's, a stranger asks":    {program, "stranger", false},
		"refresh token":                   {refresh, "demo-app", true},
		"refresh token, a service asks":   {refresh, "service", false},
		"refresh token, a stranger asks":  {refresh, "stranger", false},
		"refresh token, forged":           {refresh[:len(refresh)-4] + "AAAA", "demo-app", false},
		"ID token":                        {id, "demo-app", false},
		"cut":                             {access[:len(access)-4], "demo-app", false},
		"nonsense":                        {"x", "demo-app", false},
	} {
		if got := h.active(c.client, c.token); got != c.want {
			t.Errorf("%s: active %v", name, got)
		}
	}
	if m := h.introspect("demo-app", refresh).json(t); keysOf(m) != "active aud client_id exp iat iss scope sub" || m["sub"] != says["sub"] || m["scope"] != "openid profile groups offline_access" || m["client_id"] != "demo-app" {
		t.Errorf("a refresh token: %v", m)
	}
	// A refresh token that has a successor is good for the grace, and no longer.
	next := h.refresh(refresh).json(t)["refresh_token"].(string)
	if !h.active("demo-app", refresh) || !h.active("demo-app", next) {
		t.Error("within the grace")
	}
	h.wait(11 * time.Second)
	if h.active("demo-app", refresh) || !h.active("demo-app", next) {
		t.Error("after the grace")
	}
	if a := h.refresh(next); a.StatusCode != http.StatusOK { // asking has ended nothing
		t.Errorf("%d %s", a.StatusCode, a.Body)
	}
	h.tokenEndpoint("/oauth2/revoke", url.Values{"token": {next}})
	for what, c := range map[string][2]string{"access": {"service", access}, "exchanged": {"inner", exchanged}, "refresh": {"demo-app", next}} {
		if h.active(c[0], c[1]) {
			t.Errorf("%s after the revocation", what)
		}
	}
	late := h.service("")
	h.wait(10*time.Minute + time.Second)
	if h.active("service", late) {
		t.Error("expired")
	}
}

// Who asks authenticates; a public client cannot (RFC 7662 section 2.1).
func TestIntrospectionNeedsAClient(t *testing.T) {
	t.Parallel()
	h, _ := exchanger(t)
	for name, c := range map[string]struct {
		method, body string
		headers      []string
		status       int
		code         string
	}{
		"nobody":        {"POST", "token=x", nil, 401, "invalid_client"},
		"public":        {"POST", "token=x&client_id=spa", nil, 401, "invalid_client"},
		"wrong secret":  {"POST", "token=x", []string{"Authorization", basicAuth("service", "x")}, 401, "invalid_client"},
		"bearer":        {"POST", "token=x", []string{"Authorization", "Bearer " + h.service("")}, 401, "invalid_client"},
		"no token":      {"POST", "x=y", []string{"Authorization", basicAuth("service", "service-secret")}, 400, "invalid_request"},
		"blank":         {"POST", "token=+", []string{"Authorization", basicAuth("service", "service-secret")}, 400, "invalid_request"},
		"two tokens":    {"POST", "token=x&token=y", []string{"Authorization", basicAuth("service", "service-secret")}, 400, "invalid_request"},
		"in two places": {"POST", "token=x&client_secret=service-secret", []string{"Authorization", basicAuth("service", "service-secret")}, 400, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			oauthError(t, h.raw(c.method, "/oauth2/introspect", c.body, c.headers...), c.status, c.code)
		})
	}
	if a := h.raw("GET", "/oauth2/introspect?token=x", "", "Authorization", basicAuth("service", "service-secret")); a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %d %v", a.StatusCode, a.Header)
	}
}

// What the gateway tells a service can be asked about, and ends with what the
// caller came by; shown to us it is refused everywhere (ISS-6).
func TestIntrospectionOfTheGatewaysTokens(t *testing.T) {
	t.Parallel()
	h, up := exchanger(t)
	b := h.visit(h.at("api", "/"))
	cookie := strings.TrimPrefix(up.last(t).Header.Get("Authorization"), "Bearer ")
	tok := h.grantOf(h.signedIn(), "demo-secret", with(authRequest(), "scope", "openid offline_access"))
	bearer := h.gatewayJWT(up, "api", tok["access_token"].(string))
	program := h.gatewayJWT(up, "api", h.service(""))
	for what, raw := range map[string]string{"cookie": cookie, "bearer": bearer, "program": program} {
		if !h.active("service", raw) {
			t.Errorf("%s: not active: %v", what, claims(t, raw))
		}
		if h.active("stranger", raw) || h.active("inner", raw) {
			t.Errorf("%s: others are answered", what)
		}
		for where, a := range map[string]answer{
			"the route":    h.bearer(h.at("api", "/"), raw),
			"userinfo":     h.bearer("/oauth2/userinfo", raw),
			"the API":      h.bearer("/api/v1/me", raw),
			"the exchange": h.exchange("demo-app", raw),
		} {
			if a.StatusCode < 400 {
				t.Errorf("%s: %s takes it: %d", what, where, a.StatusCode)
			}
		}
	}
	h.tokenEndpoint("/oauth2/revoke", url.Values{"token": {tok["refresh_token"].(string)}})
	if h.active("service", bearer) || !h.active("service", cookie) {
		t.Error("the bearer's grant was revoked, and nothing else")
	}
	page := b.get("/signout")
	b.follow(b.post("/signout", url.Values{"token": {field(t, tokenField, page)}}))
	if h.active("service", cookie) {
		t.Error("after signing out")
	}
}

// The token that console A received is refused by console B, an API route,
// userinfo, the API, introspection, the exchange and as an introspecting client.
func TestConsoleTokenIsGoodNowhere(t *testing.T) {
	t.Parallel()
	h, up := exchanger(t)
	h.lend(console.Lease{ID: "a", Node: "a", Upstream: up.URL, Kind: "terminal", Groups: []string{"gpu-users"}})
	h.lend(console.Lease{ID: "b", Node: "b", Upstream: up.URL, Kind: "terminal", Groups: []string{"gpu-users"}})
	h.visit(h.at("a.console", "/"))
	raw := strings.TrimPrefix(up.last(t).Header.Get("Authorization"), "Bearer ")
	if header(t, raw)["typ"] != "gateway+jwt" || claims(t, raw)["aud"] != "console/a" {
		t.Fatalf("%v %v", header(t, raw), claims(t, raw))
	}
	for where, a := range map[string]answer{
		"console B":         h.bearer(h.at("b.console", "/"), raw),
		"console A":         h.bearer(h.at("a.console", "/"), raw),
		"the API route":     h.bearer(h.at("api", "/"), raw),
		"userinfo":          h.bearer("/oauth2/userinfo", raw),
		"the API":           h.bearer("/api/v1/me", raw),
		"the exchange":      h.exchange("service", raw),
		"as authentication": h.raw("POST", "/oauth2/introspect", "token=x", "Authorization", "Bearer "+raw),
	} {
		if a.StatusCode < 400 || a.StatusCode >= 500 {
			t.Errorf("%s: %d %s", where, a.StatusCode, a.Body)
		}
	}
	for _, client := range []string{"demo-app", "service", "quiet", "inner", "stranger"} {
		if h.active(client, raw) {
			t.Errorf("introspection tells %s that it is active", client)
		}
	}
	if len(up.requests()) != 0 {
		t.Error("something reached the upstream")
	}
}
