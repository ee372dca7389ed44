// Package ldap signs people in with the user name and password of a directory:
// OpenLDAP, Active Directory and whatever else speaks LDAPv3.
//
// A sign-in is a search with the service account for exactly one entry, a bind
// as that entry on a connection of its own, and a second search for its groups.
// No password leaves unencrypted unless the operator wrote allow_plaintext.
package ldap

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// Config is the `ldap` section.
type Config struct {
	// Host is the directory's name or address, without scheme and port. The
	// certificate must be for it.
	Host string `yaml:"host"`
	// Port is 389, or 636 with UseSSL, unless given.
	Port int `yaml:"port"`
	// UseSSL speaks TLS from the first byte (ldaps). Without it the connection
	// is upgraded with StartTLS, which is required unless AllowPlaintext.
	UseSSL bool `yaml:"use_ssl"`
	// StartTLS requires StartTLS even with AllowPlaintext.
	StartTLS bool `yaml:"start_tls"`
	// CAFile holds certificates that are trusted beside the system's.
	CAFile string `yaml:"ca_file"`
	// BaseDN is where people are searched for, the whole subtree.
	BaseDN string `yaml:"base_dn"`
	// BindDN is the service account; empty searches anonymously. Active
	// Directory also takes user@domain here.
	BindDN       string        `yaml:"bind_dn"`
	BindPassword redact.String `yaml:"bind_password"`
	// UserFilter finds the person. Each %s stands for the escaped name that was
	// typed; the default is (uid=%s).
	UserFilter string     `yaml:"user_filter"`
	Attributes Attributes `yaml:"attributes"`
	Groups     Groups     `yaml:"groups"`
	// FriendlyErrors tells people that their account is disabled or expired.
	// Active Directory may say so without the right password, so that anybody
	// learns which accounts exist.
	FriendlyErrors bool `yaml:"friendly_errors"`
	// AllowPlaintext sends passwords unencrypted to a directory that has no
	// StartTLS.
	AllowPlaintext bool `yaml:"allow_plaintext"`
	// ResetURL is the page where people mend a forgotten or expired password.
	ResetURL string `yaml:"reset_url"`
}

// Attributes names the attributes that describe a person.
type Attributes struct {
	Username    string `yaml:"username"`     // default uid
	Email       string `yaml:"email"`        // default mail
	DisplayName string `yaml:"display_name"` // default cn
}

// Groups says how a person's groups are found. With neither BaseDN nor Filter
// nor Nested they are what the entry's memberOf says.
type Groups struct {
	// BaseDN is where groups are searched for; default is the base_dn of people.
	BaseDN string `yaml:"base_dn"`
	// Filter finds the groups of one member: %s stands for the member's DN, %u
	// for the user name. The default is
	// (|(member=%s)(uniqueMember=%s)(memberUid=%u)).
	Filter string `yaml:"filter"`
	// Name is the attribute that names a group, default cn, or "dn" for the
	// whole DN. Two groups of one name count as none, because whoever may
	// create groups somewhere could otherwise take the name of another.
	Name string `yaml:"name"`
	// Nested also counts the groups of groups.
	Nested bool `yaml:"nested"`
}

// search reports whether groups are searched for, rather than read off memberOf.
func (g Groups) search() bool { return g.BaseDN != "" || g.Filter != "" || g.Nested }

const (
	defaultUserFilter  = "(uid=%s)"
	defaultGroupFilter = "(|(member=%s)(uniqueMember=%s)(memberUid=%u))"
	nameIsDN           = "dn" // the value of groups.name that is no attribute
)

// withDefaults returns the configuration with nothing left out.
func (c Config) withDefaults() Config {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	if c.Port == 0 {
		c.Port = 389
		if c.UseSSL {
			c.Port = 636
		}
	}
	set(&c.UserFilter, defaultUserFilter)
	set(&c.Attributes.Username, "uid")
	set(&c.Attributes.Email, "mail")
	set(&c.Attributes.DisplayName, "cn")
	set(&c.Groups.Name, "cn")
	return c
}

var (
	attributeName = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)+)$`)
	hostName      = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9]+)?)$`)
)

