package broker_test

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// DF-3: whatever somebody sends a person who is signed in, nothing is allowed
// but by the answer to the question that this very session was asked.
func TestDeviceIsNeverAllowedUnasked(t *testing.T) {
	t.Parallel()
	h := start(t, deviceYAML)
	b := h.person("demo", "198.51.100.7")
	r := h.asks("kiosk", "kiosk-secret") // a trusted client: asked for all the same
	code := r["user_code"].(string)
	waits := func(what string) {
		t.Helper()
		h.wait(10 * time.Second)
		if a := h.polls("kiosk", "kiosk-secret", r["device_code"]); a.StatusCode != 400 || a.json(t)["error"] != "authorization_pending" {
			t.Errorf("%s: %d %s", what, a.StatusCode, a.Body)
		}
	}
	for _, link := range []string{"/device?user_code=" + code, "/device?user_code=" + code + "&answer=allow", "/device?user_code=" + code + "&request=x&answer=allow&token=x"} {
		a := b.follow(b.get(link))
		if strings.Contains(a.Body, `value="allow"`) {
			t.Errorf("%s leads straight to the question", link)
		}
		waits(link)
	}
	page := b.get("/device")
	entry := url.Values{"token": {field(t, tokenField, page)}, "user_code": {code}}
	question := b.follow(b.post("/device", entry))
	allow := url.Values{"token": {field(t, tokenField, question)}, "request": {field(t, requestField, question)}, "answer": {"allow"}}
	for what, headers := range map[string][]string{
		"another site":                {"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"},
		"a console of the same site":  {"Sec-Fetch-Site", "same-site", "Origin", "https://gpu.example"},
		"another origin, old browser": {"Sec-Fetch-Site", "", "Origin", "https://evil.example"},
	} {
		holds(t, what+" allows", b.post("/device", allow, headers...), 403)
		holds(t, what+" enters", b.post("/device", entry, headers...), 403)
		waits(what)
	}
	holds(t, "without a token", b.post("/device", with(allow, "token", "")), 403)
	holds(t, "with the first page's token", b.post("/device", with(allow, "token", entry.Get("token"))), 403)
	holds(t, "an entry without a token", b.post("/device", with(entry, "token", "")), 403)
	holds(t, "neither yes nor no", b.post("/device", with(allow, "answer", "maybe")), 400)
	holds(t, "another request", b.post("/device", with(allow, "request", "AAAA")), 404)
	waits("forms that are not ours")

	// The question's address is of one session: the person who started the request
	// cannot send it to somebody else, nor can their form be sent.
	admin := h.person("admin", "198.51.100.8")
	holds(t, "somebody else's address", admin.get(question.Request.URL.String()), 404, "!"+code)
	holds(t, "somebody else's form", admin.post("/device", allow), 404)
	stranger := h.browser()
	a := stranger.follow(stranger.get(question.Request.URL.String()))
	holds(t, "nobody's", a, 200, "!"+code)
	if a := stranger.post("/device", allow); a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(a.location().Path, "/signin") {
		t.Errorf("nobody's form: %d %s", a.StatusCode, a.location())
	}
	waits("other people")
	// A new sign-in is a new session.
	b.enterAgain("demo", "demo")
	holds(t, "the session before", b.post("/device", allow), 404)
	waits("a session before")
	again := b.typed(code)
	b.says(again, "allow")
	if a := h.polls("kiosk", "kiosk-secret", r["device_code"]); a.StatusCode != 200 {
		t.Errorf("its own: %d %s", a.StatusCode, a.Body)
	}
	holds(t, "the answer once more", b.says(again, "allow"), 404)
}

