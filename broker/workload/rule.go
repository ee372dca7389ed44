package workload

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
)

// Limits and defaults of rules (docs/security.md CI-1, CI-6).
const (
	// MaxTTL is how long a workload's access token lives at most.
	MaxTTL     = time.Hour
	defaultTTL = 15 * time.Minute
	// maxAge bounds a rule's max_age, and so how long a token's id is remembered.
	maxAge        = 24 * time.Hour
	defaultMaxAge = time.Hour
	maxMatch      = 32
	maxValue      = 1024
)

// Rule lets the jobs of one repository, project or program exchange their ID
// tokens for access tokens of a service account (RFC 8693).
type Rule struct {
	Name string `yaml:"name" json:"name"`
	// Provider is github_actions, gitlab_ci, jenkins or oidc.
	Provider string `yaml:"provider" json:"provider"`
	// Issuer is the iss of the job's token to the letter; GitHub's and GitLab's own
	// clouds need not be written.
	Issuer string `yaml:"issuer" json:"issuer,omitempty"`
	// JWKSURI is where the issuer's keys are, if not where its discovery document
	// says; JWKSFile holds them for an issuer that cannot be reached.
	JWKSURI  string `yaml:"jwks_uri" json:"jwks_uri,omitempty"`
	JWKSFile string `yaml:"jwks_file" json:"jwks_file,omitempty"`
	Proxy    string `yaml:"proxy" json:"proxy,omitempty"`
	CAFile   string `yaml:"ca_file" json:"ca_file,omitempty"`
	// Audience is the only aud that the job's token may have; default: our issuer.
	Audience string `yaml:"audience" json:"audience,omitempty"`
	// Match are claims and what they must be. In a value `*` stands for anything
	// but `/` and `:`.
	Match map[string]string `yaml:"match" json:"match"`
	// ServiceAccount is who the job becomes.
	ServiceAccount string `yaml:"service_account" json:"service_account"`
	// Scope are the scopes of the access token, and TokenAudience its aud: a
	// resource; default: our issuer.
	Scope         string `yaml:"scope" json:"scope,omitempty"`
	TokenAudience string `yaml:"token_audience" json:"token_audience,omitempty"`
	// TTL is how long the access token lives, 15m by default and an hour at most;
	// never longer than the job's token. MaxAge is how long ago that may have been
	// issued; default 1h.
	TTL    time.Duration `yaml:"ttl" json:"ttl,omitempty"`
	MaxAge time.Duration `yaml:"max_age" json:"max_age,omitempty"`
}

// Source is where the keys of an issuer come from.
type Source struct {
	Provider, Issuer, JWKSURI, JWKSFile, Proxy, CAFile string
	// Listed says that the operator's file says so.
	Listed bool
}

func (r Rule) source(listed bool) Source {
	return Source{r.Provider, r.issuer(), r.JWKSURI, r.JWKSFile, r.Proxy, r.CAFile, listed}
}

func (r Rule) issuer() string {
	if r.Issuer != "" {
		return r.Issuer
	}
	return providers()[r.Provider].issuer
}

func (r Rule) ttl() time.Duration { return min(cmp.Or(r.TTL, defaultTTL), MaxTTL) }

func (r Rule) maxAge() time.Duration { return min(cmp.Or(r.MaxAge, defaultMaxAge), maxAge) }

// Sources lists where the keys of the issuers of a file's rules come from.
func Sources(rules []Rule) []Source {
	var out []Source
	for _, r := range rules {
		if src := r.source(true); !slices.Contains(out, src) {
			out = append(out, src)
		}
	}
	return out
}

// Across complains about rules of a file that do not go with each other, or with
// our own issuer.
func Across(rules []Rule, ours string) []problem.Problem {
	var ps complaints
	of := map[string]Source{}
	for i, r := range rules {
		field := fmt.Sprintf("[%d].Issuer", i)
		src := r.source(true)
		if src.Issuer == "" {
			continue
		}
		if src.Issuer == ours {
			ps.add(field, "issuer", "This issuer's own tokens are exchanged without a rule.", "the issuer of the CI system")
		}
		if have, there := of[src.Issuer]; !there {
			of[src.Issuer] = src
		} else if err := fits(have, src); err != nil {
			ps.add(field, "issuer", "This rule does not go with one before it: "+err.Error()+".", "")
		}
	}
	return ps
}

