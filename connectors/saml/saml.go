// Package saml is the place of the connector for SAML 2.0 identity providers. This version decodes
// and validates its configuration; it does not serve it yet.
package saml

import (
	"github.com/remotegpu/gatehouse/broker/problem"
)

// Config is the connector's section.
type Config struct {
	MetadataURL  string `yaml:"metadata_url"`
	MetadataFile string `yaml:"metadata_file"`
	MetadataXML  string `yaml:"metadata_xml"`
	EntityID     string `yaml:"entity_id"`
	Attributes   struct {
		Email       string `yaml:"email"`
		DisplayName string `yaml:"display_name"`
		Groups      string `yaml:"groups"`
	} `yaml:"attributes"`
	AllowIDPInitiated      bool     `yaml:"allow_idp_initiated"`
	WantAssertionsSigned   bool     `yaml:"want_assertions_signed"`
	StrictCertificateDates bool     `yaml:"strict_certificate_dates"`
	IDPInitiatedTargets    []string `yaml:"idp_initiated_targets"`
	Proxy                  string   `yaml:"proxy"`
	CAFile                 string   `yaml:"ca_file"`
}

// Problems complains about what could not be served.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	n := 0
	for _, s := range []string{c.MetadataURL, c.MetadataFile, c.MetadataXML} {
		if s != "" {
			n++
		}
	}
	if n != 1 {
		ps = append(ps, problem.Problem{Rule: "saml.metadata", Text: "The identity provider's metadata comes from exactly one place.", Fix: "one of metadata_url, metadata_file, metadata_xml"})
	}
	return ps
}
