package broker_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

const (
	exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessType    = "urn:ietf:params:oauth:token-type:access_token"
	idType        = "urn:ietf:params:oauth:token-type:id_token"
	jwtType       = "urn:ietf:params:oauth:token-type:jwt"
)

// exchangeYAML has an app, the service that it calls, and one behind that.
const exchangeYAML = `
resources:
  - {name: demo-api, uri: "https://api.example"}
  - {name: other-api, uri: "https://other.example"}
  - {name: secret-api}
clients:
  - client_id: demo-app
    client_secret: demo-secret
    redirect_uris: ["http://127.0.0.1:5555/callback"]
    grant_types: [authorization_code, refresh_token, client_credentials, "urn:ietf:params:oauth:grant-type:token-exchange"]
    scope: openid profile email groups offline_access deployments:write deployments:read
    audiences: [demo-api, other-api]
    trusted: true
  - client_id: service # demo-api itself
    client_secret: service-secret
    grant_types: [client_credentials, "urn:ietf:params:oauth:grant-type:token-exchange"]
    scope: openid email groups deployments:read
    audiences: [other-api]
    resource_server_for: ["https://api.example"]
    exchange: '"gpu-users" in user.groups && session.connector == "local" && target.audience == "other-api" && subject.client == "demo-app" && client.id == "service" && (!has(actor.id) || actor.id == "service") && inCIDR(request.ip, "127.0.0.0/8")'
    claims: {level: '"inner"'}
  - client_id: quiet # serves demo-api as well, without a rule
    client_secret: quiet-secret
    grant_types: ["urn:ietf:params:oauth:grant-type:token-exchange"]
    audiences: [demo-api]
    resource_server_for: [demo-api]
  - client_id: inner # other-api
    client_secret: inner-secret
    grant_types: [client_credentials, "urn:ietf:params:oauth:grant-type:token-exchange"]
    scope: deployments:read
    audiences: [secret-api]
    resource_server_for: [other-api]
    exchange: 'actor.id == "inner" && "deployments:read" in target.scopes && subject.audience == "other-api" && actor.kind == "service" && actor.client == "inner"'
  - client_id: bold # which would exchange anything
    client_secret: bold-secret
    grant_types: [client_credentials, "urn:ietf:params:oauth:grant-type:token-exchange"]
    scope: openid deployments:read
    audiences: [secret-api]
    exchange: 'true'
  - client_id: stranger
    client_secret: stranger-secret
    redirect_uris: ["http://127.0.0.1:5555/callback"]
    grant_types: [authorization_code, client_credentials, "urn:ietf:params:oauth:grant-type:token-exchange"]
    scope: openid deployments:read
    audiences: [demo-api, other-api, secret-api]
    trusted: true
  - client_id: lacks
    client_secret: lacks-secret
    grant_types: [client_credentials]
  - client_id: spa
    redirect_uris: ["http://127.0.0.1/cb"]
    grant_types: [authorization_code, "urn:ietf:params:oauth:grant-type:token-exchange"]
    scope: openid groups
    audiences: [ISSUER, demo-api, other-api]
    trusted: true
routes:
  - {name: api, host: api.localhost, upstream: UP, audience: demo-api}
  - {name: other, host: other.localhost, upstream: UP, audience: other-api, allow: '"gpu-users" in user.groups'}
  - {name: console, host: "{node}.console.localhost", lease: true, identity: jwt}
consoles: {networks: [127.0.0.0/8]}
`

// exchanger starts a broker with exchangeYAML; its issuer is known beforehand.
func exchanger(t *testing.T) (*harness, *upstream) {
	t.Helper()
	up := newUpstream(t, nil)
	l := listen(t, "127.0.0.1:0")
	host := l.Addr().String()
	l.Close()
	return startWith(t, &harness{host: host, yaml: strings.ReplaceAll(up.routesYAML(exchangeYAML), "ISSUER", `"http://`+host+`"`)}), up
}

// exchange asks for a token exchange of an access token.
func (h *harness) exchange(client string, token any, kv ...string) answer {
	h.t.Helper()
	form := with(url.Values{"grant_type": {exchangeGrant}, "subject_token": {fmt.Sprint(token)}, "subject_token_type": {accessType}}, kv...)
	if client == "spa" {
		form.Set("client_id", "spa")
		return h.raw(http.MethodPost, "/oauth2/token", form.Encode())
	}
	return h.tokenAs(client, strings.TrimSuffix(client, "-app")+"-secret", form)
}

