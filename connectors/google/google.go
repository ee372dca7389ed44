// Package google is the place of the connector for Google accounts and Workspace. This version decodes
// and validates its configuration; it does not serve it yet.
package google

import (
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// Config is the connector's section.
type Config struct {
	ClientID      string        `yaml:"client_id"`
	ClientSecret  redact.String `yaml:"client_secret"`
	RedirectURI   string        `yaml:"redirect_uri"`
	Scopes        []string      `yaml:"scopes"`
	HostedDomains []string      `yaml:"hosted_domains,some"`
	Proxy         string        `yaml:"proxy"`
	CAFile        string        `yaml:"ca_file"`
}

// Problems complains about what could not be served.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	if c.ClientID == "" {
		ps = append(ps, problem.Problem{Field: "ClientID", Rule: "connector.client_id", Text: "client_id is missing: it names this installation at the provider."})
	}
	if c.ClientSecret == "" {
		ps = append(ps, problem.Problem{Field: "ClientSecret", Rule: "connector.client_secret", Text: "client_secret is missing."})
	}
	return ps
}
