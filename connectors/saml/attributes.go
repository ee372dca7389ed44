package saml

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/remotegpu/gatehouse/connectors"
)

const (
	claimsWS   = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/"
	claimsMS   = "http://schemas.microsoft.com/ws/2008/06/identity/claims/"
	identityMS = "http://schemas.microsoft.com/identity/claims/"
	pairwiseID = "urn:oasis:names:tc:SAML:attribute:pairwise-id"
	subjectID  = "urn:oasis:names:tc:SAML:attribute:subject-id"
	groupsLink = "http://schemas.microsoft.com/claims/groups.link"
)

// The names under which Entra ID, ADFS, Okta, Google Workspace, Shibboleth and
// Keycloak send what we look for; the first that is there counts. Entra's
// claims/name is the UPN, and therefore a user name here, never a display name.
var (
	emailNames = []string{"email", "mail", "emailAddress", claimsWS + "emailaddress", "urn:oid:0.9.2342.19200300.100.1.3", "urn:oid:1.2.840.113549.1.9.1", "user.email", "e-mail"}
	nameNames  = []string{"displayName", identityMS + "displayname", claimsWS + "displayname", "urn:oid:2.16.840.1.113730.3.1.241", "display_name", "http://schemas.xmlsoap.org/claims/CommonName", "cn", "urn:oid:2.5.4.3", "name", "fullName"}
	givenNames = []string{"givenName", "firstName", "first_name", claimsWS + "givenname", "urn:oid:2.5.4.42", "user.firstName"}
	familyName = []string{"sn", "surname", "lastName", "last_name", claimsWS + "surname", "urn:oid:2.5.4.4", "user.lastName"}
	userNames  = []string{"uid", "urn:oid:0.9.2342.19200300.100.1.1", "username", "preferred_username", "login", claimsWS + "upn", "upn", "eduPersonPrincipalName", "urn:oid:1.3.6.1.4.1.5923.1.1.1.6", claimsWS + "name", claimsMS + "windowsaccountname"}
	groupNames = []string{"groups", claimsMS + "groups", "http://schemas.xmlsoap.org/claims/Group", "memberOf", "isMemberOf", "urn:oid:1.3.6.1.4.1.5923.1.5.1.1", "Role", "roles", claimsMS + "role", "group"}
	// subjectNames are known to stay with a person.
	subjectNames = []string{identityMS + "objectidentifier"}
)

// attributes are all values by name. Values of one name, wherever it stands, are
// merged: no reader may see the first and another the last (docs/security.md
// SP-10).
type attributes struct {
	values map[string][]string
	names  map[string]string // lower case, friendly ones too, → the key in values
}

func readAttributes(a *assertionXML) (attributes, error) {
	out := attributes{values: map[string][]string{}, names: map[string]string{}}
	for _, st := range a.Statements {
		for _, at := range st.Attributes {
			if at.Name == "" {
				return out, refuse("attribute", "an attribute has no name")
			}
			for _, v := range at.Values {
				s := v.Text
				if len(v.NameID) == 1 {
					s = v.NameID[0].Value
				}
				out.values[at.Name] = append(out.values[at.Name], s)
			}
			out.names[strings.ToLower(at.Name)] = at.Name
		}
	}
	for _, st := range a.Statements {
		for _, at := range st.Attributes { // a real name goes before a friendly one
			if f := strings.ToLower(at.FriendlyName); f != "" && out.names[f] == "" {
				out.names[f] = at.Name
			}
		}
	}
	return out, nil
}

// all returns the values of the first name that has any. The operator's own name
// is the only one that counts where there is one.
func (a attributes) all(configured string, known []string) []string {
	if configured != "" {
		known = []string{configured}
	}
	for _, n := range known {
		if vs := a.values[a.names[strings.ToLower(n)]]; len(vs) > 0 {
			return vs
		}
	}
	return nil
}

// first is all for what has one value; one that is not plain text is none.
func (a attributes) first(configured string, known []string) string {
	for _, v := range a.all(configured, known) {
		if text(v) {
			return v
		}
	}
	return ""
}

