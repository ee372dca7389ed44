package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// signOutHere asks and confirms, here alone.
func (b *browser) signOutHere() {
	b.h.t.Helper()
	a := b.post("/signout", url.Values{"token": {field(b.h.t, tokenField, b.get("/signout"))}, "here": {"1"}})
	if a.StatusCode != http.StatusSeeOther || b.in() {
		b.h.t.Fatalf("signed out with %d, still in: %v", a.StatusCode, b.in())
	}
}

// handle is the session cookie's value.
func (b *browser) handle() string {
	u, _ := url.Parse(b.h.URL)
	for _, c := range b.client.Jar.Cookies(u) {
		if c.Name == "gatehouse" {
			return c.Value
		}
	}
	return ""
}

// again signs in a second time in a browser that is signed in.
func (b *browser) again(user string) {
	b.h.t.Helper()
	if a := b.signIn(b.follow(b.get("/signin/local")), user, user); a.StatusCode != http.StatusOK {
		b.h.t.Fatalf("sign-in: %d", a.StatusCode)
	}
}

// refreshed redeems a refresh token of demo-app.
func (h *harness) refreshed(tok any) answer {
	h.t.Helper()
	return h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tok.(string)}})
}

func online() url.Values {
	q := authRequest()
	q.Set("scope", "openid groups")
	return q
}

// SE-1: every sign-in gives a new handle and the old one is dead; the same
// person goes on in the same session, with its sid and grants; anybody else ends
// it.
func TestHandleChangesAndSessionGoesOn(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	b.enter("demo", "demo")
	old := b.clone()
	first := h.redeem(b.code(online())).json(t)
	sid := claims(t, first["id_token"])["sid"]
	h.wait(time.Hour)
	b.again("demo")
	if b.handle() == old.handle() || len(b.handle()) != 52 {
		t.Errorf("handles: %q, then %q", old.handle(), b.handle())
	}
	if old.in() {
		t.Error("the old handle still works")
	}
	second := h.redeem(b.code(online())).json(t)
	c := claims(t, second["id_token"])
	if c["sid"] != sid {
		t.Errorf("sid %v became %v", sid, c["sid"])
	}
	if at, now := c["auth_time"].(float64), float64(h.now().Unix()); now-at > 60 {
		t.Errorf("auth_time is %v s old after a fresh proof", now-at)
	}
	if a := h.bearer(h.URL+"/oauth2/userinfo", second["access_token"]); a.StatusCode != http.StatusOK {
		t.Errorf("userinfo: %d", a.StatusCode)
	}
	if rows := h.rows(); rows["session"] != 1 {
		t.Errorf("the same person has %d sessions", rows["session"])
	}
	// Somebody else in the same browser.
	before := second["access_token"]
	b.again("admin")
	if a := h.bearer(h.URL+"/oauth2/userinfo", before); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("the token of whoever was here before: %d", a.StatusCode)
	}
	third := h.redeem(b.code(online())).json(t)
	if c := claims(t, third["id_token"]); c["sid"] == sid {
		t.Error("another person goes on in the session")
	}
}

// A handle that nobody gave, be it planted before the sign-in, opens nothing
// afterwards.
func TestPlantedHandle(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	u, _ := url.Parse(h.URL)
	planted := strings.Repeat("A", 52)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "gatehouse", Value: planted, Path: "/"}})
	b.enter("demo", "demo")
	if b.handle() == planted {
		t.Error("the planted handle was kept")
	}
	thief := h.browser()
	thief.client.Jar.SetCookies(u, []*http.Cookie{{Name: "gatehouse", Value: planted, Path: "/"}})
	if thief.in() {
		t.Error("the planted handle was promoted")
	}
	// A name that is there twice is none (SE-2), and is cleared by the sign-in page (SE-6).
	a := h.browser().get("/account", "Cookie", "gatehouse="+b.handle()+"; gatehouse="+planted)
	if a.StatusCode != http.StatusSeeOther {
		t.Errorf("two cookies of one name: %d", a.StatusCode)
	}
	for _, cookie := range []string{"gatehouse=" + b.handle() + "; gatehouse=" + planted, "gatehouse=" + planted, "gatehouse=", `gatehouse="a,b c"`} {
		a := h.browser().get("/signin?attempt="+strings.Repeat("B", 26), "Cookie", cookie)
		if !strings.Contains(strings.Join(a.Header["Set-Cookie"], "\n"), "gatehouse=; Path=/; Max-Age=0") {
			t.Errorf("%s was not cleared: %v", cookie, a.Header["Set-Cookie"])
		}
	}
	if a := b.get("/signin/local"); strings.Contains(strings.Join(a.Header["Set-Cookie"], "\n"), "gatehouse=;") {
		t.Error("a living session's cookie was cleared")
	}
}

