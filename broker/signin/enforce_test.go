package signin

import (
	"testing"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/local"
)

// UP-5: trust_email stands for the word that LDAP and SAML do not have, for the
// connector's own domains; it never outvotes an upstream that has the word. Of
// other domains a connector that has some says nothing.
func TestVouch(t *testing.T) {
	if open := (&Method{Type: "github"}); !open.vouch(connectors.Identity{Email: "li@any.example", EmailVerified: true}).EmailVerified {
		t.Error("a connector without domains is not believed")
	}
	for _, c := range []struct {
		typ, email       string
		trust, said, out bool
	}{
		{"ldap", "li@acme.example", true, false, true},
		{"saml", "li@ACME.example", true, false, true},
		{"ldap", "li@acme.example", false, false, false},
		{"saml", "li@acme.example", false, false, false},
		{"ldap", "li@other.example", true, false, false},
		{"saml", "li@x.acme.example", true, false, false},
		{"ldap", "li@evil.example@acme.example", true, false, false},
		{"saml", "li@acme.example.", true, false, false},
		{"ldap", "", true, false, false},
		{"oidc", "li@acme.example", true, false, false}, // it said no
		{"google", "li@acme.example", true, false, false},
		{"github", "li@acme.example", true, false, false},
		{"gitlab", "li@acme.example", true, false, false},
		{"oidc", "li@acme.example", true, true, true},
		{"oidc", "li@acme.example", false, true, true},     // and yes: whom that binds is speaks
		{"github", "li@other.example", false, true, false}, // not its domain
		{"oidc", "victim@gmail.com", true, true, false},
		{"local", "li@other.example", false, true, true},
	} {
		m := &Method{ID: "x", Type: c.typ, TrustEmail: c.trust, Domains: []string{"acme.example"}}
		if got := m.vouch(connectors.Identity{Email: c.email, EmailVerified: c.said}).EmailVerified; got != c.out {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// Whose word about a domain counts: trust_email, the domain written down, and a
// connector that lets people in.
func TestSpeaks(t *testing.T) {
	for name, c := range map[string]struct {
		m    Method
		want bool
	}{
		"trusted":            {Method{TrustEmail: true, Domains: []string{"acme.example"}, Connector: &local.Connector{}}, true},
		"not trusted":        {Method{Domains: []string{"acme.example"}, Connector: &local.Connector{}}, false},
		"another domain":     {Method{TrustEmail: true, Domains: []string{"other.example"}, Connector: &local.Connector{}}, false},
		"no domain":          {Method{TrustEmail: true, Connector: &local.Connector{}}, false},
		"for linking alone":  {Method{TrustEmail: true, LinkOnly: true, Domains: []string{"acme.example"}, Connector: &local.Connector{}}, false},
		"of a later version": {Method{TrustEmail: true, Domains: []string{"acme.example"}}, false},
	} {
		if got := c.m.speaks("acme.example"); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