// programs returns an access token of the client itself.
func (h *harness) programs(client string) string {
	h.t.Helper()
	a := h.tokenAs(client, client+"-secret", url.Values{"grant_type": {"client_credentials"}})
	if a.StatusCode != http.StatusOK {
		h.t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	return a.json(h.t)["access_token"].(string)
}

// RFC 8693: a client's own token with less scope and for another audience of
// its; what it looks like, where it is taken, and how long.
func TestExchangeNarrows(t *testing.T) {
	t.Parallel()
	h, up := exchanger(t)
	b := h.signedIn()
	tok := h.grantOf(b, "demo-secret", with(authRequest(), "scope", "openid email groups offline_access deployments:write"))
	was := h.verifiedClaims(tok["access_token"])
	h.wait(4 * time.Minute)
	for name, c := range map[string]struct {
		kv                []string
		aud, scope, typ   string
		email, userinfoOK bool
	}{
		"nothing asked":       {nil, "demo-api", "openid email groups deployments:write", accessType, true, true},
		"one scope":           {[]string{"scope", "deployments:write"}, "demo-api", "deployments:write", accessType, false, false},
		"offline is dropped":  {[]string{"scope", "openid offline_access"}, "demo-api", "openid", accessType, false, true},
		"an audience":         {[]string{"audience", "other-api"}, "other-api", "openid email groups deployments:write", accessType, true, true},
		"an audience's URI":   {[]string{"audience", "https://other.example", "scope", "email groups"}, "other-api", "email groups", accessType, true, false},
		"a resource":          {[]string{"resource", "https://other.example", "scope", "groups"}, "other-api", "groups", accessType, false, false},
		"both, and the same":  {[]string{"resource", "https://other.example", "audience", "other-api", "scope", "openid"}, "other-api", "openid", accessType, false, true},
		"as a JWT":            {[]string{"requested_token_type", jwtType, "subject_token_type", jwtType, "scope", "openid"}, "demo-api", "openid", jwtType, false, true},
		"as an access token":  {[]string{"requested_token_type", accessType, "scope", "openid"}, "demo-api", "openid", accessType, false, true},
		"an unknown key more": {[]string{"x", "y", "scope", "openid"}, "demo-api", "openid", accessType, false, true},
	} {
		a := h.exchange("demo-app", tok["access_token"], c.kv...)
		if a.StatusCode != http.StatusOK || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.Body)
			continue
		}
		m := a.json(t)
		if got := keysOf(m); got != "access_token expires_in issued_token_type scope token_type" || m["issued_token_type"] != c.typ || m["token_type"] != "Bearer" || m["scope"] != c.scope {
			t.Errorf("%s: answer %v", name, m)
		}
		header, got := h.verified(m["access_token"])
		if header["typ"] != "at+jwt" || header["alg"] != "ES256" || got["aud"] != c.aud || got["scope"] != c.scope || got["client_id"] != "demo-app" || (got["email"] != nil) != c.email || got["act"] != nil {
			t.Errorf("%s: %v %v", name, header, got)
		}
		for _, same := range []string{"sub", "sid", "exp", "auth_time", "iss", "gatehouse:connector", "gatehouse:kind"} {
			if got[same] != was[same] {
				t.Errorf("%s: %s is %v, was %v", name, same, got[same], was[same])
			}
		}
		if in := m["expires_in"].(float64); in > 360 || in < 350 || got["jti"] == was["jti"] {
			t.Errorf("%s: expires_in %v of ten minutes less four", name, in)
		}
		if u := h.bearer("/oauth2/userinfo", m["access_token"]); (u.StatusCode == http.StatusOK) != c.userinfoOK {
			t.Errorf("%s: userinfo %d", name, u.StatusCode)
		}
		for host, aud := range map[string]string{"api": "demo-api", "other": "other-api"} {
			want := http.StatusForbidden
			if aud == c.aud {
				want = http.StatusOK
			}
			if g := h.bearer(h.at(host, "/"), m["access_token"]); g.StatusCode != want {
				t.Errorf("%s: gateway %s: %d, want %d", name, host, g.StatusCode, want)
			}
		}
	}
	if r := up.last(t); r.Header.Get("X-Gatehouse-User") != was["sub"] {
		t.Errorf("the upstream hears of %v", r.Header)
	}
	// What an exchange gave can be narrowed again, and never widened.
	narrow := h.exchange("demo-app", tok["access_token"], "scope", "openid email").json(t)["access_token"]
	if a := h.exchange("demo-app", narrow, "scope", "email"); a.StatusCode != http.StatusOK {
		t.Errorf("again: %d %s", a.StatusCode, a.Body)
	}
	oauthError(t, h.exchange("demo-app", narrow, "scope", "email groups"), 400, "invalid_scope")
}

