package saml

import (
	"slices"
	"testing"

	"github.com/beevik/etree"

	"github.com/remotegpu/gatehouse/connectors"
)

// What the six identity providers send by default is recognised without a line
// of configuration.
func TestProvidersByDefault(t *testing.T) {
	r := newRig(t, nil)
	const ws, ms, oid = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/", "http://schemas.microsoft.com/", "urn:oid:"
	for name, c := range map[string]struct {
		id, format string
		attributes map[string][]string
		want       connectors.Identity
	}{
		"Entra ID": {"alice@acme.onmicrosoft.com", formatEmail, map[string][]string{
			ms + "identity/claims/objectidentifier": {"0f0e"}, ms + "identity/claims/tenantid": {"t"}, ms + "identity/claims/displayname": {"Alice Lee"},
			ws + "name": {"alice@acme.onmicrosoft.com"}, ws + "emailaddress": {"alice@acme.com"}, ws + "givenname": {"Alice"}, ws + "surname": {"Lee"}, ms + "ws/2008/06/identity/claims/groups": {"g-1", "g-2"},
		}, connectors.Identity{Subject: "0f0e", Email: "alice@acme.com", Name: "Alice Lee", Username: "alice@acme.onmicrosoft.com", Groups: []string{"g-1", "g-2"}}},
		"Entra ID, no display name": {"u", formatPersistent, map[string][]string{ws + "name": {"alice@acme.com"}, ws + "givenname": {"Alice"}, ws + "surname": {"Lee"}},
			connectors.Identity{Subject: "u", Name: "Alice Lee", Username: "alice@acme.com"}},
		"Okta": {"00u1", formatPersistent, map[string][]string{"email": {"alice@acme.com"}, "firstName": {"Alice"}, "lastName": {"Lee"}, "groups": {"Everyone"}},
			connectors.Identity{Subject: "00u1", Email: "alice@acme.com", Name: "Alice Lee", Groups: []string{"Everyone"}}},
		"Google Workspace": {"110", formatPersistent, map[string][]string{"email": {"alice@acme.com"}, "displayName": {"Alice"}, "groups": {"eng"}},
			connectors.Identity{Subject: "110", Email: "alice@acme.com", Name: "Alice", Groups: []string{"eng"}}},
		"ADFS": {"S-1", formatPersistent, map[string][]string{ws + "emailaddress": {"alice@acme.com"}, ws + "upn": {"alice@corp"}, "http://schemas.xmlsoap.org/claims/CommonName": {"Alice"}, "http://schemas.xmlsoap.org/claims/Group": {"Domain Users"}},
			connectors.Identity{Subject: "S-1", Email: "alice@acme.com", Name: "Alice", Username: "alice@corp", Groups: []string{"Domain Users"}}},
		"Shibboleth": {"_x", formatTransient, map[string][]string{oid + "0.9.2342.19200300.100.1.3": {"alice@acme.edu"}, oid + "2.16.840.1.113730.3.1.241": {"Alice"}, oid + "1.3.6.1.4.1.5923.1.1.1.6": {"alice@acme.edu"}, pairwiseID: {"HA@acme.edu"}, oid + "1.3.6.1.4.1.5923.1.5.1.1": {"staff"}},
			connectors.Identity{Subject: "HA@acme.edu", Email: "alice@acme.edu", Name: "Alice", Username: "alice@acme.edu", Groups: []string{"staff"}}},
		"Keycloak": {"G-1", formatPersistent, map[string][]string{"email": {"alice@acme.com"}, "username": {"alice"}, "Role": {"admin", "user"}, "firstName": {"Alice"}, "lastName": {"Lee"}},
			connectors.Identity{Subject: "G-1", Email: "alice@acme.com", Name: "Alice Lee", Username: "alice", Groups: []string{"admin", "user"}}},
		"e-mail by NameID alone": {"alice@acme.com", formatEmail, map[string][]string{ms + "identity/claims/objectidentifier": {"0f0e"}},
			connectors.Identity{Subject: "0f0e", Email: "alice@acme.com", Name: "alice@acme.com", Username: "alice@acme.com"}},
	} {
		a := r.answer()
		a.NameID, a.Format, a.Attributes = c.id, c.format, c.attributes
		id, err := r.bring(r.idp.Document(a))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if id.Subject != c.want.Subject || id.Email != c.want.Email || id.Name != c.want.Name || id.Username != c.want.Username || !slices.Equal(id.Groups, c.want.Groups) {
			t.Errorf("%s: subject %q email %q name %q user %q groups %q", name, id.Subject, id.Email, id.Name, id.Username, id.Groups)
		}
		if id.EmailVerified {
			t.Errorf("%s: nobody said that the address is verified", name)
		}
	}
}

