package broker_test

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func list(m map[string]any, name string) []string {
	var out []string
	for _, v := range m[name].([]any) {
		out = append(out, v.(string))
	}
	return out
}

// What discovery lists works, and nothing that works is left out (RFC 8414
// section 2, OpenID Connect Discovery section 3).
func TestDiscoveryIsTrue(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	a := h.raw("GET", "/.well-known/openid-configuration", "")
	if a.StatusCode != 200 || a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "public, max-age=300" {
		t.Fatalf("%d %v", a.StatusCode, a.Header)
	}
	if o := h.raw("GET", "/.well-known/oauth-authorization-server", ""); o.Body != a.Body {
		t.Error("the two documents differ")
	}
	m := a.json(t)
	wantKeys := "authorization_endpoint authorization_response_iss_parameter_supported claims_parameter_supported claims_supported code_challenge_methods_supported device_authorization_endpoint grant_types_supported " +
		"id_token_signing_alg_values_supported introspection_endpoint introspection_endpoint_auth_methods_supported introspection_endpoint_auth_signing_alg_values_supported issuer jwks_uri prompt_values_supported request_parameter_supported request_uri_parameter_supported response_modes_supported response_types_supported " +
		"revocation_endpoint revocation_endpoint_auth_methods_supported revocation_endpoint_auth_signing_alg_values_supported scopes_supported subject_types_supported token_endpoint token_endpoint_auth_methods_supported token_endpoint_auth_signing_alg_values_supported ui_locales_supported userinfo_endpoint"
	if got := keysOf(m); got != wantKeys {
		t.Errorf("members:\n%s, want\n%s", got, wantKeys)
	}
	if m["issuer"] != h.URL || m["request_parameter_supported"] != false || m["request_uri_parameter_supported"] != false || m["claims_parameter_supported"] != false || m["authorization_response_iss_parameter_supported"] != true {
		t.Errorf("%v", m)
	}
	for k, v := range m {
		if !strings.HasSuffix(k, "_endpoint") && k != "jwks_uri" {
			continue
		}
		u, _ := v.(string)
		if !strings.HasPrefix(u, h.URL+"/oauth2/") {
			t.Errorf("%s: %s", k, u)
		}
		if e := h.raw("GET", strings.TrimPrefix(u, h.URL), ""); e.StatusCode == 404 {
			t.Errorf("%s is not served", k)
		}
	}
	b := h.signedIn()
	for _, v := range list(m, "prompt_values_supported") {
		if a := b.ask(with(authRequest(), "prompt", v)); a.location().Query().Get("error") == "invalid_request" {
			t.Errorf("prompt %s: %s", v, a.location())
		}
	}
	for _, v := range list(m, "response_types_supported") {
		if q := h.back(b.ask(with(authRequest(), "response_type", v)), callback, "st&ate="); q.Get("code") == "" {
			t.Errorf("response_type %s: %v", v, q)
		}
	}
	for _, v := range list(m, "response_modes_supported") {
		if q := h.back(b.ask(with(authRequest(), "response_mode", v)), callback, "st&ate="); q.Get("code") == "" {
			t.Errorf("response_mode %s: %v", v, q)
		}
	}
	for _, v := range list(m, "code_challenge_methods_supported") {
		if q := h.back(b.ask(with(authRequest(), "code_challenge_method", v)), callback, "st&ate="); q.Get("code") == "" {
			t.Errorf("method %s: %v", v, q)
		}
	}
	demo := []string{"Authorization", basicAuth("demo-app", "demo-secret")}
	for _, v := range list(m, "grant_types_supported") {
		if a := h.raw("POST", "/oauth2/token", "grant_type="+url.QueryEscape(v), demo...); a.StatusCode != 200 && a.json(t)["error"] == "unsupported_grant_type" {
			t.Errorf("grant_type %s: %s", v, a.Body)
		}
	}
	for _, v := range []string{"password", "implicit", "urn:ietf:params:oauth:grant-type:saml2-bearer"} {
		oauthError(t, h.raw("POST", "/oauth2/token", "grant_type="+url.QueryEscape(v), demo...), 400, "unsupported_grant_type")
	}
	for _, name := range []string{"token_endpoint_auth_methods_supported", "revocation_endpoint_auth_methods_supported"} {
		if got := strings.Join(list(m, name), " "); got != "client_secret_basic client_secret_post private_key_jwt none" { // see TestClientAuthentication
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := strings.Join(list(m, "id_token_signing_alg_values_supported"), " "); got != "RS256 ES256" { // see TestClaimsOfTokens
		t.Errorf("algorithms: %s", got)
	}
	// Each scope is one that some client may have.
	asked := map[string]url.Values{"jobs:run": nil, "jobs:read": nil}
	for _, s := range list(m, "scopes_supported") {
		if _, machine := asked[s]; machine || strings.HasPrefix(s, "gatehouse:") {
			continue
		}
		tok := h.grantOf(b, "demo-secret", with(authRequest(), "scope", s))
		if tok["scope"] != s {
			t.Errorf("scope %s: %v", s, tok["scope"])
		}
	}
	// Each claim that a person's tokens and userinfo hold is listed.
	tok := h.grantOf(b, "demo-secret", authRequest())
	for _, c := range []map[string]any{claims(t, tok["id_token"]), h.bearer("/oauth2/userinfo", tok["access_token"]).json(t)} {
		for name := range maps.Keys(c) {
			if !slices.Contains(list(m, "claims_supported"), name) {
				t.Errorf("claim %s is not listed", name)
			}
		}
	}
	// ISS-18: who asks by what name changes nothing.
	for _, header := range []string{"X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "X-Original-URL", "Forwarded", "X-Host"} {
		if o := h.raw("GET", "/.well-known/openid-configuration", "", header, "evil.example"); o.Body != a.Body {
			t.Errorf("%s changes discovery", header)
		}
	}
	evil := h.browser()
	req, err := http.NewRequest("GET", h.URL+"/.well-known/openid-configuration", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example"
	if o := evil.do(req); o.StatusCode != http.StatusMisdirectedRequest || strings.Contains(o.Body, "evil.example") {
		t.Errorf("by another host: %d %s", o.StatusCode, o.Body)
	}
}

// RFC 7517: cached for a while, with an entity tag; ISS-8: public halves alone.
func TestJWKS(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	a := h.raw("GET", "/oauth2/jwks", "")
	if a.StatusCode != 200 || a.Header.Get("Content-Type") != "application/jwk-set+json" || a.Header.Get("Cache-Control") != "public, max-age=300" || a.Header.Get("ETag") == "" {
		t.Fatalf("%d %v", a.StatusCode, a.Header)
	}
	var kinds []string
	for _, k := range a.json(t)["keys"].([]any) {
		key := k.(map[string]any)
		kinds = append(kinds, key["kty"].(string)+" "+key["alg"].(string)+" "+key["use"].(string))
		for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
			if _, there := key[private]; there {
				t.Errorf("the private member %q is published", private)
			}
		}
	}
	if slices.Sort(kinds); strings.Join(kinds, ", ") != "EC ES256 sig, RSA RS256 sig" {
		t.Errorf("keys: %v", kinds)
	}
	if again := h.raw("GET", "/oauth2/jwks", "", "If-None-Match", a.Header.Get("ETag")); again.StatusCode != 304 || again.Body != "" || again.Header.Get("ETag") != a.Header.Get("ETag") || again.Header.Get("Cache-Control") != a.Header.Get("Cache-Control") {
		t.Errorf("304: %d %v", again.StatusCode, again.Header)
	}
	h.restart()
	if again := h.raw("GET", "/oauth2/jwks", ""); again.Body != a.Body {
		t.Error("a restart made other keys")
	}
}

// ISS-17: who may read what from another origin.
func TestCORS(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	for _, c := range []struct{ path, origin, want string }{
		{"/.well-known/openid-configuration", "https://anybody.example", "*"},
		{"/.well-known/oauth-authorization-server", "https://anybody.example", "*"},
		{"/oauth2/jwks", "https://anybody.example", "*"},
		{"/oauth2/token", "https://spa.example", "https://spa.example"}, // registered as https://Spa.Example:443/cb
		{"/oauth2/userinfo", "https://spa.example", "https://spa.example"},
		{"/oauth2/token", "http://127.0.0.1", "http://127.0.0.1"},
		{"/oauth2/token", "https://spa.example:8443", ""},
		{"/oauth2/token", "http://spa.example", ""},
		{"/oauth2/token", "https://evil-spa.example", ""},
		{"/oauth2/token", "https://rp.example", ""}, // of a confidential client
		{"/oauth2/userinfo", "https://third.example", ""},
		{"/oauth2/userinfo", "null", ""},
		{"/oauth2/revoke", "https://spa.example", ""},
		{"/oauth2/authorize", "https://spa.example", ""},
		{"/signin", "https://spa.example", ""},
		{"/", "https://spa.example", ""},
	} {
		methods := []string{"GET"}
		if c.path == "/oauth2/token" || c.path == "/oauth2/userinfo" {
			methods = []string{"GET", "POST", "OPTIONS"}
		}
		for _, m := range methods {
			a := h.raw(m, c.path, "", "Origin", c.origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type")
			if got := a.Header.Get("Access-Control-Allow-Origin"); got != c.want {
				t.Errorf("%s %s from %s: %q, want %q", m, c.path, c.origin, got, c.want)
			}
			if a.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s %s allows credentials", m, c.path)
			}
			if c.want != "*" && len(methods) > 1 && !slices.Contains(a.Header.Values("Vary"), "Origin") {
				t.Errorf("%s %s: Vary %v", m, c.path, a.Header.Values("Vary"))
			}
			if m != "OPTIONS" {
				continue
			}
			if a.StatusCode != 204 || (a.Header.Get("Access-Control-Allow-Headers") == "Authorization, Content-Type") != (c.want != "") || (a.Header.Get("Access-Control-Allow-Methods") == "GET, POST") != (c.want != "") {
				t.Errorf("preflight of %s from %s: %d %v", c.path, c.origin, a.StatusCode, a.Header)
			}
		}
	}
}

// The modules of the OpenID Foundation's basic certification plan that are a
// request more, with the client that it registers: client_secret_post and no PKCE.
func TestBasicCertificationPlan(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	const uri = "https://rp.example/cb"
	base := with(requestOf("plain", uri), "code_challenge", "", "code_challenge_method", "", "scope", "openid")
	for module, q := range map[string]url.Values{
		"oidcc-server": base,
		"oidcc-ensure-request-without-nonce-succeeds-for-code-flow": with(base, "nonce", ""),
		"oidcc-scope-profile":                                     with(base, "scope", "openid profile"),
		"oidcc-scope-email":                                       with(base, "scope", "openid email"),
		"oidcc-scope-all":                                         with(base, "scope", "openid profile email address phone"),
		"oidcc-ensure-other-scope-order-succeeds":                 with(base, "scope", "email openid"),
		"oidcc-display-page":                                      with(base, "display", "page"),
		"oidcc-display-popup":                                     with(base, "display", "popup"),
		"oidcc-prompt-none-logged-in":                             with(base, "prompt", "none"),
		"oidcc-max-age-10000":                                     with(base, "max_age", "10000"),
		"oidcc-ensure-request-with-unknown-parameter-succeeds":    with(base, "extra", "foobar"),
		"oidcc-login-hint":                                        with(base, "login_hint", "buffy@oidcc.example"),
		"oidcc-ui-locales":                                        with(base, "ui_locales", "se"),
		"oidcc-claims-locales":                                    with(base, "claims_locales", "se"),
		"oidcc-ensure-request-with-acr-values-succeeds":           with(base, "acr_values", "1 2"),
		"oidcc-claims-essential":                                  with(base, "claims", `{"userinfo":{"name":{"essential":true}}}`),
		"oidcc-ensure-request-with-valid-pkce-succeeds":           requestOf("plain", uri),
		"oidcc-ensure-registered-redirect-uri, the other one":     with(base, "redirect_uri", uri+"?keep=1"),
		"oidcc-ensure-redirect-uri-in-authorization, with params": with(base, "resource", "", "prompt", "", "max_age", ""),
	} {
		a := h.redeemAs("plain-secret", q, b.code(q))
		if a.StatusCode != 200 {
			t.Errorf("%s: %d %s", module, a.StatusCode, a.Body)
			continue
		}
		tok := a.json(t)
		id := h.verifiedClaims(tok["id_token"])
		nonce, _ := id["nonce"].(string)
		if id["iss"] != h.URL || id["aud"] != "plain" || nonce != q.Get("nonce") || id["auth_time"] == nil {
			t.Errorf("%s: %v", module, id)
		}
		for _, how := range []answer{h.raw("GET", "/oauth2/userinfo", "", "Authorization", "Bearer "+tok["access_token"].(string)), h.raw("POST", "/oauth2/userinfo", "access_token="+tok["access_token"].(string))} {
			if how.StatusCode != 200 || how.json(t)["sub"] != id["sub"] {
				t.Errorf("%s: userinfo %d %s", module, how.StatusCode, how.Body)
			}
		}
	}
	// oidcc-ensure-post-request-succeeds
	if q := h.back(b.follow(b.post("/oauth2/authorize", base, "Origin", "https://rp.example", "Sec-Fetch-Site", "cross-site")), uri, "st&ate="); q.Get("code") == "" {
		t.Errorf("POST: %v", q)
	}
	// oidcc-codereuse, oidcc-codereuse-30seconds
	for _, wait := range []time.Duration{0, 30 * time.Second} {
		code := b.code(base)
		tok := h.redeemAs("plain-secret", base, code).json(t)
		h.wait(wait)
		oauthError(t, h.redeemAs("plain-secret", base, code), 400, "invalid_grant")
		oauthError(t, h.bearer("/oauth2/userinfo", tok["access_token"]), 401, "invalid_token")
	}
	// oidcc-refresh-token, and with the second client
	tok := h.grantOf(b, "plain-secret", with(base, "scope", "openid offline_access"))
	oauthError(t, h.refreshAs("demo-app", "demo-secret", tok["refresh_token"]), 400, "invalid_grant")
	a := h.refreshAs("plain", "plain-secret", tok["refresh_token"])
	if a.StatusCode != 200 {
		t.Fatal(a.Body)
	}
	first, second := claims(t, tok["id_token"]), claims(t, a.json(t)["id_token"])
	for _, same := range []string{"iss", "sub", "aud", "azp", "auth_time", "sid"} { // OpenID Connect Core section 12.2
		if first[same] != second[same] {
			t.Errorf("%s of a refresh: %v, %v", same, first[same], second[same])
		}
	}
}
