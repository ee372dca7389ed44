package workload

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

func TestGlob(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		pattern, text string
		want          bool
	}{
		{"refs/heads/main", "refs/heads/main", true}, {"refs/heads/main", "refs/heads/main2", false}, {"refs/heads/main", "refs/heads/mai", false},
		{"refs/heads/main", "REFS/heads/main", false}, {"refs/heads/main", "refs/heads/main\n", false}, {"", "", true}, {"", "x", false},
		{"*", "", true}, {"*", "abc", true}, {"*", "a/b", false}, {"*", "a:b", false}, {"*", "/", false},
		{"refs/heads/release-*", "refs/heads/release-1", true}, {"refs/heads/release-*", "refs/heads/release-", true},
		{"refs/heads/release-*", "refs/heads/release-1/evil", false}, {"refs/heads/release-*", "x/refs/heads/release-1", false},
		{"refs/heads/*", "refs/heads/feature/x", false}, {"refs/heads/*/x", "refs/heads/feature/x", true}, {"refs/*/main", "refs/heads/main", true},
		{"a*c", "abc", true}, {"a*c", "ac", true}, {"a*c", "a", false}, {"a*c", "acd", false}, {"*b", "abc", false}, {"a*a", "a", false}, {"a*a", "aa", true}, {"*a*", "xay", true},
		{"a*b*c", "aXbYbZc", true}, {"a*b*c", "acb", false}, {"*ab*ab*", "abab", true}, {"*ab*ab*", "aab", false}, {"*a/*b", "xa/yb", true},
		{"org/1/project/2/user/*", "org/1/project/2/user/3", true}, {"org/1/project/2/user/*", "org/1/project/2/user/3/4", false},
		{"a.c", "abc", false}, {"a?c", "abc", false}, {"[a]", "a", false}, {`a\*`, "a*", false}, {"ref:*", "ref:main", true}, {"ref:*", "ref:a:b", false},
		{"a/b", "a:b", false}, {"*", "日本", true}, {"*本", "日本", true},
	} {
		if got := glob(tc.pattern, tc.text); got != tc.want {
			t.Errorf("glob(%q, %q) = %v", tc.pattern, tc.text, got)
		}
	}
}

// A pattern is what the same regular expression would be.
func FuzzGlob(f *testing.F) {
	f.Add("refs/heads/*", "refs/heads/main")
	f.Add("a*b*c", "aXbYbZc")
	f.Add("*/*:*", "a/b:c")
	f.Add("*ab*ab*", "abxab")
	f.Add("*b", "abc")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 200 || len(text) > 200 || strings.ToValidUTF8(pattern, "") != pattern || strings.ToValidUTF8(text, "") != text {
			return
		}
		re := regexp.MustCompile(`^` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `[^/:]*`) + `\z`)
		if got, want := glob(pattern, text), re.MatchString(text); got != want {
			t.Errorf("glob(%q, %q) = %v, the expression says %v", pattern, text, got, want)
		}
	})
}

func TestNormalURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"https://jenkins.example.com/job/deploy/":         "https://jenkins.example.com/job/deploy/",
		"https://jenkins.example.com/job/deploy":          "https://jenkins.example.com/job/deploy/",
		"HTTPS://Jenkins.Example.com:443/job/deploy":      "https://jenkins.example.com/job/deploy/",
		"http://jenkins:80/job/a":                         "http://jenkins/job/a/",
		"https://jenkins:8443/job/a/":                     "https://jenkins:8443/job/a/",
		"https://j/job/a%2fb/":                            "https://j/job/a%2Fb/",
		"https://j/job/%64eploy/":                         "https://j/job/deploy/",
		"https://j/job/feature%252Fx/":                    "https://j/job/feature%252Fx/",
		"https://j/job/a b/":                              "https://j/job/a%20b/",
		"https://j/job/日/":                                "https://j/job/%E6%97%A5/",
		"https://j":                                       "https://j/",
		"https://j/":                                      "https://j/",
		"https://j/job/a/../b/":                           "",
		"https://j/job/%2e%2e/b/":                         "",
		"https://j/job/./b/":                              "",
		"https://j/job//b/":                               "",
		"https://j/job/b//":                               "",
		"https://u@j/job/b/":                              "",
		"https://j/job/b/?x":                              "",
		"https://j/job/b/?":                               "",
		"https://j/job/b/#":                               "",
		"https://j/job/b/#x":                              "",
		"//j/job/b/":                                      "",
		"/job/b/":                                         "",
		"ftp://j/job/b/":                                  "",
		"https:job/b":                                     "",
		"https://j/job/%zz/":                              "",
		"https://jenkins.example.com.evil.example/job/b/": "https://jenkins.example.com.evil.example/job/b/",
	} {
		got, ok := normalURL(in)
		if got != want || ok != (want != "") {
			t.Errorf("normalURL(%q) = %q, %v", in, got, ok)
		}
	}
}