// WithDefaults fills in what the rule leaves open; ours is our issuer.
func (r Rule) WithDefaults(ours string) Rule {
	r.Issuer, r.TTL, r.MaxAge = r.issuer(), r.ttl(), r.maxAge()
	r.Audience, r.TokenAudience = cmp.Or(r.Audience, ours), cmp.Or(r.TokenAudience, ours)
	return r
}

// Scopes are the rule's scopes as a list.
func (r Rule) Scopes() []string { return strings.Fields(r.Scope) }

var ruleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// complaints gathers problems of one rule.
type complaints []problem.Problem

func (ps *complaints) add(field, rule, text, fix string) {
	*ps = append(*ps, problem.Problem{Field: field, Rule: "trust." + rule, Text: text, Fix: fix})
}

func (ps *complaints) warn(field, rule, text, fix string) {
	*ps = append(*ps, problem.Problem{Field: field, Rule: "trust." + rule, Text: text, Fix: fix, Warning: true})
}

func at(claim string) string { return "Match." + claim }

// Problems complains about a rule that would trust too much, or nobody
// (docs/security.md CI-2 to CI-6).
func (r Rule) Problems() []problem.Problem {
	var ps complaints
	if !ruleName.MatchString(r.Name) {
		ps.add("Name", "name", "A trust rule needs a name of letters, digits, '.', '_' and '-'.", "name: deploy")
	}
	p, known := providers()[r.Provider]
	if !known {
		ps.add("Provider", "provider", fmt.Sprintf("%q is no provider that is known.", r.Provider), "github_actions, gitlab_ci, jenkins or oidc")
	}
	r.sourceProblems(&ps)
	r.audienceProblems(&ps, p)
	if r.ServiceAccount == "" {
		ps.add("ServiceAccount", "service_account", "A rule names the service account that a workload becomes.", "service_account: acme-deployer")
	}
	for _, s := range r.Scopes() {
		switch {
		case strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' }):
			ps.add("Scope", "scope", fmt.Sprintf("%q is no scope (RFC 6749 section 3.3).", s), "scope: deployments:write")
		case slices.Contains([]string{"openid", "offline_access", "profile", "email", "groups"}, s):
			ps.add("Scope", "scope", fmt.Sprintf("%q speaks of a person, and a workload is none.", s), "leave it out")
		}
	}
	if r.TTL < 0 || r.TTL > MaxTTL {
		ps.add("TTL", "ttl", "The tokens of a workload live an hour at most.", "ttl: 15m")
	}
	if r.MaxAge < 0 || r.MaxAge > maxAge {
		ps.add("MaxAge", "max_age", "max_age must be a day at most: a token that was issued longer ago is nobody's proof of now.", "max_age: 1h")
	}
	if r.matchProblems(&ps); known && len(r.Match) > 0 {
		p.problems(r, &ps)
	}
	return ps
}

