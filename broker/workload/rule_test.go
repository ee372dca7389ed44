package workload

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func githubRule() Rule {
	return Rule{Name: "deploy", Provider: "github_actions", Match: map[string]string{"repository_id": "123456", "repository_owner_id": "789", "ref": "refs/heads/main"}, ServiceAccount: "acme-deployer", Scope: "deployments:write"}
}

func gitlabRule() Rule {
	return Rule{Name: "deploy", Provider: "gitlab_ci", Match: map[string]string{"project_id": "20", "ref": "main", "ref_protected": "true"}, ServiceAccount: "acme-deployer"}
}

func jenkinsRule() Rule {
	return Rule{Name: "deploy", Provider: "jenkins", Issuer: "https://jenkins.example.com/oidc", Match: map[string]string{"sub": "https://jenkins.example.com/job/deploy/"}, ServiceAccount: "acme-deployer"}
}

func oidcRule() Rule {
	return Rule{Name: "deploy", Provider: "oidc", Issuer: "https://oidc.circleci.com/org/1", Match: map[string]string{"oidc.circleci.com/project-id": "5", "sub": "org/1/project/5/user/*"}, ServiceAccount: "acme-deployer"}
}

// match sets a claim of a rule, or takes it out.
func match(claim, value string) func(*Rule) {
	return func(r *Rule) {
		if value == "" {
			delete(r.Match, claim)
			return
		}
		r.Match[claim] = value
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		rule   Rule
		change func(*Rule)
		want   string // rule of the complaint; "" is none, "warning:…" a warning
		field  string
	}{
		{"github", githubRule(), nil, "", ""},
		{"gitlab", gitlabRule(), nil, "", ""},
		{"jenkins", jenkinsRule(), nil, "", ""},
		{"oidc", oidcRule(), nil, "", ""},
		{"no name", githubRule(), func(r *Rule) { r.Name = "" }, "trust.name", "Name"},
		{"a name with a slash", githubRule(), func(r *Rule) { r.Name = "a/b" }, "trust.name", "Name"},
		{"an unknown provider", githubRule(), func(r *Rule) { r.Provider = "circleci" }, "trust.provider", "Provider"},
		{"no match", githubRule(), func(r *Rule) { r.Match = nil }, "trust.match", "Match"},
		{"an empty value", githubRule(), func(r *Rule) { r.Match["ref"] = "" }, "trust.match", "Match.ref"},
		{"a claim that every token has", githubRule(), match("aud", "x"), "trust.match", "Match.aud"},
		{"two stars", githubRule(), match("ref", "refs/heads/**"), "trust.glob", "Match.ref"},
		{"no account", githubRule(), func(r *Rule) { r.ServiceAccount = "" }, "trust.service_account", "ServiceAccount"},
		{"a long life", githubRule(), func(r *Rule) { r.TTL = 2 * time.Hour }, "trust.ttl", "TTL"},
		{"a long age", githubRule(), func(r *Rule) { r.MaxAge = 25 * time.Hour }, "trust.max_age", "MaxAge"},
		{"a person's scope", githubRule(), func(r *Rule) { r.Scope = "openid" }, "trust.scope", "Scope"},
		{"no scope", githubRule(), func(r *Rule) { r.Scope = "a\"b" }, "trust.scope", "Scope"},

		{"only the repository's name", githubRule(), func(r *Rule) { r.Match = map[string]string{"repository": "acme/train"} }, "trust.github_ids", "Match"},
		{"any repository of an owner", githubRule(), match("repository_id", ""), "trust.github_ids", "Match"},
		{"any owner", githubRule(), match("repository_owner_id", ""), "trust.github_ids", "Match"},
		{"any id", githubRule(), match("repository_id", "*"), "trust.id", "Match.repository_id"},
		{"an id that begins so", githubRule(), match("repository_owner_id", "789*"), "trust.id", "Match.repository_owner_id"},
		{"sub", githubRule(), match("sub", "repo:acme/*"), "trust.github_sub", "Match.sub"},
		{"any event", githubRule(), match("event_name", "*"), "trust.glob", "Match.event_name"},
		{"a workflow at no ref", githubRule(), match("job_workflow_ref", "acme/ci/.github/workflows/deploy.yml"), "trust.workflow_ref", "Match.job_workflow_ref"},
		{"a workflow at any ref", githubRule(), match("job_workflow_ref", "acme/ci/.github/workflows/deploy.yml@*"), "trust.glob", "Match.job_workflow_ref"},
		{"every branch", githubRule(), match("ref", ""), "warning:trust.wide", "Match"},
		{"a claim with a fault in its name", githubRule(), match("enviroment", "production"), "warning:trust.claim", "Match.enviroment"},
		{"a property of a repository", githubRule(), match("repo_property_tier", "prod"), "", ""},
		{"github's own audience", githubRule(), func(r *Rule) { r.Audience = "https://github.com/acme" }, "trust.audience", "Audience"},
		{"that of a ghe.com", githubRule(), func(r *Rule) { r.Audience = "https://acme.ghe.com/octo/" }, "trust.audience", "Audience"},
		{"that of Amazon", githubRule(), func(r *Rule) { r.Audience = "sts.amazonaws.com" }, "trust.audience", "Audience"},
		{"that of a package registry", githubRule(), func(r *Rule) { r.Audience = "npm:registry.example.com" }, "trust.audience", "Audience"},
		{"a pattern as audience", githubRule(), func(r *Rule) { r.Audience = "https://*.example.com" }, "trust.audience", "Audience"},
		{"our own audience", githubRule(), func(r *Rule) { r.Audience = "https://id.example.com" }, "", ""},

		{"only a path", gitlabRule(), func(r *Rule) { r.Match = map[string]string{"project_path": "acme/train", "ref_protected": "true"} }, "trust.gitlab_ids", "Match"},
		{"any project", gitlabRule(), match("project_id", "*"), "trust.id", "Match.project_id"},
		{"all of a group", gitlabRule(), func(r *Rule) { r.Match = map[string]string{"namespace_id": "72", "ref_protected": "true"} }, "warning:trust.wide", "Match"},
		{"not protected", gitlabRule(), match("ref_protected", ""), "warning:trust.wide", "Match"},
		{"protected, in other words", gitlabRule(), match("ref_protected", "yes"), "trust.gitlab_bool", "Match.ref_protected"},
		{"any source", gitlabRule(), match("pipeline_source", "*"), "trust.glob", "Match.pipeline_source"},
		{"the instance's audience", gitlabRule(), func(r *Rule) { r.Audience = "https://gitlab.com" }, "trust.audience", "Audience"},
		{"that of an own instance", gitlabRule(), func(r *Rule) { r.Issuer, r.Audience = "https://git.example.com", "https://git.example.com/" }, "trust.audience", "Audience"},

		{"no sub", jenkinsRule(), func(r *Rule) { r.Match = map[string]string{"build_number": "17"} }, "trust.jenkins_sub", "Match"},
		{"any job", jenkinsRule(), match("sub", "https://jenkins.example.com/job/*/"), "trust.glob", "Match.sub"},
		{"the controller", jenkinsRule(), match("sub", "https://jenkins.example.com/"), "trust.jenkins_sub", "Match.sub"},
		{"a controller below a path", jenkinsRule(), match("sub", "https://example.com/jenkins/"), "trust.jenkins_sub", "Match.sub"},
		{"a view", jenkinsRule(), match("sub", "https://jenkins.example.com/view/all/"), "trust.jenkins_sub", "Match.sub"},
		{"a name", jenkinsRule(), match("sub", "deploy"), "trust.jenkins_sub", "Match.sub"},
		{"a job of a folder", jenkinsRule(), match("sub", "https://example.com/jenkins/job/folder/job/deploy/"), "", ""},
		{"no issuer", jenkinsRule(), func(r *Rule) { r.Issuer = "" }, "trust.issuer", "Issuer"},
		{"http", jenkinsRule(), func(r *Rule) { r.Issuer = "http://jenkins.lan/oidc" }, "trust.http", "Issuer"},
		{"http, with the keys in a file", jenkinsRule(), func(r *Rule) { r.Issuer, r.JWKSFile = "http://jenkins.lan/oidc", "/etc/j.json" }, "", ""},
		{"http on this machine", jenkinsRule(), func(r *Rule) { r.Issuer = "http://127.0.0.1:8080/oidc" }, "", ""},
		{"the discovery document", jenkinsRule(), func(r *Rule) { r.Issuer += "/.well-known/openid-configuration" }, "trust.issuer", "Issuer"},
		{"no address", jenkinsRule(), func(r *Rule) { r.Issuer = "jenkins" }, "trust.issuer", "Issuer"},
		{"keys in two places", jenkinsRule(), func(r *Rule) { r.JWKSFile, r.JWKSURI = "/etc/j.json", "https://j/jwks" }, "trust.jwks", "JWKSFile"},

		{"oidc without issuer", oidcRule(), func(r *Rule) { r.Issuer = "" }, "trust.issuer", "Issuer"},
		{"neither sub nor id", oidcRule(), func(r *Rule) { r.Match = map[string]string{"branch": "main"} }, "trust.oidc_sub", "Match"},
		{"a sub with a pattern alone", oidcRule(), func(r *Rule) { r.Match = map[string]string{"sub": "org/1/project/*/user/*"} }, "trust.oidc_sub", "Match"},
		{"an id with a pattern", oidcRule(), func(r *Rule) { r.Match = map[string]string{"project_id": "*"} }, "trust.oidc_sub", "Match"},
		{"a whole sub", oidcRule(), func(r *Rule) { r.Match = map[string]string{"sub": "system:serviceaccount:ci:deployer"} }, "", ""},
		{"GitHub past its rules", oidcRule(), func(r *Rule) {
			r.Issuer, r.Match = "https://token.actions.githubusercontent.com", map[string]string{"sub": "repo:acme/train:ref:refs/heads/main"}
		}, "trust.provider", "Provider"},
		{"GitHub's server past its rules", oidcRule(), func(r *Rule) { r.Issuer = "https://git.example.com/_services/token" }, "trust.provider", "Provider"},
		{"GitLab past its rules", oidcRule(), func(r *Rule) { r.Issuer = "https://gitlab.com" }, "trust.provider", "Provider"},
	} {
		if tc.change != nil {
			tc.change(&tc.rule)
		}
		var got []string
		found := tc.want == ""
		for _, p := range tc.rule.Problems() {
			rule := p.Rule
			if p.Warning {
				rule = "warning:" + rule
			}
			got = append(got, p.Field+" "+rule)
			if rule == tc.want && p.Field == tc.field {
				found = true
			}
			if p.Text == "" || !strings.HasSuffix(p.Text, ".") && !strings.HasSuffix(p.Text, "?") {
				t.Errorf("%s: says %q", tc.name, p.Text)
			}
		}
		if !found || tc.want == "" && len(got) > 0 {
			t.Errorf("%s: %q, want %s %s", tc.name, got, tc.field, tc.want)
		}
	}
}

