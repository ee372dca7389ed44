package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// The walking skeleton: one real sign-in, one real token, through the gateway.
func TestSignInToTokenThroughGateway(t *testing.T) {
	h := start(t, "")
	b := h.browser()
	a := b.signIn(b.follow(b.get("/oauth2/authorize?"+authRequest().Encode())), "demo", "demo")
	q := a.location().Query()
	if !strings.HasPrefix(a.location().String(), callback+"?") || q.Get("state") != "st&ate=" || q.Get("iss") != h.URL {
		t.Fatalf("back at %s", a.location())
	}
	r := h.redeem(q.Get("code"))
	if r.StatusCode != http.StatusOK || r.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("token: %d %v %s", r.StatusCode, r.Header, r.Body)
	}
	tok := r.json(t)
	id, access := claims(t, tok["id_token"]), claims(t, tok["access_token"])
	if id["nonce"] != "n-1" || id["aud"] != "demo-app" || access["aud"] != "demo-api" || id["sub"] != access["sub"] || id["sid"] == access["sid"] {
		t.Fatalf("claims: %v, %v", id, access)
	}
	if u := h.bearer(h.URL+"/oauth2/userinfo", tok["access_token"]); u.StatusCode != http.StatusOK || u.json(t)["sub"] != id["sub"] {
		t.Fatalf("userinfo: %d %s", u.StatusCode, u.Body)
	}
	api := strings.Replace(h.URL, "127.0.0.1", "api.localhost", 1)
	e := h.bearer(api+"/echo", tok["access_token"])
	if e.StatusCode != http.StatusOK || !strings.Contains(e.Body, `"X-Gatehouse-User"`) {
		t.Fatalf("gateway: %d %s", e.StatusCode, e.Body)
	}
	// The browser opens the same API by its own cookie.
	e = b.follow(b.get(api + "/echo"))
	if e.StatusCode != http.StatusOK || e.Request.URL.Host != strings.TrimPrefix(api, "http://") {
		t.Fatalf("gateway by cookie: %d at %s", e.StatusCode, e.Request.URL)
	}
}

// G3: the same callback or code twice, after a restart too, is one success.
func TestCodeIsGoodOnceAcrossARestart(t *testing.T) {
	h := start(t, "")
	b := h.browser()
	b.enter("demo", "demo")
	code := b.code(authRequest())
	first := h.redeem(code)
	if first.StatusCode != http.StatusOK {
		t.Fatal(first.Body)
	}
	h.restart()
	if again := h.redeem(code); again.StatusCode != http.StatusBadRequest || again.json(t)["error"] != "invalid_grant" {
		t.Fatalf("a second time: %d %s", again.StatusCode, again.Body)
	}
	// What the first one gave is revoked (RFC 6749 section 4.1.2).
	if r := h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.json(t)["refresh_token"].(string)}}); r.StatusCode != http.StatusBadRequest {
		t.Fatalf("the refresh token of a replayed code: %d %s", r.StatusCode, r.Body)
	}
}
