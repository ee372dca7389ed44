package broker_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Bearer tokens at a route: its audience, its scopes, a living grant and session
// (docs/security.md ISS-6, GW-11; RFC 6750 section 3.1).
func TestGatewayBearer(t *testing.T) {
	t.Parallel()
	h, up := gate(t, `
routes:
  - {name: api, host: api.localhost, upstream: UP, audience: demo-api}
  - {name: write, host: write.localhost, upstream: UP, audience: demo-api, scopes: ["deployments:write"]}
  - {name: other, host: other.localhost, upstream: UP, audience: other}
  - {name: none, host: none.localhost, upstream: UP}
  - {name: people, host: people.localhost, upstream: UP, audience: demo-api, auth: [session]}
resources: [{name: demo-api}, {name: other}]
`, nil)
	b := h.browser()
	b.enter("demo", "demo")
	grant := h.redeem(b.code(authRequest())).json(t)
	tok, id, refresh := grant["access_token"].(string), grant["id_token"].(string), grant["refresh_token"].(string)
	api := h.at("api", "/")
	parts := strings.Split(tok, ".")
	forged := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + parts[1] + "."
	for name, c := range map[string]struct {
		url, token string
		status     int
		code       string
	}{
		"good":              {api, tok, 200, ""},
		"another audience":  {h.at("other", "/"), tok, 403, "invalid_token"},
		"no audience":       {h.at("none", "/"), tok, 403, "invalid_token"},
		"a scope is absent": {h.at("write", "/"), tok, 403, "insufficient_scope"},
		"a scope is there":  {h.at("write", "/"), h.service("deployments:write"), 200, ""},
		"ID token":          {api, id, 401, "invalid_token"},
		"refresh token":     {api, refresh, 401, "invalid_token"},
		"unsigned":          {api, forged, 401, "invalid_token"},
		"cut":               {api, tok[:len(tok)-4], 401, "invalid_token"},
		"nothing":           {api, "", 401, "session.required"},
		"not for bearers":   {h.at("people", "/"), tok, 401, "session.required"},
	} {
		a := h.bearer(c.url, c.token)
		if c.code == "" {
			if a.StatusCode != c.status {
				t.Errorf("%s: %d %s", name, a.StatusCode, a.Body)
			}
			continue
		}
		h.refused(name, a, c.status, c.code)
		if got := a.Header.Get("Www-Authenticate"); c.code != "session.required" && !strings.Contains(got, `error="`+c.code+`"`) {
			t.Errorf("%s: challenge %q", name, got)
		}
	}
	// Not by any other way than the header, and there only once (RFC 6750 section 2).
	if a := h.browser().get(api+"?access_token="+url.QueryEscape(tok), "Accept", "application/json"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("in the query: %d", a.StatusCode)
	}
	if r := h.wire("GET / HTTP/1.1\nHost: api.localhost\nAuthorization: Bearer " + tok + "\nAuthorization: Bearer " + tok + "\nConnection: close\n\n"); status(r) != http.StatusBadRequest {
		t.Errorf("twice: %d", status(r))
	}
	// What the upstream hears of a bearer: its own scope and client.
	if a := h.bearer(h.at("write", "/"), h.service("deployments:write")); a.StatusCode != http.StatusOK {
		t.Fatal(a.Body)
	}
	r := up.last(t)
	c := claims(t, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	if c["scope"] != "deployments:write" || c["client_id"] != "demo-app" || c["sub"] != "demo-app" || c["gatehouse:kind"] != "service" || c["sid"] != nil || r.Header.Get("X-Gatehouse-User") != "demo-app" || r.Header.Get("X-Gatehouse-Email") != "" {
		t.Errorf("a service is shown as %v, %v", c, r.Header)
	}

	// Revoking the grant holds within a second, on this replica at once.
	h.tokenEndpoint("/oauth2/revoke", url.Values{"token": {refresh}})
	h.refused("after revocation", h.bearer(api, tok), 401, "invalid_token")

	// Without offline_access the token lives by the browser session.
	online := h.browser()
	online.enter("demo", "demo")
	q := authRequest()
	q.Set("scope", "openid")
	tok = h.redeem(online.code(q)).json(t)["access_token"].(string)
	if a := h.bearer(api, tok); a.StatusCode != http.StatusOK {
		t.Fatalf("online: %d %s", a.StatusCode, a.Body)
	}
	page := online.get("/signout")
	online.follow(online.post("/signout", url.Values{"token": {field(t, tokenField, page)}}))
	h.refused("after signing out", h.bearer(api, tok), 401, "invalid_token")

	late := h.service("")
	h.wait(10*time.Minute + time.Second)
	h.refused("expired", h.bearer(api, late), 401, "invalid_token")
}

// tokenEndpoint posts a form as demo-app.
func (h *harness) tokenEndpoint(path string, form url.Values) answer {
	h.t.Helper()
	req, err := http.NewRequest(http.MethodPost, h.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("demo-app", "demo-secret")
	a := h.browser().do(req)
	if a.StatusCode != http.StatusOK {
		h.t.Fatalf("%s: %d %s", path, a.StatusCode, a.Body)
	}
	return a
}