// A service that got a person's token asks for one for the service behind it:
// only where its rule says so, and with who acts in it.
func TestExchangeOfAnothersToken(t *testing.T) {
	t.Parallel()
	h, _ := exchanger(t)
	b := h.signedIn()
	tok := h.grantOf(b, "demo-secret", with(authRequest(), "scope", "openid email groups deployments:write deployments:read"))["access_token"]
	a := h.exchange("service", tok)
	if a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	got := h.verifiedClaims(a.json(t)["access_token"])
	was := h.verifiedClaims(tok)
	if got["aud"] != "other-api" || got["client_id"] != "service" || got["sub"] != was["sub"] || got["scope"] != "openid email groups deployments:read" || got["level"] != "inner" || fmt.Sprint(got["groups"]) != "[gpu-users]" || got["act"] != nil {
		t.Errorf("%v", got)
	}
	// With an actor, and then with another below.
	self := h.programs("service")
	a = h.exchange("service", tok, "actor_token", self, "actor_token_type", accessType)
	if a.StatusCode != http.StatusOK {
		t.Fatalf("with an actor: %d %s", a.StatusCode, a.Body)
	}
	second := a.json(t)["access_token"]
	if act := fmt.Sprint(h.verifiedClaims(second)["act"]); act != "map[client_id:service sub:service]" {
		t.Errorf("act: %s", act)
	}
	a = h.exchange("inner", second, "actor_token", h.programs("inner"), "actor_token_type", jwtType)
	if a.StatusCode != http.StatusOK {
		t.Fatalf("with a second actor: %d %s", a.StatusCode, a.Body)
	}
	third := h.verifiedClaims(a.json(t)["access_token"])
	if act := fmt.Sprint(third["act"]); act != "map[act:map[client_id:service sub:service] client_id:inner sub:inner]" || third["aud"] != "secret-api" || third["sub"] != was["sub"] || third["scope"] != "deployments:read" {
		t.Errorf("%v", third)
	}
	// A service can tell no one else's to go on.
	for name, c := range map[string]struct {
		client string
		kv     []string
		code   string
	}{
		"without a rule":            {"quiet", nil, "invalid_request"},
		"no resource of its":        {"stranger", nil, "invalid_request"},
		"the rule says anything":    {"bold", nil, "invalid_request"},
		"its own actor, at least":   {"bold", []string{"actor_token", h.programs("bold"), "actor_token_type", accessType}, "invalid_request"},
		"the rule says no":          {"inner", []string{"subject_token", fmt.Sprint(second)}, "invalid_request"}, // without an actor
		"an audience of others":     {"service", []string{"audience", "secret-api"}, "invalid_target"},
		"a scope that it lacks":     {"service", []string{"scope", "deployments:write"}, "invalid_scope"},
		"another's actor":           {"service", []string{"actor_token", h.programs("stranger"), "actor_token_type", accessType}, "invalid_request"},
		"the person as the actor":   {"service", []string{"actor_token", fmt.Sprint(tok), "actor_token_type", accessType}, "invalid_request"},
		"an actor with actors":      {"inner", []string{"subject_token", fmt.Sprint(second), "actor_token", fmt.Sprint(second), "actor_token_type", accessType}, "invalid_request"},
		"an actor without its type": {"service", []string{"actor_token", self}, "invalid_request"},
		"a type without an actor":   {"service", []string{"actor_token_type", accessType}, "invalid_request"},
		"an actor by an ID token":   {"service", []string{"actor_token", self, "actor_token_type", idType}, "invalid_request"},
		"an actor that is none":     {"service", []string{"actor_token", "x.y.z", "actor_token_type", accessType}, "invalid_request"},
		"a program as the subject":  {"service", []string{"subject_token", self}, "invalid_request"},
		"nobody may act":            {"demo-app", []string{"actor_token", fmt.Sprint(tok), "actor_token_type", accessType}, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) { oauthError(t, h.exchange(c.client, tok, c.kv...), 400, c.code) })
	}
	// Another group, another answer: the rule looks at the person of the session.
	admin := h.browser()
	admin.enter("admin", "admin")
	oauthError(t, h.exchange("service", h.grantOf(admin, "demo-secret", with(authRequest(), "scope", "openid groups"))["access_token"]), 400, "invalid_request")
}

