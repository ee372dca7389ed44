package broker_test

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// deviceYAML has a client of each kind for the device flow; requests of people
// and devices come from the address that X-Forwarded-For says.
const deviceYAML = `
trusted_proxies: [127.0.0.1/32]
google: {client_id: a, client_secret: b, issuer: 'http://127.0.0.1:1'}
roles: {admin: ["local:admin"]}
resources:
  - {name: demo-api, uri: "https://api.example", scopes: {"deployments:write": {en: Start and stop deployments, zh-CN: 启动和停止部署}}}
  - {name: other-api}
clients:
  - {client_id: demo-app, client_secret: demo-secret, redirect_uris: ["http://127.0.0.1:5555/callback"], scope: openid profile email groups offline_access, trusted: true}
  - client_id: tv
    client_name: TV <b>box</b>
    client_uri: https://tv.example/about
    grant_types: [refresh_token, "` + deviceGrant + `"]
    scope: openid profile email offline_access deployments:write gatehouse:admin
    audiences: [demo-api, other-api]
    device_offline: true
  - client_id: kiosk
    client_secret: kiosk-secret
    grant_types: ["` + deviceGrant + `", refresh_token]
    scope: openid groups offline_access gatehouse:account gatehouse:support gatehouse:audit gatehouse:admin
    trusted: true
  - client_id: ops
    grant_types: ["` + deviceGrant + `", refresh_token]
    scope: openid offline_access gatehouse:admin
    trusted: true
    device_offline: true
    device_admin: true
  - client_id: picky
    grant_types: ["` + deviceGrant + `"]
    scope: openid
    trusted: true
    allowed_connectors: [google]
`

// asks sends a device authorization request and returns what was answered.
func (h *harness) asks(client, secret string, kv ...string) map[string]any {
	h.t.Helper()
	a := h.askDevice(client, secret, kv...)
	if a.StatusCode != http.StatusOK {
		h.t.Fatalf("device authorization: %d %s", a.StatusCode, a.Body)
	}
	return a.json(h.t)
}

func (h *harness) askDevice(client, secret string, kv ...string) answer {
	h.t.Helper()
	form := with(url.Values{"client_id": {client}, "scope": {"openid profile offline_access"}}, kv...)
	if secret != "" {
		form.Set("client_secret", secret)
	}
	return h.raw(http.MethodPost, "/oauth2/device_authorization", form.Encode(), "User-Agent", "gatehouse/1.4.0 (Linux; arm64)", "X-Forwarded-For", "203.0.113.20")
}

// polls asks the token endpoint with a device code.
func (h *harness) polls(client, secret string, code any, kv ...string) answer {
	h.t.Helper()
	form := with(url.Values{"grant_type": {deviceGrant}, "device_code": {fmt.Sprint(code)}, "client_id": {client}}, kv...)
	if secret != "" {
		form.Set("client_secret", secret)
	}
	return h.raw(http.MethodPost, "/oauth2/token", form.Encode())
}

var requestField = regexp.MustCompile(`name="request" value="([^"]+)"`)

// typed enters a user code on the page, and follows to where that leads.
func (b *browser) typed(code any) answer {
	b.h.t.Helper()
	page := b.get("/device")
	return b.follow(b.post("/device", url.Values{"token": {field(b.h.t, tokenField, page)}, "user_code": {fmt.Sprint(code)}}))
}

// says answers the question that a is, and follows to what became of it.
func (b *browser) says(a answer, what string) answer {
	b.h.t.Helper()
	return b.follow(b.post("/device", url.Values{"token": {field(b.h.t, tokenField, a)}, "request": {field(b.h.t, requestField, a)}, "answer": {what}}))
}

// connects takes a request through the pages and returns the token response.
func (b *browser) connects(client, secret string, kv ...string) map[string]any {
	b.h.t.Helper()
	r := b.h.asks(client, secret, kv...)
	b.says(b.typed(r["user_code"]), "allow")
	a := b.h.polls(client, secret, r["device_code"])
	if a.StatusCode != http.StatusOK {
		b.h.t.Fatalf("token endpoint: %d %s", a.StatusCode, a.Body)
	}
	return a.json(b.h.t)
}

// person returns a browser at an address in which somebody is signed in.
func (h *harness) person(name, ip string) *browser {
	h.t.Helper()
	b := h.browser()
	b.Header.Set("X-Forwarded-For", ip)
	b.enter(name, name)
	return b
}

// holds checks what a page says and does not say.
func holds(t *testing.T, what string, a answer, status int, texts ...string) {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("%s: %d, want %d\n%s", what, a.StatusCode, status, a.Body)
	}
	for _, text := range texts {
		if text, not := strings.CutPrefix(text, "!"); strings.Contains(a.Body, text) == not {
			t.Errorf("%s: %q is there: %v\n%s", what, text, not, a.Body)
		}
	}
}
