package broker_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/event"
)

const keyed = `
resources: [{name: demo-api, scopes: {deployments:write: {en: Start and stop deployments, zh-CN: 启动和停止部署}, logs:read: {en: Read logs, zh-CN: 读取日志}}}]
service_accounts: [{name: acme-deployer, groups: [deployers]}]
routes:
  - {name: api, host: api.localhost, upstream: UP, audience: demo-api, auth: [session, bearer, api_key], scopes: [deployments:write]}
  - {name: ruled, host: ruled.localhost, upstream: UP, auth: [api_key], allow: '"deployers" in user.groups && session.kind == "service"'}
  - {name: people, host: people.localhost, upstream: UP, auth: [session, api_key], allow: 'session.kind in ["api_key", "browser"] && user.email == "demo@example.com"'}
  - {name: fresh, host: fresh.localhost, upstream: UP, auth: [session, api_key], step_up: {max_age: 15m}}
  - {name: none, host: none.localhost, upstream: UP, audience: demo-api}
  - {name: console, host: "{node}.console.localhost", lease: true, auth: [session, api_key]}
consoles: {networks: [127.0.0.0/8]}
`

// key makes a key of a service account.
func (h *harness) key(account, body string) (id, text string) {
	h.t.Helper()
	a := h.operator("POST", "/api/v1/service-accounts/"+account+"/api-keys", body)
	if a.StatusCode != http.StatusOK {
		h.t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	m := a.json(h.t)
	return m["id"].(string), m["key"].(string)
}

// A key at the gateway: right scope, right route, right account, and nowhere
// else; what the upstream is told of it.
func TestGatewayAPIKey(t *testing.T) {
	t.Parallel()
	h, up := gate(t, keyed, nil)
	id, key := h.key("acme-deployer", `{"name":"ci","scopes":["deployments:write"]}`)
	_, narrow := h.key("acme-deployer", `{"name":"logs","scopes":["logs:read"]}`)
	_, elsewhere := h.key("acme-deployer", `{"name":"far","scopes":["deployments:write"],"cidrs":["192.0.2.0/24"]}`)
	call := func(host, key string) answer {
		t.Helper()
		return h.browser().get(h.at(host, "/x"), "Authorization", "Bearer "+key, "Accept", "application/json", "Sec-Fetch-Mode", "cors")
	}
	if a := call("api", key); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	told := up.last(t).Header
	c := claims(t, strings.TrimPrefix(told.Get("Authorization"), "Bearer "))
	if told.Get("X-Gatehouse-User") != "acme-deployer" || c["sub"] != "acme-deployer" || c["gatehouse:kind"] != "service" || c["scope"] != "deployments:write" || fmt.Sprint(c["groups"]) != "[deployers]" || c["aud"] != "demo-api" {
		t.Errorf("the upstream is told %v, %v", told, c)
	}
	if strings.Contains(fmt.Sprint(told), key) {
		t.Error("the upstream got the key itself")
	}
	n := len(up.requests())
	for what, x := range map[string]struct {
		host, key, want string
	}{
		"a scope is missing":        {"api", narrow, "403"},
		"from elsewhere":            {"api", elsewhere, "403"},
		"no route for keys":         {"none", key, "401"},
		"no sign-in to step up":     {"fresh", key, "403"},
		"not the account's address": {"people", key, "403"},
		"a wrong character":         {"api", key[:66] + "!", "401"},
		"unknown":                   {"api", "rgpu_000000000000_00000000000000000000000000000000000000000003eyt6E", "401"},
	} {
		if a := call(x.host, x.key); fmt.Sprint(a.StatusCode) != x.want || a.StatusCode == 401 && !strings.HasPrefix(a.Header.Get("Www-Authenticate"), "Bearer") {
			t.Errorf("%s: %d %s", what, a.StatusCode, a.Body)
		}
	}
	if a := h.browser().get(h.at("api", "/x?access_token="+url.QueryEscape(key)), "Accept", "application/json", "Sec-Fetch-Mode", "cors"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("a key in the query: %d", a.StatusCode)
	}
	if len(up.requests()) != n {
		t.Error("something refused reached the upstream")
	}
	if a := call("ruled", key); a.StatusCode != http.StatusOK {
		t.Errorf("the operator's groups: %d %s", a.StatusCode, a.Body)
	}
	if a := h.operator("DELETE", "/api/v1/api-keys/"+id, ""); a.StatusCode != http.StatusNoContent {
		t.Fatalf("revoke: %d %s", a.StatusCode, a.Body)
	}
	if a := call("api", key); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("revoked: %d", a.StatusCode)
	}
	if a := call("api", narrow); a.StatusCode != http.StatusForbidden {
		t.Errorf("another key of the account: %d", a.StatusCode)
	}
}

