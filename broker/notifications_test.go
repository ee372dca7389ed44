package broker_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/test/peers/robots"
)

const whsec = "whsec_d2ViaG9vay1zZWNyZXQtd2ViaG9vay1zZWNyZXQ="

// inbox is a receiver of webhooks and what it took.
func inbox(t *testing.T) (*robots.Webhook, string) {
	t.Helper()
	r := &robots.Webhook{Secret: whsec}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	return r, s.URL + "/hook/0123456789abcdef"
}

// names are the events that a webhook got, in order.
func names(t *testing.T, r *robots.Webhook) []string {
	t.Helper()
	var out []string
	for _, m := range r.Taken() {
		var body struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(m.Body, &body); err != nil {
			t.Fatal(err)
		}
		out = append(out, body.Type)
	}
	return out
}

func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %s: %s", d, what)
}

func (h *harness) channels() map[string]map[string]any {
	h.t.Helper()
	out := map[string]map[string]any{}
	a := h.operator(http.MethodGet, "/api/v1/notify/channels", "")
	items, ok := a.json(h.t)["items"].([]any)
	if !ok {
		h.t.Fatalf("channels: %d %s", a.StatusCode, a.Body)
	}
	for _, i := range items {
		c, _ := i.(map[string]any)
		out[fmt.Sprint(c["id"])] = c
	}
	return out
}

// A webhook gets the events of its own list; a chat, without rules, what is a
// warning or worse; and no address is told whole.
func TestNotificationsArrive(t *testing.T) {
	t.Parallel()
	hook, at := inbox(t)
	ding := &robots.DingTalk{Token: "ding-token-0123456789", Secret: "SEC0123"}
	robot := httptest.NewServer(ding)
	t.Cleanup(robot.Close)
	h := start(t, staff()+fmt.Sprintf(`
default_locale: zh-CN
webhooks: [{name: siem, url: %q, secret: %s, events: [signin.*, user.created]}]
dingtalk: {webhook_url: "%s/robot/send?access_token=ding-token-0123456789", secret: SEC0123, private: true}
`, at, whsec, robot.URL))
	h.in("demo")
	within(t, 20*time.Second, "the webhook hears of the sign-in", func() bool {
		return strings.Join(names(t, hook), " ") == "user.created signin.succeeded"
	})
	b := h.browser()
	for range 6 {
		a := b.follow(b.get("/"))
		b.post("/signin/local", url.Values{"username": {"demo"}, "password": {"wrong"}, "attempt": {field(t, attemptField, a)}})
	}
	within(t, 20*time.Second, "the chat hears of the lockout", func() bool { return len(ding.Taken()) == 1 })
	body := string(ding.Taken()[0].Body)
	if !strings.Contains(body, "密码错误次数过多") || !strings.Contains(body, "DEMO Surname") || strings.Contains(body, "demo@example.com") {
		t.Errorf("told %s", body)
	}
	within(t, 20*time.Second, "all of the webhook", func() bool { return len(names(t, hook)) == 8 })
	if got := strings.Join(names(t, hook), " "); got != "user.created signin.succeeded signin.failed signin.failed signin.failed signin.failed signin.failed signin.lockout" {
		t.Errorf("the webhook got %s", got)
	}
	cs := h.channels()
	within(t, 5*time.Second, "both are well", func() bool { cs = h.channels(); return cs["siem"]["state"] == "ok" && cs["dingtalk"]["state"] == "ok" })
	if all := h.operator(http.MethodGet, "/api/v1/notify/channels", "").Body; strings.Contains(all, "ding-token") || strings.Contains(all, "0123456789abcdef") || !strings.Contains(fmt.Sprint(cs["dingtalk"]["address"]), "…6789") {
		t.Errorf("channels: %s", all)
	}
	if got := h.metric(`gatehouse_notifications_total{channel="siem",result="delivered"}`); got != "8" {
		t.Errorf("counted %q", got)
	}
}

