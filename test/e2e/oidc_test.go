//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// upstream is an independent OpenID provider (test/peers/oidc-provider, or with
// the claims of Google and GitLab), and the program in front of it.
type upstream struct {
	t    *testing.T
	g    *gatehouse
	vars map[string]string
}

// startUpstream starts the program first: it comes up without its upstream, and
// asks for discovery when somebody needs it. ISSUER in config is the provider's,
// KEYFILE the file of a client's key.
func startUpstream(t *testing.T, peer, config string, env ...string) *upstream {
	t.Helper()
	return startUpstreamAt(t, peer, "", config, env...)
}

// startUpstreamAt is startUpstream for an issuer with a path.
func startUpstreamAt(t *testing.T, peer, path, config string, env ...string) *upstream {
	t.Helper()
	port := freePort(t)
	dir := t.TempDir()
	key := dir + "/client-key.pem"
	write(t, dir, map[string]string{"config/gatehouse.yml": strings.NewReplacer("ISSUER", fmt.Sprintf("http://127.0.0.1:%d%s", port, path), "KEYFILE", key).Replace(config), "client-key.pem": ""})
	if out, err := script(t, time.Minute, nil, "openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	u := &upstream{t: t, g: serve(t, dir, []string{"--dev"})}
	u.vars = startPeer(t, peer, port, append(env, "BACKCHANNEL_LOGOUT_URI="+u.g.URL+"/auth/idp/backchannel-logout", "CLIENT_KEY="+key)...)
	time.Sleep(2 * time.Second) // a provider that did not answer is asked again no sooner
	return u
}

// control posts to the provider's control endpoint.
func (u *upstream) control(path string) {
	u.t.Helper()
	resp, err := http.Post(u.vars["OIDC_CONTROL_URL"]+path, "text/plain", nil)
	if err != nil {
		u.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		u.t.Fatalf("control %s: %d", path, resp.StatusCode)
	}
}

// hostile makes the provider misbehave; without a name it behaves again.
func (u *upstream) hostile(name string) { u.control("?hostile=" + name) }

// traveller is a browser that follows to the provider and stops on the way back.
type traveller struct {
	*http.Client
	own string // the program's host
}

func (u *upstream) traveller() *traveller {
	u.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		u.t.Fatal(err)
	}
	v := &traveller{own: strings.TrimPrefix(u.g.URL, "http://")}
	v.Client = &http.Client{Jar: jar, Timeout: 40 * time.Second, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Host == v.own {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	return v
}

// depart goes to a connector's button and returns the departure.
func (u *upstream) depart(p *person, connector string) *url.URL {
	u.t.Helper()
	a := p.follow(p.send(http.MethodGet, "/", nil))
	m := regexp.MustCompile(`href="(/signin/` + connector + `\?attempt=[A-Z2-7]{26})"`).FindStringSubmatch(a.Body)
	if m == nil {
		u.t.Fatalf("%s is not on the page (%d):\n%s", connector, a.StatusCode, a.Body)
	}
	to, err := p.send(http.MethodGet, m[1], nil).Location()
	if err != nil {
		return nil
	}
	return to
}

// away signs in at the provider and returns the address that it sends back to.
func (u *upstream) away(v *traveller, to *url.URL, form url.Values) string {
	u.t.Helper()
	resp, err := v.Get(to.String())
	if err != nil {
		u.t.Fatal(err)
	}
	resp.Body.Close()
	// The sign-in page, and one of consent where that was asked for.
	for range 3 {
		if resp.StatusCode != http.StatusOK || !strings.Contains(resp.Request.URL.Path, "/interaction/") {
			break
		}
		if resp, err = v.PostForm(resp.Request.URL.String(), form); err != nil {
			u.t.Fatal(err)
		}
		resp.Body.Close()
	}
	back, err := resp.Location()
	if err != nil {
		u.t.Fatalf("the provider answered %d at %s", resp.StatusCode, resp.Request.URL)
	}
	return back.String()
}

// enter signs in as a user of the provider and returns the page where it ended.
func (u *upstream) enter(p *person, connector, user string) page {
	u.t.Helper()
	to := u.depart(p, connector)
	if to == nil {
		return page{Response: &http.Response{StatusCode: http.StatusServiceUnavailable}}
	}
	return p.follow(p.send(http.MethodGet, u.away(u.traveller(), to, url.Values{"login": {user}, "password": {user + "-pw"}}), nil))
}

// me is the person as the portal's own page knows them; nil when signed out.
func (u *upstream) me(p *person) map[string]any {
	u.t.Helper()
	a := p.send(http.MethodGet, "/api/v1/me", nil, "Sec-Fetch-Site", "same-origin")
	if a.StatusCode != http.StatusOK {
		return nil
	}
	m := map[string]any{}
	if err := json.Unmarshal([]byte(a.Body), &m); err != nil {
		u.t.Fatal(err)
	}
	return m
}

const genericOIDC = `
roles: {admin: ["local:admin", "group:admins"]}
sessions: {recheck: 1s, recheck_grace: 4h}
connectors:
  - {id: idp, type: oidc, issuer: ISSUER, client_id: broker, client_secret: broker-secret, groups_map: {staff: gpu-users}}
  - {id: post, type: oidc, issuer: ISSUER, client_id: broker-post, client_secret: broker-secret, token_endpoint_auth_method: client_secret_post}
  - {id: public, type: oidc, issuer: ISSUER, client_id: broker-public}
  - {id: pkjwt, type: oidc, issuer: ISSUER, client_id: broker-pkjwt, private_key_file: KEYFILE, private_key_id: client-1}
  - {id: mapped, type: oidc, issuer: ISSUER, client_id: broker, client_secret: broker-secret, claims: {username: 'claims.sub + "-x"', groups: '["a", "b"]'}, allow: "identity.claims.email_verified == true"}
`

// The built program against a certified provider: every way of client
// authentication, claims by expression, users of every kind, a new key, a
// renewal at a provider that rotates, and sign-out that comes from there.
func TestOIDC(t *testing.T) {
	u := startUpstream(t, "oidc-provider", genericOIDC)
	alice := newPerson(t, u.g)
	to := u.depart(alice, "idp")
	if to == nil {
		t.Fatalf("no departure\n%s", u.g.out)
	}
	q := to.Query()
	if q.Get("code_challenge_method") != "S256" || q.Get("nonce") == "" || q.Get("redirect_uri") != u.g.URL+"/auth/idp/callback" || !strings.Contains(q.Get("scope"), "offline_access") {
		t.Errorf("departure to %s", to)
	}
	browser := u.traveller()
	back := u.away(browser, to, url.Values{"login": {"alice"}, "password": {"alice-pw"}})
	if a := alice.follow(alice.send(http.MethodGet, back, nil)); a.StatusCode != http.StatusOK || a.Request.URL.Path != "/" {
		t.Fatalf("back at %s: %d\n%s", a.Request.URL, a.StatusCode, u.g.out)
	}
	me := u.me(alice)
	if me["email"] != "alice@example.org" || me["email_verified"] != true || me["connector"] != "idp" || fmt.Sprint(me["groups"]) != "[idp:admins gpu-users]" && fmt.Sprint(me["groups"]) != "[gpu-users idp:admins]" || me["roles"] != nil && fmt.Sprint(me["roles"]) != "[]" {
		t.Errorf("me: %v", me)
	}
	// The same answer again, here and in another browser: our sign-in page.
	for _, who := range []*person{alice, newPerson(t, u.g)} {
		if a := who.send(http.MethodGet, back, nil); a.StatusCode != http.StatusOK || a.Header.Get("Location") != "" {
			t.Errorf("a second time: %d to %q", a.StatusCode, a.Header.Get("Location"))
		}
	}
	// Each somebody of whom no address is known yet: else they were asked to link.
	for c, user := range map[string]string{"post": "nomail", "public": "nomail", "pkjwt": "nomail", "mapped": "bob"} {
		p := newPerson(t, u.g)
		if a := u.enter(p, c, user); a.StatusCode != http.StatusOK || u.me(p)["connector"] != c {
			t.Errorf("%s: %d, %v\n%s", c, a.StatusCode, u.me(p), u.g.out)
		} else if c == "mapped" && (u.me(p)["username"] != "u-1002-x" || fmt.Sprint(u.me(p)["groups"]) != "[mapped:a mapped:b]") {
			t.Errorf("mapped: %v", u.me(p))
		}
	}
	for user, check := range map[string]func(m map[string]any) bool{
		"nomail": func(m map[string]any) bool { return m["email"] == nil },
		"many":   func(m map[string]any) bool { return len(m["groups"].([]any)) == 300 },
		"zoe":    func(m map[string]any) bool { return m["name"] == `Zoë <b>&" 张三` && len(m["groups"].([]any)) == 2 },
	} {
		p := newPerson(t, u.g)
		if a := u.enter(p, "idp", user); a.StatusCode != http.StatusOK || !check(u.me(p)) {
			t.Errorf("%s: %d %v", user, a.StatusCode, u.me(p))
		}
	}
	// Not alice, with alice's address.
	p := newPerson(t, u.g)
	u.enter(p, "idp", "unverified")
	if m := u.me(p); m != nil && (m["id"] == me["id"] || m["email_verified"] == true) {
		t.Errorf("an unverified address: %v", m)
	}
	u.control("/rotate")
	if a := u.enter(newPerson(t, u.g), "idp", "many"); a.StatusCode != http.StatusOK {
		t.Errorf("after a new key: %d", a.StatusCode)
	}
	// A second use of an old refresh token would end everything there: three
	// renewals in a row.
	for range 3 {
		time.Sleep(1100 * time.Millisecond)
		if u.me(alice) == nil {
			t.Fatalf("alice is out after a renewal\n%s", u.g.out)
		}
	}
	u.signOutThere(browser)
	for range 50 {
		if u.me(alice) == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("alice is still in after she signed out at the provider\n%s", u.g.out)
}

// signOutThere ends a browser's session at the provider, which tells us.
func (u *upstream) signOutThere(v *traveller) {
	u.t.Helper()
	resp, err := v.Get(u.vars["OIDC_ISSUER"] + "/session/end")
	if err != nil {
		u.t.Fatal(err)
	}
	var body strings.Builder
	buf := make([]byte, 64<<10)
	n, _ := resp.Body.Read(buf)
	body.Write(buf[:n])
	resp.Body.Close()
	xsrf := regexp.MustCompile(`name="xsrf" value="([^"]+)"`).FindStringSubmatch(body.String())
	if xsrf == nil {
		u.t.Fatalf("the provider's sign-out page: %d\n%s", resp.StatusCode, body.String())
	}
	if resp, err = v.PostForm(u.vars["OIDC_ISSUER"]+"/session/end/confirm", url.Values{"xsrf": {xsrf[1]}, "logout": {"yes"}}); err != nil {
		u.t.Fatal(err)
	}
	resp.Body.Close()
}

// A person in Chromium, by a provider.
func TestOIDCInABrowser(t *testing.T) {
	u := startUpstream(t, "oidc-provider", genericOIDC)
	browser(t, nil, "upstream.mjs", u.g.URL, "idp", "alice", "alice-pw")
}

// What the provider may do instead, all that test/peers/oidc-provider/hostile.js
// knows but what takes long: who gets in, and as whom.
func TestOIDCHostile(t *testing.T) {
	u := startUpstream(t, "oidc-provider", genericOIDC)
	alice := newPerson(t, u.g)
	u.enter(alice, "idp", "alice")
	id := u.me(alice)["id"]
	refused := map[string]int{
		"wrong-nonce": 502, "no-nonce": 502, "wrong-aud": 502, "extra-aud": 502, "wrong-azp": 502, "wrong-iss": 502, "iss-slash": 502, "iss-no-scheme": 502,
		"expired": 502, "no-exp": 502, "future-iat": 502, "no-sub": 502, "empty-sub": 502, "numeric-sub": 502, "wrong-at-hash": 502,
		"bad-signature": 502, "other-key": 502, "alg-none": 502, "alg-hs256-secret": 502, "alg-hs256-jwks": 502, "unknown-kid": 502, "no-id-token": 502,
		"userinfo-other-sub": 502, "userinfo-500": 503, "token-500": 503, "token-html": 502, "token-huge": 502, "groups-objects": 403,
		"callback-wrong-iss": 502, "callback-no-iss": 502, "callback-wrong-state": 200,
	}
	for name, want := range refused {
		u.hostile(name)
		p := newPerson(t, u.g)
		a := u.enter(p, "idp", "alice")
		if a.StatusCode != want || u.me(p) != nil {
			t.Errorf("%s: %d, want %d; signed in: %v", name, a.StatusCode, want, u.me(p))
		}
	}
	for name, check := range map[string]func(m map[string]any) bool{
		"unverified-email": func(m map[string]any) bool { return m["email_verified"] != true }, "no-email-verified": func(m map[string]any) bool { return m["email_verified"] != true },
		"string-email-verified": func(m map[string]any) bool { return m["email_verified"] != true }, "no-email": func(m map[string]any) bool { return m["email_verified"] != true },
		"groups-string": func(m map[string]any) bool { return fmt.Sprint(m["groups"]) == "[idp:admins]" }, "no-kid": func(map[string]any) bool { return true },
		"jwks-500": func(map[string]any) bool { return true }, "jwks-empty": func(map[string]any) bool { return true }, // the keys are known
		"discovery-500": func(map[string]any) bool { return true }, "discovery-other-issuer": func(map[string]any) bool { return true },
	} {
		u.hostile(name)
		p := newPerson(t, u.g)
		a := u.enter(p, "idp", "alice")
		if m := u.me(p); m == nil || m["id"] != id || !check(m) {
			t.Errorf("%s: %d %v", name, a.StatusCode, m)
		}
	}
	// The same where nothing is known yet.
	for _, name := range []string{"jwks-500", "jwks-empty", "discovery-500", "discovery-other-issuer"} {
		u.hostile(name)
		u.g.stop(syscall.SIGTERM)
		u.g.start()
		p := newPerson(t, u.g)
		if a := u.enter(p, "idp", "alice"); u.me(p) != nil || a.StatusCode < 500 {
			t.Errorf("%s at the start: %d, signed in: %v", name, a.StatusCode, u.me(p))
		}
	}
	u.hostile("")
	time.Sleep(2 * time.Second) // an answer is asked for again no sooner
	p := newPerson(t, u.g)
	if u.enter(p, "idp", "alice"); u.me(p)["id"] != id {
		t.Errorf("afterwards: %v\n%s", u.me(p), u.g.out)
	}
	if out := u.g.out.String(); strings.Contains(out, "broker-secret") || strings.Contains(out, "eyJ") {
		t.Error("the log holds a secret or a token")
	}
}

// Google's claims: only the hd claim of the ID token says who is of the
// Workspace.
func TestGoogle(t *testing.T) {
	u := startUpstream(t, "google-api", `
sessions: {recheck: 1s, recheck_grace: 4h}
google: {client_id: broker-post, client_secret: broker-secret, issuer: ISSUER, hosted_domains: [example.com]}
`)
	for user, want := range map[string]int{"alice": 200, "unverified": 200, "personal": 403, "thirdparty": 403, "otherdomain": 403} {
		p := newPerson(t, u.g)
		a := u.enter(p, "google", user)
		m := u.me(p)
		if a.StatusCode != want || (m != nil) != (want == 200) {
			t.Errorf("%s: %d, want %d; %v\n%s", user, a.StatusCode, want, m, u.g.out)
			continue
		}
		if m != nil && (m["email_verified"] == true) != (user == "alice") {
			t.Errorf("%s: %v", user, m)
		}
		if user == "alice" {
			time.Sleep(1100 * time.Millisecond)
			if u.me(p) == nil {
				t.Errorf("alice is out after a renewal\n%s", u.g.out)
			}
		}
	}
}

// GitLab's claims: groups in userinfo alone, compared whole, and by number.
func TestGitLab(t *testing.T) {
	u := startUpstream(t, "gitlab-api", `
sessions: {recheck: 1s, recheck_grace: 4h}
gitlab: {client_id: broker, client_secret: broker-secret, base_url: ISSUER, groups: [acme/platform]}
connectors:
  - {id: all, type: gitlab, client_id: broker, client_secret: broker-secret, base_url: ISSUER, scopes: [openid, profile, email, read_user]}
  - {id: numbered, type: gitlab, client_id: broker, client_secret: broker-secret, base_url: ISSUER, groups: [acme/platform], group_ids: {acme/platform: 101}}
  - {id: another, type: gitlab, client_id: broker, client_secret: broker-secret, base_url: ISSUER, groups: [acme/platform], group_ids: {acme/platform: 100}}
`)
	for _, tc := range []struct {
		connector, user string
		want            int
		groups          string
	}{
		{"gitlab", "alice", 200, "[gitlab:acme/platform gitlab:acme/platform/sre]"}, {"gitlab", "bob", 403, ""}, {"gitlab", "unverified", 403, ""},
		{"all", "bob", 200, "[all:acme]"}, {"another", "alice", 403, ""},
		{"numbered", "alice", http.StatusConflict, ""}, // in the group, and asked whether she is the alice who came before
	} {
		p := newPerson(t, u.g)
		a := u.enter(p, tc.connector, tc.user)
		m := u.me(p)
		if a.StatusCode != tc.want || m != nil && fmt.Sprint(m["groups"]) != tc.groups || (m != nil) != (tc.want == 200) {
			t.Errorf("%s by %s: %d, want %d; %v\n%s", tc.user, tc.connector, a.StatusCode, tc.want, m, u.g.out)
		}
	}
	p := newPerson(t, u.g)
	if u.enter(p, "all", "many"); len(u.me(p)["groups"].([]any)) != 130 {
		t.Errorf("many: %d groups", len(u.me(p)["groups"].([]any)))
	}
}
