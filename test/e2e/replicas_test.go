//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const testSecretKey = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="

// serveTwo starts two replicas of one issuer on one store.
func serveTwo(t *testing.T, store, yaml string) (a, b *gatehouse) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": yaml})
	a = serve(t, dir, []string{"--dev"}, "GATEHOUSE_STORE="+store, "GATEHOUSE_SECRET_KEY="+testSecretKey)
	dir = t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": "issuer: " + a.URL + "\n" + yaml})
	b = serve(t, dir, []string{"--dev"}, "GATEHOUSE_STORE="+store, "GATEHOUSE_SECRET_KEY="+testSecretKey)
	return a, b
}

var formToken = regexp.MustCompile(`name="token" value="([^"]+)"`)

// Two replicas on one Redis: a session of one is known to the other, a code has
// one success, 64 refreshes at once on both make one generation, and what one
// ends the other refuses within a second.
func TestReplicasOnRedis(t *testing.T) {
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", "")
	p := newPerson(t, a)
	if r := p.signIn(p.follow(p.send(http.MethodGet, "/", nil)), "local", "demo", "demo"); r.StatusCode != http.StatusOK {
		t.Fatalf("sign-in: %d", r.StatusCode)
	}
	p.at(b)
	if r := p.send(http.MethodGet, "/account", nil); r.StatusCode != http.StatusOK {
		t.Fatalf("the other replica does not know the session: %d", r.StatusCode)
	}
	// One code, redeemed on both at once.
	code := p.code("openid offline_access")
	codes := make([]int, 2)
	answers := make([]map[string]any, 2)
	var wg sync.WaitGroup
	for i, g := range []*gatehouse{a, b} {
		wg.Go(func() {
			q := newPerson(t, a)
			q.at(g)
			codes[i], answers[i] = q.redeem(code)
		})
	}
	wg.Wait()
	// At most one succeeds, and the other's sight of the code ends what it gave:
	// at once, if it comes before the tokens.
	if codes[0] == http.StatusOK && codes[1] == http.StatusOK {
		t.Fatalf("redeemed on two replicas: %v", answers)
	}
	for _, m := range answers {
		if rt := m["refresh_token"]; rt != nil {
			if status, m := p.refresh(rt); status != http.StatusBadRequest {
				t.Fatalf("a token of a code that was seen twice: %d %v", status, m)
			}
		}
	}
	// A fresh one, and 64 refreshes on both replicas.
	p.at(a)
	_, tok := p.redeem(p.code("openid offline_access"))
	next := make([]string, 64)
	for i := range next {
		wg.Go(func() {
			q := newPerson(t, a)
			q.at([]*gatehouse{a, b}[i%2])
			if status, m := q.refresh(tok["refresh_token"]); status == http.StatusOK {
				next[i], _ = m["refresh_token"].(string)
			}
		})
	}
	wg.Wait()
	for i, n := range next {
		if n == "" || n != next[0] {
			t.Fatalf("refresh %d gave %q, the first %q", i, n, next[0])
		}
	}
	// Signed out on one: the other refuses within a second.
	form := p.send(http.MethodGet, "/signout", nil)
	m := formToken.FindStringSubmatch(form.Body)
	if m == nil {
		t.Fatal("no sign-out form")
	}
	if r := p.send(http.MethodPost, "/signout", url.Values{"token": {m[1]}, "everywhere": {"1"}}); r.StatusCode != http.StatusSeeOther {
		t.Fatalf("sign-out: %d", r.StatusCode)
	}
	ended := time.Now()
	q := newPerson(t, a)
	q.at(b)
	for {
		if status, _ := q.refresh(next[0]); status == http.StatusBadRequest {
			break
		}
		if time.Since(ended) > time.Second {
			t.Fatal("the other replica still refreshes a second after sign-out everywhere")
		}
	}
}

// A session ended on one replica closes the portal on the other.
func TestRevocationOnAnotherReplica(t *testing.T) {
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", "")
	p := newPerson(t, a)
	p.signIn(p.follow(p.send(http.MethodGet, "/", nil)), "local", "demo", "demo")
	p.at(b)
	if r := p.send(http.MethodGet, "/account", nil); r.StatusCode != http.StatusOK { // b now holds it in memory
		t.Fatal(r.StatusCode)
	}
	a.run("user", "suspend", "demo")
	done := time.Now()
	for {
		if r := p.send(http.MethodGet, "/account", nil); r.StatusCode == http.StatusSeeOther {
			return
		}
		if time.Since(done) > time.Second {
			t.Fatal("a suspended user is still in on the other replica after a second")
		}
	}
}