// identity is what the assertion says about the person.
func (c *Connector) identity(ctx context.Context, a *assertionXML, p *provider) (connectors.Identity, error) {
	at, err := readAttributes(a)
	if err != nil {
		return connectors.Identity{}, err
	}
	var name nameID
	if ids := a.Subject[0].NameID; len(ids) == 1 {
		name = ids[0]
		if !text(name.Value) {
			return connectors.Identity{}, refuse("name_id", "the NameID is empty, too long, or holds characters that cannot be seen")
		}
	}
	id := connectors.Identity{Connector: c.id, Claims: map[string]any{}}
	if id.Subject, err = c.subject(at, name, p); err != nil {
		return id, err
	}
	for n, vs := range at.values {
		id.Claims[n] = vs
	}
	id.Claims["name_id"], id.Claims["name_id_format"] = name.Value, name.Format
	cfg := c.cfg.Attributes
	id.Email = at.first(cfg.Email, emailNames)
	if id.Email == "" && cfg.Email == "" && name.Format == formatEmail {
		id.Email = name.Value
	}
	id.Username = at.first(cfg.Username, userNames)
	if id.Username == "" && cfg.Username == "" && name.Format != formatTransient && name.Format != formatPersistent {
		id.Username = name.Value
	}
	id.Name = at.first(cfg.DisplayName, nameNames)
	if id.Name == "" && cfg.DisplayName == "" {
		id.Name = strings.TrimSpace(at.first("", givenNames) + " " + at.first("", familyName))
	}
	id.Name = cmp.Or(id.Name, id.Username)
	for _, g := range at.all(cfg.Groups, groupNames) {
		if text(g) && !slices.Contains(id.Groups, g) {
			id.Groups = append(id.Groups, g)
		}
	}
	if id.Groups == nil && (at.names[groupsLink] != "" || at.names[strings.ToLower(claimsMS+"groups.link")] != "") {
		c.log.WarnContext(ctx, "saml: Entra ID sent a link instead of groups, as it does above 150; have it send only the groups assigned to the application")
	}
	c.session(&id, a, name)
	return id, nil
}

// session fills in when and how long the person is signed in there, and what
// ends that.
func (c *Connector) session(id *connectors.Identity, a *assertionXML, name nameID) {
	index := ""
	for _, st := range a.Authn {
		if t, err := instant(st.AuthnInstant); err == nil && t.After(id.AuthTime) {
			id.AuthTime = t
		}
		if t, err := instant(st.SessionNotOnOrAfter); err == nil && (id.SessionEnds.IsZero() || t.Before(id.SessionEnds)) {
			id.SessionEnds = t
		}
		id.ACR = cmp.Or(id.ACR, st.Context.ClassRef)
		index = cmp.Or(index, st.SessionIndex)
	}
	if name.Value != "" && len(index) <= 1024 {
		id.Session, id.SessionKey = session{name, index}.text(), name.key()
	}
}

// subject is what the person is known by for ever (docs/security.md UP-4).
func (c *Connector) subject(at attributes, name nameID, p *provider) (string, error) {
	if want := c.cfg.Attributes.Subject; want != "" && want != "NameID" {
		vs := slices.Compact(at.all(want, nil))
		if len(vs) != 1 || !text(vs[0]) {
			return "", refuse("subject", "the attribute %q, which people are known by, has %d values; it needs exactly one", want, len(vs))
		}
		return vs[0], nil
	}
	switch {
	case name.Format == formatTransient:
		// A new one each time. Another id may be there, below.
	case c.cfg.Attributes.Subject == "NameID" && name.Value != "", name.Format == formatPersistent:
		return c.qualified(name, p), nil
	}
	if c.cfg.Attributes.Subject == "" {
		for _, n := range append(slices.Clone(subjectNames), pairwiseID, subjectID) {
			if vs := at.all(n, nil); len(vs) == 1 && text(vs[0]) {
				return vs[0], nil
			}
		}
	}
	return "", refuse("name_id", "nothing in the assertion stays with the person: the NameID's format is %q; have the identity provider send a persistent one, or write attributes.subject", cmp.Or(name.Format, "none"))
}

// qualified writes a NameID with what it is unique within, where that is not
// simply this provider and us.
func (c *Connector) qualified(n nameID, p *provider) string {
	idp, sp := n.NameQualifier, n.SPNameQualifier
	if idp == p.EntityID {
		idp = ""
	}
	if sp == c.entityID() {
		sp = ""
	}
	if idp == "" && sp == "" {
		return n.Value
	}
	return fmt.Sprintf("%s!%s!%s", idp, sp, n.Value)
}

// unsafeRune is a character that is not seen, or turns others around.
func unsafeRune(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) || r == '\ufeff' || r == '\u200b' || r == unicode.ReplacementChar
}
