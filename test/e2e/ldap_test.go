//go:build e2e

package e2e

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/ldap"
)

// slapd is a running OpenLDAP of test/peers/slapd.
type slapd map[string]string

func startSlapd(t *testing.T, env ...string) slapd {
	t.Helper()
	return startPeer(t, "slapd", freePorts(t, 2), env...)
}

// connector opens the connector for this directory.
func (s slapd) connector(t *testing.T, change func(*ldap.Config)) *ldap.Connector {
	t.Helper()
	cfg := ldap.Config{
		Host: "127.0.0.1", Port: s.port(t, "LDAP_URL"), CAFile: s["LDAP_CA"], BaseDN: s["LDAP_BASE"],
		BindDN: s["LDAP_BIND_DN"], BindPassword: redact.String(s["LDAP_BIND_PASSWORD"]),
	}
	if change != nil {
		change(&cfg)
	}
	c, err := ldap.Open(connectors.Env{ID: "corp", Log: slog.New(slog.DiscardHandler), Now: time.Now}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	lc := c.(*ldap.Connector)
	t.Cleanup(func() { _ = lc.Close() })
	return lc
}

func (s slapd) port(t *testing.T, key string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(s[key][strings.LastIndexByte(s[key], '/')+1:])
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// modify changes entries as the directory's administrator.
func (s slapd) modify(t *testing.T, ldif string) {
	t.Helper()
	cmd := exec.Command("ldapmodify", "-x", "-H", s["LDAP_URL"], "-ZZ", "-e", "!relax", "-D", s["LDAP_ADMIN_DN"], "-w", s["LDAP_ADMIN_PASSWORD"])
	cmd.Env = append(cmd.Environ(), "LDAPTLS_CACERT="+s["LDAP_CA"], "LDAPTLS_REQCERT=demand", "LDAPRC=none")
	cmd.Stdin = strings.NewReader(ldif)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ldapmodify: %v: %s", err, out)
	}
}

// The same people sign in over StartTLS and LDAPS; names and passwords that
// have misled others do not.
func TestLDAPSignIn(t *testing.T) {
	s := startSlapd(t, "REQUIRE_TLS=1", "ALLOW_EMPTY_PASSWORD=1")
	for name, change := range map[string]func(*ldap.Config){
		"StartTLS": nil,
		"LDAPS":    func(c *ldap.Config) { c.UseSSL, c.Port = true, s.port(t, "LDAPS_URL") },
		"by name":  func(c *ldap.Config) { c.Host = "localhost" },
	} {
		t.Run(name, func(t *testing.T) {
			c := s.connector(t, change)
			if err := c.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			for login, want := range map[string][3]string{ // user name, name, mail
				"alice": {"alice", "Alice Adams", "alice@example.com"}, "ALICE": {"alice", "Alice Adams", "alice@example.com"},
				"nomail": {"nomail", "Norman Nomail", ""}, "multimail": {"multimail", "Mona Multi", "mona@example.com"},
				"comma": {"comma", "Doe, John", "comma@example.com"}, "quote": {"quote", `Pat "The Quote" O'Neil`, "quote@example.com"},
				"zhangwei": {"zhangwei", "张伟", "zhangwei@example.com"}, "plus": {"plus", "One+Two", "one+two@example.com"},
				"multirdn": {"multirdn", "Mary Multi", "multirdn@example.com"}, "special": {"special", `#hash <angle> semi; equals= back\slash`, "special@example.com"},
				"st*r": {"st*r", "Star", "star@example.com"}, "paren(x)": {"paren(x)", "Paren (the bracket)", "paren@example.com"},
			} {
				id, err := c.Authenticate(t.Context(), login, strings.ToLower(login)+"-secret")
				if err != nil {
					t.Errorf("%s: %v", login, err)
					continue
				}
				if got := [3]string{id.Username, id.Name, id.Email}; got != want || len(id.Subject) != 36 || id.EmailVerified {
					t.Errorf("%s: %q %+v, want %q", login, got, id, want)
				}
			}
			for _, in := range [][2]string{
				{"alice", "wrong"}, {"alice", ""}, {"alice", " "}, {"alice", "alice-secret\x00"}, {"alice", "alice-secret "}, {"nobody", "x"},
				{"*", "alice-secret"}, {"al*", "alice-secret"}, {"alice)(uid=*", "alice-secret"}, {"*)(uid=*))(|(uid=*", "alice-secret"},
				{"nopassword", "x"}, {"locked", "locked-secret"}, {"st*r", "strict-secret"}, {"uid=alice,ou=people,dc=example,dc=com", "alice-secret"},
			} {
				_, err := c.Authenticate(t.Context(), in[0], in[1])
				var r *connectors.Refusal
				if !errors.Is(err, connectors.ErrBadCredentials) || errors.As(err, &r) || strings.Contains(err.Error(), "dc=") {
					t.Errorf("%q: %v", in, err)
				}
			}
			for login, code := range map[string]string{"expired": "password_expired", "mustchange": "must_change_password"} {
				_, err := c.Authenticate(t.Context(), login, login+"-secret")
				var r *connectors.Refusal
				if !errors.As(err, &r) || r.Code != code {
					t.Errorf("%s: %v", login, err)
				}
				// Without the password nobody learns of it.
				if _, err := c.Authenticate(t.Context(), login, "wrong"); !errors.Is(err, connectors.ErrBadCredentials) {
					t.Errorf("%s: %v", login, err)
				}
			}
		})
	}
	// Two entries by one mail are nobody.
	c := s.connector(t, func(c *ldap.Config) { c.UserFilter = "(mail=%s)" })
	if _, err := c.Authenticate(t.Context(), "twin@example.com", "twin1-secret"); !errors.Is(err, connectors.ErrBadCredentials) {
		t.Errorf("twins: %v", err)
	}
	for name, c := range map[string]struct {
		change func(*ldap.Config)
		want   string
	}{
		"no CA":          {func(c *ldap.Config) { c.CAFile = "" }, "certificate"},
		"wrong password": {func(c *ldap.Config) { c.BindPassword = "wrong" }, "bind_dn"},
		"no such base":   {func(c *ldap.Config) { c.BaseDN = "ou=gone,dc=example,dc=com" }, "base_dn"},
		"anonymous":      {func(c *ldap.Config) { c.BindDN, c.BindPassword = "", "" }, "base_dn"},
		"nobody there":   {func(c *ldap.Config) { c.Port = freePorts(t, 1) }, "connect"},
	} {
		err := s.connector(t, c.change).Check(t.Context())
		if !errors.Is(err, connectors.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Groups by member, memberUid and memberOf, direct and nested, and in pages.
func TestLDAPGroups(t *testing.T) {
	s := startSlapd(t, "BULK=3")
	groups := "ou=groups,dc=example,dc=com"
	berlin := "R&D, (Berlin) 研发"
	for name, c := range map[string]struct {
		groups ldap.Groups
		login  string
		want   []string
	}{
		"direct":   {ldap.Groups{BaseDN: groups}, "alice", []string{berlin, "developers", "unix-users"}},
		"nested":   {ldap.Groups{BaseDN: groups, Nested: new(true)}, "alice", []string{berlin, "developers", "engineering", "staff", "unix-users"}},
		"circle":   {ldap.Groups{Nested: new(true)}, "bob", []string{"developers", "engineering", "loop-a", "loop-b", "staff", "unix-users"}},
		"memberOf": {ldap.Groups{}, "alice", []string{berlin, "developers"}},
		"comma":    {ldap.Groups{}, "comma", []string{"developers"}},
		"Chinese":  {ldap.Groups{BaseDN: groups, Filter: "(member=%s)"}, "zhangwei", []string{"developers"}},
		"quote":    {ldap.Groups{BaseDN: groups}, "quote", []string{berlin}},
		"none":     {ldap.Groups{BaseDN: groups}, "nomail", []string{}},
	} {
		id, err := s.connector(t, func(cfg *ldap.Config) { cfg.Groups = c.groups }).Authenticate(t.Context(), c.login, c.login+"-secret")
		slices.Sort(c.want)
		if err != nil || !slices.Equal(id.Groups, c.want) {
			t.Errorf("%s: %q, %v; want %q", name, id.Groups, err, c.want)
		}
	}
	// Service accounts that may read little at once: in small pages, or, where no
	// pages are allowed, whole or not at all.
	for who, fits := range map[string]bool{"PAGED": true, "NOPAGE": false} {
		c := s.connector(t, func(c *ldap.Config) {
			c.BindDN, c.BindPassword, c.Groups.Nested = s["LDAP_"+who+"_DN"], redact.String(s["LDAP_"+who+"_PASSWORD"]), new(true)
		})
		if id, err := c.Authenticate(t.Context(), "u00001", "bulk-secret"); err != nil || !slices.Equal(id.Groups, []string{"bulk"}) {
			t.Errorf("%s: %q, %v", who, id.Groups, err)
		}
		id, err := c.Authenticate(t.Context(), "bob", "bob-secret")
		if fits && (err != nil || len(id.Groups) != 6) || !fits && !errors.Is(err, connectors.ErrUnavailable) {
			t.Errorf("%s: %q, %v", who, id.Groups, err)
		}
	}
	// Another group of the name: neither counts, by DN both would.
	c := s.connector(t, func(cfg *ldap.Config) { cfg.Groups.Nested = new(true) })
	s.modify(t, "dn: ou=mine,ou=groups,dc=example,dc=com\nchangetype: add\nobjectClass: organizationalUnit\nou: mine\n\n"+
		"dn: cn=Staff,ou=mine,ou=groups,dc=example,dc=com\nchangetype: add\nobjectClass: groupOfNames\ncn: Staff\nmember: uid=carol,ou=people,dc=example,dc=com\n")
	for _, login := range []string{"alice", "carol"} {
		id, err := c.Authenticate(t.Context(), login, login+"-secret")
		if err != nil || slices.ContainsFunc(id.Groups, func(g string) bool { return strings.EqualFold(g, "staff") }) {
			t.Errorf("%s: %q, %v", login, id.Groups, err)
		}
	}
}

// What changes in the directory changes at the next renewal.
func TestLDAPRenew(t *testing.T) {
	s := startSlapd(t)
	c := s.connector(t, nil)
	signIn := func(login string) connectors.Identity {
		t.Helper()
		id, err := c.Authenticate(t.Context(), login, login+"-secret")
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	alice, bob, carol := signIn("alice"), signIn("bob"), signIn("carol")
	again, err := c.Renew(t.Context(), alice)
	if err != nil || again.Subject != alice.Subject || !slices.Equal(again.Groups, alice.Groups) || !again.AuthTime.Equal(alice.AuthTime) {
		t.Fatalf("%+v, %v; was %+v", again, err, alice)
	}
	s.modify(t, "dn: uid=alice,ou=people,dc=example,dc=com\nchangetype: modrdn\nnewrdn: uid=alicia\ndeleteoldrdn: 1\n\n"+
		"dn: cn=developers,ou=groups,dc=example,dc=com\nchangetype: modify\ndelete: member\nmember: uid=bob,ou=people,dc=example,dc=com\n\n"+
		"dn: uid=carol,ou=people,dc=example,dc=com\nchangetype: modify\nreplace: pwdAccountLockedTime\npwdAccountLockedTime: 000001010000Z\n")
	if id, err := c.Renew(t.Context(), alice); err != nil || id.Username != "alicia" || id.Subject != alice.Subject {
		t.Errorf("renamed: %+v, %v", id, err)
	}
	if id, err := c.Renew(t.Context(), bob); err != nil || slices.Contains(id.Groups, "developers") {
		t.Errorf("no longer a member: %q, %v", id.Groups, err)
	}
	if _, err := c.Renew(t.Context(), carol); !errors.Is(err, connectors.ErrNotAllowed) {
		t.Errorf("locked for good: %v", err)
	}
	// The name is given to somebody else, who is not Bob.
	s.modify(t, "dn: uid=bob,ou=people,dc=example,dc=com\nchangetype: delete\n\n"+
		"dn: uid=bob,ou=people,dc=example,dc=com\nchangetype: add\nobjectClass: inetOrgPerson\nuid: bob\ncn: Robert\nsn: Other\nuserPassword: bob-secret\n")
	if _, err := c.Renew(t.Context(), bob); !errors.Is(err, connectors.ErrNotAllowed) {
		t.Errorf("deleted: %v", err)
	}
	if other := signIn("bob"); other.Subject == bob.Subject {
		t.Error("the new bob is the old one")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Renew(ctx, alice); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("cancelled: %v", err)
	}
}
