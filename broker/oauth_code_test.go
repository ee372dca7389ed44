package broker_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// sessions lists the kinds of the person's sessions.
func (b *browser) sessions() []string {
	b.h.t.Helper()
	a := b.get("/api/v1/me/sessions", "Accept", "application/json", "Sec-Fetch-Site", "same-origin", "Origin", b.h.URL)
	if a.StatusCode != http.StatusOK {
		b.h.t.Fatalf("sessions: %d %s", a.StatusCode, a.Body)
	}
	var kinds []string
	for _, s := range a.json(b.h.t)["items"].([]any) {
		kinds = append(kinds, s.(map[string]any)["kind"].(string))
	}
	return kinds
}

// counted reads a counter of events from the private listener.
func (h *harness) counted(event string) string {
	h.t.Helper()
	b := h.browser()
	b.Header = http.Header{}
	_, after, ok := strings.Cut(b.get(h.Admin+"/metrics").Body, `gatehouse_events_total{event="`+event+`"} `)
	if !ok {
		return "0"
	}
	n, _, _ := strings.Cut(after, "\n")
	return n
}

// ISS-3: a challenge wants its verifier, and a verifier its challenge.
func TestPKCECannotBeTakenOut(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	const uri = "https://rp.example/cb"
	bare := requestOf("plain", uri, "code_challenge", "", "code_challenge_method", "")
	redeem := func(code string, kv ...string) answer {
		return h.raw("POST", "/oauth2/token", with(url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {uri}, "client_id": {"plain"}, "client_secret": {"plain-secret"}}, kv...).Encode())
	}
	code := b.code(bare)
	oauthError(t, redeem(code, "code_verifier", verifier), 400, "invalid_grant") // somebody stripped the challenge
	if a := redeem(code); a.StatusCode != 200 {
		t.Errorf("a code of the basic profile: %d %s", a.StatusCode, a.Body)
	}
	code = b.code(requestOf("plain", uri))
	oauthError(t, redeem(code), 400, "invalid_grant") // somebody stripped the verifier
	if a := redeem(code, "code_verifier", verifier); a.StatusCode != 200 {
		t.Errorf("with its verifier: %d %s", a.StatusCode, a.Body)
	}
	// A public client cannot be configured without, and a longest verifier works.
	long := strings.Repeat("aZ9-._~x", 16)
	q := requestOf("spa", "http://127.0.0.1:4321/cb", "code_challenge", challenge(long), "scope", "openid")
	page := b.follow(b.get("/oauth2/authorize?" + q.Encode()))
	a := b.follow(b.post(page.Request.URL.Path, url.Values{"token": {field(t, tokenField, page)}, "answer": {"allow"}}))
	code = h.back(a, "http://127.0.0.1:4321/cb", "st&ate=").Get("code")
	if a := h.raw("POST", "/oauth2/token", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {"http://127.0.0.1:4321/cb"}, "client_id": {"spa"}, "code_verifier": {long}}.Encode()); a.StatusCode != 200 {
		t.Errorf("public client, any loopback port: %d %s", a.StatusCode, a.Body)
	}
}

// ISS-4, RFC 6749 section 4.1.2: a second sight revokes what the first one gave,
// whatever else comes with it, and ends the session that it had of its own.
func TestCodeReplayRevokes(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	for name, c := range map[string]struct {
		form []string
		wait time.Duration
	}{
		"the same again":          {nil, 0},
		"with another verifier":   {[]string{"code_verifier", strings.Repeat("b", 43)}, 0},
		"with another redirect":   {[]string{"redirect_uri", "http://localhost:5555/callback"}, 0},
		"after the code's minute": {nil, 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			code := b.code(authRequest())
			form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {verifier}}
			first := h.token(form)
			if first.StatusCode != 200 {
				t.Fatal(first.Body)
			}
			if got := b.sessions(); len(got) != 2 {
				t.Fatalf("sessions: %v", got)
			}
			tok := first.json(t)
			// Another client's sight of it is nobody's.
			oauthError(t, h.tokenAs("basic", "s:p%a c+e", form), 400, "invalid_grant")
			if u := h.bearer("/oauth2/userinfo", tok["access_token"]); u.StatusCode != 200 {
				t.Fatalf("another client ended the grant: %d", u.StatusCode)
			}
			h.wait(c.wait)
			oauthError(t, h.token(with(form, c.form...)), 400, "invalid_grant")
			if u := h.bearer("/oauth2/userinfo", tok["access_token"]); u.StatusCode != 401 {
				t.Errorf("the access token lives: %d", u.StatusCode)
			}
			oauthError(t, h.refreshAs("demo-app", "demo-secret", tok["refresh_token"]), 400, "invalid_grant")
			if got := b.sessions(); len(got) != 1 || got[0] != "browser" {
				t.Errorf("sessions left: %v", got)
			}
		})
	}
}