// SE-3: idle and absolute limits hold on the server; use keeps a session, not
// beyond max_ttl; the page then says that it ended and keeps the target.
func TestLifetimes(t *testing.T) {
	t.Parallel()
	h := start(t, "sessions: {idle_ttl: 1h, max_ttl: 5h, recheck: 1000h}")
	idle := h.browser()
	idle.enter("demo", "demo")
	used := h.browser()
	used.enter("demo", "demo")
	for range 4 {
		h.wait(50 * time.Minute)
		if !used.in() {
			t.Fatal("a session in use ended early")
		}
		h.restart() // the last use is in the store
	}
	if idle.in() {
		t.Error("an unused session outlived idle_ttl")
	}
	h.wait(50 * time.Minute)
	used.in()
	h.wait(51 * time.Minute)
	if used.in() {
		t.Error("a session outlived max_ttl")
	}
	a := used.follow(used.get("/account/apps"))
	if !strings.Contains(a.Body, "Your session ended") {
		t.Errorf("the page does not say so:\n%s", a.Body)
	}
	if a = used.signIn(a, "demo", "demo"); a.Request.URL.Path != "/account/apps" {
		t.Errorf("it led to %s", a.Request.URL)
	}
	// A new proof begins the absolute limit anew.
	for range 3 {
		h.wait(50 * time.Minute)
		used.in()
	}
	used.again("demo")
	for range 3 {
		h.wait(55 * time.Minute)
		if !used.in() {
			t.Fatal("the limit ran from the first proof")
		}
	}
}

// SE-11: a proof that cannot be renewed (GitHub without organizations) limits a
// browser session to 12 h, whatever max_ttl says.
func TestUnrenewableProof(t *testing.T) {
	t.Parallel()
	gh := startGitHub(t)
	h := start(t, "sessions: {idle_ttl: 24h, max_ttl: 100h}\ngithub: {client_id: app, client_secret: s3cret, base_url: '"+gh.URL+"'}\n")
	b, other := h.browser(), h.browser()
	b.enterBy("7")
	other.enter("demo", "demo")
	tok := h.redeem(b.code(authRequest())).json(t)
	h.wait(11*time.Hour + 59*time.Minute)
	if !b.in() {
		t.Error("it ended early")
	}
	h.wait(2 * time.Minute)
	if b.in() || !other.in() {
		t.Errorf("after 12 h: in by GitHub %v, by a connector that can vouch again %v", b.in(), other.in())
	}
	// Offline ones have 168 h.
	h.wait(155 * time.Hour)
	a := h.refreshed(tok["refresh_token"])
	if a.StatusCode != http.StatusOK {
		t.Fatalf("an offline session before 168 h: %d %s", a.StatusCode, a.Body)
	}
	h.wait(2 * time.Hour)
	if a := h.refreshed(a.json(t)["refresh_token"]); a.StatusCode != http.StatusBadRequest {
		t.Errorf("an offline session after 168 h: %d", a.StatusCode)
	}
}

