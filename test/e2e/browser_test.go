//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// browser runs one of test/e2e/browser/*.mjs in headless Chromium.
func browser(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	dir := filepath.Join(root(t), ".peers", "browser")
	if _, err := os.Stat(filepath.Join(dir, "browser.mjs")); err != nil {
		t.Fatalf("%v: install Chromium and its driver with: test/e2e/install.sh core", err)
	}
	raw, err := os.ReadFile(filepath.Join(root(t), "test", "e2e", "browser", name))
	if err != nil {
		t.Fatal(err)
	}
	// By renaming: a test beside this one may be about to read it.
	tmp := filepath.Join(dir, fmt.Sprintf("%s.%s", name, rand.Text()))
	if err := os.WriteFile(tmp, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	out, err := script(t, 6*time.Minute, env, "node", append([]string{filepath.Join(dir, name)}, args...)...)
	t.Log(out)
	if err != nil || strings.Contains(out, "FAIL") || !strings.Contains(out, "PASS") {
		t.Fatalf("%s: %v", name, err)
	}
}

// A person signs in, opens the API and the console, signs out, finds both
// closed; and forms end at clients on another site. With scripts and without.
func TestBrowserFlow(t *testing.T) {
	g := serve(t, t.TempDir(), []string{"--dev"})
	t.Run("scripts on", func(t *testing.T) { browser(t, nil, "flow.mjs", g.URL, "demo", "demo") })
	t.Run("scripts off", func(t *testing.T) { browser(t, []string{"NOJS=1"}, "flow.mjs", g.URL, "demo", "demo") })
}

// allMethods is a server whose sign-in page has every kind of method and whose
// person has a name that spoils careless pages, with a route behind which nothing is, one that is never answered and one
// that nobody may use. The console node-down is on a machine that ends every connection, node-slow on one that says
// nothing, and where the consoles waking-… are to be, nothing listens yet.
func allMethods(t *testing.T) *gatehouse {
	t.Helper()
	dir := t.TempDir()
	silent, hanging := "127.0.0.1:"+fmt.Sprint(freePort(t)), mute(t, false)
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(`
support: help@example.com
time_zone: Asia/Shanghai
github: {client_id: gh-client, client_secret: gh-secret, base_url: "http://127.0.0.1:%[1]d"}
google: {client_id: g-client, client_secret: g-secret, issuer: "http://127.0.0.1:%[1]d"}
ldap: {name: Acme directory, host: 127.0.0.1, port: %[1]d, base_dn: "dc=example,dc=com", bind_dn: "cn=reader,dc=example,dc=com", bind_password: reader}
local:
  name: Demo account
  users:
    - username: demo
      name: "<script>alert(1)</script>\u202e Anna-Maria Wolfeschlegelsteinhausenbergerdorffwelchevoralternwarengewissenhaft"
      email: demo.with.a.long.address.that.does.not.break@a.long.subdomain.of.the.department.example.com
      password_hash: $argon2id$v=19$m=19456,t=2,p=1$mrRp2ryD1oG1tkOpAvBCcw$SZDW+Y2c1en3d0yfC2GKx8l70aDkabRHTSUlBCfJrHQ
      groups: [gpu-users, a-group-with-a-name-that-is-longer-than-a-telephone-is-wide-and-has-no-spaces-either]
    - username: demo-2
      name: "<script>alert(1)</script>\u202e Anna-Maria Wolfeschlegelsteinhausenbergerdorffwelchevoralternwarengewissenhaft"
      email: demo2.with.a.long.address.that.does.not.break@a.long.subdomain.of.the.department.example.com
      password_hash: $argon2id$v=19$m=19456,t=2,p=1$mrRp2ryD1oG1tkOpAvBCcw$SZDW+Y2c1en3d0yfC2GKx8l70aDkabRHTSUlBCfJrHQ
      groups: [gpu-users, a-group-with-a-name-that-is-longer-than-a-telephone-is-wide-and-has-no-spaces-either]
rate_limits: {account_failures: 2, address_failures: 10000, attempts: 100000, stored_attempts: 1}
routes:
  - {name: demo-api, host: api.localhost, upstream: "http://demo-upstream.invalid", audience: demo-api}
  - {name: demo-console, host: "{node}.console.localhost", lease: true}
  - {name: closed, host: closed.localhost, upstream: "http://demo-upstream.invalid", allow: "false"}
  - {name: down, host: down.localhost, upstream: "http://127.0.0.1:%[1]d"}
  - {name: slow, host: slow.localhost, upstream: "http://%[2]s", timeouts: {response_header: 300ms}}
`, freePort(t), hanging)})
	g := serve(t, dir, []string{"--dev"})
	lend := func(id, upstream string) {
		status, said := g.operate(http.MethodPut, "/consoles/"+id, map[string]any{"node": "gpu-17.rack-4.a-machine-room-with-a-name-that-is-too-long-for-a-telephone.example.com",
			"title": "Fine-tuning_of_a_model_whose_name_has_no_spaces_and_no_end " + id, "upstream": upstream, "kind": "jupyter", "groups": []string{"gpu-users"}, "ttl": "1h"})
		if status != http.StatusOK && status != http.StatusCreated {
			t.Fatalf("PUT consoles/%s: %d %v", id, status, said)
		}
	}
	lend("node-down", "http://"+mute(t, true))
	lend("node-slow", "https://"+hanging)
	// One each: what does not listen for five minutes is no longer called waking.
	for _, lang := range []string{"en", "zh-cn"} {
		for _, scheme := range []string{"light", "dark"} {
			for _, width := range []int{1280, 320} {
				lend(fmt.Sprintf("waking-%s-%s-%d", lang, scheme, width), "http://"+silent)
			}
		}
	}
	return g
}

