// Package wecom signs people in with WeCom (企业微信), as an application of one
// company. WeCom gives nobody a token of their own: the application redeems the
// code and asks about the member.
package wecom

import (
	"regexp"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors/appapi"
)

// Config is the connector's section.
type Config struct {
	CorpID      string        `yaml:"corp_id"`
	AgentID     string        `yaml:"agent_id"`
	Secret      redact.String `yaml:"secret"`       // of the application, not of the address book
	RedirectURI string        `yaml:"redirect_uri"` // default: the broker's callback
	// PrivateInfo asks for e-mail and picture, which WeCom gives inside its own
	// app alone, and there after asking the person.
	PrivateInfo bool `yaml:"private_info"`

	Proxy  string `yaml:"proxy"`
	CAFile string `yaml:"ca_file"`

	// Where a private deployment stands in for the vendor, one by one.
	QRURL        string `yaml:"qr_url"`        // default https://login.work.weixin.qq.com/wwlogin/sso/login
	AuthorizeURL string `yaml:"authorize_url"` // default https://open.weixin.qq.com/connect/oauth2/authorize: inside WeCom's app
	APIURL       string `yaml:"api_url"`       // default https://qyapi.weixin.qq.com
}

var agentShape = regexp.MustCompile(`^[0-9]{1,12}$`)

func (c Config) redirect() appapi.Address {
	return appapi.Address{Field: "RedirectURI", Rule: "wecom.redirect_uri", Written: c.RedirectURI}
}

func (c Config) qr() appapi.Address {
	return appapi.Address{Field: "QRURL", Rule: "wecom.qr_url", Written: c.QRURL, Default: "https://login.work.weixin.qq.com/wwlogin/sso/login"}
}

func (c Config) authorize() appapi.Address {
	return appapi.Address{Field: "AuthorizeURL", Rule: "wecom.authorize_url", Written: c.AuthorizeURL, Default: "https://open.weixin.qq.com/connect/oauth2/authorize"}
}

func (c Config) api() appapi.Address {
	return appapi.Address{Field: "APIURL", Rule: "wecom.api_url", Written: c.APIURL, Default: "https://qyapi.weixin.qq.com"}
}

// Problems complains about what WeCom would refuse.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	switch {
	case c.CorpID == "":
		ps = append(ps, problem.Problem{Field: "CorpID", Rule: "connector.corp_id", Text: "corp_id is missing: it names your company at WeCom.", Fix: "the 企业ID of the admin console: ww…"})
	case !appapi.ID(c.CorpID):
		ps = append(ps, problem.Problem{Field: "CorpID", Rule: "wecom.corp_id", Text: "This cannot be the id of a company.", Fix: "the 企业ID of the admin console: ww…"})
	}
	switch {
	case c.AgentID == "":
		ps = append(ps, problem.Problem{Field: "AgentID", Rule: "connector.agent_id", Text: "agent_id is missing: it names the application.", Fix: `the AgentId of the application: "1000002"`})
	case !agentShape.MatchString(c.AgentID):
		ps = append(ps, problem.Problem{Field: "AgentID", Rule: "wecom.agent_id", Text: "An AgentId is a number.", Fix: `agent_id: "1000002"`})
	}
	if c.Secret.IsZero() {
		ps = append(ps, problem.Problem{Field: "Secret", Rule: "connector.secret", Text: "secret is missing: WeCom gives no token without it.", Fix: "the Secret of the application"})
	}
	for _, a := range []appapi.Address{c.redirect(), c.qr(), c.authorize(), c.api()} {
		ps = append(ps, a.Problems()...)
	}
	return ps
}
