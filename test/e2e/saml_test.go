//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
