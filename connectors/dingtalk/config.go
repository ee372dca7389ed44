// Package dingtalk signs people in with DingTalk (钉钉). DingTalk has no OpenID
// Connect: who somebody is comes from its API, and is the unionId, which stays
// the same in every application of one developer.
package dingtalk

import (
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors/appapi"
)

// Config is the connector's section.
type Config struct {
	ClientID     string        `yaml:"client_id"` // AppKey
	ClientSecret redact.String `yaml:"client_secret"`
	RedirectURI  string        `yaml:"redirect_uri"` // default: the broker's callback
	// CorpID limits who may sign in to members of this company, which must be
	// the one that the application belongs to. Without it everybody with an
	// account at DingTalk may.
	CorpID string `yaml:"corp_id"`

	Proxy  string `yaml:"proxy"`
	CAFile string `yaml:"ca_file"`

	// Where a private deployment stands in for the vendor, one by one.
	AuthorizeURL string `yaml:"authorize_url"` // default https://login.dingtalk.com/oauth2/auth
	APIURL       string `yaml:"api_url"`       // default https://api.dingtalk.com
	OAPIURL      string `yaml:"oapi_url"`      // default https://oapi.dingtalk.com: the older half of the API
}

func (c Config) redirect() appapi.Address {
	return appapi.Address{Field: "RedirectURI", Rule: "dingtalk.redirect_uri", Written: c.RedirectURI}
}

func (c Config) authorize() appapi.Address {
	return appapi.Address{Field: "AuthorizeURL", Rule: "dingtalk.authorize_url", Written: c.AuthorizeURL, Default: "https://login.dingtalk.com/oauth2/auth"}
}

func (c Config) api() appapi.Address {
	return appapi.Address{Field: "APIURL", Rule: "dingtalk.api_url", Written: c.APIURL, Default: "https://api.dingtalk.com"}
}

func (c Config) oapi() appapi.Address {
	return appapi.Address{Field: "OAPIURL", Rule: "dingtalk.oapi_url", Written: c.OAPIURL, Default: "https://oapi.dingtalk.com"}
}

// Problems complains about what DingTalk would refuse.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	if c.ClientID == "" {
		ps = append(ps, problem.Problem{Field: "ClientID", Rule: "connector.client_id", Text: "client_id is missing: it names this installation at DingTalk.", Fix: "the Client ID (AppKey) of the application"})
	}
	if c.ClientSecret.IsZero() {
		ps = append(ps, problem.Problem{Field: "ClientSecret", Rule: "connector.client_secret", Text: "client_secret is missing: DingTalk gives no token without it.", Fix: "the Client Secret (AppSecret) of the application"})
	}
	switch {
	case c.CorpID == "":
		ps = append(ps, problem.Problem{Field: "CorpID", Rule: "dingtalk.everybody", Text: "Without corp_id everybody with a DingTalk account may sign in, unless `allow` says otherwise.", Fix: "corp_id: the CorpId of your company", Warning: true})
	case !appapi.ID(c.CorpID):
		ps = append(ps, problem.Problem{Field: "CorpID", Rule: "dingtalk.corp_id", Text: "This cannot be the CorpId of a company, so nobody would be a member of it.", Fix: "as on the developers' console: ding…"})
	}
	for _, a := range []appapi.Address{c.redirect(), c.authorize(), c.api(), c.oapi()} {
		ps = append(ps, a.Problems()...)
	}
	return ps
}