// A live socket ends with its key (4401), and the owner's suspension kills the
// user's keys.
func TestAPIKeyEnds(t *testing.T) {
	t.Parallel()
	h, up := gate(t, keyed, echoes)
	b := h.browser()
	b.enter("demo", "demo")
	me := b.page("GET", "/api/v1/me", "").json(t)["id"].(string)
	made := b.page("POST", "/api/v1/me/api-keys", `{"name":"mine","scopes":["deployments:write"]}`)
	if made.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", made.StatusCode, made.Body)
	}
	key, id := made.json(t)["key"].(string), made.json(t)["id"].(string)
	h.lend(console.Lease{ID: "n1", Upstream: up.URL, Owner: me})
	open := func(key string) *websocket.Conn {
		t.Helper()
		c, _, err := h.browser().socket(h.at("n1.console", "/ws"), "Authorization", "Bearer "+key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := open(key)
	if a := b.page("DELETE", "/api/v1/me/api-keys/"+id, ""); a.StatusCode != http.StatusNoContent {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != 4401 {
		t.Errorf("a revoked key's socket: %v", err)
	}
	second := b.page("POST", "/api/v1/me/api-keys", `{"name":"second"}`).json(t)["key"].(string)
	if a := h.browser().get(h.at("people", "/"), "Authorization", "Bearer "+second); a.StatusCode != http.StatusOK {
		t.Errorf("a user's key is not the user: %d %s", a.StatusCode, a.Body)
	}
	if a := h.operator("POST", "/api/v1/users/"+me+"/suspend", ""); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	if a := h.browser().get(h.at("people", "/"), "Authorization", "Bearer "+second); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("a suspended user's key: %d", a.StatusCode)
	}
}

// Keys at the API: one's own account and no more; a service account by its
// scopes; nobody makes a key of more than they have.
func TestAPIKeysAtTheAPI(t *testing.T) {
	t.Parallel()
	w, up := &watchedStore{}, newUpstream(t, nil)
	h := startWith(t, &harness{yaml: up.routesYAML(keyed), wrap: w.watch})
	demo, admin := h.browser(), h.browser()
	demo.enter("demo", "demo")
	admin.enter("admin", "admin")
	mine := demo.page("POST", "/api/v1/me/api-keys", `{"name":"mine","scopes":["gatehouse:account"],"expires_in":"720h"}`).json(t)
	key := mine["key"].(string)
	if a := h.as(key, "GET", "/api/v1/me/sessions", ""); a.StatusCode != http.StatusOK {
		t.Errorf("one's own account: %d %s", a.StatusCode, a.Body)
	}
	adminKey := admin.page("POST", "/api/v1/me/api-keys", `{"name":"mine","scopes":["gatehouse:account"]}`).json(t)["key"].(string)
	for what, a := range map[string]answer{
		"users by an admin's personal key": h.as(adminKey, "GET", "/api/v1/users", ""),
		"a key makes a key":                h.as(key, "POST", "/api/v1/me/api-keys", `{"name":"more"}`),
		"another's key":                    admin.page("DELETE", "/api/v1/me/api-keys/"+mine["id"].(string), ""),
		"a role for a person's key":        demo.page("POST", "/api/v1/me/api-keys", `{"name":"x","scopes":["gatehouse:admin"]}`),
		"an odd scope":                     demo.page("POST", "/api/v1/me/api-keys", `{"name":"x","scopes":["no:such"]}`),
		"an odd network":                   demo.page("POST", "/api/v1/me/api-keys", `{"name":"x","cidrs":["300.1.1.1/8"]}`),
		"for ever":                         demo.page("POST", "/api/v1/me/api-keys", `{"name":"x","expires_in":"90000h"}`),
		"no name":                          demo.page("POST", "/api/v1/me/api-keys", `{}`),
		"demo for a service account":       demo.page("POST", "/api/v1/service-accounts/acme-deployer/api-keys", `{"name":"x"}`),
		"no such account":                  h.operator("POST", "/api/v1/service-accounts/nobody/api-keys", `{"name":"x"}`),
		"an account of the file":           h.operator("DELETE", "/api/v1/service-accounts/acme-deployer", ""),
		"an odd account":                   h.operator("POST", "/api/v1/service-accounts", `{"name":"Über"}`),
		"an account with a person's id":    h.operator("POST", "/api/v1/service-accounts", `{"name":"`+mine["owner"].(string)+`"}`),
		"an admin rotates a person's key":  h.operator("POST", "/api/v1/api-keys/"+mine["id"].(string)+"/rotate", `{}`),
	} {
		if a.StatusCode < 400 || a.StatusCode >= 500 || a.StatusCode == 405 {
			t.Errorf("%s: %d %s", what, a.StatusCode, a.Body)
		}
	}
	_, reader := h.key("acme-deployer", `{"name":"reader","scopes":["gatehouse:audit"]}`)
	if a := h.as(reader, "GET", "/api/v1/users", ""); a.StatusCode != http.StatusOK {
		t.Errorf("an auditing account: %d %s", a.StatusCode, a.Body)
	}
	if a := h.as(reader, "POST", "/api/v1/keys/rotate", `{"alg":"ES256"}`); a.StatusCode != http.StatusForbidden {
		t.Errorf("an auditing account rotates keys: %d", a.StatusCode)
	}
	// Made by the API, gone by the API, and its keys with it, for ever.
	if a := h.operator("POST", "/api/v1/service-accounts", `{"name":"temp","groups":["deployers"]}`); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	_, temp := h.key("temp", `{"name":"t"}`)
	ruled := func() int {
		return h.browser().get(h.at("ruled", "/"), "Authorization", "Bearer "+temp, "Sec-Fetch-Mode", "cors").StatusCode
	}
	if got := ruled(); got != http.StatusOK {
		t.Errorf("an account of the API: %d", got)
	}
	h.operator("DELETE", "/api/v1/service-accounts/temp", "")
	if got := ruled(); got != http.StatusUnauthorized {
		t.Errorf("after its account: %d", got)
	}
	h.operator("POST", "/api/v1/service-accounts", `{"name":"temp","groups":["deployers"]}`)
	if got := ruled(); got != http.StatusUnauthorized {
		t.Errorf("revived by a new account of that name: %d", got)
	}
	next := h.as(key, "POST", "/api/v1/me/api-keys/"+mine["id"].(string)+"/rotate", `{}`)
	if next.StatusCode != http.StatusForbidden { // a key has no sign-in
		t.Errorf("a key rotates itself: %d", next.StatusCode)
	}
	rotated := demo.page("POST", "/api/v1/me/api-keys/"+mine["id"].(string)+"/rotate", `{"overlap":"1h"}`).json(t)
	if a := h.as(rotated["key"].(string), "GET", "/api/v1/me/sessions", ""); a.StatusCode != http.StatusOK {
		t.Errorf("the rotated key: %d", a.StatusCode)
	}
	h.wait(2 * time.Hour)
	if a := h.as(key, "GET", "/api/v1/me/sessions", ""); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("the old key after the overlap: %d", a.StatusCode)
	}
	if a := demo.page("POST", "/api/v1/me/api-keys", `{"name":"late"}`); a.StatusCode != http.StatusForbidden || a.json(t)["code"] != "policy.stepup" {
		t.Errorf("a key by a sign-in of two hours ago: %d %s", a.StatusCode, a.Body)
	}
	for _, e := range w.named(event.APIKeyCreated) {
		if strings.Contains(fmt.Sprint(e), "rgpu_") {
			t.Errorf("a key in the log: %v", e)
		}
	}
	if len(w.named(event.APIKeyCreated)) < 5 {
		t.Error("not recorded")
	}
}

