package workload

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// provider is what tokens of one kind of CI system are like.
type provider struct {
	// issuer is that of the vendor's own cloud.
	issuer string
	// defaultsToIssuer: a token for which no audience was asked is for the issuer.
	defaultsToIssuer bool
	// first are the claims that are compared before the others: who it is comes
	// before what it does.
	first []string
	// folded are claims that the vendor itself compares without regard to case.
	folded []string
	// addresses are claims that are addresses, compared in their normal form.
	addresses []string
	// guard is a claim of which some values are refused unless the rule names them:
	// what strangers can start.
	guard   string
	guarded func(value string) bool
	// known are the claims that there are; nil where anything may be.
	known []string
	// provenance are the claims that go into the access token and the event.
	provenance []string
	problems   func(r Rule, ps *complaints)
}

// providers are the kinds that there are. Their claims are those of the vendors'
// own documentation.
func providers() map[string]provider {
	return map[string]provider{
		"github_actions": {
			issuer: "https://token.actions.githubusercontent.com",
			first:  []string{"repository_owner_id", "repository_id", "repository_owner", "repository", "event_name"},
			folded: []string{"repository", "repository_owner", "environment"},
			guard:  "event_name", guarded: strangersEvent,
			known: []string{
				"repository", "repository_id", "repository_owner", "repository_owner_id", "repository_visibility", "ref", "ref_type", "ref_protected", "environment",
				"environment_node_id", "event_name", "job_workflow_ref", "job_workflow_sha", "workflow", "workflow_ref", "workflow_sha", "runner_environment", "base_ref",
				"head_ref", "sha", "actor", "actor_id", "run_id", "run_number", "run_attempt", "check_run_id", "enterprise", "enterprise_id", "issuer_scope", "sub",
			},
			provenance: []string{"repository", "repository_id", "repository_owner_id", "ref", "environment", "event_name", "job_workflow_ref", "sha", "run_id", "run_attempt"},
			problems:   githubProblems,
		},
		"gitlab_ci": {
			issuer: "https://gitlab.com", defaultsToIssuer: true,
			first: []string{"namespace_id", "project_id", "namespace_path", "project_path", "pipeline_source"},
			guard: "pipeline_source", guarded: func(v string) bool { return v == "merge_request_event" || v == "external_pull_request_event" },
			known: []string{
				"namespace_id", "namespace_path", "project_id", "project_path", "user_id", "user_login", "user_email", "user_access_level", "user_identities", "pipeline_id",
				"pipeline_source", "job_id", "job_source", "job_namespace_id", "job_namespace_path", "job_project_id", "job_project_path", "ref", "ref_type", "ref_path",
				"ref_protected", "groups_direct", "environment", "environment_protected", "environment_action", "deployment_tier", "runner_id", "runner_environment",
				"sha", "project_visibility", "ci_config_ref_uri", "ci_config_sha", "sub",
			},
			provenance: []string{"project_path", "project_id", "namespace_id", "ref", "ref_protected", "environment", "pipeline_source", "pipeline_id", "job_id", "sha"},
			problems:   gitlabProblems,
		},
		"jenkins": {
			first: []string{"sub"}, addresses: []string{"sub"}, provenance: []string{"build_number"}, problems: jenkinsProblems,
		},
		"oidc": {first: []string{"sub"}, problems: oidcProblems},
	}
}

// strangersEvent reports whether somebody who may not write to the repository can
// start a workflow by the event, so that their words or their code are in it
// (docs/security.md CI-3).
func strangersEvent(name string) bool {
	return strings.HasPrefix(name, "pull_request") ||
		slices.Contains([]string{"issue_comment", "issues", "discussion", "discussion_comment", "workflow_run"}, name)
}

var digits = regexp.MustCompile(`^[0-9]+$`)