// A reload changes rules and channels; what waited for a channel that was broken
// arrives at its new address.
func TestNotificationsReload(t *testing.T) {
	t.Parallel()
	hook, at := inbox(t)
	hook.Secret = "whsec_" + strings.Repeat("A", 40) // refuses what comes first
	yaml := func(secret, more string) string {
		return staff() + fmt.Sprintf("webhooks: [{name: siem, url: %q, secret: %s, events: [user.created]}]\n%s", at, secret, more)
	}
	h := start(t, yaml(whsec, ""))
	h.in("demo")
	within(t, 20*time.Second, "it is a dead letter", func() bool { return fmt.Sprint(h.channels()["siem"]["dead"]) == "1" || hook.Seen() > 0 })
	a := h.reload(yaml(hook.Secret, "notify: [{events: [signout], to: [siem]}]\n"))
	if a.StatusCode != http.StatusOK {
		t.Fatal(a.Body)
	}
	for _, l := range h.letters() { // refused for good, or waiting still
		if a := h.operator(http.MethodPost, "/api/v1/notify/dead-letters/"+l+"/retry", ""); a.StatusCode != http.StatusNoContent {
			t.Fatal(a.StatusCode, a.Body)
		}
	}
	within(t, 20*time.Second, "the new secret is taken", func() bool { return strings.Join(names(t, hook), " ") == "user.created" })
	within(t, 5*time.Second, "no letter is left", func() bool { return len(h.letters()) == 0 })
	b := h.in("demo")
	b.post("/signout", url.Values{"token": {field(t, tokenField, b.get("/signout"))}})
	within(t, 20*time.Second, "the new rule holds", func() bool { return strings.Join(names(t, hook), " ") == "user.created signout" })
	if a := h.reload(yaml("whsec_short", "")); a.StatusCode != http.StatusUnprocessableEntity || strings.Contains(a.Body, "whsec_short") {
		t.Errorf("a bad secret: %d %s", a.StatusCode, a.Body)
	}
}

// letters are the ids of all dead letters.
func (h *harness) letters() []string {
	h.t.Helper()
	a := h.operator(http.MethodGet, "/api/v1/notify/dead-letters", "")
	items, ok := a.json(h.t)["items"].([]any)
	if !ok {
		h.t.Fatalf("dead letters: %d %s", a.StatusCode, a.Body)
	}
	var out []string
	for _, i := range items {
		l, _ := i.(map[string]any)
		out = append(out, fmt.Sprint(l["id"]))
	}
	return out
}

// The API's test of a channel tells what the other side said; dead letters are
// dropped; and all of it is in the log.
func TestNotificationsOperated(t *testing.T) {
	t.Parallel()
	hook, at := inbox(t)
	h := start(t, staff()+fmt.Sprintf("webhooks: [{name: siem, url: %q, secret: %s, events: [user.created]}]\n", at, whsec))
	a := h.operator(http.MethodPost, "/api/v1/notify/channels/siem/test", "")
	if m := a.json(t); a.StatusCode != http.StatusOK || m["ok"] != true || len(hook.Taken()) != 1 {
		t.Fatalf("%d %s, %d arrived", a.StatusCode, a.Body, len(hook.Taken()))
	}
	hook.Script(robots.Answer{Status: http.StatusGone}, robots.Answer{Status: http.StatusGone})
	if m := h.operator(http.MethodPost, "/api/v1/notify/channels/siem/test", "").json(t); m["ok"] != false || m["error"] == "" {
		t.Errorf("%v", m)
	}
	if a := h.operator(http.MethodPost, "/api/v1/notify/channels/slack/test", ""); a.StatusCode != http.StatusNotFound {
		t.Errorf("a channel that is none: %d", a.StatusCode)
	}
	h.in("demo")
	within(t, 20*time.Second, "a dead letter", func() bool { return len(h.letters()) == 1 })
	id := h.letters()[0]
	for _, want := range []int{http.StatusNoContent, http.StatusNotFound} {
		if a := h.operator(http.MethodDelete, "/api/v1/notify/dead-letters/"+id, ""); a.StatusCode != want {
			t.Errorf("drop: %d %s, want %d", a.StatusCode, a.Body, want)
		}
	}
	if a := h.operator(http.MethodPost, "/api/v1/notify/dead-letters/"+id+"/retry", ""); a.StatusCode != http.StatusNotFound {
		t.Errorf("retry of what is gone: %d", a.StatusCode)
	}
	if got := h.counted("admin.changed"); got != "3" { // two tests and the drop
		t.Errorf("recorded %s", got)
	}
	if got := h.counted("notify.failed"); got != "1" {
		t.Errorf("notify.failed recorded %s times", got)
	}
}

// NO-3: a receiver that never answers holds up nobody who signs in.
func TestHangingReceiverHoldsUpNobody(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-over }))
	t.Cleanup(func() { close(over); hanging.Close() })
	hook, at := inbox(t)
	h := start(t, staff()+fmt.Sprintf("webhooks: [{name: hangs, url: %q, secret: %s, events: ['*']}, {name: siem, url: %q, secret: %s, events: [signin.succeeded]}]\n", hanging.URL, whsec, at, whsec))
	h.in("demo") // the hanging one hangs from here on
	begin := time.Now()
	for range 5 {
		h.in("other")
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("five sign-ins took %s", took)
	}
	within(t, 15*time.Second, "the other channel gets all", func() bool { return len(names(t, hook)) == 6 })
}

// metric reads a counter of the private listener by its whole name.
func (h *harness) metric(name string) string {
	h.t.Helper()
	_, after, _ := strings.Cut(h.browser().get(h.Admin+"/metrics").Body, name+" ")
	n, _, _ := strings.Cut(after, "\n")
	return n
}
