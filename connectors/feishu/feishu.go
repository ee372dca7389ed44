// Package feishu is the place of the connector for Feishu sign-in. This version decodes
// and validates its configuration; it does not serve it yet.
package feishu

import (
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// Config is the connector's section.
type Config struct {
	AppID     string        `yaml:"app_id"`
	AppSecret redact.String `yaml:"app_secret"`
	TenantKey string        `yaml:"tenant_key"`
	Proxy     string        `yaml:"proxy"`
	CAFile    string        `yaml:"ca_file"`
}

// Problems complains about what could not be served.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	if c.AppID == "" {
		ps = append(ps, problem.Problem{Field: "AppID", Rule: "connector.app_id", Text: "app_id is missing."})
	}
	if c.AppSecret == "" {
		ps = append(ps, problem.Problem{Field: "AppSecret", Rule: "connector.app_secret", Text: "app_secret is missing."})
	}
	return ps
}
