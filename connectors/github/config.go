// Package github signs people in at github.com, at GitHub Enterprise Cloud with
// data residency and at GitHub Enterprise Server, as an OAuth app. GitHub has
// no OpenID Connect for people: who somebody is comes from its REST API, and is
// the account's number, never its login name.
package github

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// Config is the `github` section.
type Config struct {
	ClientID     string        `yaml:"client_id"`
	ClientSecret redact.String `yaml:"client_secret"`
	RedirectURI  string        `yaml:"redirect_uri"` // default: the broker's callback
	Scopes       []string      `yaml:"scopes"`       // default: read:user user:email, and read:org where organizations are set
	BaseURL      string        `yaml:"base_url"`     // default https://github.com

	// Organizations limits who may sign in to members of one of these. Without
	// any, everybody with an account at GitHub may.
	Organizations []Organization `yaml:"organizations,some"`

	// UnverifiedEmail takes the primary address although the server has not
	// verified it, as GitHub Enterprise Server does not. It is then known as not
	// verified: no account is linked and no role given by it.
	UnverifiedEmail bool `yaml:"unverified_email"`

	Proxy  string `yaml:"proxy"`
	CAFile string `yaml:"ca_file"`

	// The three below replace what follows from BaseURL, one by one.
	AuthorizeURL string `yaml:"authorize_url"`
	TokenURL     string `yaml:"token_url"`
	APIURL       string `yaml:"api_url"`
}

// Organization is one organization whose members may sign in.
type Organization struct {
	Name string `yaml:"name"`
	// ID is the organization's number. Where it is written, an organization
	// that took over the name of one that was renamed does not count.
	ID int64 `yaml:"id"`
	// Teams are slugs, as in the team's address. Any one of them is enough;
	// without any, so is every member of the organization.
	Teams []string `yaml:"teams,some"`
}

