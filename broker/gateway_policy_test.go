package broker_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

const ruled = `
support: help@example.com
routes:
  - name: open
    host: open.localhost
    upstream: UP
    deny:
      - {name: no-admins, when: '"platform-admins" in user.groups', reason: {en: Admins use the console., zh-CN: 管理员请使用控制台。}, contact: ops@example.com}
      - {name: broken, when: 'user.attributes.tenant == "x"'}
    contact: owner@example.com
  - name: closed
    host: closed.localhost
    upstream: UP
    allow: '"nobody" in user.groups'
    reason: {en: "Only nobody gets in.", zh-CN: 谁也不能进入。}
    contact: owner@example.com
  - name: fresh
    host: fresh.localhost
    upstream: UP
    audience: demo-api
    step_up: {max_age: 15m, when: 'request.path.startsWith("/danger") || request.method != "GET"'}
  - name: always
    host: always.localhost
    upstream: UP
    step_up: {max_age: 15m}
`

// Deny wins, an error in it refuses, and who is refused reads which rule it was,
// why, and whom to ask, in their language.
func TestGatewayDeny(t *testing.T) {
	t.Parallel()
	h, up := gate(t, strings.ReplaceAll(ruled, "      - {name: broken, when: 'user.attributes.tenant == \"x\"'}\n", ""), nil)
	demo, admin := h.browser(), h.browser()
	demo.enter("demo", "demo")
	admin.enter("admin", "admin")
	demo.open(h.at("open", "/"))
	n := len(up.requests())
	a := admin.follow(admin.get(h.at("open", "/"), "Accept-Language", "en"))
	for _, want := range []string{"no-admins", "Admins use the console.", "ops@example.com", "policy.denied"} {
		if a.StatusCode != http.StatusForbidden || !strings.Contains(a.Body, want) {
			t.Errorf("the page lacks %q: %d\n%s", want, a.StatusCode, a.Body)
		}
	}
	if a := admin.get(h.at("open", "/"), "Accept-Language", "zh-CN"); !strings.Contains(a.Body, "管理员请使用控制台。") {
		t.Errorf("not in the reader's language: %s", a.Body)
	}
	if strings.Contains(a.Body, "platform-admins") {
		t.Error("the page shows the rule's text to who is refused")
	}
	j := admin.get(h.at("open", "/"), "Accept", "application/json", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Site", "same-origin").json(t)
	if j["rule"] != "no-admins" || j["reason"] != "Admins use the console." || j["contact"] != "ops@example.com" {
		t.Errorf("to a program: %v", j)
	}
	if a := demo.follow(demo.get(h.at("closed", "/"), "Accept-Language", "en")); a.StatusCode != http.StatusForbidden || !strings.Contains(a.Body, "Only nobody gets in.") || !strings.Contains(a.Body, "owner@example.com") {
		t.Errorf("allow that refuses: %d %s", a.StatusCode, a.Body)
	}
	if len(up.requests()) != n {
		t.Error("the upstream was asked")
	}
	h2, _ := gate(t, ruled, nil)
	broken := h2.browser()
	broken.enter("demo", "demo")
	if a := broken.follow(broken.get(h2.at("open", "/"))); a.StatusCode != http.StatusForbidden || !strings.Contains(a.Body, "broken") {
		t.Errorf("a deny rule that cannot be evaluated lets in: %d", a.StatusCode)
	}
}

// Two rules of one route refuse one person one after the other: each time it is
// the rule that did.
func TestGatewayDenyNamesTheRule(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, `
routes:
  - name: two
    host: two.localhost
    upstream: UP
    deny: [{name: first, when: 'request.path == "/a"'}, {name: second, when: 'request.path == "/b"'}]
    step_up: {max_age: 15m, when: 'request.path == "/c"'}
`, nil)
	b := h.browser()
	b.enter("demo", "demo")
	b.open(h.at("two", "/"))
	h.wait(20 * time.Minute)
	ask := func(path string) string {
		t.Helper()
		a := b.get(h.at("two", path), "Accept", "application/json", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Site", "same-origin")
		m := a.json(t)
		return fmt.Sprint(a.StatusCode, " ", m["code"], " ", m["rule"])
	}
	for _, c := range [][2]string{{"/a", "403 policy.denied first"}, {"/b", "403 policy.denied second"}, {"/c", "401 policy.stepup <nil>"}, {"/a", "403 policy.denied first"}} {
		if got := ask(c[0]); got != c[1] {
			t.Errorf("%s: %s, want %s", c[0], got, c[1])
		}
	}
	if a := b.get(h.at("two", "/d")); a.StatusCode != http.StatusOK {
		t.Errorf("what no rule is about: %d", a.StatusCode)
	}
}

// Step-up: who signed in long ago signs in again and comes back to the page, in
// the same session; programs are told as RFC 9470 says.
func TestGatewayStepUp(t *testing.T) {
	t.Parallel()
	h, up := gate(t, ruled, nil)
	b := h.browser()
	b.enter("demo", "demo")
	b.open(h.at("fresh", "/"))
	b.open(h.at("fresh", "/danger"))
	b.open(h.at("always", "/"))
	old := b.cli("openid")
	h.wait(20 * time.Minute)
	if a := b.get(h.at("fresh", "/")); a.StatusCode != http.StatusOK {
		t.Errorf("where no rule asks for it: %d", a.StatusCode)
	}
	n := len(up.requests())
	a := b.post(h.at("fresh", "/danger"), url.Values{"x": {"1"}}, "Sec-Fetch-Site", "same-origin", "Accept", "application/json", "Sec-Fetch-Mode", "cors")
	if c := a.Header.Get("Www-Authenticate"); a.StatusCode != http.StatusUnauthorized || !strings.Contains(c, `error="insufficient_user_authentication"`) || !strings.Contains(c, `max_age="900"`) {
		t.Errorf("a program: %d %q", a.StatusCode, c)
	}
	if a := h.bearer(h.at("always", "/"), old); a.StatusCode < 400 {
		t.Errorf("a token of the old sign-in: %d", a.StatusCode)
	}
	page := b.follow(b.get(h.at("fresh", "/danger")))
	if !strings.Contains(page.Request.URL.Path, "/signin") {
		t.Fatalf("no sign-in is asked for: %d at %s", page.StatusCode, page.Request.URL)
	}
	if len(up.requests()) != n {
		t.Error("the upstream was asked meanwhile")
	}
	back := b.follow(b.signIn(page, "demo", "demo"))
	if back.StatusCode != http.StatusOK || back.Request.URL.String() != h.at("fresh", "/danger") {
		t.Fatalf("after the sign-in: %d at %s", back.StatusCode, back.Request.URL)
	}
	b.open(h.at("always", "/")) // another host: the session is the same
	h.wait(16 * time.Minute)
	if a := b.get(h.at("always", "/")); a.StatusCode != http.StatusSeeOther {
		t.Errorf("the fresh sign-in lasts too long: %d", a.StatusCode)
	}
}

// The dry run answers what the gateway would, and asks nobody.
func TestAccessCheck(t *testing.T) {
	t.Parallel()
	h, up := gate(t, strings.ReplaceAll(ruled, "      - {name: broken, when: 'user.attributes.tenant == \"x\"'}\n", ""), nil)
	demo, admin := h.browser(), h.browser()
	demo.enter("demo", "demo")
	admin.enter("admin", "admin")
	n := len(up.requests())
	ask := func(body string) string {
		t.Helper()
		a := h.operator("POST", "/api/v1/access/check", body)
		if a.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", a.StatusCode, a.Body)
		}
		var out []string
		for _, it := range a.json(t)["items"].([]any) {
			m := it.(map[string]any)
			line := m["username"].(string) + " " + m["decision"].(string)
			if r, ok := m["rule"]; ok {
				line += " " + r.(string)
			}
			out = append(out, line)
		}
		return strings.Join(out, ", ")
	}
	for body, want := range map[string]string{
		`{"url":"` + h.at("open", "/x") + `","user":"demo"}`:                                   "demo allow",
		`{"url":"` + h.at("open", "/x") + `","user":"admin"}`:                                  "admin deny no-admins",
		`{"url":"` + h.at("closed", "/x") + `","user":"demo"}`:                                 "demo deny",
		`{"url":"` + h.at("fresh", "/danger") + `","user":"demo","at":"2090-01-01T00:00:00Z"}`: "demo step_up",
		`{"url":"` + h.at("fresh", "/a//b") + `","user":"demo"}`:                               "demo deny",
		`{"url":"` + h.at("nowhere", "/") + `","user":"demo"}`:                                 "demo no_route",
	} {
		if got := ask(body); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	if got := ask(`{"url":"` + h.at("open", "/") + `"}`); !strings.Contains(got, "demo allow") || !strings.Contains(got, "admin deny no-admins") {
		t.Errorf("who: %s", got)
	}
	if len(up.requests()) != n {
		t.Error("the dry run asked the upstream")
	}
	for _, odd := range []string{`{"url":"/x"}`, `{"url":"http://x","limit":1000}`, `{}`, `{"url":"http://x","user":"nobody"}`} {
		if a := h.operator("POST", "/api/v1/access/check", odd); a.StatusCode != http.StatusBadRequest && a.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d", odd, a.StatusCode)
		}
	}
}

