//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
// person has a name that spoils careless pages, with a route behind which nothing is and one that nobody may use.
func allMethods(t *testing.T) *gatehouse {
	t.Helper()
	dir := t.TempDir()
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
rate_limits: {account_failures: 2, address_failures: 10000, attempts: 100000, stored_attempts: 1}
routes:
  - {name: demo-api, host: api.localhost, upstream: "http://demo-upstream.invalid", audience: demo-api}
  - {name: demo-console, host: "{node}.console.localhost", lease: true}
  - {name: closed, host: closed.localhost, upstream: "http://demo-upstream.invalid", allow: "false"}
  - {name: down, host: down.localhost, upstream: "http://127.0.0.1:%[1]d"}
`, freePort(t))})
	return serve(t, dir, []string{"--dev"})
}

// Every page and state, both languages, both themes, wide and narrow: no
// violation of WCAG 2.2 AA, nothing sideways or clipped, nobody else asked.
func TestBrowserPages(t *testing.T) {
	browser(t, nil, "pages.mjs", allMethods(t).URL, "demo", "demo")
}

// Keyboard, error summary, language and theme without scripts, motion, weight.
func TestBrowserKeyboardAndPreferences(t *testing.T) {
	browser(t, nil, "keyboard.mjs", allMethods(t).URL, "demo", "demo")
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
