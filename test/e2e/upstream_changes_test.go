//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// ldapSection configures the directory, with developers as those who may use
// the demo console; more are lines of the file.
func (s slapd) ldapSection(t *testing.T, more string) string {
	t.Helper()
	return fmt.Sprintf(`
ldap:
  host: 127.0.0.1
  port: %d
  ca_file: %s
  base_dn: %s
  bind_dn: %s
  bind_password: %s
  groups: {base_dn: "ou=groups,%[3]s"}
  groups_map: {developers: gpu-users}
%[6]s
`, s.port(t, "LDAP_URL"), s["LDAP_CA"], s["LDAP_BASE"], s["LDAP_BIND_DN"], s["LDAP_BIND_PASSWORD"], more)
}

func enterBy(t *testing.T, g *gatehouse, connector, user, password string) *person {
	t.Helper()
	p := newPerson(t, g)
	if a := p.signIn(p.follow(p.send(http.MethodGet, "/account", nil)), connector, user, password); a.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d at %s", user, a.StatusCode, a.Request.URL)
	}
	return p
}

// The group is deleted in the directory, and then a person, while nothing but a
// console's WebSocket is open: closed within sessions.recheck and a second.
func TestLDAPChangesReachConsoles(t *testing.T) {
	s := startSlapd(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": s.ldapSection(t, "sessions: {recheck: 2s}")})
	g := serve(t, dir, []string{"--dev"})
	alice, bob := enterBy(t, g, "ldap", "alice", "alice-secret"), enterBy(t, g, "ldap", "bob", "bob-secret")
	atAlice, atBob := alice.console(t, g), bob.console(t, g)
	_, tokens := bob.redeem(bob.code("openid offline_access groups"))
	s.modify(t, "dn: uid=bob,ou=people,dc=example,dc=com\nchangetype: delete\n")
	if code := atBob.closed(3 * time.Second); code != 4401 {
		t.Errorf("the deleted person's socket is closed with %d", code)
	}
	if status, m := bob.refresh(tokens["refresh_token"]); status != http.StatusBadRequest || m["error"] != "invalid_grant" {
		t.Errorf("the deleted person's refresh: %d %v", status, m)
	}
	if err := atAlice.echo("still here"); err != nil {
		t.Errorf("the colleague: %v", err)
	}
	s.modify(t, "dn: cn=developers,ou=groups,dc=example,dc=com\nchangetype: delete\n")
	if code := atAlice.closed(3 * time.Second); code != 4403 {
		t.Errorf("the socket of a member of the deleted group is closed with %d", code)
	}
	if a := alice.send(http.MethodGet, "/account", nil); a.StatusCode != http.StatusOK {
		t.Errorf("a member of the deleted group is out altogether: %d", a.StatusCode)
	}
}

// The membership ends at GitHub, likewise.
func TestGitHubChangesReachConsoles(t *testing.T) {
	h := startGitHub(t, "  organizations: [{name: acme}]\n  groups_map: {acme: gpu-users}\n")
	p := newPerson(t, h.g)
	if a := h.enter(p, "alice"); a.StatusCode != http.StatusOK {
		t.Fatalf("alice: %d", a.StatusCode)
	}
	s := p.console(t, h.g)
	if err := s.echo("hello"); err != nil {
		t.Fatal(err)
	}
	h.hostile("left-orgs")
	if code := s.closed(2 * time.Second); code != 4401 { // sessions.recheck is 1s there
		t.Errorf("the socket of who left the organization is closed with %d", code)
	}
}