// The operator's names are the only ones that count where they are written.
func TestConfiguredAttributes(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Attributes = Attributes{Subject: "employeeNumber", Username: "login", Email: "work", DisplayName: "shown", Groups: "teams"}
	})
	a := r.answer()
	a.Attributes = map[string][]string{"EMPLOYEENUMBER": {"7"}, "login": {"al"}, "work": {"a@acme.com"}, "mail": {"x@acme.com"}, "shown": {"Al"}, "teams": {"t"}, "groups": {"g"}}
	id := r.good(a)
	if id.Subject != "7" || id.Username != "al" || id.Email != "a@acme.com" || id.Name != "Al" || !slices.Equal(id.Groups, []string{"t"}) {
		t.Errorf("%+v", id)
	}
	for what, values := range map[string][]string{"none": nil, "two": {"7", "8"}, "unseen": {"7\u200b"}} {
		a := r.answer()
		a.Attributes = map[string][]string{"employeeNumber": values}
		r.refused(what, r.idp.Document(a), "subject")
	}
}

// A NameID that may change is taken only where the operator says so.
func TestSubjectNameID(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Attributes.Subject = "NameID" })
	a := r.answer()
	a.NameID, a.Format = "alice@acme.com", formatEmail
	if id := r.good(a); id.Subject != "alice@acme.com" {
		t.Errorf("%+v", id)
	}
	a.Format = formatTransient
	r.refused("transient", r.idp.Document(a), "name_id")
}

// A persistent NameID is unique within its qualifiers.
func TestQualifiedNameID(t *testing.T) {
	r := newRig(t, nil)
	for _, c := range []struct{ idp, sp, want string }{
		{"", "", "u-1"}, {idpID, base + "/metadata", "u-1"}, {"https://old.example.com", "", "https://old.example.com!!u-1"}, {"", "group", "!group!u-1"},
	} {
		a := r.answer()
		a.Before = func(e *etree.Element) {
			n := e.FindElement("//NameID")
			n.CreateAttr("NameQualifier", c.idp)
			n.CreateAttr("SPNameQualifier", c.sp)
		}
		if id := r.good(a); id.Subject != c.want {
			t.Errorf("%q %q: %q", c.idp, c.sp, id.Subject)
		}
	}
}

// Values of one name are merged wherever they stand; what cannot be seen is left
// out (docs/security.md SP-10).
func TestValuesAreMerged(t *testing.T) {
	r := newRig(t, nil)
	a := r.answer()
	a.Before = func(e *etree.Element) {
		st := e.FindElement("//AttributeStatement")
		for _, v := range []string{"more", "gpu", "bad\u202egroup"} {
			at := st.CreateElement("saml:Attribute")
			at.CreateAttr("Name", "groups")
			at.CreateElement("saml:AttributeValue").SetText(v)
		}
	}
	id := r.good(a)
	if !slices.Equal(id.Groups, []string{"gpu", "ops", "more"}) {
		t.Errorf("%q", id.Groups)
	}
	if all, ok := id.Claims["groups"].([]string); !ok || len(all) != 5 {
		t.Errorf("claims: %v", id.Claims["groups"])
	}
}
