//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/ldap"
)

// domain is a running domain controller of test/peers/samba-ad.
type domain struct{ slapd }

// connector opens the connector with what docs/connectors/active-directory.md
// tells an administrator to type.
func (d domain) connector(t *testing.T, change func(*ldap.Config)) *ldap.Connector {
	t.Helper()
	cfg := ldap.Config{
		Preset: "active_directory", Host: "127.0.0.1", Port: d.port(t, "AD_LDAPS_URL"), UseSSL: true, CAFile: d.slapd["AD_CA"],
		BaseDN: d.slapd["AD_BASE"], BindDN: d.slapd["AD_BIND_UPN"], BindPassword: redact.String(d.slapd["AD_BIND_PASSWORD"]),
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

// modify changes entries as the domain's administrator.
func (d domain) modify(t *testing.T, ldif string) {
	t.Helper()
	cmd := exec.Command("ldapmodify", "-x", "-H", d.slapd["AD_LDAPS_URL"], "-D", d.slapd["AD_ADMIN"], "-w", d.slapd["AD_ADMIN_PASSWORD"])
	cmd.Env = append(cmd.Environ(), "LDAPTLS_CACERT="+d.slapd["AD_CA"], "LDAPTLS_REQCERT=demand", "LDAPRC=none")
	cmd.Stdin = strings.NewReader(ldif)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ldapmodify: %v: %s", err, out)
	}
}

func (d domain) replace(t *testing.T, dn, attribute, value string) {
	t.Helper()
	d.modify(t, fmt.Sprintf("dn: %s\nchangetype: modify\nreplace: %s\n%s: %s\n", dn, attribute, attribute, value))
}

// One domain controller serves all of these: it takes long to start.
func TestActiveDirectory(t *testing.T) {
	d := domain{startPeer(t, "samba-ad", freePorts(t, 5))}
	t.Run("sign-in", func(t *testing.T) { adSignIn(t, d) })
	t.Run("states", func(t *testing.T) { adStates(t, d) })
	t.Run("groups", func(t *testing.T) { adGroups(t, d) })
	t.Run("servers", func(t *testing.T) { adServers(t, d) })
	t.Run("broker", func(t *testing.T) { adThroughTheBroker(t, d) })
	t.Run("renew", func(t *testing.T) { adRenew(t, d) }) // last: it changes people
}

// Every name that Windows takes leads to one subject, over LDAPS and StartTLS;
// the service account may be written as DN, principal name or DOMAIN\name.
func adSignIn(t *testing.T, d domain) {
	for name, change := range map[string]func(*ldap.Config){
		"LDAPS":          nil,
		"StartTLS":       func(c *ldap.Config) { c.UseSSL, c.Port = false, d.port(t, "AD_LDAP_URL") },
		"bind as DN":     func(c *ldap.Config) { c.BindDN = d.slapd["AD_BIND_DN"] },
		"bind as DOMAIN": func(c *ldap.Config) { c.BindDN = `EXAMPLE\svc-gatehouse` },
		"NetBIOS":        func(c *ldap.Config) { c.NetBIOSDomain = "EXAMPLE" },
	} {
		t.Run(name, func(t *testing.T) {
			c := d.connector(t, change)
			if err := c.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			subjects := map[string]bool{}
			for _, login := range []string{"alice", "ALICE", `EXAMPLE\alice`, `example.test\alice`, "alice@corp.example", "Alice@Corp.Example", "alice@example.com", "alice@example.test"} {
				id, err := c.Authenticate(t.Context(), login, "Alice-Secret-1")
				if err != nil || id.Username != "alice" || id.Name != "Alice A." || id.Email != "alice@example.com" || id.EmailVerified {
					t.Errorf("%s: %+v, %v", login, id, err)
				}
				subjects[id.Subject] = true
			}
			if len(subjects) != 1 {
				t.Errorf("one person is %v", subjects)
			}
			for _, in := range [][2]string{
				{"alice", "wrong"}, {"nobody", "x"}, {"alice@elsewhere.example", "Alice-Secret-1"}, {"*", "x"}, {"ali*", "Alice-Secret-1"}, {`EXAMPLE\`, "x"},
				{`EXAMPLE\*`, "Alice-Secret-1"}, {"alice)(sAMAccountName=*", "Alice-Secret-1"}, {`alice\`, "Alice-Secret-1"}, {"DC1$", "x"}, {"CN=Alice Adams,OU=Staff,DC=example,DC=test", "Alice-Secret-1"},
			} {
				if _, err := c.Authenticate(t.Context(), in[0], in[1]); !errors.Is(err, connectors.ErrBadCredentials) {
					t.Errorf("%q: %v", in, err)
				}
			}
		})
	}
	c := d.connector(t, func(c *ldap.Config) { c.NetBIOSDomain = "EXAMPLE" })
	if _, err := c.Authenticate(t.Context(), `OTHER\alice`, "Alice-Secret-1"); !errors.Is(err, connectors.ErrBadCredentials) {
		t.Errorf("another domain: %v", err)
	}
	for login, want := range map[string]string{"jdoe": "jdoe", "jmüller": "jmüller", "jörg.müller@example.test": "jmüller", "zhangwei": "zhangwei", "nomail": "nomail", "bob.brown@example.com": "bob"} {
		secret := strings.ToUpper(want[:1]) + want[1:] + "-Secret-1"
		if want == "jmüller" {
			secret = "Jmueller-Secret-1"
		}
		if id, err := c.Authenticate(t.Context(), login, secret); err != nil || id.Username != want {
			t.Errorf("%s: %+v, %v", login, id, err)
		}
	}
	catalogue := d.connector(t, func(c *ldap.Config) { c.Port = d.port(t, "AD_GCS_URL") })
	if id, err := catalogue.Authenticate(t.Context(), "alice@corp.example", "Alice-Secret-1"); err != nil || id.Username != "alice" {
		t.Errorf("by the global catalogue: %+v, %v", id, err)
	}
	// Nothing is sent to a server whose certificate cannot be verified.
	plain := d.connector(t, func(c *ldap.Config) { c.UseSSL, c.Port, c.CAFile = false, d.port(t, "AD_LDAP_URL"), "" })
	if err := plain.Check(t.Context()); !errors.Is(err, connectors.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without its authority: %v", err)
	}
}

// LD-7: what the directory says only with the right password is told; the rest
// is a wrong password, unless friendly_errors. Without it nobody learns anything.
func adStates(t *testing.T, d domain) {
	quiet, friendly := d.connector(t, nil), d.connector(t, func(c *ldap.Config) { c.FriendlyErrors = true })
	for login, want := range map[string][2]string{ // code without and with friendly_errors
		"disabled": {"", "account_disabled"}, "expired": {"", "account_expired"}, "mustchange": {"must_change_password", "must_change_password"},
		"pwexpired": {"password_expired", "password_expired"}, "locked": {"", ""}, "nohours": {"logon_hours", "logon_hours"},
	} {
		secret := strings.ToUpper(login[:1]) + login[1:] + "-Secret-1"
		for i, c := range []*ldap.Connector{quiet, friendly} {
			_, err := c.Authenticate(t.Context(), login, secret)
			var r *connectors.Refusal
			code := ""
			if errors.As(err, &r) {
				code = r.Code
			}
			if code != want[i] || code == "" && !errors.Is(err, connectors.ErrBadCredentials) {
				t.Errorf("%s: %v, want %q", login, err, want[i])
			}
		}
		_, wrong := quiet.Authenticate(t.Context(), login, "wrong")
		_, nobody := quiet.Authenticate(t.Context(), "nobody", "wrong")
		if fmt.Sprint(wrong) != fmt.Sprint(nobody) || !errors.Is(wrong, connectors.ErrBadCredentials) {
			t.Errorf("%s with a wrong password: %v, nobody: %v", login, wrong, nobody)
		}
	}
	// Passwords end after 42 days there.
	id, err := quiet.Authenticate(t.Context(), "bob", "Bob-Secret-1")
	if left := time.Until(id.PasswordEnds); err != nil || left < 40*24*time.Hour || left > 43*24*time.Hour {
		t.Errorf("the password ends in %v, %v", left, err)
	}
	// Three guesses lock the account there, its sessions stay.
	id, err = quiet.Authenticate(t.Context(), "strict", "Strict-Secret-1")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, _ = quiet.Authenticate(t.Context(), "strict", "wrong")
	}
	if _, err := friendly.Authenticate(t.Context(), "strict", "Strict-Secret-1"); !errors.Is(err, connectors.ErrBadCredentials) {
		t.Errorf("locked: %v", err)
	}
	if _, err := quiet.Renew(t.Context(), id); err != nil {
		t.Errorf("a session of the locked account: %v", err)
	}
}

func adGroups(t *testing.T, d domain) {
	for name, c := range map[string]struct {
		change        func(*ldap.Config)
		login, secret string
		want          []string
	}{
		"preset":   {nil, "alice", "Alice-Secret-1", []string{"App-Users", "Dev", "Domain Users", "Engineering", "Users"}},
		"direct":   {func(c *ldap.Config) { c.Groups.Nested = new(false) }, "alice", "Alice-Secret-1", []string{"Dev", "Domain Users"}},
		"a unit":   {func(c *ldap.Config) { c.Groups.BaseDN = "OU=Groups,DC=example,DC=test" }, "alice", "Alice-Secret-1", []string{"App-Users", "Dev", "Engineering"}},
		"Chinese":  {func(c *ldap.Config) { c.Groups.BaseDN = "OU=Groups,DC=example,DC=test" }, "zhangwei", "Zhangwei-Secret-1", []string{"App-Users", "Dev", "Engineering"}},
		"comma":    {func(c *ldap.Config) { c.Groups.BaseDN = "OU=Groups,DC=example,DC=test" }, "jdoe", "Jdoe-Secret-1", []string{"App-Users", "Dev", "Engineering"}},
		"odd name": {func(c *ldap.Config) { c.Groups.BaseDN = "OU=Groups,DC=example,DC=test" }, "jmüller", "Jmueller-Secret-1", []string{"R&D Berlin"}},
		"by cn":    {func(c *ldap.Config) { c.Groups.BaseDN, c.Groups.Name = "OU=Groups,DC=example,DC=test", "cn" }, "jmüller", "Jmueller-Secret-1", []string{"R&D, (Berlin)"}},
		"walked": {func(c *ldap.Config) { c.Groups = ldap.Groups{Filter: "(member=%s)", Name: "cn", Nested: new(true)} }, "alice", "Alice-Secret-1",
			[]string{"App-Users", "Dev", "Engineering"}},
		"none": {func(c *ldap.Config) { c.Groups.BaseDN = "OU=Groups,DC=example,DC=test" }, "nomail", "Nomail-Secret-1", []string{}},
	} {
		id, err := d.connector(t, c.change).Authenticate(t.Context(), c.login, c.secret)
		slices.Sort(c.want)
		if err != nil || !slices.Equal(id.Groups, c.want) {
			t.Errorf("%s: %q, %v; want %q", name, id.Groups, err, c.want)
		}
	}
}

// The first server is not there: the second is asked.
func adServers(t *testing.T, d domain) {
	c := d.connector(t, func(c *ldap.Config) {
		c.Hosts = []string{fmt.Sprintf("localhost:%d", c.Port), fmt.Sprintf("127.0.0.1:%d", freePort(t))}
		c.Port = freePort(t)
	})
	if err := c.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Authenticate(t.Context(), "alice", "Alice-Secret-1"); err != nil {
		t.Error(err)
	}
}

// Whoever is disabled in the directory while only a console's WebSocket is open
// loses it within sessions.recheck and a second, and every token with it; who is
// only taken out of the group loses what the group gave.
func adThroughTheBroker(t *testing.T, d domain) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(`
sessions: {recheck: 2s}
ldap:
  name: Windows
  preset: active_directory
  host: 127.0.0.1
  port: %d
  use_ssl: true
  ca_file: %s
  base_dn: %s
  bind_dn: %s
  bind_password: %s
  groups_map: {Dev: gpu-users}
`, d.port(t, "AD_LDAPS_URL"), d.slapd["AD_CA"], d.slapd["AD_BASE"], d.slapd["AD_BIND_UPN"], d.slapd["AD_BIND_PASSWORD"])})
	g := serve(t, dir, []string{"--dev"})
	enter := func(user, password string) *person {
		p := newPerson(t, g)
		if a := p.signIn(p.follow(p.send(http.MethodGet, "/account", nil)), "ldap", user, password); a.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d at %s", user, a.StatusCode, a.Request.URL)
		}
		return p
	}
	t.Run("Chromium", func(t *testing.T) { browser(t, nil, "flow.mjs", g.URL, `EXAMPLE\alice`, "Alice-Secret-1", "ldap") })
	bob, alice := enter(`EXAMPLE\bob`, "Bob-Secret-1"), enter("alice@corp.example", "Alice-Secret-1")
	_, tokens := bob.redeem(bob.code("openid offline_access groups"))
	atBob, atAlice := bob.console(t, g), alice.console(t, g)
	for _, s := range []*socket{atBob, atAlice} {
		if err := s.echo("hello"); err != nil {
			t.Fatal(err)
		}
	}
	d.replace(t, "CN=Bob Brown,OU=Staff,DC=example,DC=test", "userAccountControl", "514")
	if code := atBob.closed(3 * time.Second); code != 4401 {
		t.Errorf("the disabled person's socket is closed with %d", code)
	}
	if status, m := bob.refresh(tokens["refresh_token"]); status != http.StatusBadRequest || m["error"] != "invalid_grant" {
		t.Errorf("the disabled person's refresh: %d %v", status, m)
	}
	if a := bob.send(http.MethodGet, "/account", nil); a.StatusCode == http.StatusOK {
		t.Error("the disabled person is still in")
	}
	if err := atAlice.echo("still here"); err != nil {
		t.Errorf("the colleague: %v", err)
	}
	d.modify(t, "dn: CN=Dev,OU=Groups,DC=example,DC=test\nchangetype: modify\ndelete: member\nmember: CN=Alice Adams,OU=Staff,DC=example,DC=test\n")
	if code := atAlice.closed(3 * time.Second); code != 4403 {
		t.Errorf("the socket of who left the group is closed with %d", code)
	}
	if a := alice.send(http.MethodGet, "/account", nil); a.StatusCode != http.StatusOK {
		t.Errorf("who left the group is out altogether: %d", a.StatusCode)
	}
}

// What changes in the directory changes at the next renewal; a new name and
// place are the same person.
func adRenew(t *testing.T, d domain) {
	c := d.connector(t, nil)
	for name, change := range map[string]struct {
		dn, attribute, value string
	}{
		"disabled":    {"CN=No Mail,OU=Staff,DC=example,DC=test", "userAccountControl", "514"},
		"expired":     {`CN=Doe\, John,OU=Staff,DC=example,DC=test`, "accountExpires", "132223104000000000"},
		"must change": {"CN=Jörg Müller,OU=Staff,DC=example,DC=test", "pwdLastSet", "0"},
	} {
		who := map[string][2]string{"disabled": {"nomail", "Nomail-Secret-1"}, "expired": {"jdoe", "Jdoe-Secret-1"}, "must change": {"jmüller", "Jmueller-Secret-1"}}[name]
		id, err := c.Authenticate(t.Context(), who[0], who[1])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Renew(t.Context(), id); err != nil {
			t.Errorf("%s, before: %v", name, err)
		}
		d.replace(t, change.dn, change.attribute, change.value)
		if _, err := c.Renew(t.Context(), id); !errors.Is(err, connectors.ErrNotAllowed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	id, err := c.Authenticate(t.Context(), "zhangwei", "Zhangwei-Secret-1")
	if err != nil {
		t.Fatal(err)
	}
	d.modify(t, "dn: CN=张伟,OU=Staff,DC=example,DC=test\nchangetype: modrdn\nnewrdn: CN=Wei Zhang\ndeleteoldrdn: 1\nnewsuperior: OU=Services,DC=example,DC=test\n")
	d.replace(t, "CN=Wei Zhang,OU=Services,DC=example,DC=test", "sAMAccountName", "weizhang")
	again, err := c.Renew(t.Context(), id)
	if err != nil || again.Subject != id.Subject || again.Username != "weizhang" || !slices.Contains(again.Groups, "Engineering") {
		t.Errorf("renamed: %+v, %v", again, err)
	}
	d.modify(t, "dn: CN=Wei Zhang,OU=Services,DC=example,DC=test\nchangetype: delete\n")
	if _, err := c.Renew(t.Context(), id); !errors.Is(err, connectors.ErrNotAllowed) {
		t.Errorf("deleted: %v", err)
	}
}
