// Package feishu signs people in with Feishu (飞书) or Lark, by an application
// of one's own. It speaks OAuth 2.0 with PKCE and is no OpenID Connect provider:
// who somebody is comes from its API.
package feishu

import (
	"regexp"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors/appapi"
)

// Config is the connector's section.
type Config struct {
	AppID       string        `yaml:"app_id"`
	AppSecret   redact.String `yaml:"app_secret"`
	RedirectURI string        `yaml:"redirect_uri"` // default: the broker's callback
	// TenantKey limits who may sign in to members of this company.
	TenantKey string `yaml:"tenant_key"`
	// Scopes are asked for beside what the application has anyway.
	Scopes []string `yaml:"scopes"`

	Proxy  string `yaml:"proxy"`
	CAFile string `yaml:"ca_file"`

	// Where Lark or a private deployment stands in, one by one.
	AuthorizeURL string `yaml:"authorize_url"` // default https://accounts.feishu.cn/open-apis/authen/v1/authorize
	TokenURL     string `yaml:"token_url"`     // default https://accounts.feishu.cn/oauth/v3/token
	APIURL       string `yaml:"api_url"`       // default https://open.feishu.cn
}

var scopeShape = regexp.MustCompile(`^[a-z0-9_.:-]{1,100}$`)

func (c Config) redirect() appapi.Address {
	return appapi.Address{Field: "RedirectURI", Rule: "feishu.redirect_uri", Written: c.RedirectURI}
}

func (c Config) authorize() appapi.Address {
	return appapi.Address{Field: "AuthorizeURL", Rule: "feishu.authorize_url", Written: c.AuthorizeURL, Default: "https://accounts.feishu.cn/open-apis/authen/v1/authorize"}
}

func (c Config) token() appapi.Address {
	return appapi.Address{Field: "TokenURL", Rule: "feishu.token_url", Written: c.TokenURL, Default: "https://accounts.feishu.cn/oauth/v3/token"}
}

func (c Config) api() appapi.Address {
	return appapi.Address{Field: "APIURL", Rule: "feishu.api_url", Written: c.APIURL, Default: "https://open.feishu.cn"}
}

// Problems complains about what Feishu would refuse.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	if c.AppID == "" {
		ps = append(ps, problem.Problem{Field: "AppID", Rule: "connector.app_id", Text: "app_id is missing: it names this installation at Feishu.", Fix: "the App ID of the application: cli_…"})
	}
	if c.AppSecret.IsZero() {
		ps = append(ps, problem.Problem{Field: "AppSecret", Rule: "connector.app_secret", Text: "app_secret is missing: Feishu gives no token without it.", Fix: "the App Secret of the application"})
	}
	switch {
	case c.TenantKey == "":
		ps = append(ps, problem.Problem{Field: "TenantKey", Rule: "feishu.everybody", Text: "Without tenant_key everybody to whom the application is open may sign in, whatever the company, unless `allow` says otherwise.", Fix: "tenant_key: that of your company", Warning: true})
	case !appapi.ID(c.TenantKey):
		ps = append(ps, problem.Problem{Field: "TenantKey", Rule: "feishu.tenant_key", Text: "This cannot be the key of a company, so nobody would be a member of it.", Fix: "`tenant_key` of any member's user_info"})
	}
	for _, s := range c.Scopes {
		if !scopeShape.MatchString(s) {
			ps = append(ps, problem.Problem{Field: "Scopes", Rule: "feishu.scope", Text: "One of these is not a scope.", Fix: "scopes: [contact:user.email:readonly]"})
			break
		}
	}
	for _, a := range []appapi.Address{c.redirect(), c.authorize(), c.token(), c.api()} {
		ps = append(ps, a.Problems()...)
	}
	return ps
}
