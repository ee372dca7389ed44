//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ciissuers "github.com/remotegpu/gatehouse/test/peers/ci-issuers"
)

// deployCurl is what the documents of RemoteGPU tell every CI system to do.
const deployCurl = `curl -X POST https://api.remotegpu.com/deployments \
  -H "Authorization: Bearer $REMOTEGPU_API_KEY" \
  -d '{"image": "myapp:latest"}'`

const (
	ciIssuer = "https://remotegpu.example.com"
	ciAPI    = "api.remotegpu.com"
)

// deployments is the platform's API behind the gateway: it keeps what reached it.
type deployments struct {
	URL string
	mu  sync.Mutex
	got []arrived
}

// arrived is one request, with the claims of the JWT that the gateway sent.
type arrived struct {
	User, Path, Body string
	Claims           map[string]any
}

func startDeployments(t *testing.T) *deployments {
	t.Helper()
	d := &deployments{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		d.mu.Lock()
		d.got = append(d.got, arrived{r.Header.Get("X-Gatehouse-User"), r.Method + " " + r.URL.Path, string(body), claimsOf(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))})
		d.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"status":"accepted"}`)
	}))
	t.Cleanup(srv.Close)
	d.URL = srv.URL
	return d
}

// take returns what has arrived since the last time.
func (d *deployments) take() []arrived {
	d.mu.Lock()
	defer d.mu.Unlock()
	got := d.got
	d.got = nil
	return got
}

// claimsOf reads a JWT without judging it; nil if it is none.
func claimsOf(raw string) map[string]any {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return nil
	}
	js, err := base64.RawURLEncoding.DecodeString(parts[1])
	var out map[string]any
	if err != nil || json.Unmarshal(js, &out) != nil {
		return nil
	}
	return out
}

// pipelines is Gatehouse as in production, under the names of the documents and
// over TLS, with the issuers of the three CI systems and the API behind it.
type pipelines struct {
	t       *testing.T
	gates   []*gatehouse // replicas
	site    *ciissuers.Site
	api     *deployments
	curl    string // a folder with a .curlrc by which curl finds the names here
	clients map[*gatehouse]*http.Client
	at      *gatehouse // whom exchange and call speak to
	masked  []string   // what the last githubStep had masked
}

// ciRules are the trust rules of the pages under docs/integrations, for the
// issuers of a site.
func ciRules(s *ciissuers.Site) string {
	return fmt.Sprintf(`
  - name: github-production
    provider: github_actions
    issuer: %s
    match: {repository_id: "123456", repository_owner_id: "789", repository: acme/train, ref: refs/heads/main, environment: production}
    service_account: acme-deployer
    scope: deployments:write deployments:read
    token_audience: platform-api
    ttl: 15m
  - name: gitlab-production
    provider: gitlab_ci
    issuer: %s
    match: {project_id: "20", namespace_id: "72", ref_type: branch, ref: main, ref_protected: "true", environment: production}
    service_account: acme-deployer
    scope: deployments:write
    token_audience: platform-api
    ttl: 15m
  - name: jenkins-train
    provider: jenkins
    issuer: %s
    match: {sub: "%s/jenkins/job/train/"}
    service_account: acme-deployer
    scope: deployments:write
    token_audience: platform-api
    ttl: 15m
`, s.GitHub.URL, s.GitLab.URL, s.Jenkins.URL, s.URL)
}

// startPipelines starts replicas; rules are more trust rules. Without a store it
// is one, with its own.
func startPipelines(t *testing.T, store string, rules string) *pipelines {
	t.Helper()
	p := &pipelines{t: t, site: ciissuers.Start(t), api: startDeployments(t)}
	dir := t.TempDir()
	if out, err := script(t, time.Minute, nil, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
		"-subj", "/CN=remotegpu.example.com", "-addext", "subjectAltName=DNS:remotegpu.example.com,DNS:"+ciAPI,
		"-keyout", filepath.Join(dir, "tls.key"), "-out", filepath.Join(dir, "tls.pem")); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	yaml := fmt.Sprintf(`
issuer: %s
tls: {cert_file: %[2]s/tls.pem, key_file: %[2]s/tls.key}
outgoing: {allow_private: [127.0.0.0/8], ca_file: %[3]s}
local: {users: [{username: demo, password_hash: "$argon2id$v=19$m=19456,t=2,p=1$mrRp2ryD1oG1tkOpAvBCcw$SZDW+Y2c1en3d0yfC2GKx8l70aDkabRHTSUlBCfJrHQ", groups: [gpu-users]}]}
resources:
  - {name: platform-api, scopes: {deployments:write: {en: Start and stop deployments, zh-CN: 启动和停止部署}, deployments:read: {en: See deployments, zh-CN: 查看部署}}}
routes:
  - {name: api, host: %[4]s, upstream: %[5]q, audience: platform-api, auth: [session, bearer, api_key], scopes: [deployments:write]}
