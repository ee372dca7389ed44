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

// RFC 8628 from the first request to the last refresh: who is not signed in gets
// there with the code kept, sees who asks for what, and answers.
func TestDeviceFlow(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: deviceYAML, wrap: w.watch})
	r := h.asks("tv", "", "scope", "openid profile email offline_access deployments:write nonsense", "device_name", "  gpu\u202e-a100-07\n<i>x</i>  ")
	shown := r["user_code"].(string)
	if r["verification_uri"] != h.URL+"/device" || r["verification_uri_complete"] != h.URL+"/device?user_code="+shown || r["expires_in"] != 600.0 || r["interval"] != 5.0 ||
		len(shown) != 9 || strings.Trim(shown, "BCDFGHJKLMNPQRSTVWXZ-") != "" || len(r["device_code"].(string)) != 52 {
		t.Fatalf("%v", r)
	}
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "authorization_pending")

	b := h.browser()
	b.Header.Set("X-Forwarded-For", "198.51.100.7")
	page := b.signIn(b.follow(b.get(r["verification_uri_complete"].(string))), "demo", "demo")
	if page.Request.URL.Path != "/device" {
		t.Fatalf("sign-in ended at %s", page.Request.URL)
	}
	holds(t, "pre-filled", page, 200, `value="`+shown+`"`, "Staff never send you a code", "!TV &lt;b&gt;box", `name="user_code"`)
	if page.Header.Get("Cross-Origin-Opener-Policy") != "same-origin" || !strings.Contains(page.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
		t.Errorf("headers: %v", page.Header)
	}
	question := b.typed(" " + strings.ToLower(strings.Replace(shown, "-", " ", 1)))
	holds(t, "the question", question, 200, shown, "TV &lt;b&gt;box&lt;/b&gt;", "tv.example", "gpu-a100-07 &lt;i&gt;x&lt;/i&gt;", "(reported by the device)", "gatehouse/1.4.0 (Linux; arm64)", "Gatehouse CLI · Linux",
		"203.0.113.20", "198.51.100.7", "not on your network", "just now", "Start and stop deployments", "See your e-mail address", "Stay signed in for you", "It stays signed in until", "only if YOU started it", "demo@example.com")
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "slow_down") // seeing it allows nothing
	done := b.says(question, "allow")
	holds(t, "allowed", done, 200, "Go back to your terminal", "/account/sessions")

	a := h.polls("tv", "", r["device_code"])
	if a.StatusCode != http.StatusOK || a.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	tok := a.json(t)
	access, id := claims(t, tok["access_token"]), claims(t, tok["id_token"])
	if tok["scope"] != "openid profile email offline_access deployments:write" || access["aud"] != "demo-api" || access["client_id"] != "tv" || access["sub"] != h.userID("demo") ||
		id["aud"] != "tv" || id["sid"] == access["sid"] || id["auth_time"] != access["auth_time"] || access["gatehouse:kind"] != "user" {
		t.Errorf("scope %v\n%v\n%v", tok["scope"], access, id)
	}
	if u := h.bearer("/oauth2/userinfo", tok["access_token"]); u.StatusCode != 200 || u.json(t)["email"] != "demo@example.com" {
		t.Errorf("userinfo: %d %s", u.StatusCode, u.Body)
	}
	// It is a session of its own, of the device's name and place, that people see.
	got := b.sessions()
	if slices.Sort(got); strings.Join(got, " ") != "browser device" {
		t.Errorf("sessions: %v", got)
	}
	holds(t, "sessions", b.get("/account/sessions"), 200, "gpu-a100-07 &lt;i&gt;x&lt;/i&gt; · Gatehouse CLI · Linux", "203.0.113.20", `<span class="tag">Device</span>`)
	holds(t, "apps", b.get("/account/apps"), 200, "TV &lt;b&gt;box")
	refreshed := h.refreshAs("tv", "", tok["refresh_token"])
	if refreshed.StatusCode != 200 {
		t.Fatalf("refresh: %d %s", refreshed.StatusCode, refreshed.Body)
	}
	// Signing out of the browser leaves it; everywhere else does not.
	b.post("/signout", url.Values{"token": {field(t, tokenField, b.get("/signout"))}})
	if refreshed = h.refreshAs("tv", "", refreshed.json(t)["refresh_token"]); refreshed.StatusCode != 200 {
		t.Fatalf("after signing out: %d %s", refreshed.StatusCode, refreshed.Body)
	}
	b = h.person("demo", "198.51.100.7")
	b.post("/account/sessions/end-others", url.Values{"token": {field(t, tokenField, b.get("/account/sessions/end-others"))}})
	oauthError(t, h.refreshAs("tv", "", refreshed.json(t)["refresh_token"]), 400, "invalid_grant")

	events := w.named(event.DeviceApproved)
	if len(events) != 1 {
		t.Fatalf("%d events", len(events))
	}
	e := events[0]
	if e.Actor != h.userID("demo") || e.Client != "tv" || e.IP != "198.51.100.7" || e.Details["device_ip"] != "203.0.113.20" || e.Details["name"] != "gpu-a100-07 <i>x</i>" ||
		e.Details["scope"] != "openid profile email offline_access deployments:write" || e.RequestID == "" || e.Details["device_agent"] == "" {
		t.Errorf("%+v", e)
	}
	if len(w.named(event.ConsentGranted)) != 1 || len(w.named(event.DeviceDenied)) != 0 {
		t.Error("the consent of a third party was not recorded once")
	}
	if log := w.log(); strings.Contains(log, r["device_code"].(string)) || strings.Contains(log, strings.ReplaceAll(shown, "-", "")) || strings.Contains(log, shown) {
		t.Error("a code is in the log")
	}
}

