package saml

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"fmt"

	crewjam "github.com/crewjam/saml"

	"github.com/remotegpu/gatehouse/connectors"
)

// The service provider's metadata, written out: the library's own tells of
// ciphers and bindings that are refused here.
type (
	spEntityXML struct {
		XMLName  xml.Name `xml:"md:EntityDescriptor"`
		MD       string   `xml:"xmlns:md,attr"`
		DS       string   `xml:"xmlns:ds,attr"`
		EntityID string   `xml:"entityID,attr"`
		Cache    string   `xml:"cacheDuration,attr"`
		SP       spRoleXML
	}
	spRoleXML struct {
		XMLName          xml.Name `xml:"md:SPSSODescriptor"`
		RequestsSigned   bool     `xml:"AuthnRequestsSigned,attr"`
		AssertionsSigned bool     `xml:"WantAssertionsSigned,attr"`
		Protocol         string   `xml:"protocolSupportEnumeration,attr"`
		Keys             []spKeyXML
		Logout           []spEndpointXML `xml:"md:SingleLogoutService"`
		Formats          []string        `xml:"md:NameIDFormat"`
		Consumer         spEndpointXML   `xml:"md:AssertionConsumerService"`
	}
	spKeyXML struct {
		XMLName xml.Name      `xml:"md:KeyDescriptor"`
		Use     string        `xml:"use,attr"`
		Cert    string        `xml:"ds:KeyInfo>ds:X509Data>ds:X509Certificate"`
		Methods []spMethodXML `xml:"md:EncryptionMethod"`
	}
	spMethodXML struct {
		Algorithm string `xml:"Algorithm,attr"`
	}
	spEndpointXML struct {
		Binding  string `xml:"Binding,attr"`
		Location string `xml:"Location,attr"`
		Index    string `xml:"index,attr,omitempty"`
		Default  string `xml:"isDefault,attr,omitempty"`
	}
)

// Describe is our metadata: a signing certificate and its successor, the
// certificate to encrypt to, and the addresses.
func (c *Connector) Describe(ctx context.Context) (string, []byte, error) {
	doc := spEntityXML{MD: nsMetadata, DS: nsSignature, EntityID: c.entityID(), Cache: "PT12H"}
	sp := &doc.SP
	sp.RequestsSigned, sp.AssertionsSigned, sp.Protocol = true, c.cfg.WantAssertionsSigned, nsProtocol
	signing, err := c.keys(ctx, connectors.KeySigning)
	if err != nil {
		return "", nil, err
	}
	for _, k := range signing {
		if k.State != connectors.KeyRetired {
			sp.Keys = append(sp.Keys, spKeyXML{Use: "signing", Cert: base64.StdEncoding.EncodeToString(k.Certificate.Raw)})
		}
	}
	encryption, err := c.keys(ctx, connectors.KeyEncryption)
	if err != nil {
		return "", nil, err
	}
	for _, k := range encryption {
		if k.State != connectors.KeyRetired {
			sp.Keys = append(sp.Keys, spKeyXML{Use: "encryption", Cert: base64.StdEncoding.EncodeToString(k.Certificate.Raw),
				Methods: []spMethodXML{{nsEncrypt11 + "aes256-gcm"}, {nsEncrypt11 + "aes128-gcm"}, {nsEncrypt + "rsa-oaep-mgf1p"}}})
		}
	}
	sp.Logout = []spEndpointXML{{Binding: crewjam.HTTPRedirectBinding, Location: c.slo()}, {Binding: crewjam.HTTPPostBinding, Location: c.slo()}}
	sp.Formats = []string{formatPersistent, formatEmail, formatUnspecified}
	if f := nameIDFormats[c.cfg.NameIDFormat]; f != "" {
		sp.Formats = []string{f}
	}
	sp.Consumer = spEndpointXML{Binding: crewjam.HTTPPostBinding, Location: c.acs(), Index: "0", Default: "true"}
	out, err := xml.MarshalIndent(doc, "", "  ")
	if err != nil {
		return "", nil, fmt.Errorf("saml: metadata: %w", err)
	}
	return "application/samlmetadata+xml", append([]byte(xml.Header), append(out, '\n')...), nil
}