// literal complains about a pattern in a claim by which a rule stands or falls.
func literal(r Rule, ps *complaints, claims ...string) {
	for _, c := range claims {
		if strings.Contains(r.Match[c], "*") {
			ps.add(at(c), "glob", fmt.Sprintf("%s is compared as a whole: a pattern would let in what nobody meant.", c), "the value as the token has it")
		}
	}
}

func number(r Rule, ps *complaints, claims ...string) {
	for _, c := range claims {
		if v, there := r.Match[c]; there && !digits.MatchString(v) {
			ps.add(at(c), "id", fmt.Sprintf("%s is a number that never changes, and is compared as a whole.", c), c+`: "123456"`)
		}
	}
}

func unknownClaims(r Rule, ps *complaints, known []string) {
	for _, c := range slices.Sorted(maps.Keys(r.Match)) {
		if !slices.Contains(known, c) && !strings.HasPrefix(c, "repo_property_") {
			ps.warn(at(c), "claim", fmt.Sprintf("%s is no claim that %s is known to send; a token without it matches nothing.", c, r.Provider), "")
		}
	}
}

func githubProblems(r Rule, ps *complaints) {
	if r.Match["repository_id"] == "" || r.Match["repository_owner_id"] == "" {
		ps.add("Match", "github_ids", "Names of repositories can be given to somebody else; the ids cannot.", "repository_id and repository_owner_id")
	}
	number(r, ps, "repository_id", "repository_owner_id", "actor_id", "enterprise_id")
	if _, there := r.Match["sub"]; there {
		ps.add(at("sub"), "github_sub", "What GitHub puts into sub is chosen by whoever administers the repository or its organisation, and its form has changed; it is recorded and not believed.", "repository_id, repository_owner_id, ref, environment")
	}
	literal(r, ps, "event_name", "ref_type", "ref_protected", "runner_environment", "job_workflow_ref", "job_workflow_sha", "workflow_ref", "workflow_sha", "repository_visibility")
	for _, c := range []string{"job_workflow_ref", "workflow_ref"} {
		if v, there := r.Match[c]; there && !strings.Contains(v, "@") {
			ps.add(at(c), "workflow_ref", c+" names a file at a ref or a commit; without that it matches no token, and with any it would be whatever somebody pushes.", c+": acme/ci/.github/workflows/deploy.yml@refs/heads/main")
		}
	}
	if !narrowed(r, "ref", "environment", "job_workflow_ref", "workflow_ref", "sha", "job_workflow_sha", "workflow_sha", "ref_protected") {
		ps.warn("Match", "wide", "This rule holds for every branch of the repository: whoever may push one may use it.", "ref: refs/heads/main, or environment: production with protection rules")
	}
	unknownClaims(r, ps, providers()[r.Provider].known)
}

// narrowed reports whether a rule matches one of the claims.
func narrowed(r Rule, claims ...string) bool {
	return slices.ContainsFunc(claims, func(c string) bool { return r.Match[c] != "" })
}

func gitlabProblems(r Rule, ps *complaints) {
	if r.Match["project_id"] == "" && r.Match["namespace_id"] == "" {
		ps.add("Match", "gitlab_ids", "Paths of projects can be given to somebody else, and a rule without an id would hold for any project.", "project_id, or namespace_id for all of a group")
	} else if r.Match["project_id"] == "" {
		ps.warn("Match", "wide", "This rule holds for every project of the namespace, those to come included.", "project_id")
	}
	number(r, ps, "project_id", "namespace_id", "user_id", "job_project_id", "job_namespace_id")
	literal(r, ps, "project_path", "namespace_path", "ref_type", "ref_protected", "environment_protected", "pipeline_source", "runner_environment", "ci_config_ref_uri", "sub")
	if !narrowed(r, "ref_protected", "environment_protected") {
		ps.warn("Match", "wide", "This rule holds for branches that are not protected: whoever may push one may use it.", `ref_protected: "true"`)
	}
	for _, c := range []string{"ref_protected", "environment_protected"} {
		if v, there := r.Match[c]; there && v != "true" && v != "false" {
			ps.add(at(c), "gitlab_bool", fmt.Sprintf("GitLab sends %s as the text true or false.", c), c+`: "true"`)
		}
	}
	unknownClaims(r, ps, providers()[r.Provider].known)
}