// A no is told to the device, once, and gives nothing.
func TestDeviceDenied(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: deviceYAML, wrap: w.watch})
	b := h.person("demo", "203.0.113.9")
	r := h.asks("tv", "")
	question := b.typed(r["user_code"])
	holds(t, "the same network", question, 200, "!not on your network", "!another country")
	holds(t, "denied", b.says(question, "deny"), 200, "Nothing was allowed")
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "access_denied")
	holds(t, "allowed after", b.says(question, "allow"), 404)
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "access_denied")
	if e := w.named(event.DeviceDenied); len(e) != 1 || e[0].Actor != h.userID("demo") || e[0].Client != "tv" || len(w.named(event.DeviceApproved)) != 0 || len(w.named(event.ConsentGranted)) != 0 {
		t.Errorf("%+v", e)
	}
	if got := b.sessions(); len(got) != 1 {
		t.Errorf("sessions: %v", got)
	}
}

// Where each step is taken by another process, nothing is lost or good twice.
func TestDeviceFlowAcrossRestarts(t *testing.T) {
	t.Parallel()
	h := start(t, deviceYAML)
	b := h.person("demo", "203.0.113.9")
	r := h.asks("tv", "")
	h.restart()
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "authorization_pending")
	question := b.typed(r["user_code"])
	h.restart()
	done := b.says(question, "allow")
	holds(t, "after a restart", done, 200, "Go back to your terminal")
	h.restart()
	holds(t, "asked for again", b.get(done.Request.URL.String()), 200, "Go back to your terminal")
	a := h.polls("tv", "", r["device_code"])
	if a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	h.restart()
	tok := a.json(t)
	if u := h.bearer("/oauth2/userinfo", tok["access_token"]); u.StatusCode != 200 {
		t.Errorf("userinfo: %d", u.StatusCode)
	}
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "invalid_grant") // its second sight
	if u := h.bearer("/oauth2/userinfo", tok["access_token"]); u.StatusCode != 401 {
		t.Errorf("after a replay: %d", u.StatusCode)
	}
}

// DF-4: what a device is told while it polls; and a poll in time writes nothing.
func TestDevicePolling(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: deviceYAML, wrap: w.watch})
	r := h.asks("kiosk", "kiosk-secret")
	poll := func() answer { return h.polls("kiosk", "kiosk-secret", r["device_code"]) }
	oauthError(t, poll(), 400, "authorization_pending")
	before := w.written()
	for range 20 {
		h.wait(5 * time.Second)
		oauthError(t, poll(), 400, "authorization_pending")
	}
	if n := w.written() - before; n != 0 {
		t.Errorf("%d writes of 20 polls", n)
	}
	oauthError(t, poll(), 400, "slow_down")
	h.wait(6 * time.Second)
	oauthError(t, poll(), 400, "slow_down") // 10 s were told
	h.restart()
	h.wait(8 * time.Second)
	oauthError(t, poll(), 400, "slow_down") // 15 s hold after a restart
	h.wait(20 * time.Second)
	oauthError(t, poll(), 400, "authorization_pending")
	h.wait(10 * time.Minute)
	oauthError(t, poll(), 400, "expired_token")
	oauthError(t, h.polls("kiosk", "kiosk-secret", "nonsense"), 400, "invalid_grant")
	// Another client's poll learns nothing and changes nothing.
	r = h.asks("kiosk", "kiosk-secret")
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "invalid_grant")
	b := h.person("demo", "203.0.113.9")
	b.says(b.typed(r["user_code"]), "allow")
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "invalid_grant")
	oauthError(t, h.polls("kiosk", "wrong", r["device_code"]), 401, "invalid_client")
	oauthError(t, h.polls("kiosk", "", r["device_code"]), 401, "invalid_client")
	tok := poll()
	if tok.StatusCode != 200 {
		t.Fatalf("its own: %d %s", tok.StatusCode, tok.Body)
	}
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "invalid_grant")
	if u := h.bearer("/oauth2/userinfo", tok.json(t)["access_token"]); u.StatusCode != 200 {
		t.Errorf("another client's replay ended the grant: %d", u.StatusCode)
	}
}

