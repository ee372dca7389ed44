package ciissuers

import (
	"crypto/rand"
	"fmt"
	"maps"
	"strings"
	"time"
)

// Claims are the claims of a token, by name.
type Claims map[string]any

// With returns a copy with changes: a claim's name and its value, in pairs. A
// value of nil takes the claim away.
func (c Claims) With(changes ...any) Claims {
	c = maps.Clone(c)
	for k := 0; k+1 < len(changes); k += 2 {
		name, _ := changes[k].(string)
		if c[name] = changes[k+1]; changes[k+1] == nil {
			delete(c, name)
		}
	}
	return c
}

func (c Claims) text(name string) string {
	s, _ := c[name].(string)
	return s
}

// Job returns the claims of a fresh job of the issuer's kind: of the repository
// acme/train (id 123456, owner 789), the project acme/train (id 20, namespace 72)
// or the Jenkins job "train", from a push to the protected branch main, in the
// environment production. Changes are those of Claims.With; sub follows them,
// unless it is one of them.
func (i *Issuer) Job(changes ...any) Claims {
	now := i.now().Truncate(time.Second)
	i.mu.Lock()
	i.jobs++
	build := 16 + i.jobs // without it two tokens of a second would be one and the same
	i.mu.Unlock()
	c := Claims{"iss": i.URL, "iat": now.Unix()}
	switch i.Kind {
	case GitHub:
		c = c.With("nbf", now.Add(-5*time.Minute).Unix(), "exp", now.Add(5*time.Minute).Unix(), "jti", uuid(), "aud", "https://github.com/acme",
			"repository", "acme/train", "repository_id", "123456", "repository_owner", "acme", "repository_owner_id", "789", "repository_visibility", "private",
			"ref", "refs/heads/main", "ref_type", "branch", "ref_protected", "true", "base_ref", "", "head_ref", "",
			"sha", "0f1e2d3c4b5a69788796a5b4c3d2e1f001234567", "event_name", "push", "environment", "production", "environment_node_id", "EN_kwDOABCD",
			"workflow", "Deploy to RemoteGPU", "workflow_ref", "acme/train/.github/workflows/deploy.yml@refs/heads/main", "workflow_sha", "0f1e2d3c4b5a69788796a5b4c3d2e1f001234567",
			"job_workflow_ref", "acme/train/.github/workflows/deploy.yml@refs/heads/main", "job_workflow_sha", "0f1e2d3c4b5a69788796a5b4c3d2e1f001234567",
			"run_id", "9182736455", "run_number", "41", "run_attempt", "1", "check_run_id", "51827364500", "runner_environment", "github-hosted",
			"actor", "alice", "actor_id", "4711", "repo_property_team", "platform").With(changes...)
		c = c.With("sub", GitHubSubject(c)).With(changes...)
	case GitLab:
		// exp is the job's time-out after iat: an hour unless configured
		c = c.With("nbf", now.Add(-5*time.Second).Unix(), "exp", now.Add(time.Hour).Unix(), "jti", uuid(), "aud", i.URL,
			"namespace_id", "72", "namespace_path", "acme", "project_id", "20", "project_path", "acme/train", "project_visibility", "private",
			"job_project_id", "20", "job_project_path", "acme/train", "job_namespace_id", "72", "job_namespace_path", "acme",
			"user_id", "1", "user_login", "alice", "user_email", "alice@acme.example", "user_access_level", "maintainer",
			"pipeline_id", "574", "pipeline_source", "push", "job_id", "302",
			"ref", "main", "ref_type", "branch", "ref_path", "refs/heads/main", "ref_protected", "true",
			"environment", "production", "environment_protected", "true", "deployment_tier", "production", "environment_action", "start",
			"runner_id", 1, "runner_environment", "gitlab-hosted", "sha", "714a629c0b401fdce83e847fc9589983fc6f46bc",
			"ci_config_ref_uri", strings.TrimPrefix(i.URL, "https://")+"/acme/train//.gitlab-ci.yml@refs/heads/main", "ci_config_sha", "714a629c0b401fdce83e847fc9589983fc6f46bc").With(changes...)
		c = c.With("sub", fmt.Sprintf("project_path:%s:ref_type:%s:ref:%s", c.text("project_path"), c.text("ref_type"), c.text("ref"))).With(changes...)
	default: // no jti, no nbf; aud only where the credentials name one
		c = c.With("exp", now.Add(time.Hour).Unix(), "sub", strings.TrimSuffix(i.URL, "oidc")+"job/train/", "build_number", build).With(changes...)
	}
	return c
}

// GitHubSubject is the sub that GitHub makes of a job's claims, for repositories
// older than 15 July 2026: by environment, pull request or ref.
func GitHubSubject(c Claims) string { return "repo:" + c.text("repository") + ":" + context(c) }

// ImmutableSubject is the sub of repositories made, renamed or transferred since:
// with the ids of the owner and the repository.
func ImmutableSubject(c Claims) string {
	owner, name, _ := strings.Cut(c.text("repository"), "/")
	return fmt.Sprintf("repo:%s@%s/%s@%s:%s", owner, c.text("repository_owner_id"), name, c.text("repository_id"), context(c))
}

// CustomSubject is the sub of an organization's or repository's template, the
// claims of include_claim_keys.
func CustomSubject(c Claims, keys ...string) string {
	var parts []string
	for _, k := range keys {
		switch k {
		case "repo":
			parts = append(parts, "repo:"+c.text("repository"))
		case "context":
			parts = append(parts, context(c))
		default:
			parts = append(parts, k+":"+escape(c.text(k)))
		}
	}
	return strings.Join(parts, ":")
}

func context(c Claims) string {
	switch event := c.text("event_name"); {
	case c.text("environment") != "":
		return "environment:" + escape(c.text("environment"))
	case strings.HasPrefix(event, "pull_request"):
		return "pull_request"
	}
	return "ref:" + escape(c.text("ref"))
}

// escape hides the colons of a value, as GitHub does in sub.
func escape(s string) string { return strings.ReplaceAll(s, ":", "%3A") }

// uuid is a random one, for jti.
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
