package saml

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	crewjam "github.com/crewjam/saml"
)

// Metadata in the shapes in which providers publish it: with other roles beside,
// extensions, comments, a signature that nobody asked for, several providers.
func TestMetadataShapes(t *testing.T) {
	cert := base64.StdEncoding.EncodeToString(idpPair().cert.Raw)
	next := base64.StdEncoding.EncodeToString(foreignPair().cert.Raw)
	signature := `<Signature xmlns="` + nsSignature + `"><SignedInfo><CanonicalizationMethod Algorithm="http://www.w3.org/2001/10/xml-exc-c14n#"/><SignatureMethod Algorithm="http://www.w3.org/2000/09/xmldsig#rsa-sha1"/><Reference URI="#_1"><Transforms><Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/></Transforms><DigestMethod Algorithm="http://www.w3.org/2000/09/xmldsig#sha1"/><DigestValue>AAAA</DigestValue></Reference></SignedInfo><SignatureValue>AAAA</SignatureValue></Signature>`
	keys := func(prefix string, certs ...string) string {
		var b strings.Builder
		for _, c := range certs {
			b.WriteString(`<` + prefix + `KeyDescriptor use="signing"><KeyInfo xmlns="` + nsSignature + `"><X509Data><X509Certificate>` + c[:64] + "\n   " + c[64:] + `</X509Certificate></X509Data></KeyInfo></` + prefix + `KeyDescriptor>`)
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		doc, entity string
		keys        int
		slo         bool
		until       time.Time
	}{
		"Entra ID": {doc: `<?xml version="1.0" encoding="utf-8"?><EntityDescriptor ID="_1" entityID="https://sts.windows.net/t/" xmlns="` + nsMetadata + `">` + signature +
			`<RoleDescriptor xsi:type="fed:SecurityTokenServiceType" protocolSupportEnumeration="http://docs.oasis-open.org/wsfed/federation/200706" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:fed="http://docs.oasis-open.org/wsfed/federation/200706">` + keys("", cert) +
			`<fed:ClaimTypesOffered><auth:ClaimType Uri="http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name" xmlns:auth="http://docs.oasis-open.org/wsfed/authorization/200706"><auth:DisplayName>Name</auth:DisplayName></auth:ClaimType></fed:ClaimTypesOffered></RoleDescriptor>` +
			`<IDPSSODescriptor protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol">` + keys("", cert, next) +
			`<SingleLogoutService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect" Location="https://login.microsoftonline.com/t/saml2"/><SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect" Location="https://login.microsoftonline.com/t/saml2"/><SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST" Location="https://login.microsoftonline.com/t/saml2"/></IDPSSODescriptor></EntityDescriptor>`,
			keys: 2, slo: true},
		"Google Workspace": {doc: `<?xml version="1.0" encoding="UTF-8" standalone="no"?><md:EntityDescriptor xmlns:md="` + nsMetadata + `" entityID="https://accounts.google.com/o/saml2?idpid=C0" validUntil="2031-01-01T00:00:00.000Z"><md:IDPSSODescriptor WantAuthnRequestsSigned="false" protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol">` + keys("md:", cert) +
			`<md:NameIDFormat>urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress</md:NameIDFormat><md:SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect" Location="https://accounts.google.com/o/saml2/idp?idpid=C0"/></md:IDPSSODescriptor></md:EntityDescriptor>`,
			keys: 1, until: time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)},
		"Shibboleth": {doc: `<?xml version="1.0" encoding="UTF-8"?><!-- made at install time --><EntityDescriptor xmlns="` + nsMetadata + `" xmlns:ds="` + nsSignature + `" xmlns:shibmd="urn:mace:shibboleth:metadata:1.0" xmlns:mdui="urn:oasis:names:tc:SAML:metadata:ui" entityID="https://idp.example.edu/idp/shibboleth"><IDPSSODescriptor protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol urn:mace:shibboleth:1.0"><Extensions><shibmd:Scope regexp="false">example.edu</shibmd:Scope><mdui:UIInfo><mdui:DisplayName xml:lang="en">Example</mdui:DisplayName></mdui:UIInfo></Extensions><!-- first --><KeyDescriptor><ds:KeyInfo><ds:X509Data><ds:X509Certificate>` + cert + `</ds:X509Certificate></ds:X509Data></ds:KeyInfo></KeyDescriptor>` +
			`<ArtifactResolutionService Binding="urn:oasis:names:tc:SAML:2.0:bindings:SOAP" Location="https://idp.example.edu:8443/idp/profile/SAML2/SOAP/ArtifactResolution" index="2"/><SingleLogoutService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST" Location="https://idp.example.edu/idp/profile/SAML2/POST/SLO" ResponseLocation="https://idp.example.edu/idp/profile/SAML2/POST/SLR"/><SingleSignOnService Binding="urn:mace:shibboleth:1.0:profiles:AuthnRequest" Location="https://idp.example.edu/idp/profile/Shibboleth/SSO"/><SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST-SimpleSign" Location="https://idp.example.edu/simple"/><SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST" Location="https://idp.example.edu/idp/profile/SAML2/POST/SSO"/></IDPSSODescriptor><AttributeAuthorityDescriptor protocolSupportEnumeration="urn:oasis:names:tc:SAML:1.1:protocol"><AttributeService Binding="urn:oasis:names:tc:SAML:1.0:bindings:SOAP-binding" Location="https://idp.example.edu:8443/idp/profile/SAML1/SOAP/AttributeQuery"/></AttributeAuthorityDescriptor></EntityDescriptor>`,
			keys: 1, slo: true},
		"Keycloak, as old versions wrap it": {doc: `<EntitiesDescriptor Name="urn:keycloak" xmlns="` + nsMetadata + `" xmlns:dsig="` + nsSignature + `"><EntityDescriptor entityID="https://sso.example.com/realms/r"><IDPSSODescriptor WantAuthnRequestsSigned="true" protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol">` + keys("", cert) +
			`<SingleLogoutService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST" Location="https://sso.example.com/realms/r/protocol/saml"/><SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect" Location="https://sso.example.com/realms/r/protocol/saml"/></IDPSSODescriptor></EntityDescriptor></EntitiesDescriptor>`,
			keys: 1, slo: true},
		"a federation": {doc: `<EntitiesDescriptor xmlns="` + nsMetadata + `" validUntil="2026-12-10T00:00:00Z"><EntityDescriptor entityID="https://bad.example.com"><IDPSSODescriptor protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol"><SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect" Location="javascript:alert(1)"/></IDPSSODescriptor></EntityDescriptor><EntitiesDescriptor validUntil="2026-12-05T00:00:00Z"><EntityDescriptor entityID="https://mine.example.com"><IDPSSODescriptor protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol">` + keys("", cert) +
			`<SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect" Location="https://mine.example.com/sso"/></IDPSSODescriptor></EntityDescriptor></EntitiesDescriptor></EntitiesDescriptor>`,
			entity: "https://mine.example.com", keys: 1, until: time.Date(2026, 12, 5, 0, 0, 0, 0, time.UTC)},
	} {
		p, err := parseMetadata([]byte(c.doc), c.entity, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(p.Keys) != c.keys || !p.ValidUntil.Equal(c.until) || (p.SLO[crewjam.HTTPRedirectBinding]+p.SLO[crewjam.HTTPPostBinding] != "") != c.slo {
			t.Errorf("%s: %d keys, until %s, logout %v", name, len(p.Keys), p.ValidUntil, p.SLO)
		}
		if name == "Shibboleth" && p.SLOResponse[crewjam.HTTPPostBinding] != "https://idp.example.edu/idp/profile/SAML2/POST/SLR" {
			t.Errorf("answers go to %v", p.SLOResponse)
		}
	}
}
