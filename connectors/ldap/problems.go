package ldap

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
)

var (
	attributeName = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)+)$`)
	netBIOSName   = regexp.MustCompile(`^[^\\/:*?"<>|@\s]{1,15}$`)
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
	if c.Preset != "" && !c.isAD() {
		add("Preset", "preset", fmt.Sprintf("There is no preset %q.", c.Preset), "preset: active_directory, or leave it out")
	}
	if c.NetBIOSDomain != "" && !c.isAD() {
		add("NetBIOSDomain", "netbios_domain", "netbios_domain means something to Active Directory alone.", "preset: active_directory beside it, or remove it")
	} else if c.NetBIOSDomain != "" && !netBIOSName.MatchString(c.NetBIOSDomain) {
		add("NetBIOSDomain", "netbios_domain", fmt.Sprintf("%q is not the NetBIOS name of a domain.", c.NetBIOSDomain), "netbios_domain: EXAMPLE")
	}
	for _, h := range c.Hosts {
		if _, _, err := splitHost(h, c.Port); err != nil {
			add("Hosts", "hosts", fmt.Sprintf("%q is not a server: %s.", h, err), "hosts: [dc2.example.com, dc3.example.com:636]")
		}
	}
	switch {
	case c.Host == "" && len(c.Hosts) > 0:
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
	if c.UserFilter == "" { // the preset's own
	} else if _, err := parseTemplate(c.UserFilter, "%s"); err != nil {
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
