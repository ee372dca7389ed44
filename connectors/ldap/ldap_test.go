package ldap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/remotegpu/gatehouse/connectors"
)

var (
	_ connectors.PasswordConnector = (*Connector)(nil)
	_ connectors.Renewer           = (*Connector)(nil)
	_ connectors.PasswordResetter  = (*Connector)(nil)
)

const aliceDN = "uid=alice,ou=people,dc=example,dc=com"

func alice() object {
	return object{dn: aliceDN, password: "alice-secret", policy: -1, attrs: attrs{
		"uid": {"alice"}, "mail": {"alice@example.com"}, "cn": {"Alice Adams"}, "entryUUID": {aliceUUID}, "userPassword": {"hash"},
	}}
}

func person(uid string, a attrs) object {
	o := object{dn: "uid=" + uid + ",ou=people,dc=example,dc=com", password: uid + "-secret", policy: -1, attrs: attrs{"uid": {uid}, "entryUUID": {"99999999-2222-3333-4444-" + strings.Repeat("0", 12-len(uid)) + hexOf(uid)}}}
	for k, v := range a {
		o.attrs[k] = v
	}
	return o
}

// hexOf makes something hexadecimal of the same length.
func hexOf(s string) string {
	return strings.Map(func(r rune) rune { return rune("0123456789abcdef"[r%16]) }, s)
}

func TestAuthenticate(t *testing.T) {
	for name, change := range map[string]func(*directory, *Config){
		"StartTLS":        func(*directory, *Config) {},
		"StartTLS by key": func(_ *directory, c *Config) { c.StartTLS = true },
		"LDAPS":           func(d *directory, c *Config) { d.set(func() { d.ldaps = true }); c.UseSSL = true },
		"in clear":        func(d *directory, c *Config) { d.set(func() { d.startTLS = 2 }); c.AllowPlaintext = true },
		"clear unneeded":  func(_ *directory, c *Config) { c.AllowPlaintext = true },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDirectory(t, alice())
			c := d.connector(func(cfg *Config) { change(d, cfg) })
			if err := c.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			id, err := c.Authenticate(t.Context(), "ALICE", "alice-secret")
			if err != nil {
				t.Fatal(err)
			}
			if id.Connector != "corp" || id.Subject != aliceUUID || id.Username != "alice" || id.Name != "Alice Adams" || id.Email != "alice@example.com" ||
				id.EmailVerified || id.AuthTime.IsZero() || !slices.Equal(id.AMR, []string{"pwd"}) || len(id.Renewal) == 0 {
				t.Errorf("%+v", id)
			}
			binds, _, _ := d.seen()
			for _, b := range binds {
				if !b.encrypted && name != "in clear" {
					t.Errorf("bind as %s in clear", b.dn)
				}
			}
		})
	}
}

// Unknown, wrong and ambiguous are one answer after the same work; the user's
// connection is not the service's, and does not outlive the bind.
func TestBadCredentialsAlike(t *testing.T) {
	twin := alice()
	twin.dn = "uid=alice,ou=old,dc=example,dc=com"
	twin.attrs = attrs{"uid": {"twin"}, "entryUUID": {aliceUUID}}
	twin2 := twin
	twin2.dn = "uid=alice,ou=older,dc=example,dc=com"
	triplet := twin
	triplet.dn = "uid=alice,ou=oldest,dc=example,dc=com"
	nameless := person("x", nil)
	nameless.attrs = attrs{"sn": {"nameless"}}
	d := newDirectory(t, alice(), twin, twin2, triplet, nameless, person("nopassword", nil))
	d.set(func() { d.objects[5].password = "" })
	c := d.connector(func(cfg *Config) { cfg.UserFilter = "(|(uid=%s)(sn=%s))" })
	if err := c.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	texts := map[string]bool{}
	for _, name := range []string{"alice", "nobody", "twin", "nameless", "nopassword"} {
		before, open0, opened0 := d.seen()
		_, err := c.Authenticate(t.Context(), name, "wrong")
		if !errors.Is(err, connectors.ErrBadCredentials) {
			t.Errorf("%s: %v", name, err)
		}
		texts[fmt.Sprint(err)] = true
		after, _, opened1 := d.seen()
		if opened1-opened0 != 1 || len(after)-len(before) != 1 {
			t.Errorf("%s: %d connections, %d binds", name, opened1-opened0, len(after)-len(before))
		}
		last := after[len(after)-1]
		if last.dn == serviceDN || name != "alice" && name != "nameless" && name != "nopassword" && last.password == "wrong" {
			t.Errorf("%s: bound as %s with %s", name, last.dn, last.password)
		}
		wait(t, func() bool { _, open1, _ := d.seen(); return open1 == open0 })
	}
	if len(texts) != 1 {
		t.Errorf("told apart: %v", texts)
	}
	// An entry of no use is a fault, told only to whoever has the password.
	if _, err := c.Authenticate(t.Context(), "nameless", "x-secret"); err == nil || errors.Is(err, connectors.ErrBadCredentials) || errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("nameless: %v", err)
	}
}

