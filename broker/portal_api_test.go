package broker_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// apiTable is the API with who may: anybody, whoever is signed in, and the
// roles. A route that is missing here, or here and not there, fails.
func apiTable() map[string]struct{ who, body string } {
	type row = struct{ who, body string }
	return map[string]row{
		"GET /openapi.json":                    {"public", ""},
		"GET /me":                              {"self", ""},
		"GET /me/identities":                   {"self", ""},
		"DELETE /me/identities/{id}":           {"self", ""},
		"GET /me/sessions":                     {"self", ""},
		"DELETE /me/sessions/{id}":             {"self", ""},
		"POST /me/sessions/revoke-others":      {"self", `{"odd":1}`}, // refused after the permission
		"GET /me/events":                       {"self", ""},
		"GET /audit/events":                    {"audit", ""},
		"GET /audit/key":                       {"audit", ""},
		"GET /audit/bundle":                    {"audit", ""},
		"POST /audit/restore":                  {"keys", `{"archive":"nowhere"}`},
		"GET /trust":                           {"read", ""},
		"GET /trust/{name}":                    {"read", ""},
		"PUT /trust/{name}":                    {"keys", `{"provider":"odd"}`},
		"DELETE /trust/{name}":                 {"keys", ""},
		"POST /trust/explain":                  {"read", `{"token":"odd"}`},
		"GET /users":                           {"read", ""},
		"GET /users/{id}":                      {"read", ""},
		"POST /users/{id}/suspend":             {"support", ""},
		"POST /users/{id}/resume":              {"support", ""},
		"POST /users/{id}/merge":               {"keys", `{"from":"nothere"}`},
		"GET /invites":                         {"keys", ""},
		"POST /invites":                        {"keys", `{"email":"odd"}`},
		"DELETE /invites/{id}":                 {"keys", ""},
		"GET /sessions":                        {"read", ""},
		"DELETE /sessions/{id}":                {"support", ""},
		"GET /keys":                            {"read", ""},
		"POST /keys/rotate":                    {"keys", `{"alg":"none"}`},
		"POST /keys/{kid}/revoke":              {"keys", ""},
		"GET /clients":                         {"read", ""},
		"GET /connectors":                      {"read", ""},
		"GET /me/api-keys":                     {"self", ""},
		"POST /me/api-keys":                    {"self", `{"cidrs":["odd"]}`},
		"DELETE /me/api-keys/{id}":             {"self", ""},
		"POST /me/api-keys/{id}/rotate":        {"self", `{"overlap":"odd"}`},
		"GET /api-keys":                        {"read", ""},
		"DELETE /api-keys/{id}":                {"support", ""},
		"POST /api-keys/{id}/rotate":           {"keys", `{"overlap":"odd"}`},
		"GET /service-accounts":                {"read", ""},
		"POST /service-accounts":               {"keys", `{"name":"Odd Name"}`},
		"DELETE /service-accounts/{id}":        {"keys", ""},
		"POST /service-accounts/{id}/api-keys": {"keys", `{"name":""}`},
		"GET /notify/channels":                 {"read", ""},
		"POST /notify/channels/{id}/test":      {"keys", ""},
		"GET /notify/dead-letters":             {"read", ""},
		"POST /notify/dead-letters/{id}/retry": {"keys", ""},
		"DELETE /notify/dead-letters/{id}":     {"keys", ""},
		"POST /reload":                         {"keys", ""},
		"POST /access/check":                   {"read", `{"url":"odd"}`},
		"GET /consoles":                        {"lent", ""},
		"POST /consoles":                       {"lend", `{"items":[]}`},
		"GET /consoles/{id}":                   {"lent", ""},
		"POST /consoles/{id}/ticket":           {"frames", `{"origin":"odd"}`},
		"PUT /consoles/{id}":                   {"lend", `{"ttl":"odd"}`},
		"DELETE /consoles/{id}":                {"lend", ""},
		"GET /storage/credentials":             {"storage", ""},
		"POST /storage/credentials":            {"storage", `{}`}, // there is none
		"POST /storage/token":                  {"storage", `{}`},
	}
}

// apiPath fills in ids that are nobody's.
func apiPath(route string) (method, path string) {
	method, path, _ = strings.Cut(route, " ")
	return method, "/api/v1" + strings.NewReplacer("{id}", "nobody", "{kid}", "nokey", "{name}", "nobody").Replace(path)
}

