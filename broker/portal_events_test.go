package broker_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// try posts a user name and password to a fresh sign-in page.
func (b *browser) try(user, password string) answer {
	b.h.t.Helper()
	a := b.follow(b.get("/"))
	return b.post("/signin/local", url.Values{"username": {user}, "password": {password}, "attempt": {field(b.h.t, attemptField, a)}})
}

// consent answers the consent page of the client third.
func (b *browser) consent(reply string) answer {
	b.h.t.Helper()
	q := authRequest()
	q.Set("client_id", "third")
	q.Set("scope", "openid profile offline_access")
	p := b.follow(b.get("/oauth2/authorize?" + q.Encode()))
	if !strings.HasPrefix(p.Request.URL.Path, "/consent/") {
		b.h.t.Fatalf("no consent page: %d %s", p.StatusCode, p.Request.URL)
	}
	return b.post(p.Request.URL.Path, url.Values{"token": {field(b.h.t, tokenField, p)}, "answer": {reply}})
}

// Everything that this version does and an auditor asks for is recorded, with
// who, whom, from where and in which request; by ids alone (ST-5).
func TestEvents(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: staff(), wrap: w.watch})
	b := h.browser()
	// A password typed into the user name's field.
	for range 5 {
		b.try("hunter2-my-password", "x")
	}
	demo := h.in("demo")
	h.browser().try("demo", "wrong-password-1")
	id := h.userID("demo")
	failed := w.named(event.SigninFailed)
	if len(failed) != 6 || failed[0].Target != "" || failed[0].Details["account"] == "" || failed[5].Target != "" && failed[5].Target != id || failed[0].Details["reason"] != "credentials" {
		t.Errorf("failures %+v", failed)
	}
	if l := w.named(event.SigninLockout); len(l) != 1 || l[0].Details["account"] != failed[0].Details["account"] || l[0].Connector != "local" {
		t.Errorf("lockout %+v", l)
	}
	if a := demo.consent("allow"); a.StatusCode != http.StatusOK {
		t.Fatalf("consent: %d", a.StatusCode)
	}
	first := h.redeem(demo.code(authRequest())).json(t)
	refresh := func(tok any) answer {
		return h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {fmt.Sprint(tok)}})
	}
	refresh(first["refresh_token"])
	h.wait(time.Minute)
	refresh(first["refresh_token"])
	console := strings.Replace(h.URL, "127.0.0.1", "demo.console.localhost", 1)
	if a := demo.follow(demo.get(console + "/")); a.StatusCode != http.StatusOK {
		t.Fatalf("console: %d at %s", a.StatusCode, a.Request.URL)
	}
	aud := h.in("aud")
	if a := aud.follow(aud.get(console + "/")); a.StatusCode != http.StatusForbidden {
		t.Fatalf("console of another group: %d", a.StatusCode)
	}
	page := demo.get("/account/apps")
	demo.post("/account/apps/revoke", url.Values{"token": {field(t, tokenField, page)}, "client": {"third"}})
	page = demo.get("/signout")
	demo.post("/signout", url.Values{"token": {field(t, tokenField, page)}})

	for name, want := range map[event.Name]struct {
		n              int
		actor, target  string
		client, linked string
	}{
		event.UserCreated:        {2, "", "", "", ""},
		event.SigninSucceeded:    {2, "", "", "", ""},
		event.ConsentGranted:     {1, id, "third", "third", ""},
		event.TokenRefreshReused: {1, id, "", "demo-app", ""},
		event.ConsoleOpened:      {1, id, "demo", "", ""},
		event.ConsoleDenied:      {1, h.userID("aud"), "demo", "", ""},
		event.ConsentRevoked:     {1, id, "third", "third", ""},
		event.Signout:            {1, id, "", "", ""},
		event.UserUpdated:        {0, "", "", "", ""},
	} {
		got := w.named(name)
		if len(got) != want.n {
			t.Errorf("%s: %d times, want %d", name, len(got), want.n)
		}
		for _, e := range got {
			if e.ID == "" || e.Time.IsZero() || e.IP != "127.0.0.1" || e.RequestID == "" || e.Agent == "" || e.Actor == "" ||
				want.actor != "" && e.Actor != want.actor || want.target != "" && e.Target != want.target || e.Client != want.client {
				t.Errorf("%s: %+v", name, e)
			}
		}
	}
	for _, private := range []string{"hunter2", "wrong-password", "demo@example.com", "example.com", "Surname", "DEMO", first["refresh_token"].(string), "demo-secret"} {
		if strings.Contains(w.log(), private) {
			t.Errorf("the log holds %q", private)
		}
	}
}