// G3: of 64 polls at once at most one gets tokens, and since the others have seen
// the code too, those are dead.
func TestDeviceCodeAtOnce(t *testing.T) {
	t.Parallel()
	h := start(t, deviceYAML)
	b := h.person("demo", "203.0.113.9")
	r := h.asks("tv", "")
	b.says(b.typed(r["user_code"]), "allow")
	b.redeemsAtOnce(t, "tv", "", func() answer { return h.polls("tv", "", r["device_code"]) })
}

// What the endpoint refuses, and how.
func TestDeviceAuthorizationErrors(t *testing.T) {
	t.Parallel()
	h := start(t, deviceYAML)
	for name, c := range map[string]struct {
		client, secret string
		kv             []string
		status         int
		code           string
	}{
		"no client":                        {"", "", nil, 401, "invalid_client"},
		"an unknown client":                {"nobody", "", nil, 401, "invalid_client"},
		"a wrong secret":                   {"kiosk", "wrong", nil, 401, "invalid_client"},
		"a secret left out":                {"kiosk", "", nil, 401, "invalid_client"},
		"a client without the grant":       {"demo-app", "demo-secret", nil, 400, "unauthorized_client"},
		"no scope":                         {"tv", "", []string{"scope", ""}, 400, "invalid_scope"},
		"no scope of the client's":         {"tv", "", []string{"scope", "groups"}, 400, "invalid_scope"},
		"offline access alone, not for it": {"kiosk", "kiosk-secret", []string{"scope", "offline_access"}, 400, "invalid_scope"},
		"an unknown resource":              {"tv", "", []string{"resource", "nowhere"}, 400, "invalid_target"},
		"another's audience":               {"kiosk", "kiosk-secret", []string{"audience", "demo-api"}, 400, "invalid_target"},
		"two of them":                      {"tv", "", []string{"resource", "demo-api", "audience", "other-api"}, 400, "invalid_target"},
		"a plain challenge":                {"tv", "", []string{"code_challenge", challenge(verifier)}, 400, "invalid_request"},
		"a method alone":                   {"tv", "", []string{"code_challenge_method", "S256"}, 400, "invalid_request"},
		"a challenge that is none":         {"tv", "", []string{"code_challenge", "x", "code_challenge_method", "S256"}, 400, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) { oauthError(t, h.askDevice(c.client, c.secret, c.kv...), c.status, c.code) })
	}
	oauthError(t, h.raw("POST", "/oauth2/device_authorization", "client_id=tv&client_id=tv&scope=openid"), 400, "invalid_request")
	oauthError(t, h.raw("POST", "/oauth2/device_authorization", `{"client_id":"tv"}`, "Content-Type", "", "Content-Type", "application/json"), 400, "invalid_request")
	if a := h.raw("GET", "/oauth2/device_authorization?client_id=tv&scope=openid", ""); a.StatusCode != 405 || a.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %d %v", a.StatusCode, a.Header)
	}
	oauthError(t, h.polls("tv", "", ""), 400, "invalid_request")
	oauthError(t, h.polls("demo-app", "demo-secret", "x"), 400, "unauthorized_client")
	if a := h.raw("POST", "/oauth2/device_authorization", "client_id=tv&scope=openid", "Origin", "https://tv.example"); a.Header.Get("Access-Control-Allow-Origin") != "" { // ISS-17
		t.Errorf("CORS: %v", a.Header)
	}
	// The resource is what the token is for, by name or URI, and a poll may only
	// name the same.
	b := h.person("demo", "203.0.113.9")
	r := h.asks("tv", "", "resource", "other-api")
	b.says(b.typed(r["user_code"]), "allow")
	oauthError(t, h.polls("tv", "", r["device_code"], "resource", "demo-api"), 400, "invalid_target")
	if tok := h.polls("tv", "", r["device_code"], "resource", "other-api"); tok.StatusCode != 200 || claims(t, tok.json(t)["access_token"])["aud"] != "other-api" {
		t.Errorf("%d %s", tok.StatusCode, tok.Body)
	}
	if tok := b.connects("tv", "", "audience", "https://api.example"); claims(t, tok["access_token"])["aud"] != "demo-api" {
		t.Error("audience is not taken as the resource")
	}
	// DF-5.
	r = h.asks("tv", "", "code_challenge", challenge(verifier), "code_challenge_method", "S256")
	b.says(b.typed(r["user_code"]), "allow")
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "invalid_grant")
	oauthError(t, h.polls("tv", "", r["device_code"], "code_verifier", strings.Repeat("x", 43)), 400, "invalid_grant")
	if tok := h.polls("tv", "", r["device_code"], "code_verifier", verifier); tok.StatusCode != 200 {
		t.Errorf("with its verifier: %d %s", tok.StatusCode, tok.Body)
	}
}
