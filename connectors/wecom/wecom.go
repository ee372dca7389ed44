// Package wecom is the place of the connector for WeCom sign-in. This version decodes
// and validates its configuration; it does not serve it yet.
package wecom

import (
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// Config is the connector's section.
type Config struct {
	CorpID  string        `yaml:"corp_id"`
	AgentID string        `yaml:"agent_id"`
	Secret  redact.String `yaml:"secret"`
	Proxy   string        `yaml:"proxy"`
	CAFile  string        `yaml:"ca_file"`
}

// Problems complains about what could not be served.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	if c.CorpID == "" {
		ps = append(ps, problem.Problem{Field: "CorpID", Rule: "connector.corp_id", Text: "corp_id is missing."})
	}
	if c.AgentID == "" {
		ps = append(ps, problem.Problem{Field: "AgentID", Rule: "connector.agent_id", Text: "agent_id is missing."})
	}
	if c.Secret == "" {
		ps = append(ps, problem.Problem{Field: "Secret", Rule: "connector.secret", Text: "secret is missing."})
	}
	return ps
}