// Problems complains about what could not be served, without the network.
func (c Config) Problems() []problem.Problem {
	given := c
	c = c.withDefaults()
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: "ldap." + rule, Text: text, Fix: fix})
	}
	warn := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: "ldap." + rule, Text: text, Fix: fix, Warning: true})
	}
	switch {
	case c.Host == "":
		add("Host", "host", "host is missing: there is no directory to ask.", "host: ldap.example.com")
	case !hostName.MatchString(c.Host):
		add("Host", "host", fmt.Sprintf("%q is not a host name: scheme and port have keys of their own.", c.Host), "host: ldap.example.com, with port: and use_ssl: beside it")
	}
	if c.Port < 1 || c.Port > 65535 {
		add("Port", "port", fmt.Sprintf("%d is not a port.", c.Port), "389, or 636 with use_ssl: true")
	}
	if c.UseSSL && c.StartTLS {
		add("StartTLS", "tls", "use_ssl and start_tls exclude each other: a connection is encrypted from the first byte or upgraded.", "remove one of them")
	}
	if given.UseSSL && given.Port == 389 {
		warn("Port", "port_tls", "Port 389 usually does not speak TLS from the first byte, as use_ssl wants.", "port: 636, or use_ssl: false (StartTLS is then required)")
	}
	switch {
	case c.AllowPlaintext && (c.UseSSL || c.StartTLS):
		warn("AllowPlaintext", "plaintext_idle", "allow_plaintext does nothing where use_ssl or start_tls is set.", "remove it")
	case c.AllowPlaintext:
		warn("AllowPlaintext", "plaintext", "Passwords travel unencrypted if the directory has no StartTLS.", "use_ssl: true, once the directory has a certificate")
	}
	if _, err := c.roots(); err != nil {
		add("CAFile", "ca_file", "ca_file cannot be used: "+err.Error()+".", "a file with PEM certificates")
	}
	if c.BaseDN == "" {
		add("BaseDN", "base_dn", "base_dn is missing: it is where people are searched for.", "base_dn: dc=example,dc=com")
	} else if _, err := dnKey(c.BaseDN); err != nil {
		add("BaseDN", "base_dn", fmt.Sprintf("%q is not a distinguished name.", c.BaseDN), "base_dn: dc=example,dc=com")
	}
	// A bind with a name and without a password succeeds on many directories,
	// as nobody (RFC 4513 5.1.2): what looks like a working account is none.
	if c.BindDN != "" && strings.TrimSpace(c.BindPassword.Reveal()) == "" {
		add("BindPassword", "bind_password", "bind_password is missing: bind_dn could not sign in.", "bind_password_file: /run/secrets/ldap")
	}
	if c.BindDN == "" && c.BindPassword != "" {
		add("BindDN", "bind_dn", "bind_password is there without bind_dn.", "bind_dn: cn=gatehouse,ou=services,dc=example,dc=com")
	}
	if _, err := parseTemplate(c.UserFilter, "%s"); err != nil {
		add("UserFilter", "user_filter", "user_filter cannot be used: "+err.Error()+".", "user_filter: (uid=%s), or for Active Directory (&(objectCategory=person)(sAMAccountName=%s))")
	}
	if c.Groups.Filter != "" {
		if _, err := parseTemplate(c.Groups.Filter, "%s", "%u"); err != nil {
			add("Groups.Filter", "groups_filter", "groups.filter cannot be used: "+err.Error()+".", "filter: (member=%s); %s is the member's DN, %u the user name")
		}
	}
	if c.Groups.BaseDN != "" {
		if _, err := dnKey(c.Groups.BaseDN); err != nil {
			add("Groups.BaseDN", "groups_base_dn", fmt.Sprintf("%q is not a distinguished name.", c.Groups.BaseDN), "base_dn: ou=groups,dc=example,dc=com")
		}
	}
	for _, a := range []struct{ field, value string }{
		{"Attributes.Username", c.Attributes.Username}, {"Attributes.Email", c.Attributes.Email},
		{"Attributes.DisplayName", c.Attributes.DisplayName}, {"Groups.Name", c.Groups.Name},
	} {
		switch {
		case !attributeName.MatchString(a.value):
			add(a.field, "attribute", fmt.Sprintf("%q is not the name of an attribute.", a.value), "for example uid, mail, cn, sAMAccountName")
		case secretAttribute(a.value):
			add(a.field, "attribute_secret", fmt.Sprintf("%s is a secret and is never read.", a.value), "another attribute")
		}
	}
	if c.ResetURL != "" {
		if u, err := url.Parse(c.ResetURL); err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil {
			add("ResetURL", "reset_url", "reset_url is not the address of a page.", "reset_url: https://password.example.com/")
		}
	}
	return ps
}

// secretAttribute reports whether an attribute holds a password or its hash.
func secretAttribute(name string) bool {
	switch strings.ToLower(name) {
	case "userpassword", "2.5.4.35", "unicodepwd", "sambantpassword", "sambalmpassword", "krbprincipalkey", "pwdhistory":
		return true
	}
	return false
}

// roots returns the system's certificates and those of ca_file; nil, for the
// system's alone.
func (c Config) roots() (*x509.CertPool, error) {
	if c.CAFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // an image without certificates still trusts ca_file
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("there is no PEM certificate in it")
	}
	return roots, nil
}

// dnKey returns a form of a DN that is equal for equal DNs, whatever their
// case, spacing and order within one RDN. It is for comparing, not for asking.
func dnKey(s string) (string, error) {
	dn, err := goldap.ParseDN(s)
	if err != nil {
		return "", err
	}
	if len(dn.RDNs) == 0 {
		// The empty DN is the root, and a bind as it is anonymous.
		return "", errors.New("the name is empty")
	}
	for _, r := range dn.RDNs {
		for _, a := range r.Attributes {
			a.Value = strings.ToLower(a.Value)
		}
	}
	return dn.String(), nil
}
