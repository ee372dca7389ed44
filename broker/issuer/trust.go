package issuer

import (
	"fmt"
	"slices"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
)

// TrustRule lets CI workloads exchange their ID tokens (RFC 8693). This version
// decodes and validates it; the exchange comes later.
type TrustRule struct {
	Name           string            `yaml:"name"`
	Provider       string            `yaml:"provider"`
	Issuer         string            `yaml:"issuer"`
	JWKSFile       string            `yaml:"jwks_file"`
	Audience       string            `yaml:"audience"`
	Match          map[string]string `yaml:"match"`
	ServiceAccount string            `yaml:"service_account"`
	Scope          string            `yaml:"scope"`
	TokenAudience  string            `yaml:"token_audience"`
	TTL            time.Duration     `yaml:"ttl"`
	MaxAge         time.Duration     `yaml:"max_age"`
}

// Problems complains about a rule that would trust too much or nobody.
func (r TrustRule) Problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	if r.Name == "" {
		add("Name", "trust.name", "A trust rule needs a name.", "name: deploy")
	}
	if !slices.Contains([]string{"github_actions", "gitlab_ci", "jenkins", "oidc"}, r.Provider) {
		add("Provider", "trust.provider", fmt.Sprintf("%q is no provider that is known.", r.Provider), "github_actions, gitlab_ci, jenkins or oidc")
	}
	if len(r.Match) == 0 {
		add("Match", "trust.match", "A rule without match would trust every workload of the provider.", "match: {repository_id: \"123\", repository_owner_id: \"456\"}")
	}
	if r.Provider == "github_actions" && len(r.Match) > 0 && (r.Match["repository_id"] == "" || r.Match["repository_owner_id"] == "") {
		add("Match", "trust.github_ids", "Names of repositories can be given to somebody else; the ids cannot.", "repository_id and repository_owner_id")
	}
	if r.ServiceAccount == "" {
		add("ServiceAccount", "trust.service_account", "A rule names the service account that a workload becomes.", "service_account: acme-deployer")
	}
	if r.TTL < 0 || r.TTL > time.Hour {
		add("TTL", "trust.ttl", "The tokens of a workload live an hour at most.", "ttl: 15m")
	}
	return ps
}

// RegistrationConfig is the `registration` section (RFC 7591). This version
// decodes and validates it; registration comes later.
type RegistrationConfig struct {
	Mode        string `yaml:"mode"`
	RequirePKCE *bool  `yaml:"require_pkce"`
}

// Problems complains about a mode that is none.
func (c RegistrationConfig) Problems() []problem.Problem {
	switch c.Mode {
	case "", "off", "token", "open":
		return nil
	}
	return []problem.Problem{{Field: "Mode", Rule: "registration.mode", Text: fmt.Sprintf("%q is unknown.", c.Mode), Fix: "off, token or open"}}
}
