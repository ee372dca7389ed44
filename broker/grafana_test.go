package broker_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
)

// What docs/integrations/grafana.md tells Grafana to believe is what we send: to a
// client of ours groups as a list and a name to sign in by, and to an upstream a
// JWT whose iss and aud are single texts, as expect_claims compares them.
func TestGrafana(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/integrations/grafana.md")
	if err != nil {
		t.Fatal(err)
	}
	ini := func(key string) string {
		m := regexp.MustCompile(`(?m)^` + key + ` = (.+)$`).FindSubmatch(page)
		if m == nil {
			t.Fatalf("the page has no %s", key)
		}
		return string(m[1])
	}
	u := newUpstream(t, nil)
	h := start(t, u.routesYAML("resources: [{name: demo-api, uri: https://demo-api.example.com}, {name: grafana, uri: https://grafana.example.com}]\nroutes:\n  - {name: grafana, host: grafana.localhost, upstream: UP, audience: grafana}\n"))
	for _, key := range []string{"auth_url", "token_url", "api_url", "jwk_set_url", "signout_redirect_url"} {
		at, err := url.Parse(ini(key))
		if err != nil {
			t.Fatal(err)
		}
		if a := h.browser().get(at.Path); a.StatusCode == http.StatusNotFound {
			t.Errorf("%s leads nowhere: %s", key, at.Path)
		}
	}
	b := h.browser()
	b.enter("demo", "demo")
	q := authRequest()
	q.Set("scope", ini("scopes"))
	tokens := h.redeem(b.code(q)).json(t)
	if tokens["refresh_token"] == nil {
		t.Error("there is no refresh token for use_refresh_token")
	}
	info := h.bearer(h.URL+"/oauth2/userinfo", tokens["access_token"]).json(t)
	if groups, ok := info[ini("groups_attribute_path")].([]any); !ok || len(groups) == 0 || info[ini("login_attribute_path")] != "demo" {
		t.Errorf("userinfo %v", info)
	}
	visitor := h.visit(h.at("grafana", "/"))
	visitor.get(h.at("grafana", "/api/user"))
	raw, ok := strings.CutPrefix(u.last(t).Header.Get(ini("header_name")), "Bearer ")
	if !ok {
		t.Fatal("the upstream gets no JWT")
	}
	got := claims(t, raw)
	var expect map[string]any
	if err := json.Unmarshal([]byte(ini("expect_claims")), &expect); err != nil {
		t.Fatal(err)
	}
	if got["aud"] != expect["aud"] || got["iss"] != h.URL || expect["iss"] != "https://remotegpu.example.com" {
		t.Errorf("aud %v, iss %v", got["aud"], got["iss"])
	}
	if groups, ok := got["groups"].([]any); !ok || len(groups) == 0 || got[ini("username_claim")] == nil || got[ini("email_claim")] == nil {
		t.Errorf("claims %v", got)
	}
}