// What must be refused, and that nothing falls back (CI-7).
func TestExchangeRefuses(t *testing.T) {
	t.Parallel()
	h, up := exchanger(t)
	b := h.signedIn()
	tok := h.grantOf(b, "demo-secret", with(authRequest(), "scope", "openid email offline_access deployments:read"))
	access, id, refresh := tok["access_token"].(string), tok["id_token"].(string), tok["refresh_token"].(string)
	strangers := h.redeemAs("stranger-secret", requestOf("stranger", callback, "scope", "openid"), b.code(requestOf("stranger", callback, "scope", "openid"))).json(t)["access_token"].(string)
	parts := strings.Split(access, ".")
	forged := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + parts[1] + "."
	gateways := h.gatewayJWT(up, "api", access)
	for name, c := range map[string]struct {
		client string
		kv     []string
		code   string
	}{
		"no subject_token":             {"demo-app", []string{"subject_token", ""}, "invalid_request"},
		"a blank one":                  {"demo-app", []string{"subject_token", " "}, "invalid_request"},
		"no type":                      {"demo-app", []string{"subject_token_type", ""}, "invalid_request"},
		"an unknown type":              {"demo-app", []string{"subject_token_type", "x"}, "invalid_request"},
		"an ID token":                  {"demo-app", []string{"subject_token", id, "subject_token_type", idType}, "invalid_request"},
		"an ID token as access":        {"demo-app", []string{"subject_token", id}, "invalid_request"},
		"an ID token as a JWT":         {"demo-app", []string{"subject_token", id, "subject_token_type", jwtType}, "invalid_request"},
		"an access token as an ID":     {"demo-app", []string{"subject_token_type", idType}, "invalid_request"},
		"a refresh token":              {"demo-app", []string{"subject_token", refresh, "subject_token_type", "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"},
		"a refresh token as access":    {"demo-app", []string{"subject_token", refresh}, "invalid_request"},
		"another client's":             {"demo-app", []string{"subject_token", strangers}, "invalid_request"},
		"to another client":            {"stranger", nil, "invalid_request"},
		"the gateway's":                {"demo-app", []string{"subject_token", gateways}, "invalid_request"},
		"the gateway's, by its server": {"service", []string{"subject_token", gateways}, "invalid_request"},
		"unsigned":                     {"demo-app", []string{"subject_token", forged}, "invalid_request"},
		"cut":                          {"demo-app", []string{"subject_token", access[:len(access)-4]}, "invalid_request"},
		"an API key":                   {"demo-app", []string{"subject_token", "rgpu_x"}, "invalid_request"},
		"the client's own":             {"demo-app", []string{"subject_token", h.service("")}, "invalid_request"},
		"an ID token wanted":           {"demo-app", []string{"requested_token_type", idType}, "invalid_request"},
		"a refresh token wanted":       {"demo-app", []string{"requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"},
		"a scope more":                 {"demo-app", []string{"scope", "deployments:read deployments:write"}, "invalid_scope"},
		"a scope of nobody":            {"demo-app", []string{"scope", "x"}, "invalid_scope"},
		"no scope left":                {"demo-app", []string{"scope", "offline_access"}, "invalid_scope"},
		"an audience of others":        {"demo-app", []string{"audience", "secret-api"}, "invalid_target"},
		"an audience that is none":     {"demo-app", []string{"audience", "x"}, "invalid_target"},
		"the issuer":                   {"demo-app", []string{"audience", h.URL}, "invalid_target"},
		"a resource that is none":      {"demo-app", []string{"resource", "https://evil.example"}, "invalid_target"},
		"one of each, not the same":    {"demo-app", []string{"resource", "demo-api", "audience", "other-api"}, "invalid_target"},
		"without the grant":            {"lacks", nil, "unauthorized_client"},
	} {
		t.Run(name, func(t *testing.T) { oauthError(t, h.exchange(c.client, access, c.kv...), 400, c.code) })
	}
	body := url.Values{"grant_type": {exchangeGrant}, "subject_token": {access}, "subject_token_type": {accessType}}
	demo := []string{"Authorization", basicAuth("demo-app", "demo-secret")}
	for name, c := range map[string]struct {
		body    string
		headers []string
		status  int
		code    string
	}{
		"two audiences":        {body.Encode() + "&audience=demo-api&audience=other-api", demo, 400, "invalid_target"},
		"two resources":        {body.Encode() + "&resource=demo-api&resource=other-api", demo, 400, "invalid_target"},
		"two subject_tokens":   {body.Encode() + "&subject_token=x", demo, 400, "invalid_request"},
		"nobody asks":          {body.Encode(), nil, 401, "invalid_client"},
		"a wrong secret":       {body.Encode(), []string{"Authorization", basicAuth("demo-app", "wrong")}, 401, "invalid_client"},
		"nothing but the name": {"grant_type=" + url.QueryEscape(exchangeGrant), demo, 400, "invalid_request"},
		"two audiences, else":  {"grant_type=client_credentials&audience=a&audience=b", demo, 400, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			oauthError(t, h.raw("POST", "/oauth2/token", c.body, c.headers...), c.status, c.code)
		})
	}
	// A public client proves nothing: whoever was shown its token for one resource
	// must not make it one for another, or for our own API.
	spa := requestOf("spa", "http://127.0.0.1:4000/cb", "scope", "openid groups")
	forAPI := h.grantOf(b, "", with(spa, "resource", "demo-api"))["access_token"]
	oauthError(t, h.exchange("spa", forAPI, "audience", "other-api"), 400, "invalid_target")
	oauthError(t, h.exchange("spa", forAPI, "audience", h.URL), 400, "invalid_target")
	if a := h.exchange("spa", forAPI, "scope", "groups"); a.StatusCode != http.StatusOK {
		t.Errorf("a public client narrows the scope: %d %s", a.StatusCode, a.Body)
	}
	if a := h.exchange("spa", h.grantOf(b, "", spa)["access_token"], "audience", "other-api"); a.StatusCode != http.StatusOK || claims(t, a.json(t)["access_token"])["aud"] != "other-api" {
		t.Errorf("from the issuer to a resource: %d %s", a.StatusCode, a.Body)
	}
	// It has used nothing up, and is no replay: the same again is as good.
	for range 2 {
		if a := h.exchange("demo-app", access); a.StatusCode != http.StatusOK {
			t.Errorf("%d %s", a.StatusCode, a.Body)
		}
	}
	h.wait(10*time.Minute + time.Second)
	oauthError(t, h.exchange("demo-app", access), 400, "invalid_request")
}

// gatewayJWT is what the upstream of a route is told of a bearer.
func (h *harness) gatewayJWT(up *upstream, route, bearer string) string {
	h.t.Helper()
	if a := h.bearer(h.at(route, "/"), bearer); a.StatusCode != http.StatusOK {
		h.t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	return strings.TrimPrefix(up.last(h.t).Header.Get("Authorization"), "Bearer ")
}

// It ends with what it came from: the grant, the session, the account.
func TestExchangedTokenEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(h *harness, b *browser, tok map[string]any){
		"revoked": func(h *harness, _ *browser, tok map[string]any) {
			h.tokenEndpoint("/oauth2/revoke", url.Values{"token": {tok["refresh_token"].(string)}})
		},
		"revoked by what came of it": func(h *harness, _ *browser, tok map[string]any) {
			h.tokenEndpoint("/oauth2/revoke", url.Values{"token": {h.exchange("demo-app", tok["access_token"]).json(h.t)["access_token"].(string)}})
		},
		"signed out": func(h *harness, b *browser, _ map[string]any) {
			page := b.get("/signout")
			b.follow(b.post("/signout", url.Values{"token": {field(h.t, tokenField, page)}}))
		},
		"suspended": func(h *harness, b *browser, tok map[string]any) {
			if a := h.operator("POST", "/api/v1/users/"+claims(h.t, tok["access_token"])["sub"].(string)+"/suspend", ""); a.StatusCode != http.StatusOK {
				h.t.Fatalf("%d %s", a.StatusCode, a.Body)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, _ := exchanger(t)
			b := h.signedIn()
			tok := h.grantOf(b, "demo-secret", with(authRequest(), "scope", "openid email groups deployments:read"))
			mine := h.exchange("demo-app", tok["access_token"]).json(t)["access_token"]
			services := h.exchange("service", tok["access_token"]).json(t)["access_token"]
			if a := h.bearer("/oauth2/userinfo", services); a.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", a.StatusCode, a.Body)
			}
			end(h, b, tok)
			for what, a := range map[string]answer{
				"userinfo":          h.bearer("/oauth2/userinfo", mine),
				"userinfo, another": h.bearer("/oauth2/userinfo", services),
				"gateway":           h.bearer(h.at("api", "/"), mine),
				"gateway, another":  h.bearer(h.at("other", "/"), services),
			} {
				if a.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s: %d", what, a.StatusCode)
				}
			}
			oauthError(t, h.exchange("demo-app", tok["access_token"]), 400, "invalid_request")
			oauthError(t, h.exchange("demo-app", mine), 400, "invalid_request")
			oauthError(t, h.exchange("service", tok["access_token"]), 400, "invalid_request")
		})
	}
}
