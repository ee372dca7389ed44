// Package gitlab signs people in at gitlab.com or a GitLab of one's own: the
// connector of connectors/oidc, and GitLab's groups, which are compared by their
// whole path and by their number (docs/security.md UP-6).
package gitlab

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/oidc"
)

const gitlabCom = "https://gitlab.com"

// Config is the `gitlab` section.
type Config struct {
	ClientID     string        `yaml:"client_id"`
	ClientSecret redact.String `yaml:"client_secret"`
	RedirectURI  string        `yaml:"redirect_uri"`
	Scopes       []string      `yaml:"scopes"`   // default openid profile email, and read_api where group_ids are set
	BaseURL      string        `yaml:"base_url"` // default https://gitlab.com; with the path of one that has a path
	// Groups limits who may sign in to members of one of these, by full path. A
	// member of a group is one of its subgroups too, as at GitLab itself.
	Groups []string `yaml:"groups,some"`
	// GroupIDs are the numbers of some of Groups: a group that took over the path
	// of one that was renamed does not count.
	GroupIDs map[string]int64 `yaml:"group_ids"`

	Proxy  string `yaml:"proxy"`
	CAFile string `yaml:"ca_file"`

	// The five below replace what follows from BaseURL, one by one.
	AuthorizeURL string `yaml:"authorize_url"`
	TokenURL     string `yaml:"token_url"`
	JWKSURL      string `yaml:"jwks_url"`
	UserInfoURL  string `yaml:"userinfo_url"`
	APIURL       string `yaml:"api_url"`
}

// Problems complains about what GitLab would refuse, and about groups that
// nobody could be a member of.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	if c.ClientID == "" {
		add("ClientID", "gitlab.client_id", "client_id is missing: it names this installation at GitLab.", "the Application ID")
	}
	if c.ClientSecret.IsZero() {
		add("ClientSecret", "gitlab.client_secret", "client_secret is missing: GitLab gives no token without it.", "the Secret of the application")
	}
	for _, f := range []struct{ field, value string }{
		{"RedirectURI", c.RedirectURI}, {"BaseURL", c.BaseURL}, {"AuthorizeURL", c.AuthorizeURL}, {"TokenURL", c.TokenURL},
		{"JWKSURL", c.JWKSURL}, {"UserInfoURL", c.UserInfoURL}, {"APIURL", c.APIURL},
	} {
		if f.value != "" {
			ps = append(ps, oidc.AddressProblems(f.field, "gitlab.url", f.value)...)
		}
	}
	if u, err := url.Parse(c.BaseURL); err == nil && (strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/api/v4") || u.RawQuery != "") {
		add("BaseURL", "gitlab.base_url", "This is the address of the API, not the one where people sign in.", "https://gitlab.example.com")
	}
	seen := map[string]bool{}
	for i, g := range c.Groups {
		at := fmt.Sprintf("Groups[%d]", i)
		if !groupPath(g) {
			add(at, "gitlab.group", fmt.Sprintf("%q is not the full path of a group, so nobody would be a member of it.", g), "the path as in the group's address: acme/ml")
		}
		if seen[strings.ToLower(g)] {
			add(at, "gitlab.group", fmt.Sprintf("Group %q is there twice.", g), "")
		}
		seen[strings.ToLower(g)] = true
	}
	for g, id := range c.GroupIDs {
		if !slices.Contains(c.Groups, g) {
			add("GroupIDs["+g+"]", "gitlab.group_id", fmt.Sprintf("%q has a number, and is not one of groups.", g), "groups: ["+g+"]")
		} else if id <= 0 {
			add("GroupIDs["+g+"]", "gitlab.group_id", "The number of a group is greater than zero.", "the Group ID on the group's own page")
		}
	}
	return append(ps, oidc.ScopeProblems(c.Scopes)...)
}

func groupPath(g string) bool {
	for part := range strings.SplitSeq(g, "/") {
		if part == "" || strings.ContainsFunc(part, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
		}) {
			return false
		}
	}
	return len(g) <= 255
}

func (c Config) scopes() []string {
	s := slices.Clone(c.Scopes)
	if len(s) == 0 {
		s = []string{"openid", "profile", "email"}
	}
	// Who may be sees the numbers of groups only with this.
	if len(c.GroupIDs) > 0 && !slices.Contains(s, "read_api") && !slices.Contains(s, "api") {
		s = append(s, "read_api")
	}
	return s
}

