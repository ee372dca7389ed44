package broker_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// ids returns the members of a list answer under a name.
func ids(t testing.TB, a answer, name string) []string {
	t.Helper()
	items, ok := a.json(t)["items"].([]any)
	if !ok {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	var out []string
	for _, it := range items {
		v, _ := it.(map[string]any)[name].(string)
		out = append(out, v)
	}
	return out
}

// AD-1: an object of somebody else does not exist.
func TestAPIForeignObjects(t *testing.T) {
	t.Parallel()
	h := start(t, staff())
	demo, other := h.in("demo"), h.in("other")
	theirs := ids(t, other.page(http.MethodGet, "/api/v1/me/sessions", ""), "id")
	if len(theirs) != 1 {
		t.Fatalf("sessions %v", theirs)
	}
	for _, id := range []string{theirs[0], "NOBODYSSESSION"} {
		if a := demo.page(http.MethodDelete, "/api/v1/me/sessions/"+id, ""); a.StatusCode != http.StatusNotFound || a.json(t)["code"] != "api.not_found" {
			t.Errorf("%s: %d %s", id, a.StatusCode, a.Body)
		}
	}
	if a := other.page(http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusOK || a.json(t)["username"] != "other" {
		t.Errorf("the other one's session: %d %s", a.StatusCode, a.Body)
	}
	if got := ids(t, demo.page(http.MethodGet, "/api/v1/me/sessions", ""), "id"); slices.Contains(got, theirs[0]) {
		t.Error("somebody else's session is listed")
	}
}

// AD-6: pages of opaque ids, without gap or repetition.
func TestAPIPages(t *testing.T) {
	t.Parallel()
	h := start(t, staff())
	for _, u := range []string{"demo", "other", "aud", "help", "admin"} {
		h.in(u)
	}
	var all []string
	after := ""
	for range 5 {
		a := h.operator(http.MethodGet, "/api/v1/users?limit=2&after="+after, "")
		page := ids(t, a, "id")
		if len(page) > 2 {
			t.Fatalf("a page of %d", len(page))
		}
		all = append(all, page...)
		if after, _ = a.json(t)["next"].(string); after == "" {
			break
		}
		if strings.Contains(after, "@") {
			t.Errorf("the cursor %q says something", after)
		}
	}
	slices.Sort(all)
	if len(all) != 5 || len(slices.Compact(all)) != 5 {
		t.Errorf("pages of %v", all)
	}
	for q, want := range map[string]int{"demo": 1, "DEMO@example.com": 1, all[0]: 1, "nobody": 0, "dem": 0} {
		if got := ids(t, h.operator(http.MethodGet, "/api/v1/users?q="+url.QueryEscape(q), ""), "id"); len(got) != want {
			t.Errorf("q=%s: %v", q, got)
		}
	}
}

// SE-3, AD-2: suspending ends cookies and tokens at once; nobody suspends
// themselves, and support nobody who has a role.
func TestAPISuspend(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: staff(), wrap: w.watch})
	demo, admin, help := h.in("demo"), h.in("admin"), h.in("help")
	tok := demo.cli("openid gatehouse:account offline_access")
	id, adminID := h.userID("demo"), h.userID("admin")
	for _, c := range []struct {
		b    *browser
		id   string
		code int
	}{{help, adminID, 403}, {help, h.userID("help"), 400}, {admin, adminID, 400}} {
		if a := c.b.page(http.MethodPost, "/api/v1/users/"+c.id+"/suspend", ""); a.StatusCode != c.code {
			t.Errorf("suspend %s: %d %s, want %d", c.id, a.StatusCode, a.Body, c.code)
		}
	}
	if len(w.named(event.UserSuspended)) != 0 {
		t.Error("what was refused was recorded as done")
	}
	// A role by a group is one of the session's; without a session only the file
	// speaks.
	if a := help.page(http.MethodPost, "/api/v1/users/"+id+"/suspend", ""); a.StatusCode != http.StatusOK || a.json(t)["suspended"] != true {
		t.Fatalf("suspend: %d %s", a.StatusCode, a.Body)
	}
	if e := w.named(event.UserSuspended); len(e) != 1 || e[0].Target != id || e[0].Actor != h.userID("help") || e[0].IP != "127.0.0.1" || e[0].RequestID == "" {
		t.Errorf("recorded %+v", e)
	}
	if a := demo.get("/account"); a.StatusCode != http.StatusSeeOther {
		t.Errorf("the cookie: %d", a.StatusCode)
	}
	if a := h.as(tok, http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("the token: %d %s", a.StatusCode, a.Body)
	}
	if got := ids(t, h.operator(http.MethodGet, "/api/v1/sessions?user="+id, ""), "id"); len(got) != 0 {
		t.Errorf("sessions of somebody suspended: %v", got)
	}
	b := h.browser()
	if a := b.signIn(b.follow(b.get("/")), "demo", "demo"); a.StatusCode != http.StatusForbidden {
		t.Errorf("signed in while suspended: %d", a.StatusCode)
	}
	if a := h.operator(http.MethodPost, "/api/v1/users/"+id+"/resume", ""); a.StatusCode != http.StatusOK || a.json(t)["suspended"] != false {
		t.Fatalf("resume: %d %s", a.StatusCode, a.Body)
	}
	if e := w.named(event.UserResumed); len(e) != 1 || e[0].Target != id || e[0].Actor != "operator" {
		t.Errorf("recorded %+v", e)
	}
	h.in("demo")
	if a := h.as(tok, http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusUnauthorized {
		t.Error("resuming brought a token back to life")
	}
}

// Support ends anybody's session, of every kind; a token revoked by RFC 7009 is
// dead here too, and the browser that it came from goes on.
func TestAPISessions(t *testing.T) {
	t.Parallel()
	h := start(t, staff())
	demo, help := h.in("demo"), h.in("help")
	tok := demo.cli("openid gatehouse:account")
	sessions := "/api/v1/sessions?user=" + h.userID("demo")
	// The command line's has a session of its own (docs/security.md SE-10).
	if got := slices.Sorted(slices.Values(ids(t, help.page(http.MethodGet, sessions, ""), "kind"))); !slices.Equal(got, []string{"browser", "offline"}) {
		t.Fatalf("kinds %v", got)
	}
	r := demo.post("/oauth2/revoke", url.Values{"token": {tok}, "client_id": {"gatehouse-cli"}})
	if r.StatusCode != http.StatusOK {
		t.Fatalf("revoke: %d %s", r.StatusCode, r.Body)
	}
	if a := h.as(tok, http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("a revoked token: %d %s", a.StatusCode, a.Body)
	}
	if a := demo.page(http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusOK {
		t.Errorf("the browser that it came from: %d", a.StatusCode)
	}
	offline := demo.cli("openid gatehouse:account offline_access")
	list := help.page(http.MethodGet, sessions, "")
	kinds, all := ids(t, list, "kind"), ids(t, list, "id")
	at := slices.Index(kinds, "offline")
	if at < 0 || len(all) != 2 {
		t.Fatalf("kinds %v", kinds)
	}
	if a := help.page(http.MethodDelete, "/api/v1/sessions/"+all[at], ""); a.StatusCode != http.StatusNoContent || a.Body != "" {
		t.Fatalf("end: %d %s", a.StatusCode, a.Body)
	}
	if a := h.as(offline, http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("its token: %d", a.StatusCode)
	}
	if a := help.page(http.MethodDelete, "/api/v1/sessions/"+all[at], ""); a.StatusCode != http.StatusNotFound {
		t.Errorf("again: %d", a.StatusCode)
	}
	// All others of one's own.
	second := h.in("demo")
	if a := demo.page(http.MethodPost, "/api/v1/me/sessions/revoke-others", ""); a.StatusCode != http.StatusOK || a.json(t)["ended"] != 1.0 {
		t.Errorf("others: %d %s", a.StatusCode, a.Body)
	}
	if a := second.page(http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("another device: %d", a.StatusCode)
	}
	if a := demo.page(http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusOK {
		t.Errorf("this device: %d", a.StatusCode)
	}
}

// AD-2: keys want a sign-in of the last minutes; the operator's token is exempt.
func TestAPIKeys(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: staff(), wrap: w.watch})
	admin := h.in("admin")
	tok := admin.cli("openid gatehouse:account gatehouse:admin")
	list := h.as(tok, http.MethodGet, "/api/v1/keys", "")
	for _, secret := range []string{`"d"`, "private", "PRIVATE", `"p"`, `"q"`} {
		if strings.Contains(list.Body, secret) {
			t.Errorf("the list shows %s", secret)
		}
	}
	current := func(a answer) string {
		for i, alg := range ids(t, a, "alg") {
			if alg == "ES256" && ids(t, a, "state")[i] == "current" {
				return ids(t, a, "kid")[i]
			}
		}
		t.Fatalf("no current key in %s", a.Body)
		return ""
	}
	old := current(list)
	rotated := h.as(tok, http.MethodPost, "/api/v1/keys/rotate", `{"alg":"ES256"}`)
	if rotated.StatusCode != http.StatusOK || current(rotated) == old {
		t.Fatalf("rotate: %d %s", rotated.StatusCode, rotated.Body)
	}
	admins := h.userID("admin")
	if e := w.named(event.AdminChanged); len(e) != 1 || e[0].Actor != admins || e[0].Details["action"] != "rotate" || e[0].RequestID == "" {
		t.Errorf("recorded %+v", e)
	}
	if e := w.named(event.KeyRotated); len(e) != 1 || e[0].Target != current(rotated) {
		t.Errorf("recorded %+v", e)
	}
	if a := h.as(tok, http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusOK {
		t.Fatalf("a token of the retired key: %d", a.StatusCode)
	}
	h.wait(6 * time.Minute)
	for _, path := range []string{"/api/v1/keys/rotate", "/api/v1/keys/" + old + "/revoke"} {
		if a := admin.page(http.MethodPost, path, map[bool]string{true: `{"alg":"ES256"}`}[strings.HasSuffix(path, "rotate")]); a.StatusCode != http.StatusForbidden || a.json(t)["code"] != "policy.stepup" {
			t.Errorf("%s after six minutes: %d %s", path, a.StatusCode, a.Body)
		}
	}
	if a := h.operator(http.MethodPost, "/api/v1/keys/"+old+"/revoke", ""); a.StatusCode != http.StatusOK || slices.Contains(ids(t, a, "kid"), old) {
		t.Fatalf("revoke: %d %s", a.StatusCode, a.Body)
	}
	if e := w.named(event.KeyRevoked); len(e) != 1 || e[0].Target != old {
		t.Errorf("recorded %+v", e)
	}
	if a := h.as(tok, http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("a token of the revoked key: %d", a.StatusCode)
	}
	h.wait(12 * time.Hour)
	again := h.in("admin")
	h.wait(11 * time.Hour)
	if a := again.page(http.MethodGet, "/api/v1/users", ""); a.StatusCode != http.StatusOK {
		t.Errorf("reading after eleven hours: %d %s", a.StatusCode, a.Body)
	}
	h.wait(2 * time.Hour)
	if a := again.page(http.MethodGet, "/api/v1/users", ""); a.StatusCode != http.StatusForbidden || a.json(t)["code"] != "policy.stepup" {
		t.Errorf("reading after thirteen: %d %s", a.StatusCode, a.Body)
	}
}

// AD-5: no secret, no hash, no mask of one.
func TestAPIShowsNoSecrets(t *testing.T) {
	t.Parallel()
	h := start(t, staff())
	h.in("demo")
	for route := range apiTable() {
		m, p := apiPath(route)
		if m != http.MethodGet {
			continue
		}
		if p == "/api/v1/sessions" {
			p += "?user=" + h.userID("demo")
		}
		a := h.operator(m, p, "")
		if strings.HasPrefix(p, "/api/v1/me") {
			a = h.in("demo").page(m, p, "")
		}
		for _, secret := range []string{"demo-secret", "third-secret", "client_secret\"", "argon2id", "***", h.adminToken()} {
			if strings.Contains(a.Body, secret) {
				t.Errorf("%s shows %s", p, secret)
			}
		}
	}
}

// SE-4: a GET writes nothing.
func TestAPIReadingWritesNothing(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: staff(), wrap: w.watch})
	admin := h.in("admin")
	id := h.userID("admin")
	before := w.written()
	for _, p := range []string{"/me", "/me/sessions", "/users", "/users/" + id, "/sessions?user=" + id, "/keys", "/clients", "/connectors", "/openapi.json"} {
		if a := admin.page(http.MethodGet, "/api/v1"+p, ""); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", p, a.StatusCode)
		}
	}
	for _, p := range []string{"/", "/account", "/account/sessions", "/account/apps", "/account/claims", "/signout"} {
		if a := admin.get(p); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", p, a.StatusCode)
		}
	}
	if n := w.written() - before; n != 0 {
		t.Errorf("%d writes", n)
	}
}

// An e-mail address gives a role only if the session's connector owns the domain
// (AD-2).
func TestRolesByEmail(t *testing.T) {
	t.Parallel()
	yaml := strings.Replace(staff(), `"local:admin"`, `"email:admin@example.com"`, 1)
	without := start(t, yaml)
	with := start(t, strings.Replace(yaml, "local:\n", "local:\n  domains: [example.com]\n", 1))
	if a := without.in("admin").page(http.MethodGet, "/api/v1/users", ""); a.StatusCode != http.StatusForbidden {
		t.Errorf("the domain is nobody's: %d", a.StatusCode)
	}
	if a := with.in("admin").page(http.MethodGet, "/api/v1/users", ""); a.StatusCode != http.StatusOK {
		t.Errorf("the domain is the connector's: %d", a.StatusCode)
	}
	if a := with.in("other").page(http.MethodGet, "/api/v1/users", ""); a.StatusCode != http.StatusForbidden {
		t.Errorf("another address: %d", a.StatusCode)
	}
}