// What is normal stays as it is, and has no way to another path in it.
func FuzzNormalURL(f *testing.F) {
	f.Add("https://Jenkins/job/a%2Fb")
	f.Add("https://j/job/../x")
	f.Add("http://.")
	f.Fuzz(func(t *testing.T, in string) {
		out, ok := normalURL(in)
		if !ok {
			return
		}
		if again, ok := normalURL(out); !ok || again != out {
			t.Errorf("%q is normally %q, and that %q %v", in, out, again, ok)
		}
		_, rest, _ := strings.Cut(out, "://")
		host, path, slash := strings.Cut(rest, "/")
		if path = "/" + path; host == "" || !slash || strings.Contains(path, "/../") || strings.Contains(path, "/./") || strings.Contains(path, "//") || !strings.HasSuffix(path, "/") {
			t.Errorf("%q is normally %q", in, out)
		}
	})
}

// Whatever the claims are, a rule that takes them has its ids in them to the letter.
func FuzzClaims(f *testing.F) {
	for _, js := range []string{
		`{"repository_id":"123456","repository_owner_id":"789","repository":"acme/train","ref":"refs/heads/main","event_name":"push"}`,
		`{"repository_id":123456,"event_name":["push"],"ref":null}`, `{"sub":{"a":1}}`, `[]`, `{"event_name":"pull_request"}`,
	} {
		f.Add(js)
	}
	r := Rule{Name: "r", Provider: "github_actions", Match: map[string]string{"repository_id": "123456", "repository_owner_id": "789", "ref": "refs/heads/*"}, ServiceAccount: "a"}
	f.Fuzz(func(t *testing.T, js string) {
		claims, err := DecodeClaims([]byte(js))
		if err != nil {
			return
		}
		ds := r.differences(claims)
		for _, d := range ds {
			if len(d.Got) > maxShown+len("…") || strings.ContainsAny(d.Got, "\n\r\x00\x1b") {
				t.Errorf("shown as %q", d.Got)
			}
		}
		if len(ds) > 0 {
			return
		}
		ref, _ := claims["ref"].(string)
		if claims["repository_id"] != "123456" || claims["repository_owner_id"] != "789" || !strings.HasPrefix(ref, "refs/heads/") || strings.Count(ref, "/") != 2 {
			t.Errorf("taken: %s", js)
		}
	})
}

// claims of vendors' documentation, and a change.
func claimsOf(t testing.TB, js string, change ...any) map[string]any {
	t.Helper()
	out, err := DecodeClaims([]byte(js))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(change); i += 2 {
		if change[i+1] == nil {
			delete(out, change[i].(string))
			continue
		}
		out[change[i].(string)] = change[i+1]
	}
	return out
}