// DF-2: unknown, expired and used codes are one answer, five of them are enough,
// and what no code can look like is not even a guess.
func TestDeviceCodesCannotBeGuessed(t *testing.T) {
	t.Parallel()
	h := start(t, deviceYAML)
	b := h.person("demo", "198.51.100.7")
	used, old := h.asks("tv", ""), h.asks("tv", "")
	b.says(b.typed(used["user_code"]), "deny")
	for range 10 {
		holds(t, "malformed", b.typed("HELLO"), 422, "not valid, or not any more", `value="HELLO"`, `aria-invalid="true"`)
		r := h.asks("kiosk", "kiosk-secret")
		holds(t, "a right one", b.typed(r["user_code"]), 200, "Sign this device in as you?")
	}
	h.wait(10 * time.Minute)
	fresh := h.asks("tv", "")
	var bodies []string
	for _, code := range []any{"BBBB-BBBB", used["user_code"], old["user_code"]} {
		a := b.typed(code)
		holds(t, "a wrong one", a, 422, "not valid, or not any more")
		bodies = append(bodies, strings.ReplaceAll(a.Body, code.(string), "CODE"))
	}
	if slices.Sort(bodies); bodies[0] != bodies[2] {
		t.Errorf("the answers differ:\n%s\n%s", bodies[0], bodies[2])
	}
	for range 2 {
		b.typed("CCCC-CCCC")
	}
	a := b.typed(fresh["user_code"])
	holds(t, "the sixth, although right", a, 429, "Too many wrong device codes", "!Sign this device in")
	if a.Header.Get("Retry-After") != "600" && a.Header.Get("Retry-After") != "599" {
		t.Errorf("Retry-After: %v", a.Header)
	}
	// The same account in another browser elsewhere, and another account there.
	holds(t, "the account elsewhere", h.person("demo", "192.0.2.44").typed(fresh["user_code"]), 429)
	holds(t, "the address", h.person("admin", "198.51.100.7").typed(fresh["user_code"]), 429)
	other := h.person("admin", "192.0.2.45")
	holds(t, "somebody else", other.typed(fresh["user_code"]), 200, "Sign this device in as you?")
	h.wait(10 * time.Minute)
	holds(t, "later", b.typed(h.asks("tv", "")["user_code"]), 200, "Sign this device in as you?")
}

// G10, G9: strangers' requests that nobody answers are few; those of a client
// that authenticates are its own.
func TestDeviceRequestsOfStrangers(t *testing.T) {
	t.Parallel()
	h := start(t, deviceYAML+"rate_limits: {stored_attempts: 5}\n")
	for range 5 {
		h.asks("tv", "")
	}
	a := h.askDevice("tv", "")
	oauthError(t, a, 429, "temporarily_unavailable")
	if a.Header.Get("Retry-After") == "" {
		t.Errorf("%v", a.Header)
	}
	for range 10 {
		h.asks("kiosk", "kiosk-secret", "device_name", strings.Repeat("x", 5000))
	}
	h.wait(time.Minute)
	h.asks("tv", "")
}

// DF-3, AD-2: no role comes by a device, unless the client's entry says so;
// offline access neither.
func TestDeviceScopes(t *testing.T) {
	t.Parallel()
	h := start(t, deviceYAML)
	b := h.person("admin", "203.0.113.9")
	all := "openid groups offline_access gatehouse:account gatehouse:support gatehouse:audit gatehouse:admin"
	r := h.asks("kiosk", "kiosk-secret", "scope", all)
	question := b.typed(r["user_code"])
	holds(t, "the question", question, 200, "Its access ends after 10 min", "!Stay signed in for you")
	b.says(question, "allow")
	tok := h.polls("kiosk", "kiosk-secret", r["device_code"]).json(t)
	if tok["scope"] != "openid groups gatehouse:account" || tok["refresh_token"] != nil {
		t.Errorf("%v", tok)
	}
	if a := h.as(tok["access_token"].(string), http.MethodGet, h.URL+"/api/v1/me", ""); a.StatusCode != 200 {
		t.Errorf("what the person may: %d %s", a.StatusCode, a.Body)
	}
	if a := h.as(tok["access_token"].(string), http.MethodGet, h.URL+"/api/v1/users", ""); a.StatusCode != 403 {
		t.Errorf("what the operator may: %d %s", a.StatusCode, a.Body)
	}
	// Its session ends with its only token.
	h.wait(11 * time.Minute)
	if got := b.sessions(); slices.Contains(got, "device") {
		t.Errorf("sessions: %v", got)
	}
	// The command line stays signed in, and is no operator either.
	cli := b.connects("gatehouse-cli", "", "scope", "openid profile email groups offline_access gatehouse:account gatehouse:consoles gatehouse:support gatehouse:audit gatehouse:admin")
	if cli["scope"] != "openid profile email groups offline_access gatehouse:account gatehouse:consoles" || cli["refresh_token"] == nil || claims(t, cli["access_token"])["aud"] != h.URL {
		t.Errorf("%v", cli)
	}
	// Nor is it as good as somebody who has just signed in: no key outlives it.
	a := h.as(cli["access_token"].(string), http.MethodPost, h.URL+"/api/v1/me/api-keys", `{"name":"k","scopes":["gatehouse:account"]}`)
	holds(t, "a key made by a device", a, 403, "policy.stepup")
	if a := h.as(b.cli("gatehouse:account"), http.MethodPost, h.URL+"/api/v1/me/api-keys", `{"name":"k","scopes":["gatehouse:account"]}`); a.StatusCode >= 300 {
		t.Errorf("a key made by the command line of a browser: %d %s", a.StatusCode, a.Body)
	}
	// Nothing to allow: the page says so and asks nothing.
	demo := h.person("demo", "203.0.113.9")
	r = h.asks("ops", "", "scope", "gatehouse:admin")
	holds(t, "nothing to allow", demo.typed(r["user_code"]), 403, "There is nothing that you could allow ops")
	// device_admin.
	ops := b.connects("ops", "", "scope", "openid offline_access gatehouse:admin")
	if a := h.as(ops["access_token"].(string), http.MethodGet, h.URL+"/api/v1/users", ""); ops["scope"] != "openid offline_access gatehouse:admin" || a.StatusCode != 200 {
		t.Errorf("device_admin: %v, %d %s", ops["scope"], a.StatusCode, a.Body)
	}
	h.yaml = strings.Replace(h.yaml, "    device_admin: true\n", "", 1)
	h.restart()
	a = h.refreshAs("ops", "", ops["refresh_token"])
	if a.StatusCode != 200 || a.json(t)["scope"] != "openid offline_access" {
		t.Errorf("device_admin taken back: %d %s", a.StatusCode, a.Body)
	}
}

