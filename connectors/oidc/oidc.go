// Package oidc is the place of the connector for any OpenID Connect provider. This version decodes
// and validates its configuration; it does not serve it yet.
package oidc

import (
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// Config is the connector's section.
type Config struct {
	Issuer       string            `yaml:"issuer"`
	ClientID     string            `yaml:"client_id"`
	ClientSecret redact.String     `yaml:"client_secret"`
	RedirectURI  string            `yaml:"redirect_uri"`
	Scopes       []string          `yaml:"scopes"`
	Claims       map[string]string `yaml:"claims"`
	Proxy        string            `yaml:"proxy"`
	CAFile       string            `yaml:"ca_file"`
}

// Problems complains about what could not be served.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	if !strings.HasPrefix(c.Issuer, "https://") && !strings.HasPrefix(c.Issuer, "http://") {
		ps = append(ps, problem.Problem{Field: "Issuer", Rule: "connector.issuer", Text: "issuer is missing or no URL.", Fix: "issuer: https://idp.example.com"})
	}
	if c.ClientID == "" {
		ps = append(ps, problem.Problem{Field: "ClientID", Rule: "connector.client_id", Text: "client_id is missing: it names this installation at the provider."})
	}
	return ps
}