service_accounts: [{name: acme-deployer, groups: [deployers]}]
trust:%[6]s%[7]s`, ciIssuer, dir, p.site.CAFile, ciAPI, p.api.URL, ciRules(p.site), rules)
	env, count := []string{"GATEHOUSE_SECRET_KEY=" + testSecretKey}, 1
	if store != "" {
		env, count = append(env, "GATEHOUSE_STORE="+store), 2
	}
	for range count {
		home := t.TempDir()
		write(t, home, map[string]string{"data/admin.token": strings.Repeat("operator", 6), "config/gatehouse.yml": yaml})
		g := &gatehouse{t: t, dir: home, port: freePort(t), aport: freePort(t), env: env, URL: ciIssuer}
		g.Admin = fmt.Sprintf("http://127.0.0.1:%d", g.aport)
		g.start()
		t.Cleanup(func() { g.stop(15) })
		p.gates = append(p.gates, g)
	}
	p.reach(dir)
	return p
}

// reach makes curl find the two names at the first replica, and a client at each.
func (p *pipelines) reach(dir string) {
	p.t.Helper()
	var bundle []byte
	for _, f := range []string{filepath.Join(dir, "tls.pem"), p.site.CAFile} {
		pem, err := os.ReadFile(f)
		if err != nil {
			p.t.Fatal(err)
		}
		bundle = append(bundle, pem...)
	}
	p.curl = p.t.TempDir()
	rc := fmt.Sprintf("cacert = %q\nsilent\nshow-error\n", filepath.Join(p.curl, "ca.pem"))
	for _, host := range []string{"remotegpu.example.com", ciAPI} {
		rc += fmt.Sprintf("connect-to = \"%s:443:%s\"\n", host, p.gates[0].listening())
	}
	write(p.t, p.curl, map[string]string{"ca.pem": string(bundle), ".curlrc": rc})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	p.at, p.clients = p.gates[0], map[*gatehouse]*http.Client{}
	for _, g := range p.gates {
		p.clients[g] = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, g.listening())
			},
		}}
	}
}

// mint makes the ID token of a job for us; changes are those of Issuer.Job.
func (p *pipelines) mint(i *ciissuers.Issuer, changes ...any) string {
	p.t.Helper()
	return p.sign(i, i.Job(append([]any{"aud", ciIssuer}, changes...)...), ciissuers.RS256)
}

func (p *pipelines) sign(i *ciissuers.Issuer, c ciissuers.Claims, how string) string {
	p.t.Helper()
	raw, err := i.Sign(c, how)
	if err != nil {
		p.t.Fatal(err)
	}
	return raw
}

// refusal is what a caller is told.
type refusal struct {
	Code string `json:"error"`
	Text string `json:"error_description"`
	Ref  string `json:"ref"`
}

type exchanged struct {
	Status int
	refusal
	Token        string `json:"access_token"`
	Type         string `json:"token_type"`
	Issued       string `json:"issued_token_type"`
	Scope        string `json:"scope"`
	RefreshToken string `json:"refresh_token"`
	Seconds      int    `json:"expires_in"`
	Raw          string `json:"-"`
}

// exchange asks the token endpoint; more are parameters, in pairs, and "" takes one
// away.
func (p *pipelines) exchange(raw string, more ...string) exchanged {
	p.t.Helper()
	out, err := p.ask(p.at, raw, more...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// ask is exchange at a replica.
func (p *pipelines) ask(g *gatehouse, raw string, more ...string) (out exchanged, err error) {
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {raw}, "subject_token_type": {"urn:ietf:params:oauth:token-type:id_token"}}
	for k := 0; k+1 < len(more); k += 2 {
		if form.Set(more[k], more[k+1]); more[k+1] == "" {
			form.Del(more[k])
		}
	}
	resp, err := p.clients[g].PostForm(ciIssuer+"/oauth2/token", form)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return out, fmt.Errorf("%d: %w: %s", resp.StatusCode, err, body)
	}
	out.Status, out.Raw = resp.StatusCode, string(body)
	return out, nil
}

// call asks the API through the gateway with a bearer token and returns the status.
func (p *pipelines) call(token string) int {
	p.t.Helper()
	req, err := http.NewRequest(http.MethodPost, "https://"+ciAPI+"/deployments", strings.NewReader(`{"image": "myapp:latest"}`))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := p.clients[p.at].Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// record is an event of the audit log.
type record struct {
	Name    string            `json:"name"`
	Target  string            `json:"target"`
	Ref     string            `json:"ref"`
	Details map[string]string `json:"details"`
}

// events are those of a name, newest first; of one request, unless ref is "".
func (p *pipelines) events(name, ref string) []record {
	p.t.Helper()
	q := url.Values{"name": {name}, "limit": {"100"}}
	if ref != "" {
		q.Set("ref", ref)
	}
	status, said := p.gates[0].operate(http.MethodGet, "/audit/events?"+q.Encode(), nil)
	if status != http.StatusOK {
		p.t.Fatalf("the audit log: %d %v", status, said)
	}
	js, err := json.Marshal(said["items"])
	if err != nil {
		p.t.Fatal(err)
	}
	var out []record
	if err := json.Unmarshal(js, &out); err != nil {
		p.t.Fatal(err)
	}
	return out
}
