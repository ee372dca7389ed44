package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// oauthYAML has a client of each kind beside demo-app.
const oauthYAML = `
resources:
  - {name: demo-api, uri: "https://api.example", scopes: {"deployments:write": {en: Start and stop deployments, zh-CN: 启动和停止部署}}}
  - {name: other-api, uri: "https://other.example"}
clients:
  - client_id: demo-app
    client_secret: demo-secret
    redirect_uris: ["http://127.0.0.1:5555/callback", "http://localhost:5555/callback"]
    grant_types: [authorization_code, refresh_token, client_credentials]
    scope: openid profile email groups offline_access deployments:write
    audiences: [demo-api, other-api]
    trusted: true
  - client_id: plain # as the basic profile of the conformance suite registers one
    client_secret: plain-secret
    redirect_uris: ["https://rp.example/cb", "https://rp.example/cb?keep=1"]
    token_endpoint_auth_method: client_secret_post
    scope: openid profile email offline_access
    trusted: true
    require_pkce: false
  - client_id: basic
    client_secret: "s:p%a c+e"
    redirect_uris: ["https://basic.example/cb"]
    token_endpoint_auth_method: client_secret_basic
    grant_types: [authorization_code]
    trusted: true
  - client_id: third
    client_secret: third-secret
    client_name: Third <b>party</b>
    redirect_uris: ["https://third.example/cb"]
    scope: openid profile email groups offline_access deployments:write
    audiences: [demo-api, other-api]
  - client_id: spa
    redirect_uris: ["https://Spa.Example:443/cb", "http://127.0.0.1/cb"]
    scope: openid profile offline_access
  - client_id: machine
    client_secret: machine-secret
    grant_types: [client_credentials]
    scope: jobs:run jobs:read
`

// with returns q with some parameters set; "" takes one out.
func with(q url.Values, kv ...string) url.Values {
	out := url.Values{}
	for k, v := range q {
		out[k] = append([]string(nil), v...)
	}
	for i := 0; i+1 < len(kv); i += 2 {
		if kv[i+1] == "" {
			out.Del(kv[i])
		} else {
			out.Set(kv[i], kv[i+1])
		}
	}
	return out
}

// requestOf is a good authorization request of another client.
func requestOf(client, redirect string, kv ...string) url.Values {
	return with(authRequest(), append([]string{"client_id", client, "redirect_uri", redirect, "scope", "openid profile"}, kv...)...)
}

// raw sends a request of a program: no cookies, no Accept.
func (h *harness) raw(method, path, body string, headers ...string) answer {
	h.t.Helper()
	req, err := http.NewRequest(method, h.URL+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
		} else {
			req.Header.Add(headers[i], headers[i+1])
		}
	}
	b := h.browser()
	b.Header = http.Header{}
	return b.do(req)
}

// back checks that a is a redirect to the client as docs/security.md ISS-9 wants it,
// with iss (RFC 9207) and the state verbatim, and returns its parameters.
func (h *harness) back(a answer, redirect, state string) url.Values {
	h.t.Helper()
	sep := "?"
	if strings.Contains(redirect, "?") {
		sep = "&"
	}
	to := a.Header.Get("Location")
	if a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, redirect+sep) {
		h.t.Fatalf("not a redirect to %s: %d %s\n%s", redirect, a.StatusCode, to, a.Body)
	}
	q, err := url.ParseQuery(strings.TrimPrefix(to, redirect+sep))
	if err != nil {
		h.t.Fatal(err)
	}
	if q.Get("iss") != h.URL || q.Get("state") != state || q.Has("state") != (state != "") {
		h.t.Errorf("iss %q, state %q, want %q and %q", q.Get("iss"), q["state"], h.URL, state)
	}
	if a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Referrer-Policy") != "no-referrer" {
		h.t.Errorf("an authorization response with %v", a.Header)
	}
	return q
}

// oauthError checks a JSON error of RFC 6749 section 5.2.
func oauthError(t *testing.T, a answer, status int, code string) {
	t.Helper()
	if a.StatusCode != status || a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %s %q %q, want %d", a.StatusCode, a.Body, a.Header.Get("Content-Type"), a.Header.Get("Cache-Control"), status)
		return
	}
	if got := a.json(t)["error"]; got != code {
		t.Errorf("error %v, want %s: %s", got, code, a.Body)
	}
}

// challenged checks WWW-Authenticate: "" means that there is none.
func challenged(t *testing.T, a answer, want string) {
	t.Helper()
	if got := a.Header.Get("WWW-Authenticate"); got != want {
		t.Errorf("WWW-Authenticate %q, want %q", got, want)
	}
}

// grantOf signs demo in and redeems a code of the request as that client; "" is
// a public client.
func (h *harness) grantOf(b *browser, secret string, q url.Values) map[string]any {
	h.t.Helper()
	a := h.redeemAs(secret, q, b.code(q))
	if a.StatusCode != http.StatusOK {
		h.t.Fatalf("token endpoint: %d %s", a.StatusCode, a.Body)
	}
	return a.json(h.t)
}

// redeemAs presents a code of the request with the client's secret in the body.
func (h *harness) redeemAs(secret string, q url.Values, code string) answer {
	h.t.Helper()
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {q.Get("redirect_uri")}, "client_id": {q.Get("client_id")}}
	if q.Has("code_challenge") {
		form.Set("code_verifier", verifier)
	}
	if secret != "" {
		form.Set("client_secret", secret)
	}
	return h.raw(http.MethodPost, "/oauth2/token", form.Encode())
}

// refreshAs uses a refresh token.
func (h *harness) refreshAs(client, secret string, token any, kv ...string) answer {
	h.t.Helper()
	form := with(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.(string)}, "client_id": {client}}, kv...)
	if secret != "" {
		form.Set("client_secret", secret)
	}
	return h.raw(http.MethodPost, "/oauth2/token", form.Encode())
}

func (h *harness) signedIn() *browser {
	h.t.Helper()
	b := h.browser()
	b.enter("demo", "demo")
	return b
}
