//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ciissuers "github.com/remotegpu/gatehouse/test/peers/ci-issuers"
)

// Rotated keys: at Jenkins under the same kid, at GitHub with a new one beside the
// old. An issuer that is away stops nobody whose key is known.
func TestCIKeyRotation(t *testing.T) {
	p := startPipelines(t, "", "")
	for _, i := range []*ciissuers.Issuer{p.site.Jenkins, p.site.GitHub} {
		before := p.mint(i)
		if got := p.exchange(p.mint(i)); got.Status != http.StatusOK {
			t.Fatalf("%s: %d %s", i.Kind, got.Status, got.Raw)
		}
		if err := i.Rotate(); err != nil {
			t.Fatal(err)
		}
		if got := p.exchange(p.mint(i)); got.Status != http.StatusOK {
			t.Errorf("%s after the rotation: %d %s", i.Kind, got.Status, got.Raw)
		}
		// A token of the key before: GitHub still publishes it, Jenkins does not.
		if got := p.exchange(before); (got.Status == http.StatusOK) != (i.Kind == ciissuers.GitHub) {
			t.Errorf("%s, the key before: %d %s", i.Kind, got.Status, got.Raw)
		}
		// Whoever sends forged tokens does not make us ask for the keys each time.
		for range 20 {
			if got := p.exchange(p.sign(i, i.Job("aud", ciIssuer), ciissuers.Foreign)); got.Status != http.StatusBadRequest {
				t.Fatalf("%s: a forged token: %d", i.Kind, got.Status)
			}
		}
		if n := i.Seen(i.KeysPath()); n > 3 {
			t.Errorf("%s: the keys were asked for %d times", i.Kind, n)
		}
		if err := i.Misbehave(ciissuers.Down); err != nil {
			t.Fatal(err)
		}
		if got := p.exchange(p.mint(i)); got.Status != http.StatusOK {
			t.Errorf("%s is away: %d %s", i.Kind, got.Status, got.Raw)
		}
	}
}

// An issuer whose documents are not to be believed gives nobody a token, and does
// not stop the others.
func TestCIIssuersThatMisbehave(t *testing.T) {
	issuers := map[string]*ciissuers.Issuer{}
	rules := ""
	for _, mode := range ciissuers.Modes {
		i, ca := ciissuers.StartIssuer(t, ciissuers.GitLab)
		issuers[mode] = i
		rules += fmt.Sprintf(`
  - name: %s
    provider: gitlab_ci
    issuer: %s
    ca_file: %s
    match: {project_id: "20", ref_protected: "true"}
    service_account: acme-deployer
    scope: deployments:write
    token_audience: platform-api
`, mode, i.URL, ca)
	}
	p := startPipelines(t, "", rules)
	for mode, i := range issuers {
		if err := i.Misbehave(mode); err != nil {
			t.Fatal(err)
		}
		got := p.exchange(p.mint(i))
		if got.Status != http.StatusServiceUnavailable || got.Token != "" || strings.Contains(got.Raw, "127.0.0") {
			t.Errorf("%s: %d %s", mode, got.Status, got.Raw)
		}
	}
	if got := p.exchange(p.mint(p.site.GitLab)); got.Status != http.StatusOK {
		t.Errorf("the others: %d %s", got.Status, got.Raw)
	}
}

// Issuers that cannot be reached from here: their keys are in files, which count
// again once they are written. The one is github.com's own, with a reusable
// workflow in the rule; the other a Jenkins folder's.
func TestCIKeysInFiles(t *testing.T) {
	dir := t.TempDir()
	issuer := func(kind, iss, file string) *ciissuers.Issuer {
		i, err := ciissuers.New(kind, iss)
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, map[string]string{file: string(i.JWKS())})
		return i
	}
	cloud := issuer(ciissuers.GitHub, "https://token.actions.githubusercontent.com", "github.json")
	folder := issuer(ciissuers.Jenkins, "https://jenkins.acme.example/oidc/job/acme", "jenkins.json")
	p := startPipelines(t, "", fmt.Sprintf(`
  - name: cloud
    provider: github_actions
    jwks_file: %[1]s/github.json
    match: {repository_id: "123456", repository_owner_id: "789", job_workflow_ref: acme/ci/.github/workflows/deploy.yml@refs/tags/v3}
    service_account: acme-deployer
    scope: deployments:write
    token_audience: platform-api
  - name: folder
    provider: jenkins
    issuer: https://jenkins.acme.example/oidc/job/acme
    jwks_file: %[1]s/jenkins.json
    match: {sub: "https://jenkins.acme.example/job/acme/job/train/job/main/"}
    service_account: acme-deployer
    scope: deployments:write
    token_audience: platform-api
`, dir))
	jobs := map[*ciissuers.Issuer][]any{
		cloud:  {"job_workflow_ref", "acme/ci/.github/workflows/deploy.yml@refs/tags/v3"},
		folder: {"sub", "https://jenkins.acme.example/job/acme/job/train/job/main/"},
	}
	for i, job := range jobs {
		if got := p.exchange(p.mint(i, job...)); got.Status != http.StatusOK || p.call(got.Token) != http.StatusCreated {
			t.Errorf("%s: %d %s", i.Kind, got.Status, got.Raw)
		}
		before := p.mint(i, job...)
		if err := i.Rotate(); err != nil {
			t.Fatal(err)
		}
		if got := p.exchange(p.mint(i, job...)); got.Status != http.StatusBadRequest {
			t.Errorf("%s, a key that is not in the file: %d %s", i.Kind, got.Status, got.Raw)
		}
		file := filepath.Join(dir, map[string]string{ciissuers.GitHub: "github.json", ciissuers.Jenkins: "jenkins.json"}[i.Kind])
		if err := os.WriteFile(file, i.JWKS(), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := p.exchange(p.mint(i, job...)); got.Status != http.StatusOK {
			t.Errorf("%s, its file was written: %d %s", i.Kind, got.Status, got.Raw)
		}
		if got := p.exchange(before); (got.Status == http.StatusOK) != (i.Kind == ciissuers.GitHub) {
			t.Errorf("%s, the key before: %d %s", i.Kind, got.Status, got.Raw)
		}
	}
	for _, ref := range []string{"acme/ci/.github/workflows/deploy.yml@refs/tags/v4", "acme/ci/.github/workflows/deploy.yml@refs/heads/v3", "mallory/ci/.github/workflows/deploy.yml@refs/tags/v3"} {
		got := p.exchange(p.mint(cloud, "job_workflow_ref", ref))
		if events := p.events("workload.denied", got.Ref); got.Status != http.StatusBadRequest || len(events) != 1 || events[0].Details["claim"] != "job_workflow_ref" {
			t.Errorf("%s: %d %s, %v", ref, got.Status, got.Raw, events)
		}
	}
}
