// Package saml is a SAML 2.0 service provider: people sign in at an identity
// provider such as Entra ID, Okta, ADFS, Shibboleth or Keycloak. The messages
// that we send are crewjam/saml's; what we are sent is read in an order of our
// own, each step of which fails closed: sizes, a scan of the raw bytes,
// decryption, signature, and only then the contents, out of the very bytes that
// were signed (docs/security.md, SP-1 to SP-13; docs/adr/0003).
package saml

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
)

// Config is the connector's section.
type Config struct {
	// The metadata comes from exactly one of these.
	MetadataURL  string `yaml:"metadata_url"`
	MetadataFile string `yaml:"metadata_file"`
	MetadataXML  string `yaml:"metadata_xml"`
	// MetadataCertificate, in PEM, must have signed the metadata. Empty: the
	// connection that it came by is trusted.
	MetadataCertificate string `yaml:"metadata_certificate"`
	// EntityID names the identity provider; needed where the metadata has several.
	EntityID string `yaml:"entity_id"`

	Attributes Attributes `yaml:"attributes"`
	// NameIDFormat is what we ask for: persistent, email, transient, unspecified.
	// Empty: persistent where the metadata offers it, else nothing is asked.
	NameIDFormat string `yaml:"name_id_format"`

	AllowIDPInitiated bool `yaml:"allow_idp_initiated"`
	// IDPInitiatedTargets are "name=/path": which RelayState leads where.
	IDPInitiatedTargets    []string `yaml:"idp_initiated_targets,some"`
	WantAssertionsSigned   bool     `yaml:"want_assertions_signed"`
	StrictCertificateDates bool     `yaml:"strict_certificate_dates"`
	// AllowAESCBC takes assertions encrypted without authentication.
	AllowAESCBC bool   `yaml:"allow_aes_cbc"`
	Proxy       string `yaml:"proxy"`
	CAFile      string `yaml:"ca_file"`
}

// Attributes name what the identity provider sends. What is left empty is
// recognised by the names that Entra ID, Okta, Google Workspace, ADFS,
// Shibboleth and Keycloak use.
type Attributes struct {
	// Subject is what somebody is known by for ever: an attribute, or the word
	// NameID to take that one although its format does not promise to stay.
	Subject     string `yaml:"subject"`
	Username    string `yaml:"username"`
	Email       string `yaml:"email"`
	DisplayName string `yaml:"display_name"`
	Groups      string `yaml:"groups"`
}

var nameIDFormats = map[string]string{
	"persistent": formatPersistent, "email": formatEmail, "transient": formatTransient, "unspecified": formatUnspecified,
}

var targetShape = regexp.MustCompile(`^([A-Za-z0-9_.-]{1,64})=(/[^\s\\]*)$`)

// Problems complains about what could not be served.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	n := 0
	for _, s := range []string{c.MetadataURL, c.MetadataFile, c.MetadataXML} {
		if s != "" {
			n++
		}
	}
	if n != 1 {
		add("", "saml.metadata", "The identity provider's metadata comes from exactly one place.", "one of metadata_url, metadata_file, metadata_xml")
	}
	if c.MetadataURL != "" {
		u, err := url.Parse(c.MetadataURL)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			add("MetadataURL", "saml.metadata_url", "This is not the address of a web server.", "https://idp.example.com/metadata")
		case u.Scheme == "http" && !loopback(u.Hostname()) && c.MetadataCertificate == "":
			add("MetadataURL", "saml.metadata_url", "Whoever is between us and http could give us keys of their own.", "https, or a metadata_certificate that signs it")
		}
	}
	if c.MetadataXML != "" {
		if _, err := parseMetadata([]byte(c.MetadataXML), c.EntityID, nil); err != nil {
			add("MetadataXML", "saml.metadata_xml", "The metadata cannot be used: "+strings.TrimPrefix(err.Error(), "saml: ")+".", "the XML that the identity provider offers for download")
		}
	}
	if _, err := c.pin(); err != nil {
		add("MetadataCertificate", "saml.metadata_certificate", "This is not a certificate in PEM.", "-----BEGIN CERTIFICATE----- …")
	}
	if _, known := nameIDFormats[c.NameIDFormat]; c.NameIDFormat != "" && !known {
		add("NameIDFormat", "saml.name_id_format", fmt.Sprintf("%q is no format of a NameID.", c.NameIDFormat), "persistent, email, transient or unspecified")
	}
	seen := map[string]bool{}
	for i, t := range c.IDPInitiatedTargets {
		field := fmt.Sprintf("IDPInitiatedTargets[%d]", i)
		m := targetShape.FindStringSubmatch(t)
		switch {
		case m == nil || strings.HasPrefix(m[2], "//"):
			add(field, "saml.target", fmt.Sprintf("%q does not say which RelayState leads to which page of ours.", t), "portal=/")
		case seen[m[1]]:
			add(field, "saml.target", fmt.Sprintf("The RelayState %q is there twice.", m[1]), "one entry each")
		default:
			seen[m[1]] = true
		}
	}
	if len(c.IDPInitiatedTargets) > 0 && !c.AllowIDPInitiated {
		ps = append(ps, problem.Problem{Field: "IDPInitiatedTargets", Rule: "saml.target", Text: "Without allow_idp_initiated nobody comes to these.", Fix: "allow_idp_initiated: true", Warning: true})
	}
	return ps
}

// pin returns the certificate that must have signed the metadata, or nil.
func (c Config) pin() (*x509.Certificate, error) {
	if strings.TrimSpace(c.MetadataCertificate) == "" {
		return nil, nil
	}
	b, _ := pem.Decode([]byte(c.MetadataCertificate))
	if b == nil || b.Type != "CERTIFICATE" {
		return nil, refuse("pin", "metadata_certificate is not a certificate in PEM")
	}
	return x509.ParseCertificate(b.Bytes)
}

// target returns where a RelayState that came unasked leads: it is looked up,
// never followed (docs/security.md SP-9).
func (c Config) target(relayState string) string {
	for _, t := range c.IDPInitiatedTargets {
		if m := targetShape.FindStringSubmatch(t); m != nil && m[1] == relayState {
			return m[2]
		}
	}
	return "/"
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && ip.IsLoopback()
}