// An issuer has one provider and one set of keys, whichever rule is looked at.
func TestAcross(t *testing.T) {
	t.Parallel()
	second := func(change func(*Rule)) []Rule {
		r := gitlabRule()
		r.Name = "second"
		change(&r)
		return []Rule{gitlabRule(), r}
	}
	for name, tc := range map[string]struct {
		rules []Rule
		want  []string
	}{
		"two of one":       {second(func(*Rule) {}), nil},
		"two issuers":      {second(func(r *Rule) { r.Issuer, r.JWKSFile = "https://git.example.com", "/etc/g.json" }), nil},
		"another provider": {second(func(r *Rule) { r.Issuer, r.Provider = "https://gitlab.com", "oidc" }), []string{"[1].Issuer"}},
		"other keys":       {second(func(r *Rule) { r.JWKSFile = "/etc/g.json" }), []string{"[1].Issuer"}},
		"ourselves":        {second(func(r *Rule) { r.Issuer = "https://id.example.com" }), []string{"[1].Issuer"}},
	} {
		var got []string
		for _, p := range Across(tc.rules, "https://id.example.com") {
			got = append(got, p.Field)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	if n := len(Sources(second(func(*Rule) {}))); n != 1 {
		t.Errorf("%d sources of one issuer", n)
	}
}