// The page: made without scripts, shown once, revoked; a mistake says which.
func TestKeysPage(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, keyed, nil)
	b := h.browser()
	b.enter("demo", "demo")
	page := func() answer { return b.get("/account/keys", "Accept-Language", "en") }
	post := func(path string, form url.Values) answer {
		form.Set("token", field(t, tokenField, page()))
		return b.post(path, form, "Accept-Language", "en")
	}
	if p := page(); !strings.Contains(p.Body, "Start and stop deployments") || strings.Contains(p.Body, "gatehouse:admin") {
		t.Errorf("scopes in words: %s", p.Body)
	}
	made := post("/account/keys", url.Values{"name": {"laptop"}, "days": {"30"}, "scope.deployments:write": {"on"}, "cidrs": {"127.0.0.1, 10.0.0.0/8"}})
	key := regexp.MustCompile(`rgpu_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}`).FindString(made.Body)
	if key == "" || made.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s", made.StatusCode, made.Body)
	}
	if strings.Contains(page().Body, key) {
		t.Error("the key is shown again")
	}
	if a := h.browser().get(h.at("api", "/"), "Authorization", "Bearer "+key); a.StatusCode != http.StatusOK {
		t.Errorf("the key made on the page: %d", a.StatusCode)
	}
	if a := post("/account/keys", url.Values{"name": {""}, "days": {"30"}}); a.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(a.Body, "Give the key a name") {
		t.Errorf("without a name: %d", a.StatusCode)
	}
	if a := post("/account/keys", url.Values{"name": {"x"}, "cidrs": {"nonsense"}}); a.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(a.Body, "nonsense") {
		t.Errorf("an odd network: %d", a.StatusCode)
	}
	id := key[5:17]
	rotated := post("/account/keys/rotate", url.Values{"key": {id}})
	next := regexp.MustCompile(`rgpu_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}`).FindString(rotated.Body)
	if next == "" || next == key {
		t.Errorf("rotated: %d %s", rotated.StatusCode, rotated.Body)
	}
	for _, k := range []string{id, next[5:17]} {
		if a := b.follow(post("/account/keys/revoke", url.Values{"key": {k}})); a.StatusCode != http.StatusOK || !strings.Contains(a.Body, "Revoked") {
			t.Errorf("revoke: %d", a.StatusCode)
		}
	}
	if a := h.browser().get(h.at("api", "/"), "Authorization", "Bearer "+next, "Sec-Fetch-Mode", "cors"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("revoked on the page: %d", a.StatusCode)
	}
	h.wait(3 * time.Hour)
	if a := post("/account/keys", url.Values{"name": {"late"}}); a.StatusCode != http.StatusSeeOther || !strings.Contains(a.Header.Get("Location"), "/signin") {
		t.Errorf("with an old sign-in: %d to %s", a.StatusCode, a.Header.Get("Location"))
	}
}