const (
	githubClaims = `{"iss":"https://token.actions.githubusercontent.com","aud":"https://id.example.com","sub":"repo:acme/train:environment:production","repository":"acme/train",
"repository_id":"123456","repository_owner":"acme","repository_owner_id":"789","repository_visibility":"private","ref":"refs/heads/main","ref_type":"branch","ref_protected":"true",
"environment":"production","event_name":"push","workflow":"deploy","workflow_ref":"acme/train/.github/workflows/deploy.yml@refs/heads/main",
"job_workflow_ref":"acme/ci/.github/workflows/deploy.yml@refs/heads/main","runner_environment":"github-hosted","actor":"alice","actor_id":"42","run_id":"9001","run_attempt":"1","sha":"abc","jti":"j-1"}`
	gitlabClaims = `{"iss":"https://gitlab.com","aud":"https://id.example.com","sub":"project_path:acme/train:ref_type:branch:ref:main","namespace_id":"72","namespace_path":"acme","project_id":"20",
"project_path":"acme/train","user_id":"1","user_login":"alice","user_email":"alice@example.com","pipeline_id":"574","pipeline_source":"push","job_id":"302","ref":"main","ref_type":"branch",
"ref_path":"refs/heads/main","ref_protected":"true","environment":"production","environment_protected":"true","runner_id":1,"runner_environment":"gitlab-hosted","sha":"abc","jti":"j-2"}`
	jenkinsClaims = `{"iss":"https://jenkins.example.com/oidc","aud":"https://id.example.com","sub":"https://jenkins.example.com/job/deploy/","build_number":17}`
)