// ISS-12: a third party's grant rests on the consent, and ends with it.
func TestDeviceConsentCanBeTakenBack(t *testing.T) {
	t.Parallel()
	h := start(t, deviceYAML)
	b := h.person("demo", "203.0.113.9")
	tok := b.connects("tv", "")
	late := h.asks("tv", "")
	b.says(b.typed(late["user_code"]), "allow")
	b.post("/account/apps/revoke", url.Values{"token": {field(t, tokenField, b.get("/account/apps"))}, "client": {"tv"}})
	oauthError(t, h.refreshAs("tv", "", tok["refresh_token"]), 400, "invalid_grant")
	oauthError(t, h.polls("tv", "", late["device_code"]), 400, "invalid_grant")
	if got := b.sessions(); len(got) != 1 {
		t.Errorf("sessions: %v", got)
	}
}

// UP-8 and the epoch: who may come is asked when somebody answers and again when
// the device fetches its tokens.
func TestDeviceOfWhoMayNoLonger(t *testing.T) {
	t.Parallel()
	h := start(t, deviceYAML)
	b := h.person("demo", "203.0.113.9")
	id := h.userID("demo")
	allowed := func() map[string]any {
		r := h.asks("tv", "")
		b.says(b.typed(r["user_code"]), "allow")
		return r
	}
	// Signed out before the device came.
	r := allowed()
	b.post("/signout", url.Values{"token": {field(t, tokenField, b.get("/signout"))}})
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "invalid_grant")
	b = h.person("demo", "203.0.113.9")
	// Suspended before; and after, with tokens in hand.
	r, tok := allowed(), b.connects("tv", "")
	if a := h.operator(http.MethodPost, "/api/v1/users/"+id+"/suspend", ""); a.StatusCode >= 300 {
		t.Fatalf("suspend: %d %s", a.StatusCode, a.Body)
	}
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "invalid_grant")
	oauthError(t, h.refreshAs("tv", "", tok["refresh_token"]), 400, "invalid_grant")
	if a := h.operator(http.MethodPost, "/api/v1/users/"+id+"/resume", ""); a.StatusCode >= 300 {
		t.Fatalf("resume: %d %s", a.StatusCode, a.Body)
	}
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "invalid_grant")
	b = h.person("demo", "203.0.113.9")
	// A client that takes another way: asked to sign in again, once.
	r = h.asks("picky", "", "scope", "openid")
	h.wait(time.Second)
	a := b.post("/device", url.Values{"token": {field(t, tokenField, b.get("/device"))}, "user_code": {r["user_code"].(string)}})
	if a.StatusCode != http.StatusSeeOther || a.location().Path != "/device" {
		if !strings.HasPrefix(a.location().Path, "/signin") {
			t.Fatalf("another way: %d %s", a.StatusCode, a.location())
		}
	}
	back := b.signIn(b.follow(a), "demo", "demo")
	holds(t, "back from signing in", back, 200, `value="`+r["user_code"].(string)+`"`)
	holds(t, "still by the wrong way", b.typed(r["user_code"]), 403, "picky takes another way of signing in", "google")
	// One that is not allowed any more when the device comes.
	r = allowed()
	h.yaml = strings.Replace(h.yaml, "    client_uri: https://tv.example/about\n", "    client_uri: https://tv.example/about\n    allowed_connectors: [google]\n", 1)
	h.restart()
	oauthError(t, h.polls("tv", "", r["device_code"]), 400, "invalid_grant")
	// And a client that may not have the grant any more: nobody is asked.
	h.yaml = strings.Replace(h.yaml, "    allowed_connectors: [google]\n", "", 1)
	h.restart()
	r = h.asks("ops", "", "scope", "openid")
	h.yaml = strings.Replace(h.yaml, `["`+deviceGrant+`", refresh_token]
    scope: openid offline_access gatehouse:admin`, `[refresh_token]
    scope: openid offline_access gatehouse:admin`, 1)
	h.restart()
	holds(t, "a client without the grant", b.typed(r["user_code"]), 404)
}