// The callback URL of one sign-in, used again: in the same browser, in another
// one, on the other replica and after a restart. One sign-in, the rest are our
// sign-in page, and GitHub is asked for a token once.
func TestCallbackReplay(t *testing.T) {
	gh := startPeer(t, "github-api", freePorts(t, 2))
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", fmt.Sprintf(`
github: {client_id: gh-client, client_secret: gh-secret, base_url: %q, scopes: ["user:email"]}
outgoing: {allow_private: [127.0.0.0/8]}
`, gh["GITHUB_URL"]))
	p := newPerson(t, a)
	away := p.send(http.MethodGet, "/signin/github?"+attemptOf(t, p.follow(p.send(http.MethodGet, "/", nil))).Encode(), nil)
	callback := githubSignIn(t, away.Header, "alice")
	if r := p.follow(p.send(http.MethodGet, callback, nil)); r.StatusCode != http.StatusOK || r.Request.URL.Path != "/" {
		t.Fatalf("the callback: %d at %s\n%s", r.StatusCode, r.Request.URL, r.Body)
	}
	refused := func(what string, q *person) {
		t.Helper()
		r := q.follow(q.send(http.MethodGet, callback, nil))
		signedIn := q.send(http.MethodGet, "/account", nil).StatusCode == http.StatusOK
		if strings.HasPrefix(what, "another") == signedIn || r.StatusCode >= 500 {
			t.Errorf("%s: %d at %s, signed in: %v", what, r.StatusCode, r.Request.URL, signedIn)
		}
	}
	refused("the same browser", p)
	refused("another browser", newPerson(t, a))
	p.at(b)
	refused("the same browser on the other replica", p)
	q := newPerson(t, a)
	q.at(b)
	refused("another browser on the other replica", q)
	a.stop(syscall.SIGTERM)
	a.start()
	p.at(a)
	refused("the same browser after a restart", p)
	refused("another browser after a restart", newPerson(t, a))
	if _, said := get(t, gh["GITHUB_CONTROL_URL"]); strings.Count(said, "/login/oauth/access_token") != 1 {
		t.Errorf("GitHub was asked for tokens %d times", strings.Count(said, "/login/oauth/access_token"))
	}
}

// Wrong passwords tried on one replica count on the other.
func TestThrottlingIsShared(t *testing.T) {
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", "")
	guesser := newPerson(t, a)
	for i := range 5 {
		if s := guesser.trySignIn("demo", fmt.Sprint("guess", i)); s != http.StatusOK && s != http.StatusUnprocessableEntity && s != http.StatusTooManyRequests {
			t.Fatalf("guess %d: %d", i, s)
		}
	}
	other := newPerson(t, a)
	other.at(b)
	eventually(t, time.Second, "the other replica has counted them", func() bool { return other.trySignIn("demo", "demo") == http.StatusTooManyRequests })
	if s := other.trySignIn("admin", "admin"); s == http.StatusTooManyRequests {
		t.Error("another account pays for it")
	}
}

// Keys are rotated by one replica and used by both.
func TestRotationOnReplicas(t *testing.T) {
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", "")
	kids := func(g *gatehouse) string {
		_, body := get(t, "http://"+g.listening()+"/oauth2/jwks")
		found := regexp.MustCompile(`"kid":"([^"]+)"`).FindAllString(body, -1)
		slices.Sort(found)
		return strings.Join(found, " ")
	}
	before := kids(a)
	if before == "" || before != kids(b) {
		t.Fatalf("the replicas have different keys: %s, %s", before, kids(b))
	}
	var wg sync.WaitGroup
	for _, g := range []*gatehouse{a, b} {
		wg.Go(func() { g.run("keys", "rotate", "ES256") })
	}
	wg.Wait()
	eventually(t, time.Second, "both have the same new keys", func() bool { return kids(a) != before && kids(a) == kids(b) })
	// Two rotations: two keys more, not three.
	if n := strings.Count(kids(a), "kid") - strings.Count(before, "kid"); n != 2 {
		t.Errorf("%d keys more", n)
	}
	p := newPerson(t, a)
	_, tok := p.redeem(p.code("openid"))
	p.at(b)
	if r := p.send(http.MethodGet, "/oauth2/userinfo", nil, "Authorization", "Bearer "+fmt.Sprint(tok["access_token"])); r.StatusCode != http.StatusOK {
		t.Errorf("a token of one replica on the other: %d", r.StatusCode)
	}
}