// Open makes the connector. It calls nobody.
func Open(env connectors.Env, cfg Config) (connectors.Connector, error) {
	for _, p := range cfg.Problems() {
		if !p.Warning {
			return nil, p
		}
	}
	base := strings.TrimRight(cfg.BaseURL, "/")
	if base == "" {
		base = gitlabCom
	}
	g := &rules{cfg: &cfg, api: strings.TrimRight(cfg.APIURL, "/"), scopes: cfg.scopes()}
	if g.api == "" {
		g.api = base + "/api/v4"
	}
	f := oidc.Flavour{Scopes: g.scopes, Accept: g.accept}
	if u, err := url.Parse(g.api); err == nil {
		f.Trusted = append(f.Trusted, u.Hostname())
	}
	c, err := oidc.New(env, oidc.Config{
		Issuer: base, ClientID: cfg.ClientID, ClientSecret: cfg.ClientSecret, RedirectURI: cfg.RedirectURI, Scopes: g.scopes,
		Proxy: cfg.Proxy, CAFile: cfg.CAFile,
		AuthorizeURL: cfg.AuthorizeURL, TokenURL: cfg.TokenURL, JWKSURL: cfg.JWKSURL, UserInfoURL: cfg.UserInfoURL,
	}, f)
	if err != nil {
		return nil, fmt.Errorf("gitlab: %w", err)
	}
	return c, nil
}

// rules are what is asked of a GitLab account beyond its proof.
type rules struct {
	cfg    *Config
	api    string
	scopes []string
}

func (g *rules) accept(ctx context.Context, p oidc.Proof, id *connectors.Identity) error {
	// A CI job's token has the same issuer and the same keys. Its audience and
	// nonce are not ours; what it is shows once more.
	for _, claim := range []string{"job_id", "pipeline_id", "project_id"} {
		if _, there := p.IDToken[claim]; there {
			return fmt.Errorf("gitlab: the token is that of a CI job: %w", connectors.ErrNotAllowed)
		}
	}
	confirmed := id.EmailVerified
	if g.may("read_user") {
		u, err := g.user(ctx, p, id.Subject)
		if err != nil {
			return err
		}
		confirmed = confirmed && u.Confirmed != ""
		id.EmailVerified = confirmed
	}
	if !confirmed {
		return &connectors.Refusal{Code: "email_unconfirmed", Err: fmt.Errorf("gitlab: the account's address is not confirmed: %w", connectors.ErrNotAllowed)}
	}
	// `groups`, with those inherited, is in userinfo alone.
	all, err := paths(p.UserInfo["groups"])
	if err != nil {
		return err
	}
	id.Claims["groups"] = all
	if len(g.cfg.Groups) == 0 {
		id.Groups = all
		return nil
	}
	if len(g.cfg.GroupIDs) > 0 {
		numbers, err := g.numbers(ctx, p)
		if err != nil {
			return err
		}
		id.Groups = g.allowed(all, numbers)
	} else {
		id.Groups = g.allowed(all, nil)
	}
	if len(id.Groups) == 0 {
		return &connectors.Refusal{Code: "not_member", Err: fmt.Errorf("gitlab: in none of the configured groups: %w", connectors.ErrNotAllowed)}
	}
	return nil
}

func (g *rules) may(scope string) bool {
	return slices.Contains(g.scopes, scope) || slices.Contains(g.scopes, "read_api") || slices.Contains(g.scopes, "api")
}

// allowed returns the groups of all that are configured ones or below one of
// which the person is a member: where else somebody belongs is no business of
// the applications behind us. Whole paths are compared, so that acme/mlops is
// nothing to acme/ml.
func (g *rules) allowed(all []string, numbers map[string]int64) []string {
	var out []string
	for _, want := range g.cfg.Groups {
		if !slices.ContainsFunc(all, func(have string) bool { return strings.EqualFold(have, want) }) {
			continue
		}
		if id, fixed := g.cfg.GroupIDs[want]; fixed && numbers[strings.ToLower(want)] != id {
			continue
		}
		for _, have := range all {
			if strings.EqualFold(have, want) || len(have) > len(want) && strings.EqualFold(have[:len(want)+1], want+"/") {
				out = append(out, have)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// paths reads the full paths of groups.
func paths(v any) ([]string, error) {
	l, ok := v.([]any)
	if v != nil && !ok {
		return nil, fmt.Errorf("gitlab: userinfo: groups is a %T, not a list", v)
	}
	out := []string{}
	for _, e := range l {
		s, ok := e.(string)
		if !ok || !groupPath(s) {
			return nil, fmt.Errorf("gitlab: userinfo: groups has an entry that is no path of a group")
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