// What cannot be recorded does not happen.
func TestDeviceIsNotAllowedUnrecorded(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: deviceYAML, wrap: w.watch})
	b := h.person("demo", "203.0.113.9")
	for i, c := range []struct{ client, secret string }{{"tv", ""}, {"kiosk", "kiosk-secret"}} {
		r := h.asks(c.client, c.secret)
		question := b.typed(r["user_code"])
		for _, answer := range []string{"allow", "deny"} {
			w.fail(true)
			holds(t, c.client+": while nothing is recorded: "+answer, b.says(question, answer), 503)
			w.fail(false)
			h.wait(20 * time.Second)
			oauthError(t, h.polls(c.client, c.secret, r["device_code"]), 400, "authorization_pending")
		}
		if a := b.get("/account/apps"); strings.Contains(a.Body, "TV &lt;b&gt;box") != (i > 0) {
			t.Errorf("%s: a consent is left of it", c.client)
		}
		holds(t, c.client+": afterwards", b.says(question, "allow"), 200, "Go back to your terminal")
		if got := w.named(event.DeviceApproved); len(got) != i+1 {
			t.Errorf("%s: %d events", c.client, len(got))
		}
	}
	if got := w.named(event.DeviceDenied); len(got) != 0 {
		t.Errorf("%d denials", len(got))
	}
}

// Each state of the pages is whole, in both languages, and works without scripts.
func TestDevicePagesAreWellFormed(t *testing.T) {
	t.Parallel()
	h := start(t, deviceYAML)
	for _, lang := range []string{"en", "zh-CN"} {
		b := h.browser()
		b.Header.Set("Accept-Language", lang)
		b.Header.Set("X-Forwarded-For", "198.51.100.7")
		b.enter("demo", "demo")
		look := func(a answer) answer {
			t.Helper()
			wellFormed(t, lang+" "+a.Request.URL.Path, a.Body, lang)
			if regexp.MustCompile(`\bdevice\.[a-z_]+|\{[a-z]+\}`).MatchString(a.Body) {
				t.Errorf("%s: a text or a place is missing:\n%s", lang, a.Body)
			}
			return a
		}
		look(b.typed("HELLO"))
		for _, answer := range []string{"allow", "deny"} {
			r := h.asks("tv", "", "device_name", "gpu-a100-07")
			look(b.says(look(b.typed(r["user_code"])), answer))
		}
		for range 5 {
			b.typed("BBBB-BBBB")
		}
		look(b.typed("BBBB-BBBB"))
		h.wait(10 * time.Minute)
	}
}

// Policies see a device's session as one.
func TestDeviceAtTheGateway(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, `
routes:
  - {name: gpu, host: gpu.localhost, upstream: UP, audience: demo-api, auth: [bearer], allow: 'session.kind == "device" && client.id == "gatehouse-cli"'}
`, nil)
	b := h.signedIn()
	tok := b.connects("gatehouse-cli", "", "scope", "openid", "resource", "demo-api")
	if a := h.bearer(h.at("gpu", "/"), tok["access_token"]); a.StatusCode != 200 {
		t.Errorf("a device: %d %s", a.StatusCode, a.Body)
	}
	if a := h.bearer(h.at("gpu", "/"), h.access("openid")); a.StatusCode != 403 && a.StatusCode != 401 {
		t.Errorf("a browser's client: %d", a.StatusCode)
	}
}