// mute listens, and ends every connection at once or leaves it without an answer.
func mute(t *testing.T, ends bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				if !ends {
					<-done
				}
			})
		}
	})
	t.Cleanup(func() { close(done); l.Close(); all.Wait() })
	return l.Addr().String()
}

// Every page and state, both languages, both themes, wide and narrow: no
// violation of WCAG 2.2 AA, nothing sideways or clipped, nobody else asked.
func TestBrowserPages(t *testing.T) {
	browser(t, nil, "pages.mjs", allMethods(t).URL, "demo", "demo")
}

// Keyboard, error summary, language and theme without scripts, motion, weight.
func TestBrowserKeyboardAndPreferences(t *testing.T) {
	g, port := allMethods(t), freePort(t)
	g.lend("asleep", fmt.Sprintf("http://127.0.0.1:%d", port), "jupyter")
	browser(t, []string{fmt.Sprintf("WAKES=%d", port)}, "keyboard.mjs", g.URL, "demo", "demo")
}

// Forms end at clients on another site (Chromium applies form-action to the
// redirects behind them), and back, reload, second tabs and bookmarks recover.
func TestBrowserRecovers(t *testing.T) {
	gh := startPeer(t, "github-api", freePort(t))
	dir := t.TempDir()
	on, off := fmt.Sprintf("http://localhost:%d/callback", freePort(t)), fmt.Sprintf("http://localhost:%d/callback", freePort(t))
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(`
github: {client_id: gh-client, client_secret: gh-secret, base_url: "http://localhost:%[2]s"}
rate_limits: {attempts: 100000}
clients:
  - {client_id: demo-app, client_secret: demo-secret, client_name: Demo app, redirect_uris: ["%[1]s", "%[3]s"], scope: openid, trusted: true}
  - {client_id: third-party, client_secret: third-secret, client_name: Third party, redirect_uris: ["%[1]s", "%[3]s"], scope: openid profile}
routes:
  - {name: demo-api, host: api.localhost, upstream: "http://demo-upstream.invalid", audience: demo-api}
  - {name: demo-console, host: "{node}.console.localhost", lease: true}
  - {name: closed, host: closed.localhost, upstream: "http://demo-upstream.invalid", allow: "false"}
`, on, gh["GITHUB_URL"][strings.LastIndexByte(gh["GITHUB_URL"], ':')+1:], off)})
	g := serve(t, dir, []string{"--dev"})
	t.Run("scripts on", func(t *testing.T) { t.Parallel(); browser(t, nil, "recover.mjs", g.URL, on, "demo", "demo") })
	t.Run("scripts off", func(t *testing.T) {
		t.Parallel()
		browser(t, []string{"NOJS=1"}, "recover.mjs", g.URL, off, "demo", "demo")
	})
}
