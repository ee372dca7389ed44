//go:build e2e

package e2e

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// samlBroker is a server whose connector acme is the identity provider that
// idp describes; the provider is told of it.
func samlBroker(t *testing.T, peer string, idp map[string]string, lines string, register ...string) *gatehouse {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(`
connectors:
  - id: acme
    type: saml
    name: Acme
    domains: [example.org]
    trust_email: true
%s`, lines)})
	g := serve(t, dir, []string{"--dev"})
	cmd := exec.Command(filepath.Join(root(t), "test", "peers", peer, "add-sp.sh"), idp["DIR"], g.URL+"/auth/acme/metadata")
	cmd.Env = append(os.Environ(), register...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the identity provider does not take our metadata: %v\n%s", err, out)
	}
	return g
}

// SimpleSAMLphp on another site: signed requests, which it insists on, sign-in
// from both sides, single logout from both sides. The cross-site POST without
// our Lax cookie is what a fake on the same site would hide.
func TestSAMLBySimpleSAMLphp(t *testing.T) {
	idp := startPeer(t, "simplesamlphp", freePort(t), "REQUIRE_SIGNED=1", "SIGN=assertion")
	g := samlBroker(t, "simplesamlphp", idp, "    metadata_url: "+idp["SAML_IDP_METADATA_URL"]+"\n    allow_idp_initiated: true\n")
	initiated := idp["SAML_IDP_INITIATED_URL"] + g.URL + "/auth/acme/metadata"
	logout := strings.Replace(idp["SAML_IDP_SLO_URL"], "SingleLogoutService.php", "initSLO.php", 1) + "?RelayState=/simplesaml/logout.php"
	browser(t, nil, "saml.mjs", g.URL, "alice", "alice-pw", initiated, logout)
}

// The same provider with encrypted assertions under a signed response, and with
// requests by POST alone: Chromium lets the form of that one page leave our site.
func TestSAMLEncrypted(t *testing.T) {
	idp := startPeer(t, "simplesamlphp", freePort(t), "ENCRYPT=1", "SIGN=response")
	metadata, err := os.ReadFile(idp["SAML_IDP_METADATA_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	byPost := strings.ReplaceAll(string(metadata), `SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect"`, `SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:SOAP"`)
	if byPost == string(metadata) {
		t.Fatalf("the Redirect binding is not in\n%s", metadata)
	}
	file := filepath.Join(t.TempDir(), "idp.xml")
	write(t, filepath.Dir(file), map[string]string{"idp.xml": byPost})
	g := samlBroker(t, "simplesamlphp", idp, "    metadata_file: "+file+"\n    allow_aes_cbc: true\n")
	browser(t, nil, "saml.mjs", g.URL, "alice", "alice-pw", "-", "-")
}

var (
	hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)"`)
	formAction  = regexp.MustCompile(`<form[^>]* action="([^"]+)"`)
)

// hidden are the hidden fields of a page's form, and where it goes.
func hidden(t *testing.T, a page) (string, url.Values) {
	t.Helper()
	to, form := "", url.Values{}
	if m := formAction.FindStringSubmatch(a.Body); m != nil {
		to = html.UnescapeString(m[1])
	}
	for _, m := range hiddenField.FindAllStringSubmatch(a.Body, -1) {
		form.Set(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
	}
	return to, form
}

// One answer of the identity provider, presented to two replicas at once by the
// browser that asked for it: one sign-in (docs/security.md SP-7).
func TestSAMLOnceOnTwoReplicas(t *testing.T) {
	idp := startPeer(t, "simplesamlphp", freePort(t), "SIGN=assertion")
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", fmt.Sprintf(`
connectors: [{id: acme, type: saml, name: Acme, metadata_url: %q}]
`, idp["SAML_IDP_METADATA_URL"]))
	if out, err := script(t, time.Minute, nil, filepath.Join(root(t), "test", "peers", "simplesamlphp", "add-sp.sh"), idp["DIR"], a.URL+"/auth/acme/metadata"); err != nil {
		t.Fatalf("the identity provider does not take our metadata: %v\n%s", err, out)
	}
	for round := range 5 {
		p := newPerson(t, a)
		p.roams = true
		start := p.follow(p.send(http.MethodGet, "/account", nil))
		link := regexp.MustCompile(`href="(/signin/acme\?attempt=[A-Z2-7]{26})"`).FindStringSubmatch(start.Body)
		if link == nil {
			t.Fatalf("no button:\n%s", start.Body)
		}
		asked := p.follow(p.send(http.MethodGet, link[1], nil))
		_, form := hidden(t, asked)
		form.Set("username", "alice")
		form.Set("password", "alice-pw")
		answer := p.follow(p.send(http.MethodPost, asked.Request.URL.String(), form))
		acs, saml := hidden(t, answer)
		if saml.Get("SAMLResponse") == "" || !strings.HasPrefix(acs, a.URL) {
			t.Fatalf("no answer of the identity provider at %s:\n%s", answer.Request.URL, answer.Body)
		}
		home, err := url.Parse(a.URL)
		if err != nil {
			t.Fatal(err)
		}
		in := make([]bool, 2)
		var wg sync.WaitGroup
		for i, g := range []*gatehouse{a, b} {
			q := newPerson(t, a)
			q.at(g)
			q.client.Jar.SetCookies(home, p.client.Jar.Cookies(home))
			wg.Go(func() {
				q.follow(q.send(http.MethodPost, acs, saml))
				in[i] = q.send(http.MethodGet, "/account", nil).StatusCode == http.StatusOK
			})
		}
		wg.Wait()
		if in[0] == in[1] {
			t.Errorf("round %d: signed in on the first replica %v, on the second %v", round, in[0], in[1])
		}
	}
}