// A profile that the upstream changed is an event; a mere use is none.
func TestEventOfAProfile(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	dir := t.TempDir()
	h := startWith(t, &harness{dir: dir, yaml: staff(), wrap: w.watch})
	h.in("demo")
	h.wait(2 * time.Hour)
	h.in("demo")
	h.stop()
	h.yaml = strings.Replace(staff(), "name: DEMO Surname", "name: Somebody Else", 1)
	h.run()
	h.in("demo")
	if e := w.named(event.UserUpdated); len(e) != 1 || e[0].Target != h.userID("demo") {
		t.Errorf("recorded %+v", e)
	}
	if n := len(w.named(event.UserCreated)); n != 1 {
		t.Errorf("created %d times", n)
	}
}

// A sign-in over somebody else's ends that session, and says so.
func TestEventOfAnEndNobodyAskedFor(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: staff(), wrap: w.watch})
	b := h.in("demo")
	q := authRequest()
	q.Set("prompt", "login")
	b.signIn(b.follow(b.get("/oauth2/authorize?"+q.Encode())), "other", "other")
	if e := w.named(event.SessionRevoked); len(e) != 1 || e[0].Target != h.userID("demo") || e[0].Details["reason"] != "another_signin" || e[0].Details["session"] == "" {
		t.Errorf("recorded %+v", e)
	}
}

// What changes an account, a credential or a key is not done when it cannot be
// written down (docs/architecture.md; ST-5).
func TestNothingWithoutTheLog(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: staff(), wrap: w.watch})
	admin, demo := h.in("admin"), h.in("demo")
	second := h.in("demo")
	id := h.userID("demo")
	session := ids(t, second.page(http.MethodGet, "/api/v1/me/sessions", ""), "id")
	sessionsPage, appsForm := demo.get("/account/sessions"), ""
	if a := demo.consent("allow"); a.StatusCode != http.StatusOK {
		t.Fatal(a.StatusCode)
	}
	appsForm = field(t, tokenField, demo.get("/account/apps"))
	keys := admin.page(http.MethodGet, "/api/v1/keys", "").Body
	kid := ids(t, admin.page(http.MethodGet, "/api/v1/keys", ""), "kid")[0]
	q := authRequest()
	q.Set("client_id", "third")
	q.Set("prompt", "consent")
	consentPage := second.follow(second.get("/oauth2/authorize?" + q.Encode()))

	w.fail(true)
	refused := func(what string, a answer) {
		t.Helper()
		if a.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s", what, a.StatusCode, a.Body)
		}
	}
	refused("suspend", admin.page(http.MethodPost, "/api/v1/users/"+id+"/suspend", ""))
	refused("end a session", admin.page(http.MethodDelete, "/api/v1/sessions/"+session[0], ""))
	refused("rotate", admin.page(http.MethodPost, "/api/v1/keys/rotate", `{"alg":"ES256"}`))
	refused("revoke a key", admin.page(http.MethodPost, "/api/v1/keys/"+kid+"/revoke", ""))
	refused("end the others", demo.page(http.MethodPost, "/api/v1/me/sessions/revoke-others", ""))
	refused("end the others, page", demo.post("/account/sessions/end-others", url.Values{"token": {field(t, tokenField, sessionsPage)}}))
	refused("take back", demo.post("/account/apps/revoke", url.Values{"token": {appsForm}, "client": {"third"}}))
	refused("consent", second.post(consentPage.Request.URL.Path, url.Values{"token": {field(t, tokenField, consentPage)}, "answer": {"allow"}}))
	stranger := h.browser()
	refused("a first sign-in", stranger.try("other", "other"))
	refused("a sign-in", stranger.try("demo", "demo"))
	w.fail(false)

	if a := second.page(http.MethodGet, "/api/v1/me", ""); a.StatusCode != http.StatusOK || a.json(t)["suspended"] != false {
		t.Errorf("the user: %d %s", a.StatusCode, a.Body)
	}
	if got := admin.page(http.MethodGet, "/api/v1/keys", "").Body; got != keys {
		t.Errorf("the keys changed: %s, were %s", got, keys)
	}
	if a := demo.get("/account/apps"); !strings.Contains(a.Body, `value="third"`) {
		t.Error("the consent is gone")
	}
	if got := ids(t, admin.page(http.MethodGet, "/api/v1/users", ""), "username"); slices.Contains(got, "other") {
		t.Errorf("an account was made: %v", got)
	}
	if a := stranger.get("/account"); a.StatusCode != http.StatusSeeOther {
		t.Errorf("somebody is signed in: %d", a.StatusCode)
	}
	h.in("other") // and nothing stands in the way of a second try
	if n := len(w.named(event.UserCreated)); n != 3 {
		t.Errorf("%d accounts were recorded", n)
	}
}