func jenkinsProblems(r Rule, ps *complaints) {
	literal(r, ps, "sub")
	sub, there := r.Match["sub"]
	if !there {
		ps.add("Match", "jenkins_sub", "Without sub, the job's address, every job of the controller would be trusted.", "sub: https://jenkins.example.com/job/deploy/")
		return
	}
	if strings.Contains(sub, "*") {
		return // said above
	}
	norm, ok := normalURL(sub)
	if !ok {
		ps.add(at("sub"), "jenkins_sub", "sub is the job's address as JOB_URL says it.", "sub: https://jenkins.example.com/job/deploy/")
		return
	}
	if u, err := url.Parse(norm); err != nil || !jobPath.MatchString(u.EscapedPath()) {
		ps.add(at("sub"), "jenkins_sub", "This is the address of a whole controller: outside of builds Jenkins sends it for everything.", "the address of one job: …/job/deploy/")
	}
}

// jobPath is that of a job: at its end stand one or more of job/NAME.
var jobPath = regexp.MustCompile(`(?:/job/[^/]+)+/$`)

// idClaim are names of claims that say who it is and not what it does.
var idClaim = regexp.MustCompile(`(?:^|[._/-])id$|Id$`)

func oidcProblems(r Rule, ps *complaints) {
	who := r.Match["sub"] != "" && !strings.Contains(r.Match["sub"], "*")
	for c, v := range r.Match {
		if idClaim.MatchString(c) && v != "" && !strings.Contains(v, "*") {
			who = true
		}
	}
	if !who {
		ps.add("Match", "oidc_sub", "Without a whole sub, or a claim that is an id, the rule would hold for everything that this issuer vouches for.", "sub, or a claim such as project_id, without *")
	}
	u, err := url.Parse(r.issuer())
	if err != nil {
		return
	}
	host := strings.ToLower(u.Hostname())
	better := ""
	switch {
	case strings.HasPrefix(host, "token.actions.") && (strings.HasSuffix(host, ".githubusercontent.com") || strings.HasSuffix(host, ".ghe.com")), strings.HasSuffix(u.Path, "/_services/token"):
		better = "github_actions"
	case host == "gitlab.com":
		better = "gitlab_ci"
	}
	if better != "" {
		ps.add("Provider", "provider", "This issuer has rules of its own for what may be trusted.", "provider: "+better)
	}
}

// normalURL returns an address in one form (RFC 3986 section 6.2.2), with a slash
// at its end: Jenkins writes job addresses as it was asked for them. It is not ok
// for what has parts that no job's address has, or ways to another path.
func normalURL(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(s, "#") || u.Opaque != "" {
		return "", false
	}
	host := strings.ToLower(strings.TrimSuffix(u.Host, ":"))
	host = strings.TrimSuffix(host, map[string]string{"https": ":443", "http": ":80"}[u.Scheme])
	if !plainHost.MatchString(host) {
		return "", false
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	var b strings.Builder
	for seg := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		plain, err := normalSegment(seg)
		if err != nil || plain == "." || plain == ".." || plain == "" && path != "" {
			return "", false
		}
		if path != "" {
			b.WriteString("/" + plain)
		}
	}
	return u.Scheme + "://" + host + b.String() + "/", true
}

var plainHost = regexp.MustCompile(`^(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?$`)

// normalSegment decodes what need not be encoded and encodes the rest in capitals.
func normalSegment(seg string) (string, error) {
	raw, err := url.PathUnescape(seg)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i := range len(raw) {
		switch c := raw[i]; {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String(), nil
}
