package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

func (h *harness) refresh(token any, kv ...string) answer {
	h.t.Helper()
	return h.refreshAs("demo-app", "demo-secret", token, kv...)
}

// ISS-5: 64 at once make one generation; each gets the same refresh token, byte
// for byte, and within the grace so does who comes a little later.
func TestRefreshAtOnce(t *testing.T) {
	t.Parallel()
	h := start(t, "tokens: {refresh_grace: 5m}\n") // 64 at once may take their time
	first := h.tokens()["refresh_token"].(string)
	var mu sync.Mutex
	next, access := map[string]int{}, map[string]bool{}
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			a := h.refresh(first)
			if a.StatusCode != http.StatusOK {
				t.Errorf("%d %s", a.StatusCode, a.Body)
				return
			}
			m := a.json(t)
			mu.Lock()
			defer mu.Unlock()
			next[m["refresh_token"].(string)]++
			access[claims(t, m["access_token"])["jti"].(string)] = true
		})
	}
	wg.Wait()
	if len(next) != 1 || next[first] != 0 {
		t.Fatalf("%d different successors", len(next))
	}
	if len(access) != 64 {
		t.Errorf("%d access tokens of their own", len(access))
	}
	h.wait(4 * time.Minute)
	again := h.refresh(first)
	if again.StatusCode != http.StatusOK || next[again.json(t)["refresh_token"].(string)] != 64 {
		t.Errorf("within the grace: %d %s", again.StatusCode, again.Body)
	}
	// The successor is one generation, not 65.
	for token := range next {
		if a := h.refresh(token); a.StatusCode != http.StatusOK {
			t.Errorf("the successor: %d %s", a.StatusCode, a.Body)
		}
	}
}

// ISS-5: after the grace a used token ends the family, its access tokens and the
// session of its own, and says so; another client's try changes nothing.
func TestRefreshReuse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		yaml   string
		rotate int
		wait   time.Duration
	}{
		"after the grace":           {oauthYAML, 1, 11 * time.Second},
		"an older generation":       {oauthYAML, 2, 0},
		"grace 0":                   {oauthYAML + "tokens: {refresh_grace: 0s}\n", 1, 0},
		"much later, after restart": {oauthYAML, 1, 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t, c.yaml)
			b := h.signedIn()
			first := h.grantOf(b, "demo-secret", authRequest())
			last := first
			for range c.rotate {
				a := h.refresh(last["refresh_token"])
				if a.StatusCode != http.StatusOK {
					t.Fatal(a.Body)
				}
				last = a.json(t)
			}
			h.wait(c.wait)
			if c.wait > time.Hour {
				h.restart()
			}
			// Another client, even one that is authenticated, changes nothing.
			oauthError(t, h.refreshAs("plain", "plain-secret", first["refresh_token"]), 400, "invalid_grant")
			oauthError(t, h.refreshAs("spa", "", first["refresh_token"]), 400, "invalid_grant")
			if n := h.counted("token.refresh_reused"); n != "0" {
				t.Errorf("%s events before", n)
			}
			oauthError(t, h.refresh(first["refresh_token"]), 400, "invalid_grant")
			if n := h.counted("token.refresh_reused"); n != "1" {
				t.Errorf("%s events of a reuse", n)
			}
			oauthError(t, h.refresh(last["refresh_token"]), 400, "invalid_grant")
			oauthError(t, h.bearer("/oauth2/userinfo", last["access_token"]), 401, "invalid_token")
			if n := h.counted("token.refresh_reused"); n != "1" {
				t.Errorf("%s events: an ended family is not reused", n)
			}
			if c.wait < time.Hour {
				if got := b.sessions(); len(got) != 1 || got[0] != "browser" {
					t.Errorf("sessions left: %v", got)
				}
			}
		})
	}
}

// What is refused has used nothing up: the same token is still good after the
// grace is long over.
func TestRefusedRefreshUsesNothingUp(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	rt := h.tokens()["refresh_token"]
	for _, kv := range [][]string{{"scope", "openid deployments:write"}, {"resource", "nowhere"}, {"resource", h.URL}} {
		if a := h.refresh(rt, kv...); a.StatusCode != 400 {
			t.Fatalf("%v: %d %s", kv, a.StatusCode, a.Body)
		}
		h.wait(time.Minute)
	}
	if a := h.refresh(rt); a.StatusCode != http.StatusOK {
		t.Errorf("%d %s", a.StatusCode, a.Body)
	}
	if n := h.counted("token.refresh_reused"); n != "0" {
		t.Errorf("%s events", n)
	}
}

// RFC 6749 section 6, RFC 8707 section 2.2: a refresh may ask for less, or for
// another of the client's resources; what it leaves out is still there next time.
func TestRefreshScopeAndResource(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	tok := h.tokens()
	for _, c := range []struct {
		kv         []string
		scope, aud string
		id         bool
	}{
		{nil, "openid profile email groups offline_access", "demo-api", true},
		{[]string{"scope", "openid email"}, "openid email", "demo-api", true},
		{[]string{"scope", "profile groups"}, "profile groups", "demo-api", false}, // no ID token without openid
		{[]string{"resource", "https://other.example"}, "openid profile email groups offline_access", "other-api", true},
		{[]string{"scope", ""}, "openid profile email groups offline_access", "demo-api", true},
	} {
		a := h.refresh(tok["refresh_token"], c.kv...)
		if a.StatusCode != http.StatusOK {
			t.Fatalf("%v: %d %s", c.kv, a.StatusCode, a.Body)
		}
		first := claims(t, tok["access_token"])
		tok = a.json(t)
		access := claims(t, tok["access_token"])
		if tok["scope"] != c.scope || access["scope"] != c.scope || access["aud"] != c.aud || (tok["id_token"] != nil) != c.id {
			t.Errorf("%v: %v, %v", c.kv, tok, access)
		}
		if access["auth_time"] != first["auth_time"] || access["sub"] != first["sub"] || access["jti"] == first["jti"] {
			t.Errorf("%v: %v after %v", c.kv, access, first)
		}
		if c.id {
			if id := claims(t, tok["id_token"]); id["aud"] != "demo-app" || id["nonce"] != nil || id["sub"] != first["sub"] || id["auth_time"] != first["auth_time"] {
				t.Errorf("ID token of a refresh: %v", id) // OpenID Connect Core section 12.2
			}
		}
	}
}