// Rules know the device that a session began on, and a client by its name.
func TestGatewayRulesOfDeviceAndClient(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, `
routes:
  - {name: desk, host: desk.localhost, upstream: UP, deny: [{name: phones, when: 'session.device.endsWith("iPhone")'}]}
  - {name: demo, host: demo.localhost, upstream: UP, audience: demo-api, allow: 'client.name == "Demo app"'}
  - {name: other, host: other.localhost, upstream: UP, audience: demo-api, allow: 'client.name == "Another"'}
resources: [{name: demo-api}]
`, nil)
	desk, phone := h.browser(), h.browser()
	phone.Header.Set("User-Agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1")
	for b, want := range map[*browser]int{desk: http.StatusOK, phone: http.StatusForbidden} {
		b.enter("demo", "demo")
		if a := b.follow(b.get(h.at("desk", "/"))); a.StatusCode != want {
			t.Errorf("%s: %d, want %d", b.Header.Get("User-Agent"), a.StatusCode, want)
		}
	}
	tok := h.redeem(desk.code(authRequest())).json(t)["access_token"].(string)
	if a, b := h.bearer(h.at("demo", "/"), tok), h.bearer(h.at("other", "/"), tok); a.StatusCode != http.StatusOK || b.StatusCode != http.StatusForbidden {
		t.Errorf("by the client's name: %d, another's: %d", a.StatusCode, b.StatusCode)
	}
}
