package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// tour is a whole sign-in with its failures, tokens, replays and a console, by
// the sections of staff(). It returns every secret that was on the way, by what it
// is, for tests that look for them where they must not be.
func (h *harness) tour() map[string]string {
	h.t.Helper()
	secrets := map[string]string{"admin token": h.adminToken(), "client secret": "demo-secret", "wrong client secret": "not-the-demo-secret",
		"typed password": "Tr0ub4dor-typed", "typed name": "my-password-as-name", "verifier": verifier, "state": "st-s3cr3t-state", "nonce": "nonce-s3cr3t"}
	b := h.browser()
	b.try("demo", secrets["typed password"])
	b.try(secrets["typed name"], "x")
	q := authRequest()
	q.Set("state", secrets["state"])
	q.Set("nonce", secrets["nonce"])
	a := b.follow(b.get("/oauth2/authorize?" + q.Encode()))
	secrets["attempt"] = field(h.t, attemptField, a)
	posted := b.post("/signin/local", url.Values{"username": {"demo"}, "password": {"demo"}, "attempt": {secrets["attempt"]}})
	for _, c := range posted.Cookies() {
		if len(c.Value) > 20 {
			secrets["cookie "+c.Name] = c.Value
		}
	}
	secrets["code"] = b.follow(posted).location().Query().Get("code")
	tokens := h.redeem(secrets["code"]).json(h.t)
	for _, k := range []string{"access_token", "refresh_token", "id_token"} {
		secrets[k] = tokens[k].(string)
	}
	h.redeem(secrets["code"]) // a replay
	second := h.redeem(b.code(authRequest())).json(h.t)
	secrets["second"] = second["refresh_token"].(string)
	next := h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {secrets["second"]}}).json(h.t)
	secrets["next"], secrets["next access"] = next["refresh_token"].(string), next["access_token"].(string)
	h.wait(time.Minute)
	h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {secrets["second"]}})
	h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {secrets["next"] + "x"}})
	h.tokenAs("demo-app", secrets["wrong client secret"], url.Values{"grant_type": {"client_credentials"}})
	for _, u := range []string{h.URL + "/oauth2/userinfo", h.URL + "/api/v1/me", h.Admin + "/api/v1/users", strings.Replace(h.URL, "127.0.0.1", "api.localhost", 1) + "/echo"} {
		h.bearer(u, secrets["access_token"])
		h.bearer(u, secrets["access_token"]+"x")
		h.bearer(u+"?access_token="+secrets["next access"], "x")
	}
	b.get("/nothing-here?code=" + secrets["code"] + "&state=" + secrets["state"])
	b.get("/auth/local/callback?code=" + secrets["code"] + "&state=" + secrets["attempt"])
	b.get("/error-%0a-forged")
	console := b.follow(b.get(strings.Replace(h.URL, "127.0.0.1", "demo.console.localhost", 1) + "/"))
	if console.StatusCode != http.StatusOK {
		h.t.Fatalf("console: %d", console.StatusCode)
	}
	h.operator(http.MethodGet, "/api/v1/users", "")
	for _, u := range []string{h.URL, strings.Replace(h.URL, "127.0.0.1", "demo.console.localhost", 1)} {
		at, _ := url.Parse(u)
		for _, c := range b.client.Jar.Cookies(at) {
			if len(c.Value) > 20 {
				secrets["jar "+c.Name] = c.Value
			}
		}
	}
	return secrets
}
