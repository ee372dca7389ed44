package ldap

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/connectors"
)

func valid(change func(*Config)) Config {
	c := Config{Host: "ldap.example.com", BaseDN: "dc=example,dc=com", BindDN: "cn=admin,dc=example,dc=com", BindPassword: "hunter2"}
	if change != nil {
		change(&c)
	}
	return c
}

func TestProblems(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(notPEM, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   []string // Field Rule, with ! for a warning
	}{
		"minimal":        {nil, nil},
		"the document's": {func(c *Config) { c.Port, c.UserFilter, c.Attributes = 389, "(uid=%s)", Attributes{"uid", "mail", "cn"} }, nil},
		"active directory": {func(c *Config) {
			c.BindDN, c.UserFilter = "svc@corp.example.com", "(&(objectCategory=person)(|(sAMAccountName=%s)(userPrincipalName=%s)))"
		}, nil},
		"anonymous":            {func(c *Config) { c.BindDN, c.BindPassword = "", "" }, nil},
		"address":              {func(c *Config) { c.Host = "2001:db8::7" }, nil},
		"no host":              {func(c *Config) { c.Host = "" }, []string{"Host ldap.host"}},
		"URL as host":          {func(c *Config) { c.Host = "ldaps://ldap.example.com" }, []string{"Host ldap.host"}},
		"socket as host":       {func(c *Config) { c.Host = "ldapi:///var/run/slapd" }, []string{"Host ldap.host"}},
		"port in host":         {func(c *Config) { c.Host = "ldap.example.com:636" }, []string{"Host ldap.host"}},
		"port":                 {func(c *Config) { c.Port = 70000 }, []string{"Port ldap.port"}},
		"ssl on 389":           {func(c *Config) { c.UseSSL, c.Port = true, 389 }, []string{"!Port ldap.port_tls"}},
		"ssl and start_tls":    {func(c *Config) { c.UseSSL, c.StartTLS = true, true }, []string{"StartTLS ldap.tls"}},
		"plaintext":            {func(c *Config) { c.AllowPlaintext = true }, []string{"!AllowPlaintext ldap.plaintext"}},
		"idle plaintext":       {func(c *Config) { c.AllowPlaintext, c.UseSSL = true, true }, []string{"!AllowPlaintext ldap.plaintext_idle"}},
		"no such CA file":      {func(c *Config) { c.CAFile = notPEM + ".gone" }, []string{"CAFile ldap.ca_file"}},
		"CA file without PEM":  {func(c *Config) { c.CAFile = notPEM }, []string{"CAFile ldap.ca_file"}},
		"no base":              {func(c *Config) { c.BaseDN = "" }, []string{"BaseDN ldap.base_dn"}},
		"base":                 {func(c *Config) { c.BaseDN = "example.com" }, []string{"BaseDN ldap.base_dn"}},
		"bind_dn alone":        {func(c *Config) { c.BindPassword = "" }, []string{"BindPassword ldap.bind_password"}},
		"blank bind_password":  {func(c *Config) { c.BindPassword = "  " }, []string{"BindPassword ldap.bind_password"}},
		"bind_password alone":  {func(c *Config) { c.BindDN = "" }, []string{"BindDN ldap.bind_dn"}},
		"filter without place": {func(c *Config) { c.UserFilter = "(uid=alice)" }, []string{"UserFilter ldap.user_filter"}},
		"filter unbalanced":    {func(c *Config) { c.UserFilter = "(&(uid=%s)" }, []string{"UserFilter ldap.user_filter"}},
		"group filter":         {func(c *Config) { c.Groups.Filter = "(objectClass=group)" }, []string{"Groups.Filter ldap.groups_filter"}},
		"groups":               {func(c *Config) { c.Groups = Groups{"ou=groups,dc=example,dc=com", "(member=%s)", "cn", new(true)} }, nil},
		"groups base":          {func(c *Config) { c.Groups.BaseDN = "groups" }, []string{"Groups.BaseDN ldap.groups_base_dn"}},
		"every attribute":      {func(c *Config) { c.Attributes.Email = "*" }, []string{"Attributes.Email ldap.attribute"}},
		"attribute injection":  {func(c *Config) { c.Groups.Name = "cn=x)(cn" }, []string{"Groups.Name ldap.attribute"}},
		"a password attribute": {func(c *Config) { c.Attributes.DisplayName = "UserPassword" }, []string{"Attributes.DisplayName ldap.attribute_secret"}},
		"reset_url":            {func(c *Config) { c.ResetURL = "javascript:alert(1)" }, []string{"ResetURL ldap.reset_url"}},
		"good reset_url":       {func(c *Config) { c.ResetURL = "https://password.example.com/" }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := valid(c.change)
			var got []string
			stops := false
			for _, p := range cfg.Problems() {
				s := p.Field + " " + p.Rule
				if p.Warning {
					s = "!" + s
				}
				stops = stops || !p.Warning
				got = append(got, s)
				if strings.Contains(p.Error(), "hunter2") {
					t.Errorf("tells the password: %v", p)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("problems = %q, want %q", got, c.want)
			}
			if _, err := Open(connectors.Env{ID: "corp"}, cfg); (err != nil) != stops {
				t.Errorf("Open: %v, problems %q", err, got)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	c := Config{}.withDefaults()
	if c.Port != 389 || c.UserFilter != "(uid=%s)" || c.Attributes != (Attributes{"uid", "mail", "cn"}) || c.Groups.Name != "cn" || c.Groups.search() {
		t.Errorf("defaults: %+v", c)
	}
	if c := (Config{UseSSL: true}).withDefaults(); c.Port != 636 {
		t.Errorf("port with use_ssl: %d", c.Port)
	}
}

func TestDNKey(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"cn=Admins,ou=Groups,dc=example,dc=com", "CN=admins, OU=groups, DC=Example,DC=com", true},
		{"cn=Mary+uid=m,dc=x", "UID=m+CN=mary,dc=x", true},
		{`cn=Doe\, John,dc=x`, `cn=doe\2c john,dc=x`, true},
		{"cn=Ä,dc=x", "cn=ä,dc=x", true},
		{"cn=a,dc=x", "cn=a,dc=y", false},
		{`cn=a\,dc=x`, "cn=a,dc=x", false},
		{`cn=a\+uid=b,dc=x`, "cn=a+uid=b,dc=x", false},
	} {
		a, err1 := dnKey(c.a)
		b, err2 := dnKey(c.b)
		if err1 != nil || err2 != nil || (a == b) != c.same {
			t.Errorf("dnKey(%q) = %q %v, dnKey(%q) = %q %v; same: %v", c.a, a, err1, c.b, b, err2, c.same)
		}
	}
	for _, bad := range []string{"", " ", "admins", "cn=a,", "cn=\x00"} {
		if k, err := dnKey(bad); err == nil {
			t.Errorf("dnKey(%q) = %q", bad, k)
		}
	}
}
