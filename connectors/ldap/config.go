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
	"os"
	"strings"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/remotegpu/gatehouse/broker/redact"
)

// Config is the `ldap` section.
type Config struct {
	// Preset fills in what directories of one kind have in common:
	// "active_directory". Whatever is written beside it counts instead.
	Preset string `yaml:"preset"`
	// Host is the directory's name or address, without scheme and port. The
	// certificate must be for it.
	Host string `yaml:"host"`
	// Hosts are more servers of the same directory, as name or name:port, in the
	// order in which they are asked after Host while those before do not answer.
	Hosts []string `yaml:"hosts"`
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
	// NetBIOSDomain is the domain that people may type before a backslash, for
	// the preset active_directory; beside it the domain of base_dn is known.
	// Empty takes any, and looks for the rest of the name.
	NetBIOSDomain string `yaml:"netbios_domain"`
	// UserFilter finds the person. Each %s stands for the escaped name that was
	// typed; the default is (uid=%s), or with active_directory the account name,
	// the principal name and the mail address of a person.
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
	Username    string `yaml:"username"`     // default uid, or sAMAccountName
	Email       string `yaml:"email"`        // default mail
	DisplayName string `yaml:"display_name"` // default cn, or displayName
}

// Groups says how a person's groups are found. With neither BaseDN nor Filter
// nor Nested they are what the entry's memberOf says; with active_directory they
// are always searched for, because memberOf lacks the primary group.
type Groups struct {
	// BaseDN is where groups are searched for; default is the base_dn of people.
	BaseDN string `yaml:"base_dn"`
	// Filter finds the groups of one member: %s stands for the member's DN, %u
	// for the user name. The default is
	// (|(member=%s)(uniqueMember=%s)(memberUid=%u)).
	Filter string `yaml:"filter"`
	// Name is the attribute that names a group, default cn, or "dn" for the
	// whole DN; with active_directory sAMAccountName, which no two groups of a
	// domain share. Two groups of one name count as none, because whoever may
	// create groups somewhere could otherwise take the name of another.
	Name string `yaml:"name"`
	// Nested also counts the groups of groups; the default is false, with
	// active_directory true.
	Nested *bool `yaml:"nested"`
}

func (g Groups) nested() bool { return g.Nested != nil && *g.Nested }

// search reports whether groups are searched for, rather than read off memberOf.
func (g Groups) search() bool { return g.BaseDN != "" || g.Filter != "" || g.nested() }

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
	if c.isAD() {
		set(&c.Attributes.Username, "sAMAccountName")
		set(&c.Attributes.DisplayName, "displayName")
		set(&c.Groups.Name, "sAMAccountName")
		if c.Groups.Nested == nil {
			c.Groups.Nested = new(true)
		}
	} else {
		set(&c.UserFilter, defaultUserFilter)
	}
	set(&c.Attributes.Username, "uid")
	set(&c.Attributes.Email, "mail")
	set(&c.Attributes.DisplayName, "cn")
	set(&c.Groups.Name, "cn")
	return c
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
