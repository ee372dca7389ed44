package broker_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// signup: invite admits whoever was invited, once, for a week, with that address.
func TestLinkInvite(t *testing.T) {
	t.Parallel()
	g := startHub(t)
	log := &watchedStore{}
	h := startWith(t, &harness{yaml: g.hubs(", signup: invite", ", signup: invite"), wrap: log.watch})
	admin := h.in("admin")
	invite := func(body string) (link string, a answer) {
		a = admin.page(http.MethodPost, "/api/v1/invites", body)
		if a.StatusCode == http.StatusOK {
			link = strings.TrimPrefix(a.json(t)["url"].(string), h.URL)
		}
		return link, a
	}
	for _, body := range []string{`{}`, `{"email":"odd"}`, `{"email":"a@b@acme.example"}`, `{"email":"li@acme.example","connector":"nothing"}`, `{"email":"li@acme.example","roles":["admin"]}`} {
		if _, a := invite(body); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", body, a.StatusCode, a.Body)
		}
	}
	use := func(link, connector, person string) (*browser, answer) {
		b := h.browser()
		a := b.follow(b.get(link))
		if a.StatusCode != http.StatusOK {
			return b, a
		}
		return b, b.follow(b.from(a, connector, person))
	}
	link, a := invite(`{"email":"Li@Acme.example"}`)
	if link == "" || a.json(t)["email"] != "li@acme.example" || a.json(t)["state"] != "open" {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	for range 5 { // a program that scans mail
		if a := h.browser().get(link); a.StatusCode != http.StatusSeeOther {
			t.Errorf("%d", a.StatusCode)
		}
	}
	g.has("7", "wei@acme.example", true)
	if b, a := use(link, "a", "7"); a.StatusCode != http.StatusForbidden || !strings.Contains(a.Body, "account.invite") || b.in() {
		t.Errorf("another address: %d\n%s", a.StatusCode, a.Body)
	}
	g.has("7", "li@acme.example", false)
	if b, a := use(link, "a", "7"); a.StatusCode != http.StatusForbidden || b.in() {
		t.Errorf("not verified: %d", a.StatusCode)
	}
	g.has("7", "li@acme.example", true)
	b := h.browser()
	if a := b.from(b.follow(b.get("/account")), "a", "7"); a.StatusCode != http.StatusForbidden || !strings.Contains(a.Body, "signup_closed") {
		t.Errorf("without the link: %d", a.StatusCode)
	}
	if page := b.follow(b.get(link)); !strings.Contains(page.Body, "You are invited") {
		t.Errorf("%s", page.Body)
	}
	if b, a := use(link, "a", "7"); a.StatusCode != http.StatusOK || !b.in() {
		t.Fatalf("as it should be: %d\n%s", a.StatusCode, a.Body)
	}
	if h.browser().enterAt("a", "7") == "" { // whoever has an account needs none
		t.Error("no second sign-in")
	}
	if _, a := use(link, "b", "8"); a.StatusCode != http.StatusNotFound || !strings.Contains(a.Body, "not valid any more") {
		t.Errorf("used: %d\n%s", a.StatusCode, a.Body)
	}
	// Withdrawn, too old, made up, of another connector.
	link, a = invite(`{"email":"x@acme.example"}`)
	id := a.json(t)["id"].(string)
	if a := admin.page(http.MethodDelete, "/api/v1/invites/"+id, ""); a.StatusCode != http.StatusNoContent {
		t.Errorf("withdraw: %d %s", a.StatusCode, a.Body)
	}
	if a := h.browser().get(link); a.StatusCode != http.StatusNotFound {
		t.Errorf("withdrawn: %d", a.StatusCode)
	}
	link, _ = invite(`{"email":"y@acme.example","connector":"b"}`)
	g.has("9", "y@acme.example", true)
	b = h.browser()
	if a := b.get(link); !strings.HasPrefix(a.location().Path, "/signin/b") {
		t.Errorf("leads to %s", a.location())
	} else if a := b.from(b.get("/signin?"+a.location().RawQuery), "a", "9"); a.StatusCode != http.StatusForbidden {
		t.Errorf("another connector: %d", a.StatusCode)
	}
	if a := h.browser().get("/invite/" + strings.Repeat("A", 52)); a.StatusCode != http.StatusNotFound {
		t.Errorf("made up: %d", a.StatusCode)
	}
	if a := h.browser().get("/invite/" + id); a.StatusCode != http.StatusNotFound {
		t.Errorf("the hash: %d", a.StatusCode)
	}
	token := strings.TrimPrefix(link, "/invite/")
	list := admin.page(http.MethodGet, "/api/v1/invites", "")
	if strings.Contains(list.Body, token) || !strings.Contains(list.Body, `"used"`) || !strings.Contains(list.Body, `"withdrawn"`) || !strings.Contains(list.Body, `"open"`) {
		t.Errorf("%s", list.Body)
	}
	if s := h.storeBytes(); strings.Contains(s, token) || strings.Contains(s, "y@acme.example") {
		t.Error("the store has the token or the address in clear")
	}
	h.wait(7*24*time.Hour + time.Minute)
	if a := h.browser().get(link); a.StatusCode != http.StatusNotFound {
		t.Errorf("too old: %d", a.StatusCode)
	}
	if es := log.named(event.AdminChanged); len(es) != 4 || strings.Contains(log.log(), "@acme.example") || strings.Contains(log.log(), token) {
		t.Errorf("%+v", es)
	}
}