// SE-10: signing out ends the browser session and its online grants; an offline
// grant has a session of its own and lives; everywhere ends all kinds.
func TestSignOut(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b, phone := h.browser(), h.browser()
	b.enter("demo", "demo")
	phone.enter("demo", "demo")
	on := h.redeem(b.code(online())).json(t)
	off := h.redeem(b.code(authRequest())).json(t)
	// GET asks and changes nothing (SE-4).
	page := b.get("/signout")
	if page.StatusCode != http.StatusOK || !b.in() {
		t.Fatalf("GET: %d, still in %v", page.StatusCode, b.in())
	}
	token := field(t, tokenField, page)
	foreign := field(t, tokenField, phone.get("/signout"))
	for name, a := range map[string]answer{
		"no token":          b.post("/signout", url.Values{}),
		"another session's": b.post("/signout", url.Values{"token": {foreign}}),
		"cross-site":        b.post("/signout", url.Values{"token": {token}}, "Sec-Fetch-Site", "cross-site"),
		"another origin":    b.post("/signout", url.Values{"token": {token}}, "Sec-Fetch-Site", "", "Origin", "https://evil.example"),
	} {
		if a.StatusCode != http.StatusForbidden || !b.in() {
			t.Errorf("%s: %d, still in %v", name, a.StatusCode, b.in())
		}
	}
	stolen := b.clone()
	a := b.post("/signout", url.Values{"token": {token}})
	if a.StatusCode != http.StatusSeeOther || a.location().Path != "/signed-out" || b.handle() != "" || stolen.in() {
		t.Errorf("signed out: %d to %s, cookie %q, a copy of it in %v", a.StatusCode, a.location(), b.handle(), stolen.in())
	}
	if a := h.bearer(h.URL+"/oauth2/userinfo", on["access_token"]); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("the online token: %d", a.StatusCode)
	}
	r := h.refreshed(off["refresh_token"])
	if r.StatusCode != http.StatusOK || !phone.in() {
		t.Fatalf("the offline grant: %d, the other browser in: %v", r.StatusCode, phone.in())
	}
	// Again, by somebody who is out already: no error.
	if a := b.post("/signout", url.Values{"token": {token}}); a.StatusCode != http.StatusSeeOther {
		t.Errorf("a second time: %d", a.StatusCode)
	}
	b.enter("demo", "demo")
	if a := b.post("/signout", url.Values{"token": {field(t, tokenField, b.get("/signout"))}, "everywhere": {"1"}}); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("everywhere: %d", a.StatusCode)
	}
	if r := h.refreshed(r.json(t)["refresh_token"]); b.in() || phone.in() || r.StatusCode != http.StatusBadRequest {
		t.Errorf("everywhere: here %v, there %v, offline %d", b.in(), phone.in(), r.StatusCode)
	}
	b.enter("demo", "demo") // and in again
}

// The list shows devices and addresses; one or all others can be ended, and
// nobody else's.
func TestSessionList(t *testing.T) {
	t.Parallel()
	h := start(t, "trusted_proxies: [127.0.0.1/32]")
	b, phone, tablet, other := h.browser(), h.browser(), h.browser(), h.browser()
	phone.Header.Set("User-Agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1")
	phone.Header.Set("X-Forwarded-For", "192.0.2.77")
	for _, x := range []*browser{b, phone, tablet} {
		x.enter("demo", "demo")
	}
	other.enter("admin", "admin")
	sessions := func(x *browser) map[string]string { // id: address
		out := map[string]string{}
		for _, v := range x.get("/api/v1/me/sessions").json(t)["items"].([]any) {
			out[v.(map[string]any)["id"].(string)], _ = v.(map[string]any)["ip"].(string)
		}
		return out
	}
	page := b.get("/account/sessions")
	for _, want := range []string{"Safari · iPhone", "Chrome · Linux", "192.0.2.77"} {
		if !strings.Contains(page.Body, want) {
			t.Errorf("the list lacks %q", want)
		}
	}
	phoneID := ""
	for id, ip := range sessions(b) {
		if ip == "192.0.2.77" {
			phoneID = id
		}
	}
	foreign := ""
	for id := range sessions(other) {
		foreign = id
	}
	token := field(t, tokenField, page)
	if a := b.post("/account/sessions/end", url.Values{"token": {token}, "session": {foreign}}); a.StatusCode != http.StatusNotFound || !other.in() {
		t.Errorf("somebody else's session: %d, still in %v", a.StatusCode, other.in())
	}
	if a := b.post("/account/sessions/end", url.Values{"session": {phoneID}}); a.StatusCode != http.StatusForbidden || !phone.in() {
		t.Errorf("without a token: %d, still in %v", a.StatusCode, phone.in())
	}
	if a := b.post("/account/sessions/end", url.Values{"token": {token}, "session": {phoneID}}); a.StatusCode != http.StatusSeeOther || phone.in() || !tablet.in() {
		t.Errorf("one ended: %d, phone in %v, tablet in %v", a.StatusCode, phone.in(), tablet.in())
	}
	if a := b.post("/account/sessions/end-others", url.Values{"token": {token}}); a.StatusCode != http.StatusSeeOther || tablet.in() || !b.in() || !other.in() {
		t.Errorf("the others ended: %d, tablet in %v, here %v, somebody else %v", a.StatusCode, tablet.in(), b.in(), other.in())
	}
	if n := len(sessions(b)); n != 1 {
		t.Errorf("%d sessions are listed", n)
	}
}