func wait(t *testing.T, f func() bool) {
	t.Helper()
	for range 300 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("did not come about")
}

func TestNothingSentForBadInput(t *testing.T) {
	d := newDirectory(t, alice())
	c := d.connector(nil)
	for _, in := range [][2]string{
		{"alice", ""}, {"alice", "  "}, {"alice", "\x00"}, {"alice", "alice-secret\x00"}, {"alice", "\xff"}, {"alice", strings.Repeat("x", 1025)},
		{"", "x"}, {"*", "x"}, {"a\nb", "x"}, {strings.Repeat("a", 257), "x"},
	} {
		if _, err := c.Authenticate(t.Context(), in[0], in[1]); !errors.Is(err, connectors.ErrBadCredentials) {
			t.Errorf("%q: %v", in, err)
		}
	}
	if _, _, opened := d.seen(); opened != 0 {
		t.Errorf("%d connections", opened)
	}
	// Wildcards are characters.
	for _, name := range []string{"al*", "**", "alice)(uid=*"} {
		if _, err := c.Authenticate(t.Context(), name, "alice-secret"); !errors.Is(err, connectors.ErrBadCredentials) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestNothingInClear(t *testing.T) {
	other := newDirectory(t)
	for name, c := range map[string]struct {
		server func(*directory)
		change func(*Config)
		want   string
	}{
		"no StartTLS":                {func(d *directory) { d.startTLS = goldap.LDAPResultProtocolError }, nil, "allow_plaintext: true"},
		"refused as unwilling":       {func(d *directory) { d.startTLS = goldap.LDAPResultUnwillingToPerform }, nil, "use_ssl: true"},
		"start_tls beats plaintext":  {func(d *directory) { d.startTLS = 2 }, func(c *Config) { c.StartTLS, c.AllowPlaintext = true, true }, "StartTLS"},
		"unknown CA":                 {func(*directory) {}, func(c *Config) { c.CAFile = other.ca }, "certificate"},
		"unknown CA and plaintext":   {func(*directory) {}, func(c *Config) { c.CAFile, c.AllowPlaintext = other.ca, true }, "certificate"},
		"system's CAs":               {func(*directory) {}, func(c *Config) { c.CAFile = "" }, "certificate"},
		"other name":                 {func(*directory) {}, func(c *Config) { c.Host = "localhost" }, "certificate"},
		"LDAPS with an unknown CA":   {func(d *directory) { d.ldaps = true }, func(c *Config) { c.UseSSL, c.CAFile = true, other.ca }, "certificate"},
		"LDAPS with a plain server":  {func(*directory) {}, func(c *Config) { c.UseSSL = true }, "upstream unavailable"},
		"StartTLS with LDAPS server": {func(d *directory) { d.ldaps = true }, nil, "upstream unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDirectory(t, alice())
			d.set(func() { c.server(d) })
			lc := d.connector(c.change)
			check := lc.Check(t.Context())
			_, err := lc.Authenticate(t.Context(), "alice", "alice-secret")
			for _, err := range []error{check, err} {
				if !errors.Is(err, connectors.ErrUnavailable) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "cn=secret") {
					t.Errorf("%v, want %q", err, c.want)
				}
			}
			if binds, _, _ := d.seen(); len(binds) != 0 {
				t.Errorf("bound: %v", binds)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	with := func(code int, diag string, policy int) object {
		o := alice()
		o.code, o.diag, o.policy = code, diag, policy
		return o
	}
	disabled := alice()
	disabled.attrs["userAccountControl"] = []string{"514"}
	for name, c := range map[string]struct {
		object   object
		friendly bool
		code     string
		is       error
	}{
		"532":               {with(49, "x, data 532, v1", -1), false, "password_expired", connectors.ErrNotAllowed},
		"773":               {with(49, "x, data 773, v1", -1), false, "must_change_password", connectors.ErrNotAllowed},
		"530":               {with(49, "x, data 530, v1", -1), false, "logon_hours", connectors.ErrNotAllowed},
		"531":               {with(49, "x, data 531, v1", -1), false, "workstation", connectors.ErrNotAllowed},
		"533":               {with(49, "x, data 533, v1", -1), false, "", connectors.ErrBadCredentials},
		"533 friendly":      {with(49, "x, data 533, v1", -1), true, "account_disabled", connectors.ErrNotAllowed},
		"775 friendly":      {with(49, "x, data 775, v1", -1), true, "", connectors.ErrBadCredentials},
		"expired by policy": {with(49, "", policyExpired), false, "password_expired", connectors.ErrNotAllowed},
		"locked by policy":  {with(49, "", policyLocked), true, "", connectors.ErrBadCredentials},
		"reset by policy":   {with(0, "", policyMustChange), false, "must_change_password", connectors.ErrNotAllowed},
		"grace by policy":   {with(0, "", -1), false, "ok", nil},
		"no password":       {with(48, "", -1), false, "", connectors.ErrBadCredentials},
		"inactivated":       {with(53, "", -1), false, "", connectors.ErrBadCredentials},
		"disabled entry":    {disabled, false, "", connectors.ErrBadCredentials},
		"busy":              {with(51, "cn=secret", -1), false, "", connectors.ErrUnavailable},
		"referral":          {with(10, "", -1), false, "", connectors.ErrUnavailable},
		"needs TLS":         {with(8, "", -1), false, "", connectors.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDirectory(t, c.object)
			lc := d.connector(func(cfg *Config) { cfg.FriendlyErrors = c.friendly; cfg.ResetURL = "https://r.example.com/" })
			_, err := lc.Authenticate(t.Context(), "alice", "alice-secret")
			var r *connectors.Refusal
			code := ""
			if errors.As(err, &r) {
				code = r.Code
			}
			if c.is == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if code != c.code || !errors.Is(err, c.is) || strings.Contains(err.Error(), "cn=secret") {
				t.Errorf("%v (%q), want %q %v", err, code, c.code, c.is)
			}
		})
	}
}

func TestOutage(t *testing.T) {
	d := newDirectory(t, alice())
	c := d.connector(nil)
	id, err := c.Authenticate(t.Context(), "alice", "alice-secret")
	if err != nil {
		t.Fatal(err)
	}
	for name, down := range map[string]func(){
		"busy":    func() { d.search = goldap.LDAPResultBusy },
		"no base": func() { d.search = goldap.LDAPResultNoSuchObject },
		"hangs":   func() { d.search, d.hang = 0, true },
	} {
		d.set(down)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		start := time.Now()
		_, err1 := c.Authenticate(ctx, "alice", "alice-secret")
		_, err2 := c.Renew(ctx, id)
		err3 := c.Check(ctx)
		cancel()
		for _, err := range []error{err1, err2, err3} {
			if !errors.Is(err, connectors.ErrUnavailable) || strings.Contains(err.Error(), "cn=secret") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
		d.set(func() { d.search, d.hang = 0, false })
	}
	// What broke is replaced, unnoticed, also between the health check and the search.
	d.cut()
	if _, err := c.Authenticate(t.Context(), "alice", "alice-secret"); err != nil {
		t.Errorf("after a cut: %v", err)
	}
	d.set(func() { d.drop = 1 })
	if _, err := c.Authenticate(t.Context(), "alice", "alice-secret"); err != nil {
		t.Errorf("after a cut: %v", err)
	}
	d.stop()
	if _, err := c.Authenticate(t.Context(), "alice", "alice-secret"); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("down: %v", err)
	}
	if _, err := c.Renew(t.Context(), id); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("down: %v", err)
	}
}

// The handshake has a deadline although the library gives it none.
func TestSilentServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	for _, ssl := range []bool{false, true} {
		cfg := valid(func(c *Config) { c.Host, c.Port, c.UseSSL = "127.0.0.1", l.Addr().(*net.TCPAddr).Port, ssl })
		c, err := Open(connectors.Env{ID: "corp"}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		start := time.Now()
		err = c.Check(ctx)
		cancel()
		if !errors.Is(err, connectors.ErrUnavailable) || time.Since(start) > 2*time.Second {
			t.Errorf("use_ssl %v: %v after %v", ssl, err, time.Since(start))
		}
	}
}

func TestServiceAccountRefused(t *testing.T) {
	d := newDirectory(t, alice())
	c := d.connector(func(cfg *Config) { cfg.BindPassword = "wrong" })
	for range 3 {
		_, err := c.Authenticate(t.Context(), "alice", "alice-secret")
		if !errors.Is(err, connectors.ErrUnavailable) || errors.Is(err, connectors.ErrBadCredentials) || !strings.Contains(err.Error(), "bind_dn") {
			t.Errorf("%v", err)
		}
	}
	if binds, _, _ := d.seen(); len(binds) != 1 {
		t.Errorf("%d binds: the account would be locked", len(binds))
	}
}