// The idle and the absolute end of a family.
func TestRefreshEnds(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML+"tokens: {refresh_idle_ttl: 10h, refresh_max_ttl: 25h}\n")
	idle := h.tokens()["refresh_token"]
	used := h.tokens()["refresh_token"]
	for range 3 {
		h.wait(8 * time.Hour)
		a := h.refresh(used)
		if a.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", a.StatusCode, a.Body)
		}
		used = a.json(t)["refresh_token"]
	}
	oauthError(t, h.refresh(idle), 400, "invalid_grant")
	h.wait(2 * time.Hour)
	oauthError(t, h.refresh(used), 400, "invalid_grant")
	if n := h.counted("token.refresh_reused"); n != "0" {
		t.Errorf("%s events: the end of a life is no theft", n)
	}
}

// Consent, the account and the session are asked at every use (ISS-5, SE-10).
func TestRefreshFollowsWhatIsLeftOfIt(t *testing.T) {
	t.Parallel()
	const uri = "https://third.example/cb"
	for name, c := range map[string]struct {
		end    func(h *harness, b *browser)
		online bool
	}{
		"consent taken back": {func(h *harness, b *browser) {
			page := b.get("/account/apps")
			b.post("/account/apps/revoke", url.Values{"token": {field(t, tokenField, page)}, "client": {"third"}})
			if got := b.sessions(); len(got) != 1 {
				h.t.Errorf("sessions left: %v", got)
			}
		}, false},
		"signed out, online":    {func(h *harness, b *browser) { b.signOut("") }, true},
		"signed out everywhere": {func(h *harness, b *browser) { b.signOut("1") }, false},
		"the client is not there": {func(h *harness, b *browser) {
			h.yaml = strings.Replace(oauthYAML, "client_id: third", "client_id: fourth", 1)
			h.restart()
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t, oauthYAML)
			b := h.signedIn()
			q := requestOf("third", uri, "scope", "openid offline_access")
			if c.online {
				q.Set("scope", "openid")
			}
			code := h.back(b.answer(b.ask(q), "allow"), uri, "st&ate=").Get("code")
			tok := h.redeemAs("third-secret", q, code).json(t)
			good := h.refreshAs("third", "third-secret", tok["refresh_token"])
			if good.StatusCode != http.StatusOK {
				t.Fatalf("before: %d %s", good.StatusCode, good.Body)
			}
			tok = good.json(t)
			c.end(h, b)
			a := h.refreshAs("third", "third-secret", tok["refresh_token"])
			if name == "the client is not there" {
				oauthError(t, a, 401, "invalid_client")
				return
			}
			oauthError(t, a, 400, "invalid_grant")
			oauthError(t, h.bearer("/oauth2/userinfo", tok["access_token"]), 401, "invalid_token")
		})
	}
}

func (b *browser) signOut(everywhere string) {
	b.h.t.Helper()
	page := b.get("/signout")
	form := url.Values{"token": {field(b.h.t, tokenField, page)}}
	if everywhere != "" {
		form.Set("everywhere", everywhere)
	}
	if a := b.post("/signout", form); a.StatusCode != http.StatusSeeOther {
		b.h.t.Fatalf("sign-out: %d %s", a.StatusCode, a.Body)
	}
}

// Groups follow: a refresh carries what the connector now says.
func TestRefreshCarriesNewGroups(t *testing.T) {
	t.Parallel()
	local := func(groups string) string {
		return oauthYAML + `
local: {users: [{username: demo, email: demo@example.com, name: Demo, groups: [` + groups + `], password_hash: "$argon2id$v=19$m=19456,t=2,p=1$mrRp2ryD1oG1tkOpAvBCcw$SZDW+Y2c1en3d0yfC2GKx8l70aDkabRHTSUlBCfJrHQ"}]}
`
	}
	h := start(t, local("gpu-users, old"))
	tok := h.tokens()
	groups := func(m map[string]any) string {
		var out []string
		for _, g := range claims(t, m["access_token"])["groups"].([]any) {
			out = append(out, g.(string))
		}
		return strings.Join(out, " ")
	}
	if groups(tok) != "gpu-users old" {
		t.Fatalf("groups: %q", groups(tok))
	}
	h.yaml = local("gpu-users, new")
	h.restart()
	h.wait(16 * time.Minute) // sessions.recheck
	a := h.refresh(tok["refresh_token"])
	if a.StatusCode != http.StatusOK || groups(a.json(t)) != "gpu-users new" {
		t.Fatalf("after: %d %s", a.StatusCode, a.Body)
	}
	// Who is no longer there gets nothing more.
	h.yaml = strings.Replace(local(""), "username: demo", "username: other", 1)
	h.restart()
	h.wait(16 * time.Minute)
	oauthError(t, h.refresh(a.json(t)["refresh_token"]), 400, "invalid_grant")
}