// AD-1, AD-3: every route against everybody who could call it. What is allowed
// ends in 200, 204 or the complaint about an object that does not exist.
func TestAPIPermissions(t *testing.T) {
	t.Parallel()
	h := start(t, staff())
	demo, admin, aud, help := h.in("demo"), h.in("admin"), h.in("aud"), h.in("help")
	all := "openid gatehouse:account gatehouse:support gatehouse:audit gatehouse:admin"
	demoToken, adminToken, narrow := demo.cli(all), admin.cli(all), admin.cli("openid gatehouse:account")
	audToken, helpToken, bare := aud.cli(all), help.cli(all), demo.cli("openid")
	foreign := h.redeem(demo.code(authRequest())).json(t)
	robot := h.tokenAs("robot", "robot-secret", map[string][]string{"grant_type": {"client_credentials"}, "scope": {"gatehouse:admin"}}).json(t)["access_token"].(string)

	token := func(tok string) func(m, p, body string) answer {
		return func(m, p, body string) answer { return h.as(tok, m, p, body) }
	}
	const ok = "" // allowed
	type wants = map[string]string
	same := func(code string) wants { return wants{"self": code, "read": code, "support": code, "keys": code} }
	for name, c := range map[string]struct {
		call func(m, p, body string) answer
		want wants
	}{
		"nobody":            {func(m, p, body string) answer { return h.browser().call(m, p, body) }, same("401 api.unauthorized")},
		"a word as a token": {token("word"), same("401 api.unauthorized")},
		"basic authentication": {func(m, p, body string) answer {
			return h.browser().call(m, p, body, "Authorization", "Basic ZGVtbzpkZW1v")
		}, same("401 api.unauthorized")},
		"cookie, another site": {func(m, p, body string) answer {
			return demo.call(m, p, body, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example")
		}, same("403 api.cross_origin")},
		"cookie, same site":                   {func(m, p, body string) answer { return admin.call(m, p, body, "Sec-Fetch-Site", "same-site") }, same("403 api.cross_origin")},
		"cookie, old browser, another origin": {func(m, p, body string) answer { return admin.call(m, p, body, "Origin", "https://evil.example") }, same("403 api.cross_origin")},
		"cookie of demo":                      {demo.page, wants{"self": ok, "read": "403 policy.role_missing", "support": "403 policy.role_missing", "keys": "403 policy.role_missing"}},
		"cookie of admin":                     {admin.page, same(ok)},
		"cookie of auditor":                   {aud.page, wants{"self": ok, "read": ok, "support": "403 policy.role_missing", "keys": "403 policy.role_missing"}},
		"cookie of support":                   {help.page, wants{"self": ok, "read": ok, "support": ok, "keys": "403 policy.role_missing"}},
		"token of demo":                       {token(demoToken), wants{"self": ok, "read": "403 insufficient_scope", "support": "403 insufficient_scope", "keys": "403 insufficient_scope"}},
		"token without scope":                 {token(bare), same("403 insufficient_scope")},
		"another audience":                    {token(foreign["access_token"].(string)), same("401 api.unauthorized")},
		"ID token":                            {token(foreign["id_token"].(string)), same("401 api.unauthorized")},
		"service account":                     {token(robot), wants{"self": "403 insufficient_scope", "read": "403 insufficient_scope", "support": "403 insufficient_scope", "keys": "403 insufficient_scope", "lent": ok, "lend": ok, "storage": ok}},
		"token of admin":                      {token(adminToken), same(ok)},
		"admin, narrow token":                 {token(narrow), wants{"self": ok, "read": "403 insufficient_scope", "support": "403 insufficient_scope", "keys": "403 insufficient_scope"}},
		"token of auditor":                    {token(audToken), wants{"self": ok, "read": ok, "support": "403 insufficient_scope", "keys": "403 insufficient_scope"}},
		"token of support":                    {token(helpToken), wants{"self": ok, "read": ok, "support": ok, "keys": "403 insufficient_scope"}},
		"operator in public":                  {token(h.adminToken()), same("401 api.unauthorized")},
		"operator":                            {func(m, p, body string) answer { return h.operator(m, p, body) }, wants{"self": "403 operator", "read": ok, "support": ok, "keys": ok}},
		"cookie in private":                   {func(m, p, body string) answer { return admin.page(m, h.Admin+p, body) }, same("401 api.unauthorized")},
		"admin in private":                    {func(m, p, body string) answer { return h.as(adminToken, m, h.Admin+p, body) }, same(ok)},
	} {
		for route, row := range apiTable() {
			m, p := apiPath(route)
			a := c.call(m, p, row.body)
			want, own := c.want[row.who]
			if !own { // consoles are lent by admins and seen by who reads
				want = c.want[map[string]string{"lend": "keys", "lent": "read", "frames": "self", "audit": "read", "storage": "self"}[row.who]]
			}
			if row.who == "frames" && (strings.HasPrefix(name, "token of") && name != "token of admin" || name == "admin, narrow token") {
				want = "403 insufficient_scope" // a scope of its own
			}
			if row.who == "audit" && name == "cookie of support" { // who looks after people need not see everything
				want = "403 policy.role_missing"
			} else if row.who == "audit" && name == "token of support" {
				want = "403 insufficient_scope"
			}
			lines := a.StatusCode == http.StatusOK && strings.HasSuffix(p, "/bundle") && a.Header.Get("Content-Type") == "application/x-ndjson"
			if ct := a.Header.Get("Content-Type"); !lines && a.StatusCode != http.StatusNoContent && ct != "application/json" {
				t.Errorf("%s as %s: %q", route, name, ct)
			}
			switch {
			case want == ok:
				object := strings.Contains(route, "{")
				if a.StatusCode != http.StatusOK && !(object && a.StatusCode == http.StatusNotFound) && !((row.body != "" || route == "GET /sessions") && (a.StatusCode == http.StatusBadRequest || a.StatusCode == http.StatusUnprocessableEntity)) {
					t.Errorf("%s as %s: %d %s", route, name, a.StatusCode, a.Body)
				}
			default:
				if got := fmt.Sprintf("%d %v", a.StatusCode, a.json(t)["code"]); got != want {
					t.Errorf("%s as %s: %s, want %s", route, name, got, want)
				}
			}
			if a.StatusCode == http.StatusUnauthorized && !strings.HasPrefix(a.Header.Get("Www-Authenticate"), "Bearer") {
				t.Errorf("%s as %s: no challenge", route, name)
			}
		}
	}
	// What was granted is what the roles carry.
	for tok, want := range map[string]string{demoToken: "openid gatehouse:account", helpToken: "openid gatehouse:account gatehouse:support",
		audToken: "openid gatehouse:account gatehouse:audit", adminToken: all} {
		if got := claims(t, tok)["scope"]; got != want {
			t.Errorf("scope %v, want %q", got, want)
		}
	}
}

// What is described is what is served, and nothing else.
func TestAPIDescription(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	doc := h.browser().call(http.MethodGet, "/api/v1/openapi.json", "").json(t)
	if doc["openapi"] != "3.1.0" {
		t.Errorf("openapi %v", doc["openapi"])
	}
	var got []string
	ids := map[string]bool{}
	for path, ops := range doc["paths"].(map[string]any) {
		for method, op := range ops.(map[string]any) {
			got = append(got, strings.ToUpper(method)+" "+path)
			o := op.(map[string]any)
			if id := o["operationId"].(string); ids[id] || id == "" {
				t.Errorf("operationId %q is there twice", id)
			} else {
				ids[id] = true
			}
			if _, secured := o["security"].([]any); !secured {
				t.Errorf("%s %s says nothing of its security", method, path)
			}
		}
	}
	slices.Sort(got)
	if want := slices.Sorted(maps.Keys(apiTable())); !slices.Equal(got, want) {
		t.Errorf("described %v, want %v", got, want)
	}
	for _, route := range got {
		m, p := apiPath(route)
		if a := h.operator(m, p, `{}`); a.StatusCode == http.StatusMethodNotAllowed || a.StatusCode == http.StatusNotFound && !strings.Contains(route, "{") {
			t.Errorf("%s is described and answers %d", route, a.StatusCode)
		}
	}
}

// Exact statuses and codes of what is wrong; always JSON with a reference,
// whoever asks.
func TestAPIBadInput(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	tok := h.adminToken()
	huge := `{"alg":"` + strings.Repeat("x", 1<<20) + `"}`
	for name, c := range map[string]struct {
		method, path, body, contentType string
		status                          int
		code                            string
	}{
		"unknown path":          {"GET", "/nothing", "", "", 404, "api.not_found"},
		"slash at the end":      {"GET", "/users/", "", "", 404, "api.not_found"},
		"wrong method":          {"PUT", "/users", "", "", 405, "api.method"},
		"OPTIONS is none":       {"OPTIONS", "/users", "", "", 405, "api.method"},
		"encoded slash":         {"GET", "/users/a%2Fb", "", "", 404, "api.not_found"},
		"odd id":                {"GET", "/users/a%00b", "", "", 404, "api.not_found"},
		"long id":               {"GET", "/users/" + strings.Repeat("a", 200), "", "", 404, "api.not_found"},
		"unknown user":          {"GET", "/users/nobody", "", "", 404, "api.not_found"},
		"unknown session":       {"DELETE", "/sessions/NOBODY", "", "", 404, "api.not_found"},
		"unknown key":           {"POST", "/keys/nokey/revoke", "", "", 404, "api.not_found"},
		"unknown owner":         {"GET", "/sessions?user=nobody", "", "", 404, "api.not_found"},
		"no owner":              {"GET", "/sessions", "", "", 400, "api.bad_request"},
		"limit is no number":    {"GET", "/users?limit=many", "", "", 400, "api.bad_request"},
		"limit zero":            {"GET", "/users?limit=0", "", "", 400, "api.bad_request"},
		"limit too large":       {"GET", "/users?limit=501", "", "", 400, "api.bad_request"},
		"odd cursor":            {"GET", "/users?after=%27%20or%201", "", "", 400, "api.bad_request"},
		"unknown parameter":     {"GET", "/users?sort=email", "", "", 400, "api.bad_request"},
		"parameter twice":       {"GET", "/users?limit=1&limit=2", "", "", 400, "invalid_request"},
		"bad escape":            {"GET", "/users?q=%zz", "", "", 400, "invalid_request"},
		"long q":                {"GET", "/users?q=" + strings.Repeat("a", 300), "", "", 400, "api.bad_request"},
		"no body":               {"POST", "/keys/rotate", "", "", 400, "api.bad_request"},
		"a form":                {"POST", "/keys/rotate", "alg=ES256", "application/x-www-form-urlencoded", 415, "api.content_type"},
		"text":                  {"POST", "/keys/rotate", `{"alg":"ES256"}`, "text/plain", 415, "api.content_type"},
		"no JSON":               {"POST", "/keys/rotate", `{"alg":`, "application/json", 400, "api.bad_request"},
		"a list":                {"POST", "/keys/rotate", `["ES256"]`, "application/json", 400, "api.bad_request"},
		"wrong type":            {"POST", "/keys/rotate", `{"alg":1}`, "application/json", 400, "api.bad_request"},
		"unknown member":        {"POST", "/keys/rotate", `{"alg":"ES256","admin":true}`, "application/json", 400, "api.bad_request"},
		"two objects":           {"POST", "/keys/rotate", `{"alg":"ES256"}{}`, "application/json", 400, "api.bad_request"},
		"unknown algorithm":     {"POST", "/keys/rotate", `{"alg":"HS256"}`, "application/json", 400, "api.bad_request"},
		"too large":             {"POST", "/keys/rotate", huge, "application/json", 413, "api.too_large"},
		"body where none is":    {"POST", "/users/nobody/suspend", `{"suspended":false}`, "application/json", 400, "api.bad_request"},
		"body of a GET":         {"GET", "/users", `{"q":1}`, "application/json", 400, "api.bad_request"},
		"body without its type": {"POST", "/users/nobody/suspend", `x`, "text/plain", 415, "api.content_type"},
	} {
		headers := []string{"Accept", "text/html", "Sec-Fetch-Mode", "navigate"}
		if c.contentType != "" {
			headers = append(headers, "Content-Type", c.contentType)
		}
		a := h.as(tok, c.method, h.Admin+"/api/v1"+c.path, c.body, headers...)
		if a.StatusCode != c.status || a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %q %s", name, a.StatusCode, a.Header.Get("Content-Type"), a.Body)
			continue
		}
		e := a.json(t)
		ref, _ := e["ref"].(string)
		message, _ := e["message"].(string)
		if e["code"] != c.code || e["error"] == "" || message == "" || !strings.HasPrefix(ref, "GH-") || len(ref) != 12 || strings.Contains(a.Body, "xxxx") {
			t.Errorf("%s: %s", name, a.Body)
		}
		if c.status == http.StatusMethodNotAllowed && a.Header.Get("Allow") != "GET" {
			t.Errorf("%s: Allow %q (RFC 9110 section 15.5.6)", name, a.Header.Get("Allow"))
		}
	}
	// AD-3: the cookie's requests are JSON even without a body, so that no HTML
	// form makes one.
	admin := h.in("admin")
	if a := admin.call(http.MethodPost, "/api/v1/me/sessions/revoke-others", "", "Sec-Fetch-Site", "same-origin"); a.StatusCode != http.StatusUnsupportedMediaType {
		t.Errorf("a form's POST by cookie: %d", a.StatusCode)
	}
	if a := admin.call(http.MethodDelete, "/api/v1/me/sessions/x", ""); a.StatusCode != http.StatusForbidden {
		t.Errorf("a cookie without proof of its origin: %d", a.StatusCode)
	}
	if a := h.as("a", http.MethodGet, "/api/v1/me", "", "Authorization", "Bearer a"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("one header: %d", a.StatusCode)
	}
}