// G3: of 64 at once at most one gets tokens, and since the others have seen the
// code too, those tokens are dead.
func TestCodeAtOnce(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	code := b.code(authRequest())
	b.redeemsAtOnce(t, "demo-app", "demo-secret", func() answer { return h.redeem(code) })
}

// ISS-4: a code is good for a minute, and while its session lives.
func TestCodeExpires(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	code := b.code(authRequest())
	h.wait(59 * time.Second)
	if a := h.redeem(code); a.StatusCode != 200 {
		t.Errorf("before its end: %d %s", a.StatusCode, a.Body)
	}
	code = b.code(authRequest())
	h.wait(61 * time.Second)
	oauthError(t, h.redeem(code), 400, "invalid_grant")
	code = b.code(authRequest())
	page := b.get("/signout")
	b.post("/signout", url.Values{"token": {field(t, tokenField, page)}})
	oauthError(t, h.redeem(code), 400, "invalid_grant")
}

// SE-10: our own command line has a session of its own, which outlives the
// browser's; an online grant ends with it.
func TestSessionsOfGrants(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	cli := h.grantOf(b, "", requestOf("gatehouse-cli", "http://127.0.0.1:40000/callback"))
	online := h.grantOf(b, "demo-secret", with(authRequest(), "scope", "openid"))
	offline := h.grantOf(b, "demo-secret", authRequest())
	got := b.sessions()
	if slices.Sort(got); strings.Join(got, " ") != "browser offline offline" {
		t.Fatalf("sessions: %s", got)
	}
	if claims(t, cli["access_token"])["aud"] != h.URL { // the issuer first, then every resource
		t.Errorf("aud of the command line: %v", claims(t, cli["access_token"])["aud"])
	}
	b.post("/signout", url.Values{"token": {field(t, tokenField, b.get("/signout"))}})
	oauthError(t, h.refreshAs("demo-app", "demo-secret", online["refresh_token"]), 400, "invalid_grant")
	if u := h.bearer("/oauth2/userinfo", online["access_token"]); u.StatusCode != 401 {
		t.Errorf("an online token after signing out: %d", u.StatusCode)
	}
	if a := h.refreshAs("gatehouse-cli", "", cli["refresh_token"]); a.StatusCode != 200 {
		t.Errorf("the command line after signing out: %d %s", a.StatusCode, a.Body)
	}
	if a := h.refreshAs("demo-app", "demo-secret", offline["refresh_token"]); a.StatusCode != 200 {
		t.Errorf("offline access after signing out: %d %s", a.StatusCode, a.Body)
	}
}

// redeemsAtOnce redeems a code 64 times at once: one succeeds at most, and the
// second sight of the code ends what that gave, with its session.
func (b *browser) redeemsAtOnce(t *testing.T, client, secret string, redeem func() answer) {
	t.Helper()
	var mu sync.Mutex
	var good []map[string]any
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			a := redeem()
			mu.Lock()
			defer mu.Unlock()
			if a.StatusCode == 200 {
				good = append(good, a.json(t))
			} else if a.StatusCode != 400 {
				t.Errorf("%d %s", a.StatusCode, a.Body)
			}
		})
	}
	wg.Wait()
	if len(good) > 1 {
		t.Fatalf("%d of 64 redeemed the code", len(good))
	}
	for _, tok := range good {
		if u := b.h.bearer("/oauth2/userinfo", tok["access_token"]); u.StatusCode != 401 {
			t.Errorf("userinfo: %d", u.StatusCode)
		}
		oauthError(t, b.h.refreshAs(client, secret, tok["refresh_token"]), 400, "invalid_grant")
	}
	if got := b.sessions(); len(got) != 1 {
		t.Errorf("sessions: %v", got)
	}
}
