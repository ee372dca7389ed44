//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// A person of a real directory signs in with Chromium, lands on the portal,
// opens the API and the console through the gateway, signs out, and finds both
// closed. StartTLS is verified by the directory's own authority.
func TestBrowserFlowByLDAP(t *testing.T) {
	s := startSlapd(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(`
ldap:
  name: Company directory
  host: 127.0.0.1
  port: %d
  start_tls: true
  ca_file: %s
  base_dn: %s
  bind_dn: %s
  bind_password: %s
  user_filter: (uid=%%s)
  attributes: {username: uid, email: mail, display_name: displayName}
  groups: {base_dn: "%s", filter: "(|(member=%%s)(memberUid=%%u)(uniqueMember=%%s))", name: cn}
  groups_map: {developers: gpu-users}
`, s.port(t, "LDAP_URL"), s["LDAP_CA"], s["LDAP_BASE"], s["LDAP_BIND_DN"], s["LDAP_BIND_PASSWORD"], s["LDAP_BASE"])})
	g := serve(t, dir, []string{"--dev"})
	t.Run("scripts on", func(t *testing.T) { browser(t, nil, "flow.mjs", g.URL, "alice", "alice-secret", "ldap") })
	t.Run("scripts off", func(t *testing.T) { browser(t, []string{"NOJS=1"}, "flow.mjs", g.URL, "alice", "alice-secret", "ldap") })
	if out := g.run("user", "show", "alice"); !strings.Contains(out, `"connector": "ldap"`) {
		t.Fatalf("the account: %s", out)
	}
}
