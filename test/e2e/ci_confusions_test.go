//go:build e2e

package e2e

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	ciissuers "github.com/remotegpu/gatehouse/test/peers/ci-issuers"
)

// What each CI system signs for the right job is taken, in all forms of sub.
func TestCITokensThatMatch(t *testing.T) {
	p := startPipelines(t, "", "")
	s := p.site
	job := s.GitHub.Job()
	for name, raw := range map[string]string{
		"GitHub, sub by name":            p.mint(s.GitHub),
		"GitHub, immutable sub":          p.mint(s.GitHub, "sub", ciissuers.ImmutableSubject(job)),
		"GitHub, customised sub":         p.mint(s.GitHub, "sub", ciissuers.CustomSubject(job, "repository_owner", "repository_visibility")),
		"GitHub, sub of its ids":         p.mint(s.GitHub, "sub", ciissuers.CustomSubject(job, "repository_id")),
		"GitHub, names in other case":    p.mint(s.GitHub, "repository", "Acme/Train", "environment", "Production"),
		"GitHub, by hand":                p.mint(s.GitHub, "event_name", "workflow_dispatch"),
		"GitLab":                         p.mint(s.GitLab),
		"GitLab, sub of the project":     p.mint(s.GitLab, "sub", "project_path:acme/train"),
		"GitLab, a renamed project":      p.mint(s.GitLab, "project_path", "acme/trainer", "namespace_path", "acme-corp"),
		"GitLab, an age of 50 minutes":   p.mint(s.GitLab, "iat", time.Now().Add(-50*time.Minute).Unix(), "nbf", nil, "exp", time.Now().Add(10*time.Minute).Unix()),
		"Jenkins":                        p.mint(s.Jenkins),
		"Jenkins, more claims":           p.mint(s.Jenkins, "branch", "main", "build_number", 18),
		"a clock that is 30 s ahead":     p.mint(s.Jenkins, "iat", time.Now().Add(30*time.Second).Unix(), "exp", time.Now().Add(time.Hour).Unix()),
		"a job that may take four hours": p.mint(s.GitLab, "exp", time.Now().Add(4*time.Hour).Unix()),
	} {
		got := p.exchange(raw)
		c := claimsOf(got.Token)
		if got.Status != http.StatusOK || c["sub"] != "acme-deployer" || c["gatehouse:kind"] != "service" || c["aud"] != "platform-api" || got.RefreshToken != "" ||
			got.Type != "Bearer" || got.Issued != "urn:ietf:params:oauth:token-type:access_token" || !strings.Contains(got.Scope, "deployments:write") {
			t.Errorf("%s: %d %s\n%v", name, got.Status, got.Raw, c)
		}
		// Never longer than the rule says, nor than the job's own token.
		rest := int(claimsOf(raw)["exp"].(float64)) - int(time.Now().Unix()) + 1
		if most := min(900, rest); got.Seconds <= 0 || got.Seconds > most {
			t.Errorf("%s: good for %d s, at most %d", name, got.Seconds, most)
		}
		if code := p.call(got.Token); code != http.StatusCreated {
			t.Errorf("%s: the API answered %d", name, code)
		}
	}
	if len(p.events("workload.denied", "")) != 0 {
		t.Error("something was denied")
	}
	// The other ways to ask (RFC 7523).
	for name, got := range map[string]exchanged{
		"token exchange of a jwt": p.exchange(p.mint(s.GitLab), "subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
		"JWT bearer": p.exchange("", "grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion", p.mint(s.GitHub),
			"subject_token", "", "subject_token_type", ""),
		"client assertion": p.exchange("", "grant_type", "client_credentials", "client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
			"client_assertion", p.mint(s.Jenkins), "subject_token", "", "subject_token_type", ""),
	} {
		if got.Status != http.StatusOK || p.call(got.Token) != http.StatusCreated {
			t.Errorf("%s: %d %s", name, got.Status, got.Raw)
		}
	}
}

// confusion is a token that must be refused, and the claim that the log names.
type confusion struct {
	raw   string
	claim string
}

// confusions are those of docs/security.md CI-1 to CI-5, and of CVE-2020-15222's
// kind: each differs from a good token by as little as it can.
func (p *pipelines) confusions() map[string]confusion {
	s, now := p.site, time.Now()
	other := ciissuers.Start(p.t)
	in := func(d time.Duration) int64 { return now.Add(d).Unix() }
	github := func(claim string, changes ...any) confusion { return confusion{p.mint(s.GitHub, changes...), claim} }
	gitlab := func(claim string, changes ...any) confusion { return confusion{p.mint(s.GitLab, changes...), claim} }
	jenkins := func(claim string, changes ...any) confusion { return confusion{p.mint(s.Jenkins, changes...), claim} }
	aud := func(c ciissuers.Claims) ciissuers.Claims { return c.With("aud", ciIssuer) }
	return map[string]confusion{
		"GitHub: a repository whose name begins alike":   github("repository_id", "repository", "acme/train-evil", "repository_id", "123457"),
		"GitHub: an owner whose name begins alike":       github("repository_owner_id", "repository", "acme-evil/train", "repository_owner", "acme-evil", "repository_owner_id", "790", "repository_id", "5"),
		"GitHub: the name was given to somebody else":    github("repository_owner_id", "repository_owner_id", "790", "repository_id", "123458"),
		"GitHub: the right sub, another repository":      github("repository_id", "repository_id", "5", "repository", "mallory/x", "sub", "repo:acme/train:environment:production"),
		"GitHub: an id that is a number":                 github("repository_id", "repository_id", 123456),
		"GitHub: an id with a zero before it":            github("repository_id", "repository_id", "0123456"),
		"GitHub: no repository":                          github("repository_id", "repository_id", nil),
		"GitHub: a pull request from a fork":             github("event_name", "event_name", "pull_request", "ref", "refs/pull/7/merge", "ref_type", "branch", "head_ref", "patch", "base_ref", "main", "environment", nil),
		"GitHub: pull_request_target on main":            github("event_name", "event_name", "pull_request_target"),
		"GitHub: a comment on an issue":                  github("event_name", "event_name", "issue_comment"),
		"GitHub: after another workflow":                 github("event_name", "event_name", "workflow_run"),
		"GitHub: no event":                               github("event_name", "event_name", nil),
		"GitHub: another environment":                    github("environment", "environment", "staging"),
		"GitHub: an environment that begins alike":       github("environment", "environment", "production-eu"),
		"GitHub: no environment":                         github("environment", "environment", nil),
		"GitHub: another branch":                         github("ref", "ref", "refs/heads/main-evil"),
		"GitHub: a branch below":                         github("ref", "ref", "refs/heads/main/x"),
		"GitHub: a tag of the branch's name":             github("ref", "ref", "refs/tags/main", "ref_type", "tag"),
		"GitHub: GitHub's own audience":                  github("aud", "aud", "https://github.com/acme"),
		"GitHub: another audience":                       github("aud", "aud", "sts.amazonaws.com"),
		"GitHub: an audience with a slash more":          github("aud", "aud", ciIssuer+"/"),
		"GitHub: two audiences":                          github("aud", "aud", []string{ciIssuer, "sts.amazonaws.com"}),
		"GitHub: no audience":                            github("aud", "aud", nil),
		"GitHub: expired":                                github("exp", "iat", in(-6*time.Minute), "nbf", in(-11*time.Minute), "exp", in(-time.Second)),
		"GitHub: from the future":                        github("iat", "iat", in(10*time.Minute), "nbf", nil, "exp", in(20*time.Minute)),
		"GitHub: not before":                             github("nbf", "nbf", in(5*time.Minute)),
		"GitHub: issued two hours ago":                   github("iat", "iat", in(-2*time.Hour), "nbf", nil),
		"GitHub: no exp":                                 github("exp", "exp", nil),
		"GitHub: no iat":                                 github("iat", "iat", nil),
		"GitHub: exp is a text":                          github("exp", "exp", "9999999999"),
		"GitHub: another issuer with the same claims":    {p.sign(other.GitHub, aud(other.GitHub.Job()), ciissuers.RS256), "iss"},
		"GitHub: another issuer that says it is ours":    {p.sign(other.GitHub, aud(s.GitHub.Job()), ciissuers.RS256), "signature"},
		"GitHub: the issuer with a slash more":           github("iss", "iss", s.GitHub.URL+"/"),
		"GitHub: the same kid, another key":              {p.sign(s.GitHub, aud(s.GitHub.Job()), ciissuers.Foreign), "signature"},
		"GitHub: alg none":                               {p.sign(s.GitHub, aud(s.GitHub.Job()), ciissuers.None), "signature"},
		"GitHub: the public key as the secret":           {p.sign(s.GitHub, aud(s.GitHub.Job()), ciissuers.HS256), "signature"},
		"GitHub's claims by GitLab":                      {p.sign(s.GitLab, aud(s.GitHub.Job()).With("iss", s.GitLab.URL), ciissuers.RS256), "namespace_id"},
		"GitLab's key under GitHub's name":               {p.sign(s.GitLab, aud(s.GitHub.Job()), ciissuers.RS256), "signature"},
		"GitLab: a project whose path begins alike":      gitlab("project_id", "project_path", "acme/trainer", "project_id", "21"),
		"GitLab: the path was given to somebody else":    gitlab("project_id", "project_id", "22"),
		"GitLab: another group":                          gitlab("namespace_id", "namespace_id", "73", "project_id", "23"),
		"GitLab: a fork's merge request":                 gitlab("namespace_id", "namespace_id", "99", "project_id", "98", "project_path", "mallory/train", "pipeline_source", "merge_request_event", "ref", "patch", "ref_protected", "false"),
		"GitLab: a merge request on main":                gitlab("pipeline_source", "pipeline_source", "merge_request_event"),
		"GitLab: a branch that is not protected":         gitlab("ref_protected", "ref_protected", "false"),
		"GitLab: protected, but no text":                 gitlab("ref_protected", "ref_protected", true),
		"GitLab: nobody says whether it is protected":    gitlab("ref_protected", "ref_protected", nil),
		"GitLab: another branch":                         gitlab("ref", "ref", "develop"),
		"GitLab: a tag of the branch's name":             gitlab("ref_type", "ref_type", "tag"),
		"GitLab: another environment":                    gitlab("environment", "environment", "staging"),
		"GitLab: the instance's own audience":            gitlab("aud", "aud", s.GitLab.URL),
		"Jenkins: a job whose name begins alike":         jenkins("sub", "sub", s.URL+"/jenkins/job/train-evil/"),
		"Jenkins: a job below":                           jenkins("sub", "sub", s.URL+"/jenkins/job/train/job/x/"),
		"Jenkins: a way up":                              jenkins("sub", "sub", s.URL+"/jenkins/job/x/../train/"),
		"Jenkins: all of it":                             jenkins("sub", "sub", s.URL+"/jenkins/"),
		"Jenkins: no sub":                                jenkins("sub", "sub", nil),
		"Jenkins: the credentials have no audience":      jenkins("aud", "aud", nil),
		"Jenkins: a folder's issuer":                     jenkins("iss", "iss", s.Jenkins.URL+"/job/acme"),
		"Jenkins: the job's address in other characters": jenkins("sub", "sub", s.URL+"/jenkins/job/tr\u0430in/"), // a Cyrillic а
	}
}

// Each confusion is refused with the same words, the log names the claim, and the
// caller learns nothing of rule, claims or cause (docs/security.md CI-9).
func TestCIConfusions(t *testing.T) {
	p := startPipelines(t, "", "")
	good := p.exchange(p.mint(p.site.GitHub))
	if good.Status != http.StatusOK { // the rules work, so that what follows says something
		t.Fatalf("the right job: %d %s", good.Status, good.Raw)
	}
	cases := p.confusions()
	said := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		c := cases[name]
		got := p.exchange(c.raw)
		if got.Status != http.StatusBadRequest || got.Code != "invalid_grant" || got.Token != "" || got.Ref == "" {
			t.Errorf("%s: %d %s", name, got.Status, got.Raw)
			continue
		}
		said[got.Text] = append(said[got.Text], name)
		for _, secret := range []string{"acme", "train", "production", "refs/", "signature", "expired", "audience", "aud", "sub", "github-production", "127.0.0.1", c.claim} {
			if regexp.MustCompile(`\b` + regexp.QuoteMeta(secret)).MatchString(got.Text) {
				t.Errorf("%s: the answer says %q: %s", name, secret, got.Raw)
			}
		}
		var events []record
		eventually(t, 5*time.Second, "the event of "+name, func() bool { events = p.events("workload.denied", got.Ref); return len(events) == 1 })
		if events[0].Details["claim"] != c.claim {
			t.Errorf("%s: the log names %q, not %q: %v", name, events[0].Details["claim"], c.claim, events[0].Details)
		}
		line := regexp.MustCompile(`(?m)^.*a workload's token was refused.*"claim":"` + regexp.QuoteMeta(c.claim) + `"`)
		eventually(t, 5*time.Second, "the line of the log for "+name, func() bool { return line.MatchString(p.gates[0].out.String()) })
		if raw := p.gates[0].out.String(); strings.Contains(raw, strings.Split(c.raw, ".")[1]) {
			t.Errorf("%s: the log holds the token", name)
		}
	}
	if len(said) != 1 {
		t.Errorf("refusals are told apart by their words: %v", said)
	}
	if got := p.api.take(); got != nil {
		t.Errorf("reached the API: %+v", got)
	}
	if code := p.call(good.Token); code != http.StatusCreated { // nothing of this has changed anything
		t.Errorf("the right job's token afterwards: %d", code)
	}
}

// What is asked for may only narrow what the rule gives.
func TestCINarrowing(t *testing.T) {
	p := startPipelines(t, "", "")
	for name, c := range map[string]struct {
		more []string
		code string
		want string // scope
	}{
		"fewer scopes":        {[]string{"scope", "deployments:read"}, "", "deployments:read"},
		"the same audience":   {[]string{"audience", "platform-api"}, "", "deployments:write deployments:read"},
		"its address":         {[]string{"resource", "platform-api"}, "", "deployments:write deployments:read"},
		"a scope more":        {[]string{"scope", "deployments:write gatehouse:admin"}, "invalid_scope", ""},
		"another audience":    {[]string{"audience", "other-api"}, "invalid_target", ""},
		"the issuer's tokens": {[]string{"audience", ciIssuer}, "invalid_target", ""},
	} {
		got := p.exchange(p.mint(p.site.GitHub), c.more...)
		if got.Code != c.code || got.Scope != c.want || (got.Token == "") != (c.code != "") {
			t.Errorf("%s: %d %s", name, got.Status, got.Raw)
		}
	}
}