// attemptOf is the form that a sign-in page posts, without its fields.
func attemptOf(t *testing.T, a page) url.Values {
	t.Helper()
	m := attemptField.FindStringSubmatch(a.Body)
	if m == nil {
		t.Fatalf("no form on the page (%d at %s)", a.StatusCode, a.Request.URL)
	}
	return url.Values{"attempt": {m[1]}}
}

// githubSignIn signs in at the double of GitHub that a departure leads to and
// returns where it sends the browser back to.
func githubSignIn(t *testing.T, departure http.Header, user string) string {
	t.Helper()
	to := departure.Get("Location")
	if _, after, ok := strings.Cut(departure.Get("Refresh"), "url="); to == "" && ok {
		to = after
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.PostForm(to, url.Values{"login": {user}, "password": {user + "-pw"}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	back := resp.Header.Get("Location")
	if !strings.Contains(back, "/callback?") {
		said, _ := io.ReadAll(resp.Body)
		t.Fatalf("GitHub's double at %s: %d %s\n%s", to, resp.StatusCode, back, said)
	}
	return back
}

// A whole broker over Sentinel and over a Cluster, before and after a failover:
// without a restart everything goes on, and what was ended stays so.
func TestBrokerThroughFailover(t *testing.T) {
	for name, address := range map[string]func(*redisPeer) string{
		"redis-sentinel": sentinelURL,
		"redis-cluster":  func(p *redisPeer) string { return "redis+cluster://" + p.addr(0) + "," + p.addr(1) },
	} {
		t.Run(name, func(t *testing.T) {
			peer := startRedis(t, name)
			g := serve(t, t.TempDir(), []string{"--dev"}, "GATEHOUSE_STORE="+address(peer), "GATEHOUSE_SECRET_KEY="+testSecretKey)
			p, left := newPerson(t, g), newPerson(t, g)
			_, tok := p.redeem(p.code("openid offline_access"))
			_, gone := left.redeem(left.code("openid offline_access"))
			kept := newPerson(t, g)
			at, err := left.client.Get(g.URL + "/healthz")
			if err != nil {
				t.Fatal(err)
			}
			at.Body.Close()
			kept.client.Jar.SetCookies(at.Request.URL, left.client.Jar.Cookies(at.Request.URL))
			form := left.signOutForm()
			eventually(t, 10*time.Second, "the sign-out is confirmed", func() bool {
				return left.send(http.MethodPost, "/signout", form).StatusCode == http.StatusSeeOther
			})
			eventually(t, 10*time.Second, "the revocation is confirmed", func() bool {
				r := left.send(http.MethodPost, "/oauth2/revoke", url.Values{"client_id": {"demo-app"}, "client_secret": {"demo-secret"}, "token": {gone["refresh_token"].(string)}})
				return r.StatusCode == http.StatusOK
			})
			peer.run("failover.sh", peer.dir)
			eventually(t, 30*time.Second, "the session goes on", func() bool { return p.send(http.MethodGet, "/account", nil).StatusCode == http.StatusOK })
			eventually(t, 30*time.Second, "the refresh token goes on", func() bool {
				status, m := p.refresh(tok["refresh_token"])
				if status == http.StatusBadRequest {
					t.Fatalf("the refresh token: %v", m)
				}
				return status == http.StatusOK
			})
			if status, m := p.refresh(gone["refresh_token"]); status != http.StatusBadRequest {
				t.Errorf("the revoked refresh token: %d %v", status, m)
			}
			if r := kept.send(http.MethodGet, "/account", nil); r.StatusCode != http.StatusSeeOther {
				t.Errorf("the session that was signed out: %d", r.StatusCode)
			}
			if status, _ := p.redeem(p.code("openid")); status != http.StatusOK {
				t.Errorf("a new code: %d", status)
			}
		})
	}
}