var (
	loginShape = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9_-]{0,98}[A-Za-z0-9_])?$`)
	scopeShape = regexp.MustCompile(`^[a-z_]+(?::[a-z_]+)?$`)
)

// Problems complains about what GitHub would refuse, and about organizations
// and teams that nobody could be a member of.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	if c.ClientID == "" {
		add("ClientID", "github.client_id", "client_id is missing: it names this installation at GitHub.", "the Client ID of an OAuth app")
	}
	if c.ClientSecret.IsZero() {
		add("ClientSecret", "github.client_secret", "client_secret is missing: GitHub gives no token without it.", "a client secret of the OAuth app")
	}
	for _, f := range []struct{ field, rule, value string }{
		{"RedirectURI", "github.redirect_uri", c.RedirectURI}, {"BaseURL", "github.base_url", c.BaseURL},
		{"AuthorizeURL", "github.authorize_url", c.AuthorizeURL}, {"TokenURL", "github.token_url", c.TokenURL}, {"APIURL", "github.api_url", c.APIURL},
	} {
		if f.value != "" {
			ps = append(ps, addressProblems(f.field, f.rule, f.value)...)
		}
	}
	if u, err := url.Parse(c.BaseURL); err == nil && u.Host != "" {
		switch {
		case strings.Trim(u.Path, "/") != "" || u.RawQuery != "":
			add("BaseURL", "github.base_url", "base_url is the server alone; the paths are added to it.", u.Scheme+"://"+u.Host)
		case strings.EqualFold(u.Hostname(), "api.github.com"):
			add("BaseURL", "github.base_url", "This is the address of the API, not the one where people sign in.", "leave base_url out")
		}
	}
	for i, s := range c.Scopes {
		if !scopeShape.MatchString(s) {
			add(fmt.Sprintf("Scopes[%d]", i), "github.scope", fmt.Sprintf("%q is not a scope.", s), "scopes: [read:user, user:email]")
		}
	}
	return append(ps, c.organizationProblems()...)
}

func (c Config) organizationProblems() []problem.Problem {
	var ps []problem.Problem
	seen := map[string]int{}
	for i, o := range c.Organizations {
		at := fmt.Sprintf("Organizations[%d].", i)
		if !loginShape.MatchString(o.Name) {
			ps = append(ps, problem.Problem{Field: at + "Name", Rule: "github.organization", Text: fmt.Sprintf("%q cannot be the name of an organization, so nobody would be a member of it.", o.Name), Fix: "the name as in the organization's address: acme"})
		}
		if j, dup := seen[strings.ToLower(o.Name)]; dup {
			ps = append(ps, problem.Problem{Field: at + "Name", Rule: "github.duplicate", Text: fmt.Sprintf("Organization %q is there twice: also as organizations[%d].", o.Name, j), Fix: "one entry with all its teams"})
		}
		seen[strings.ToLower(o.Name)] = i
		if o.ID < 0 {
			ps = append(ps, problem.Problem{Field: at + "ID", Rule: "github.organization_id", Text: "The number of an organization is greater than zero.", Fix: "`id` of https://api.github.com/orgs/<name>"})
		}
		for k, t := range o.Teams {
			if t == "" || t != strings.ToLower(t) || strings.ContainsAny(t, "/ \t\r\n") {
				ps = append(ps, problem.Problem{Field: fmt.Sprintf("%sTeams[%d]", at, k), Rule: "github.team", Text: fmt.Sprintf("%q is not the slug of a team, so nobody would be a member of it.", t), Fix: "the last part of the team's address: ml"})
			}
		}
	}
	return ps
}

func addressProblems(field, rule, value string) []problem.Problem {
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return []problem.Problem{{Field: field, Rule: rule, Text: "This is not the address of a web server.", Fix: "for example https://github.example.com"}}
	case u.User != nil || u.Fragment != "":
		return []problem.Problem{{Field: field, Rule: rule, Text: "An address with a user name or a # part is not used here.", Fix: u.Scheme + "://" + u.Host + u.Path}}
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return []problem.Problem{{Field: field, Rule: rule, Text: "http sends the client secret and people's tokens readable over the network.", Fix: "https://" + u.Host + u.Path, Warning: true}}
	}
	return nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// endpoints are the addresses that are called. None ends in a slash.
type endpoints struct{ authorize, token, api string }

func (c Config) endpoints() endpoints {
	base := strings.TrimRight(c.BaseURL, "/")
	if base == "" {
		base = "https://github.com"
	}
	e := endpoints{authorize: base + "/login/oauth/authorize", token: base + "/login/oauth/access_token", api: base + "/api/v3"}
	// Only a server of one's own has its API below the same host.
	if u, err := url.Parse(base); err == nil {
		if host := strings.ToLower(u.Hostname()); host == "github.com" || strings.HasSuffix(host, ".ghe.com") {
			e.api = u.Scheme + "://api." + host
		}
	}
	for _, o := range []struct {
		at    *string
		value string
	}{{&e.authorize, c.AuthorizeURL}, {&e.token, c.TokenURL}, {&e.api, c.APIURL}} {
		if o.value != "" {
			*o.at = strings.TrimRight(o.value, "/")
		}
	}
	return e
}

// trusted returns the hosts that may be private: those that the operator wrote
// or that follow from what the operator wrote. Behind the connector's own proxy
// GitHub's public hosts are among them, since it is the proxy that resolves
// names there and the outgoing client calls only hosts that it was told.
func (c Config) trusted() []string {
	e := c.endpoints()
	var hosts []string
	for _, a := range []struct{ written, used string }{{c.TokenURL, e.token}, {c.APIURL, e.api}} {
		if a.written == "" && c.BaseURL == "" && c.Proxy == "" {
			continue
		}
		if u, err := url.Parse(a.used); err == nil && !slices.Contains(hosts, u.Hostname()) {
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}

// implies names the scopes that contain another.
var implies = map[string][]string{
	"read:org":   {"write:org", "admin:org"},
	"user:email": {"user"},
}

func grants(have []string, want string) bool {
	return slices.Contains(have, want) || slices.ContainsFunc(implies[want], func(s string) bool { return slices.Contains(have, s) })
}

// scopes returns what is asked for. GitHub leaves out organizations without a
// word where read:org is missing, so it is never left to the operator.
func (c Config) scopes() []string {
	s := slices.Clone(c.Scopes)
	if len(s) == 0 {
		s = []string{"read:user", "user:email"}
	}
	if len(c.Organizations) > 0 && !grants(s, "read:org") {
		s = append(s, "read:org")
	}
	return s
}
