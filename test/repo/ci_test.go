package repo

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

type action struct {
	Name, Description string
	Branding          map[string]string
	Inputs            map[string]struct {
		Description string
		Required    bool
		Default     string
	}
	Outputs map[string]struct{ Description, Value string }
	Runs    struct {
		Using string
		Steps []struct {
			ID, Shell, Run string
			Env            map[string]string
		}
	}
}

type gitlabJob struct {
	IDTokens     map[string]struct{ Aud string } `yaml:"id_tokens"`
	BeforeScript []string                        `yaml:"before_script"`
}

var jenkinsStep = regexp.MustCompile(`(?s)sh '''(.*?)'''`)

// dropIns are the shell texts of config/ci, by file.
func dropIns(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{"gatehouse-token.sh": read(t, "config/ci/gatehouse-token.sh")}
	var a action
	if err := yaml.UnmarshalWithOptions([]byte(read(t, "config/ci/github-actions/action.yml")), &a, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	if a.Runs.Using != "composite" || len(a.Runs.Steps) != 1 || a.Runs.Steps[0].Shell != "sh" {
		t.Fatalf("action.yml: %+v", a.Runs)
	}
	step := a.Runs.Steps[0]
	out["action.yml"] = step.Run
	// What a workflow writes reaches the script by its environment alone.
	if strings.Contains(step.Run, "${{") {
		t.Error("action.yml: an expression stands in the script, where its value is code")
	}
	used := map[string]bool{}
	for name, v := range step.Env {
		m := regexp.MustCompile(`^\$\{\{ inputs\.([a-z-]+) \}\}$`).FindStringSubmatch(v)
		if m == nil {
			t.Fatalf("action.yml: %s is %q", name, v)
		}
		if _, ok := a.Inputs[m[1]]; !ok || !strings.Contains(step.Run, name) {
			t.Errorf("action.yml: %s: no such input, or nobody reads it", name)
		}
		used[m[1]] = true
	}
	for name, in := range a.Inputs {
		if !used[name] || in.Description == "" {
			t.Errorf("action.yml: the input %s is not used, or not described", name)
		}
	}
	var g map[string]gitlabJob
	if err := yaml.UnmarshalWithOptions([]byte(read(t, "config/ci/gitlab-ci.yml")), &g, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	job := g[".gatehouse"]
	if len(g) != 1 || job.IDTokens["GATEHOUSE_ID_TOKEN"].Aud != "$GATEHOUSE_ISSUER" {
		t.Fatalf("gitlab-ci.yml: %+v", g)
	}
	out["gitlab-ci.yml"] = strings.Join(job.BeforeScript, "\n")
	m := jenkinsStep.FindStringSubmatch(read(t, "config/ci/Jenkinsfile"))
	if m == nil {
		t.Fatal("Jenkinsfile: no sh step")
	}
	out["Jenkinsfile"] = m[1]
	return out
}

// The files for CI systems parse, the function that they share is the same in each,
// and a trace is switched off before anything secret is touched.
func TestCIDropIns(t *testing.T) {
	texts := dropIns(t)
	function := regexp.MustCompile(`(?ms)^gatehouse_exchange\(\) \(.*?^\)\n`)
	want := function.FindString(texts["gatehouse-token.sh"])
	if len(want) < 1000 {
		t.Fatalf("gatehouse-token.sh: the function is %q", want)
	}
	for _, name := range []string{"action.yml", "gitlab-ci.yml"} {
		if got := function.FindString(texts[name]); got != want {
			t.Errorf("%s has another gatehouse_exchange:\n%s", name, got)
		}
	}
	for name, text := range texts {
		cmd := exec.Command("bash", "--posix", "-n")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		untraced := strings.Index(text, "set +x")
		for _, secret := range []string{"ID_TOKEN", "API_KEY"} {
			code := regexp.MustCompile(`(?m)^\s*#.*$`).ReplaceAllStringFunc(text, func(s string) string { return strings.Repeat(" ", len(s)) })
			if at := strings.Index(code, secret); at >= 0 && at < untraced {
				t.Errorf("%s: %s is touched before set +x", name, secret)
			}
		}
		for _, bashism := range []string{"[[ ", "local ", "<<<", "pipefail", "\nfunction "} {
			if strings.Contains(text, bashism) {
				t.Errorf("%s: %q is not POSIX", name, bashism)
			}
		}
	}
}

// The curl of RemoteGPU's own documents stands in the Jenkinsfile and on every page.
func TestCurlOfTheDocuments(t *testing.T) {
	curl := strings.Join([]string{`curl -X POST https://api.remotegpu.com/deployments \`, `-H "Authorization: Bearer $REMOTEGPU_API_KEY" \`, `-d '{"image": "myapp:latest"}'`}, "\n")
	flat := func(s string) string { return regexp.MustCompile(`\n[ \t]+`).ReplaceAllString(s, "\n") }
	for _, page := range []string{"config/ci/Jenkinsfile", "docs/integrations/github-actions.md", "docs/integrations/gitlab-ci.md", "docs/integrations/jenkins.md"} {
		if !strings.Contains(flat(read(t, filepath.FromSlash(page))), curl) {
			t.Errorf("%s: the curl is another", page)
		}
	}
}