// captured keeps all that is logged, at every level.
type captured struct {
	mu sync.Mutex
	b  strings.Builder
}

func (c *captured) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.Write(p)
}

func (c *captured) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.String()
}

// G7, G8, ST-5: a whole sign-in with its failures, at debug level, leaves no
// password, code, token, cookie or client secret in the log or in the events.
func TestNoSecretInAnyLog(t *testing.T) {
	t.Parallel()
	w, out := &watchedStore{}, &captured{}
	h := startWith(t, &harness{yaml: staff(), wrap: w.watch, log: slog.NewJSONHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})})
	secrets := h.tour()
	logged := out.text()
	if !strings.Contains(logged, `"level":"DEBUG"`) || !strings.Contains(logged, "signin.failed") || len(secrets) < 18 {
		t.Fatalf("the log is not what this test is about (%d secrets):\n%s", len(secrets), logged)
	}
	for name, s := range secrets {
		if s == "" {
			t.Errorf("%s is empty", name)
		}
		if strings.Contains(logged, s) || strings.Contains(w.log(), s) {
			t.Errorf("the log holds the %s", name)
		}
	}
	for line := range strings.Lines(logged) {
		if !strings.HasPrefix(line, "{") {
			t.Errorf("a forged line: %q", line)
		}
	}
}

// connector.down and connector.up are raised once for each change, however often
// the upstream is asked.
func TestEventsOfAConnector(t *testing.T) {
	t.Parallel()
	var up, asked atomic.Int64
	upstream := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if up.Load() == 0 {
			rw.WriteHeader(http.StatusBadGateway)
		}
	}))
	t.Cleanup(upstream.Close)
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: fmt.Sprintf("github: {client_id: a, client_secret: github-s3cret, base_url: %q}\n", upstream.URL), wrap: w.watch})
	until := func(what string, f func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: never; events %v", what, w.log())
			}
		}
	}
	until("down", func() bool { return len(w.named(event.ConnectorDown)) > 0 })
	until("asked again", func() bool { return asked.Load() >= 2 })
	up.Store(1)
	until("up", func() bool { return len(w.named(event.ConnectorUp)) > 0 })
	for _, n := range []event.Name{event.ConnectorDown, event.ConnectorUp} {
		if e := w.named(n); len(e) != 1 || e[0].Connector != "github" || e[0].Actor != "" {
			t.Errorf("%s: %+v", n, e)
		}
	}
	if b := h.browser(); !strings.Contains(b.follow(b.get("/")).Body, "/signin/github") {
		t.Error("GitHub is not offered again")
	}
}

// Somebody whom the connector no longer knows is out at the next recheck, and
// that is written down.
func TestEventOfARefusedRecheck(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: staff(), wrap: w.watch})
	b := h.in("demo")
	id := h.userID("demo")
	h.stop()
	h.yaml = strings.Replace(h.yaml, "username: demo,", "username: gone,", 1)
	h.run()
	h.wait(16 * time.Minute)
	for deadline := time.Now().Add(30 * time.Second); b.get("/account").StatusCode == http.StatusOK && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	if e := w.named(event.SessionRevoked); len(e) != 1 || e[0].Target != id || e[0].Details["reason"] != "refused" || e[0].Actor != "" {
		t.Errorf("recorded %+v", e)
	}
}
