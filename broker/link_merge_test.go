package broker_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/broker/event"
)

// An admin makes one account of two: the identities lead to one, what was allowed
// to clients goes along, the other's sessions, tokens and id are over for good.
func TestLinkMerge(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	log := &watchedStore{}
	h := startWith(t, &harness{yaml: g.hubs("", ""), wrap: log.watch})
	into := h.in("demo")
	sub := into.me()["id"].(string)
	old := h.browser()
	oldSub := old.enterAt("a", "7")
	// Consent of the old account to a client of strangers.
	q := authRequest()
	q.Set("client_id", "third")
	q.Set("scope", "openid profile offline_access")
	page := old.follow(old.get("/oauth2/authorize?" + q.Encode()))
	a := old.post(page.Request.URL.Path, url.Values{"token": {field(t, tokenField, page)}, "allow": {"1"}, "decision": {"allow"}, "answer": {"allow"}})
	old.follow(a)
	tok := h.redeem(old.code(authRequest())).json(t)
	cli := old.cli("openid gatehouse:account")

	admin := h.in("admin")
	merge := func(into, from string) answer {
		return admin.page(http.MethodPost, "/api/v1/users/"+into+"/merge", `{"from":"`+from+`"}`)
	}
	self := admin.me()["id"].(string)
	for name, c := range map[string]struct {
		into, from string
		status     int
	}{"itself": {sub, sub, 400}, "nobody": {sub, "nobody", 404}, "into nobody": {"nobody", oldSub, 404}, "an odd id": {sub, "../x", 400}, "the admin themselves": {sub, self, 400}, "no id": {sub, "", 400}} {
		if a := merge(c.into, c.from); a.StatusCode != c.status {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.Body)
		}
	}
	if a := admin.page(http.MethodPost, "/api/v1/users/"+sub+"/merge", `{"from":"`+oldSub+`","roles":["admin"]}`); a.StatusCode != http.StatusBadRequest {
		t.Errorf("an unknown member: %d", a.StatusCode)
	}
	h.operator(http.MethodPost, "/api/v1/users/"+oldSub+"/suspend", "")
	if a := merge(sub, oldSub); a.StatusCode != http.StatusConflict {
		t.Errorf("a suspended one: %d %s", a.StatusCode, a.Body)
	}
	h.operator(http.MethodPost, "/api/v1/users/"+oldSub+"/resume", "")
	old.enterAt("a", "7")
	log.fail(true)
	if a := merge(sub, oldSub); a.StatusCode != http.StatusServiceUnavailable || !old.in() {
		t.Errorf("unrecorded: %d %s", a.StatusCode, a.Body)
	}
	log.fail(false)

	a = merge(sub, oldSub)
	if a.StatusCode != http.StatusOK || len(a.json(t)["identities"].([]any)) != 2 {
		t.Fatalf("merge: %d %s", a.StatusCode, a.Body)
	}
	if old.in() {
		t.Error("a session of the old account goes on")
	}
	if !into.in() {
		t.Error("a session of the other ended")
	}
	if a := h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {fmt.Sprint(tok["refresh_token"])}}); a.StatusCode != http.StatusBadRequest {
		t.Errorf("its refresh token: %d", a.StatusCode)
	}
	if a := h.as(cli, http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("its CLI: %d", a.StatusCode)
	}
	if got := old.enterAt("a", "7"); got != sub {
		t.Errorf("the moved identity leads to %s", got)
	}
	if ids := h.identities(sub); !slices.Equal(ids[1:], []string{"a 7"}) {
		t.Errorf("identities %v", ids)
	}
	if ids := h.identities(oldSub); len(ids) != 0 {
		t.Errorf("the old account has %v", ids)
	}
	if u := h.operator(http.MethodGet, "/api/v1/users/"+oldSub, "").json(t); u["merged_into"] != sub || u["suspended"] != true {
		t.Errorf("the old account: %v", u)
	}
	if a := h.operator(http.MethodPost, "/api/v1/users/"+oldSub+"/resume", ""); a.StatusCode != http.StatusConflict {
		t.Errorf("it was resumed: %d", a.StatusCode)
	}
	if apps := into.get("/account/apps"); !strings.Contains(apps.Body, "third") {
		t.Errorf("the consent did not move:\n%s", apps.Body)
	}
	if a := merge(oldSub, sub); a.StatusCode != http.StatusConflict {
		t.Errorf("back again: %d", a.StatusCode)
	}
	changed := log.named(event.AdminChanged)
	if len(changed) == 0 || changed[0].Actor != self || changed[0].Target != sub || changed[0].Details["from"] != oldSub {
		t.Errorf("%+v", changed)
	}
	if l, u := log.named(event.IdentityLinked), log.named(event.IdentityUnlinked); len(l) != 1 || l[0].Target != sub || len(u) != 1 || u[0].Target != oldSub {
		t.Errorf("%+v %+v", l, u)
	}
	// Groups of the two never add up (UP-11).
	if groups := fmt.Sprint(old.me()["groups"]); strings.Contains(groups, "gpu-users") {
		t.Errorf("groups %s", groups)
	}
	// An unlinked identity of the merged account gets a new one, never the old id.
	if a := into.page(http.MethodDelete, "/api/v1/me/identities/"+into.linkOf("a"), ""); a.StatusCode != http.StatusNoContent {
		t.Fatalf("unlink: %d %s", a.StatusCode, a.Body)
	}
	if got := h.browser().enterAt("a", "7"); got == sub || got == oldSub {
		t.Errorf("the old id is used again: %s", got)
	}
}
