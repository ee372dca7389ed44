//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// byDirectory starts the program before a directory, as transport says.
func (s slapd) byDirectory(t *testing.T, port int, transport string) *gatehouse {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(`
ldap:
  name: Company directory
  host: 127.0.0.1
  port: %d
  %s
  base_dn: %s
  bind_dn: %s
  bind_password: %s
  user_filter: (uid=%%s)
  attributes: {username: uid, email: mail, display_name: displayName}
  groups: {base_dn: "%s", filter: "(|(member=%%s)(memberUid=%%u)(uniqueMember=%%s))", name: cn}
  groups_map: {developers: gpu-users}
`, port, transport, s["LDAP_BASE"], s["LDAP_BIND_DN"], s["LDAP_BIND_PASSWORD"], s["LDAP_BASE"])})
	return serve(t, dir, []string{"--dev"})
}

// A person of a real directory signs in with Chromium, lands on the portal,
// opens the API and the console through the gateway, signs out, and finds both
// closed. StartTLS and LDAPS are verified by the directory's own authority.
func TestBrowserFlowByLDAP(t *testing.T) {
	s := startSlapd(t)
	g := s.byDirectory(t, s.port(t, "LDAP_URL"), "start_tls: true\n  ca_file: "+s["LDAP_CA"])
	t.Run("StartTLS, scripts on", func(t *testing.T) { browser(t, nil, "flow.mjs", g.URL, "alice", "alice-secret", "ldap") })
	if out := g.run("user", "show", "alice"); !strings.Contains(out, `"connector": "ldap"`) {
		t.Fatalf("the account: %s", out)
	}
	g = s.byDirectory(t, s.port(t, "LDAPS_URL"), "use_ssl: true\n  ca_file: "+s["LDAP_CA"])
	t.Run("LDAPS, scripts off", func(t *testing.T) { browser(t, []string{"NOJS=1"}, "flow.mjs", g.URL, "alice", "alice-secret", "ldap") })
}
