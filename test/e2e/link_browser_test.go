//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// A person links GitHub to a local account, comes by it with the e-mail address
// first, unlinks it; another comes with an address that has an account, proves
// that and is asked. GitHub is another site: forms that end there go by a page of
// ours. With scripts and without.
func TestBrowserLinks(t *testing.T) {
	gh := startPeer(t, "github-api", freePort(t))
	for name, env := range map[string][]string{"scripts on": nil, "scripts off": {"NOJS=1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(`
github: {client_id: gh-client, client_secret: gh-secret, base_url: "http://localhost:%[1]s", domains: [example.org]}
local:
  name: Demo account
  users:
    - {username: demo, name: Demo Person, email: demo@example.com, password_hash: "%[2]s"}
    - {username: anna, name: Anna Local, email: bob@example.org, password_hash: "%[2]s"}
`, gh["GITHUB_URL"][strings.LastIndexByte(gh["GITHUB_URL"], ':')+1:], "$argon2id$v=19$m=19456,t=2,p=1$mrRp2ryD1oG1tkOpAvBCcw$SZDW+Y2c1en3d0yfC2GKx8l70aDkabRHTSUlBCfJrHQ")})
			browser(t, env, "link.mjs", serve(t, dir, []string{"--dev"}).URL)
		})
	}
}