// Every confusion of docs/security.md CI-3 to CI-5: the claim that the log names
// is the first that differs.
func TestDifferences(t *testing.T) {
	t.Parallel()
	github := Rule{Provider: "github_actions", Match: map[string]string{"repository_id": "123456", "repository_owner_id": "789", "repository": "acme/train", "ref": "refs/heads/main", "environment": "production"}}
	gitlab := Rule{Provider: "gitlab_ci", Match: map[string]string{"project_id": "20", "namespace_id": "72", "ref": "main", "ref_type": "branch", "ref_protected": "true"}}
	jenkins := Rule{Provider: "jenkins", Match: map[string]string{"sub": "https://jenkins.example.com/job/deploy"}}
	for _, tc := range []struct {
		name   string
		rule   Rule
		claims string
		change []any
		want   string // the first claim that differs; "" is a match
	}{
		{"github", github, githubClaims, nil, ""},
		{"immutable sub", github, githubClaims, []any{"sub", "repo:acme@789/train@123456:environment:production"}, ""},
		{"customised sub", github, githubClaims, []any{"sub", "repository_owner:acme:repository_visibility:private"}, ""},
		{"names in another case", github, githubClaims, []any{"repository", "Acme/Train", "environment", "Production"}, ""},
		{"by hand", github, githubClaims, []any{"event_name", "workflow_dispatch"}, ""},
		{"a name with the same beginning", github, githubClaims, []any{"repository", "acme/train-evil", "repository_id", "123457"}, "repository_id"},
		{"an owner with the same beginning", github, githubClaims, []any{"repository", "acme-evil/train", "repository_owner_id", "790", "repository_id", "5"}, "repository_owner_id"},
		{"the name was recycled", github, githubClaims, []any{"repository_owner_id", "790", "repository_id", "5"}, "repository_owner_id"},
		{"the right sub alone", github, githubClaims, []any{"repository_id", "5", "repository", "mallory/x"}, "repository_id"},
		{"renamed", github, githubClaims, []any{"repository", "acme/trainer"}, "repository"},
		{"an id that is a number", github, githubClaims, []any{"repository_id", json.Number("123456")}, "repository_id"},
		{"an id with a space", github, githubClaims, []any{"repository_id", "123456 "}, "repository_id"},
		{"an id in a list", github, githubClaims, []any{"repository_id", []any{"123456"}}, "repository_id"},
		{"no id", github, githubClaims, []any{"repository_id", nil}, "repository_id"},
		{"a fork's pull request", github, githubClaims, []any{"event_name", "pull_request", "ref", "refs/pull/7/merge", "environment", nil}, "event_name"},
		{"pull_request_target", github, githubClaims, []any{"event_name", "pull_request_target"}, "event_name"},
		{"a review", github, githubClaims, []any{"event_name", "pull_request_review"}, "event_name"},
		{"a comment", github, githubClaims, []any{"event_name", "issue_comment"}, "event_name"},
		{"another workflow's end", github, githubClaims, []any{"event_name", "workflow_run"}, "event_name"},
		{"no event", github, githubClaims, []any{"event_name", nil}, "event_name"},
		{"another environment", github, githubClaims, []any{"environment", "staging"}, "environment"},
		{"no environment", github, githubClaims, []any{"environment", nil}, "environment"},
		{"another branch", github, githubClaims, []any{"ref", "refs/heads/main-evil"}, "ref"},
		{"a tag of that name", github, githubClaims, []any{"ref", "refs/tags/main"}, "ref"},
		{"an empty ref", github, githubClaims, []any{"ref", ""}, "ref"},
		{"gitlab", gitlab, gitlabClaims, nil, ""},
		{"a longer path", gitlab, gitlabClaims, []any{"project_path", "acme/trainer", "project_id", "21"}, "project_id"},
		{"another group", gitlab, gitlabClaims, []any{"namespace_id", "73"}, "namespace_id"},
		{"an unprotected ref", gitlab, gitlabClaims, []any{"ref_protected", "false"}, "ref_protected"},
		{"protected, but no text", gitlab, gitlabClaims, []any{"ref_protected", true}, "ref_protected"},
		{"a merge request", gitlab, gitlabClaims, []any{"pipeline_source", "merge_request_event"}, "pipeline_source"},
		{"no source", gitlab, gitlabClaims, []any{"pipeline_source", nil}, "pipeline_source"},
		{"a tag", gitlab, gitlabClaims, []any{"ref_type", "tag"}, "ref_type"},
		{"jenkins", jenkins, jenkinsClaims, nil, ""},
		{"in another form", jenkins, jenkinsClaims, []any{"sub", "https://JENKINS.example.com:443/job/%64eploy"}, ""},
		{"another job", jenkins, jenkinsClaims, []any{"sub", "https://jenkins.example.com/job/deploy-evil/"}, "sub"},
		{"a job below", jenkins, jenkinsClaims, []any{"sub", "https://jenkins.example.com/job/deploy/job/x/"}, "sub"},
		{"a way up", jenkins, jenkinsClaims, []any{"sub", "https://jenkins.example.com/job/x/../deploy/"}, "sub"},
		{"the controller", jenkins, jenkinsClaims, []any{"sub", "https://jenkins.example.com/"}, "sub"},
		{"another host", jenkins, jenkinsClaims, []any{"sub", "https://jenkins.example.com.evil.example/job/deploy/"}, "sub"},
		{"no job", jenkins, jenkinsClaims, []any{"sub", nil}, "sub"},
	} {
		ds := tc.rule.differences(claimsOf(t, tc.claims, tc.change...))
		got := ""
		if len(ds) > 0 {
			got = ds[0].Claim
		}
		if got != tc.want {
			t.Errorf("%s: %q differs first, want %q: %+v", tc.name, got, tc.want, ds)
		}
	}
	star := Rule{Provider: "oidc", Match: map[string]string{"sub": "x", "n": "*"}}
	for claims, want := range map[string]int{`{"sub":"x","n":"1"}`: 0, `{"sub":"x","n":""}`: 0, `{"sub":"x","n":1}`: 1, `{"sub":"x","n":[]}`: 1, `{"sub":"x","n":null}`: 1, `{"sub":"x"}`: 1} {
		if ds := star.differences(claimsOf(t, claims)); len(ds) != want {
			t.Errorf("* and %s: %+v", claims, ds)
		}
	}
	named := github
	named.Match = map[string]string{"repository_id": "123456", "repository_owner_id": "789", "event_name": "pull_request"}
	if ds := named.differences(claimsOf(t, githubClaims, "event_name", "pull_request")); len(ds) > 0 {
		t.Errorf("an event that the rule names: %+v", ds)
	}
}

func TestShow(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in   any
		want string
	}{
		{nil, ""}, {"a\nlevel=error \x1b[31m\u202e", "a\uFFFDlevel=error \uFFFD[31m\uFFFD"}, {"\xff", "\uFFFD"}, {json.Number("17"), "17"}, {true, "true"}, {[]any{"a"}, `["a"]`},
		{strings.Repeat("ü", 300), strings.Repeat("ü", 128) + "…"},
	} {
		if got := show(tc.in); got != tc.want {
			t.Errorf("show(%#v) = %q", tc.in, got)
		}
	}
}