func (r Rule) sourceProblems(ps *complaints) {
	iss := r.issuer()
	if iss == "" && (r.Provider == "jenkins" || r.Provider == "oidc") {
		ps.add("Issuer", "issuer", "issuer is missing: whose tokens are meant?", map[string]string{"jenkins": "issuer: https://jenkins.example.com/oidc"}[r.Provider])
		return
	}
	addresses := []struct{ field, value string }{{"JWKSURI", r.JWKSURI}}
	if r.Issuer != "" {
		addresses = append(addresses, struct{ field, value string }{"Issuer", r.Issuer})
	}
	for _, a := range addresses {
		if a.value == "" {
			continue
		}
		u, err := url.Parse(a.value)
		switch {
		case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.RawQuery != "" || u.Scheme != "https" && u.Scheme != "http":
			ps.add(a.field, "issuer", "This is not the address of an issuer.", "for example https://gitlab.example.com")
		case strings.HasSuffix(u.Path, "/.well-known/openid-configuration"):
			ps.add(a.field, "issuer", "This is the address of the discovery document; the issuer is what stands before it.", strings.TrimSuffix(a.value, "/.well-known/openid-configuration"))
		case u.Scheme == "http" && r.JWKSFile == "" && !loopback(u.Hostname()):
			// Who sits on the line would choose the keys.
			ps.add(a.field, "http", "Over http anybody on the way can put other keys in place of the issuer's.", "https, or jwks_file with the issuer's keys")
		}
	}
	if r.JWKSURI != "" && r.JWKSFile != "" {
		ps.add("JWKSFile", "jwks", "There are jwks_uri and jwks_file, and only one of them is used.", "one of the two")
	}
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// foreignAudiences are those for which tokens are made out to others: a job hands
// them to whoever asks for them (docs/security.md CI-2).
var foreignAudiences = []string{"sts.amazonaws.com", "sts.amazonaws.com.cn", "sigstore", "api://AzureADTokenExchange", "pypi", "testpypi"}

func foreignAudience(aud string) bool {
	return slices.Contains(foreignAudiences, aud) || strings.HasPrefix(aud, "npm:") // and the name of a package registry
}

func (r Rule) audienceProblems(ps *complaints, p provider) {
	u, err := url.Parse(r.Audience)
	switch {
	case r.Audience == "":
	case strings.ContainsFunc(r.Audience, func(c rune) bool { return c < ' ' || c == 0x7f }) || strings.Contains(r.Audience, "*"):
		ps.add("Audience", "audience", "An audience is compared as it is; there are no patterns.", "leave it out: it is then this issuer")
	case foreignAudience(r.Audience):
		ps.add("Audience", "audience", fmt.Sprintf("%q is somebody else's audience: a token that a job gave to them would be good here.", r.Audience), "leave it out: it is then this issuer")
	case r.Provider == "github_actions" && err == nil && ownerURL(u):
		ps.add("Audience", "audience", "This is GitHub's default audience: a token that a job of that owner sent to any other service would be good here.", "leave it out: it is then this issuer; the job asks for a token with that audience")
	case p.defaultsToIssuer && strings.TrimSuffix(r.Audience, "/") == strings.TrimSuffix(r.issuer(), "/"):
		ps.add("Audience", "audience", "This is the default audience of that GitLab: a token that a job sent to any other service would be good here.", "leave it out: it is then this issuer; the job asks for a token with that audience")
	}
}

// ownerURL reports whether u is the page of a user or organisation at a GitHub.
func ownerURL(u *url.URL) bool {
	path := strings.Trim(u.Path, "/")
	host := strings.ToLower(u.Hostname())
	return path != "" && !strings.Contains(path, "/") && (host == "github.com" || strings.HasSuffix(host, ".ghe.com") || strings.HasPrefix(host, "github."))
}

func (r Rule) matchProblems(ps *complaints) {
	if len(r.Match) == 0 {
		ps.add("Match", "match", "A rule without match would trust every workload of the provider.", "match: {repository_id: \"123\", repository_owner_id: \"456\"}")
	}
	if len(r.Match) > maxMatch {
		ps.add("Match", "match", fmt.Sprintf("A rule matches at most %d claims.", maxMatch), "")
	}
	for _, claim := range slices.Sorted(maps.Keys(r.Match)) {
		switch v := r.Match[claim]; {
		case claim == "" || len(claim) > 128:
			ps.add("Match", "match", "A claim has a name.", "")
		case v == "":
			ps.add(at(claim), "match", fmt.Sprintf("The value of %s is empty, and so matches no token.", claim), "leave it out, or write what the claim must be")
		case len(v) > maxValue:
			ps.add(at(claim), "match", fmt.Sprintf("The value of %s is longer than %d bytes.", claim, maxValue), "")
		case strings.Contains(v, "**"):
			ps.add(at(claim), "glob", "`**` is no pattern here: `*` stops at `/` and `:`, and nothing goes beyond them.", "one * for each part")
		case slices.Contains([]string{"iss", "aud", "exp", "nbf", "iat", "jti"}, claim):
			ps.add(at(claim), "match", claim+" is checked for every token and is not matched.", map[string]string{"iss": "issuer:", "aud": "audience:"}[claim])
		}
	}
}
