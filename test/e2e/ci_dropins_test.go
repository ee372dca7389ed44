//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// step runs a script as a CI system does: its shell, its variables and no others.
// It returns what would be in the job's log.
func (p *pipelines) step(shell []string, text string, env map[string]string) (string, error) {
	p.t.Helper()
	dir := p.t.TempDir()
	write(p.t, dir, map[string]string{"step": text, "ci/gatehouse-token.sh": p.read("config/ci/gatehouse-token.sh")})
	cmd := exec.Command(shell[0], append(shell[1:], filepath.Join(dir, "step"))...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "CURL_HOME=" + p.curl}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (p *pipelines) read(name string) string {
	p.t.Helper()
	raw, err := os.ReadFile(filepath.Join(root(p.t), name))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(raw)
}

// Shells as the CI systems start them; dash and bash are what "sh" is.
var (
	githubShells  = [][]string{{"dash", "-e"}, {"bash", "--posix", "-e"}}
	gitlabShells  = [][]string{{"dash", "-e"}, {"bash", "-eo", "pipefail"}, {"bash", "-xeo", "pipefail"}} // the last is CI_DEBUG_TRACE
	jenkinsShells = [][]string{{"dash", "-xe"}, {"bash", "--posix", "-xe"}}
)

// deployed checks that one deployment has reached the API as the service account,
// and that the job's log holds no token.
func (p *pipelines) deployed(what, log string) {
	p.t.Helper()
	got := p.api.take()
	if len(got) != 1 {
		p.t.Fatalf("%s: %d requests reached the API\n%s", what, len(got), log)
	}
	a := got[0]
	groups, _ := a.Claims["groups"].([]any)
	if a.User != "acme-deployer" || a.Path != "POST /deployments" || a.Body != `{"image": "myapp:latest"}` || a.Claims["sub"] != "acme-deployer" ||
		a.Claims["gatehouse:kind"] != "service" || a.Claims["aud"] != "platform-api" || !slices.Contains(groups, any("deployers")) {
		p.t.Errorf("%s: the API saw %+v", what, a)
	}
	if !strings.Contains(log, `{"status":"accepted"}`) {
		p.t.Errorf("%s: the curl did not print the answer:\n%s", what, log)
	}
	if found := secretText.FindAllString(log, -1); found != nil {
		p.t.Errorf("%s: the job's log holds %q", what, found)
	}
}

// secretText is a JWT or an API key.
var secretText = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_.-]+|rgpu_[0-9A-Za-z_]{20,}`)

type compositeAction struct {
	Inputs map[string]struct {
		Required bool
		Default  string
	}
	Outputs map[string]struct{ Value string }
	Runs    struct {
		Using string
		Steps []struct {
			ID, Shell, Run string
			Env            map[string]string
		}
	}
}

// githubStep runs the composite action as a runner does, with these inputs, and
// returns the log after masking, and what later steps have.
func (p *pipelines) githubStep(shell []string, with, env map[string]string) (log string, later, outputs map[string]string, err error) {
	p.t.Helper()
	var a compositeAction
	if err := yaml.Unmarshal([]byte(p.read("config/ci/github-actions/action.yml")), &a); err != nil {
		p.t.Fatal(err)
	}
	files := p.t.TempDir()
	write(p.t, files, map[string]string{"env": "", "output": ""})
	vars := map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_ENV": filepath.Join(files, "env"), "GITHUB_OUTPUT": filepath.Join(files, "output")}
	for k, v := range env {
		vars[k] = v
	}
	s := a.Runs.Steps[0]
	for name, v := range s.Env {
		vars[name] = regexp.MustCompile(`\$\{\{ inputs\.([a-z-]+) \}\}`).ReplaceAllStringFunc(v, func(m string) string {
			input := strings.Fields(m)[1][len("inputs."):]
			if w, ok := with[input]; ok {
				return w
			}
			return a.Inputs[input].Default
		})
	}
	raw, err := p.step(shell, s.Run, vars)
	p.masked = nil
	for _, line := range strings.Split(raw, "\n") { // as the runner: from add-mask on, each occurrence is ***
		if mask, ok := strings.CutPrefix(line, "::add-mask::"); ok {
			p.masked = append(p.masked, mask)
			raw = strings.ReplaceAll(raw, "::add-mask::"+mask+"\n", "")
			if strings.Contains(raw, mask) {
				p.t.Errorf("what is masked is printed besides:\n%s", raw)
			}
		}
	}
	pairs := func(file string) map[string]string {
		text, err := os.ReadFile(filepath.Join(files, file))
		if err != nil {
			p.t.Fatal(err)
		}
		out := map[string]string{}
		for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
			if k, v, ok := strings.Cut(line, "="); ok {
				out[k] = v
			}
		}
		return out
	}
	return raw, pairs("env"), pairs("output"), err
}

// The composite action, then the curl of the documents as the next step.
func TestCIGitHubActions(t *testing.T) {
	p := startPipelines(t, "", "")
	with := map[string]string{"issuer": ciIssuer}
	for _, shell := range githubShells {
		u, token := p.site.Runner()
		p.site.RunnerFails(1) // an outage that passes
		env := map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": u, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": token}
		log, later, outputs, err := p.githubStep(shell, with, env)
		if err != nil || later["REMOTEGPU_API_KEY"] == "" || later["REMOTEGPU_API_KEY"] != outputs["token"] || secretText.MatchString(log) {
			t.Fatalf("%v: %v, later steps have %d variables\n%s", shell, err, len(later), log)
		}
		// Both tokens: what a later step prints by mistake is *** in the log.
		if len(p.masked) != 2 || claimsOf(p.masked[0])["iss"] != p.site.GitHub.URL || p.masked[1] != outputs["token"] {
			t.Errorf("%v: masked are %d", shell, len(p.masked))
		}
		log, err = p.step(shell, deployCurl, later)
		if err != nil {
			t.Fatalf("%v: %v\n%s", shell, err, log)
		}
		p.deployed(strings.Join(shell, " "), log)
		c := claimsOf(outputs["token"])
		from, _ := c["gatehouse:workload"].(map[string]any)
		if c["scope"] != "deployments:write deployments:read" || from["rule"] != "github-production" || from["repository_id"] != "123456" || from["run_id"] != "9182736455" {
			t.Errorf("the token's claims: %v", c)
		}
		// Less than the rule gives, in another variable.
		_, later, _, err = p.githubStep(shell, map[string]string{"issuer": ciIssuer + "/", "scope": "deployments:read", "env": "READER"}, env)
		if err != nil || claimsOf(later["READER"])["scope"] != "deployments:read" || later["REMOTEGPU_API_KEY"] != "" {
			t.Fatalf("%v: narrowed: %v %v", shell, err, claimsOf(later["READER"]))
		}
		if s := p.call(later["READER"]); s != http.StatusForbidden {
			t.Errorf("a token without the route's scope: %d", s)
		}
	}
	u, token := p.site.Runner("ref", "refs/heads/feature")
	granted := map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": u, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": token}
	for name, c := range map[string]struct {
		with, env map[string]string
		says      string
	}{
		"a job without id-token: write":  {with, nil, "id-token: write"},
		"another branch":                 {with, granted, "invalid_grant"},
		"a runner's token that is wrong": {with, map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": u, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "x"}, "it answered 401"},
		"no issuer":                      {map[string]string{"issuer": "remotegpu.example.com"}, granted, "must be the address of Gatehouse"},
		"a variable that is none":        {map[string]string{"issuer": ciIssuer, "env": "A=B\nPATH"}, granted, "no name of a variable"},
		"another service's address":      {map[string]string{"issuer": "https://" + ciAPI}, granted, "answered 401"},
	} {
		log, later, outputs, err := p.githubStep(githubShells[0], c.with, c.env)
		if err == nil || !strings.Contains(log, c.says) || !strings.Contains(log, "::error title=") || len(later)+len(outputs) != 0 || secretText.MatchString(log) {
			t.Errorf("%s: %v, %v\n%s", name, err, later, log)
		}
	}
	if got := p.api.take(); got != nil {
		t.Errorf("reached the API: %+v", got)
	}
}

// The template's before_script and the job's script in one shell, as GitLab's
// runner joins them.
func TestCIGitLab(t *testing.T) {
	p := startPipelines(t, "", "")
	var file map[string]struct {
		IDTokens     map[string]struct{ Aud string } `yaml:"id_tokens"`
		BeforeScript []string                        `yaml:"before_script"`
	}
	if err := yaml.Unmarshal([]byte(p.read("config/ci/gitlab-ci.yml")), &file); err != nil {
		t.Fatal(err)
	}
	job := file[".gatehouse"]
	// What GitLab makes of id_tokens: variables in aud are replaced.
	env := func(changes ...any) map[string]string {
		out := map[string]string{"CI": "true", "GATEHOUSE_ISSUER": ciIssuer}
		for name, v := range job.IDTokens {
			aud := os.Expand(v.Aud, func(name string) string { return out[name] })
			out[name] = p.mint(p.site.GitLab, append([]any{"aud", aud}, changes...)...)
		}
		return out
	}
	text := strings.Join(append(slices.Clone(job.BeforeScript), deployCurl), "\n")
	for _, shell := range gitlabShells {
		log, err := p.step(shell, text, env())
		if err != nil {
			t.Fatalf("%v: %v\n%s", shell, err, log)
		}
		p.deployed(strings.Join(shell, " "), log)
	}
	for name, c := range map[string]struct {
		env  map[string]string
		says string
	}{
		"a branch that is not protected": {env("ref_protected", "false"), "invalid_grant"},
		"no id_tokens":                   {map[string]string{"GATEHOUSE_ISSUER": ciIssuer}, "this job has no ID token"},
		"no issuer":                      {map[string]string{"GATEHOUSE_ID_TOKEN": "x"}, "must be the address of Gatehouse"},
		"nobody listens":                 {map[string]string{"GATEHOUSE_ID_TOKEN": "x", "GATEHOUSE_ISSUER": "http://127.0.0.1:1"}, "no answer from"},
	} {
		for _, shell := range gitlabShells {
			log, err := p.step(shell, text, c.env)
			if err == nil || !strings.Contains(log, c.says) || secretText.MatchString(log) {
				t.Errorf("%s, %v: %v\n%s", name, shell, err, log)
			}
			if name == "nobody listens" {
				break // it waits between its attempts
			}
		}
	}
	if got := p.api.take(); got != nil {
		t.Errorf("reached the API: %+v", got)
	}
}

// The Jenkinsfile's step, as Groovy hands it to sh -xe. Its curl is that of the
// documents.
func TestCIJenkins(t *testing.T) {
	p := startPipelines(t, "", "")
	m := regexp.MustCompile(`(?s)sh '''(.*?)'''`).FindStringSubmatch(p.read("config/ci/Jenkinsfile"))
	if m == nil {
		t.Fatal("no sh step")
	}
	text := strings.ReplaceAll(m[1], "\\\n", "") // a backslash joins lines in Groovy's ''' too
	env := func(changes ...any) map[string]string {
		return map[string]string{"GATEHOUSE_ISSUER": ciIssuer, "GATEHOUSE_ID_TOKEN": p.mint(p.site.Jenkins, changes...)}
	}
	for _, shell := range jenkinsShells {
		log, err := p.step(shell, text, env())
		if err != nil {
			t.Fatalf("%v: %v\n%s", shell, err, log)
		}
		p.deployed(strings.Join(shell, " "), log)
		log, err = p.step(shell, text, env("sub", p.site.URL+"/jenkins/job/train-fork/"))
		if err == nil || !strings.Contains(log, "invalid_grant") || secretText.MatchString(log) || p.api.take() != nil {
			t.Errorf("%v: another job: %v\n%s", shell, err, log)
		}
	}
}

// The curl of the documents works unchanged with an API key, and the API sees the
// same caller.
func TestCIWithAnAPIKey(t *testing.T) {
	p := startPipelines(t, "", "")
	key, _ := p.gates[0].key("acme-deployer")
	for _, shell := range githubShells {
		log, err := p.step(shell, deployCurl, map[string]string{"REMOTEGPU_API_KEY": key})
		if err != nil {
			t.Fatalf("%v: %v\n%s", shell, err, log)
		}
		p.deployed("an API key, "+strings.Join(shell, " "), log)
	}
}
