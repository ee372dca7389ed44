//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// npm's openid-client, a certified relying party: code with PKCE, ID token with
// signature, nonce and at_hash, userinfo, refresh with rotation and reuse,
// revocation, client credentials, prompt=none, and what must be refused.
func TestOpenIDClient(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": `
clients:
  - client_id: rp
    client_secret: rp-secret-of-the-test
    redirect_uris: ["http://127.0.0.1:21700/callback"]
    post_logout_redirect_uris: ["http://127.0.0.1:21700/bye"]
    grant_types: [authorization_code, refresh_token, client_credentials]
    scope: openid profile email groups offline_access
    trusted: true
`})
	g := serve(t, dir, []string{"--dev"})
	for _, auth := range []string{"basic", "post"} {
		t.Run(auth, func(t *testing.T) {
			out, err := script(t, 3*time.Minute, []string{"LOGIN_USER=demo", "LOGIN_PASSWORD=demo", "REFRESH_GRACE=10", "AUTH=" + auth},
				filepath.Join(root(t), "test/peers/openid-client/run.sh"), filepath.Join(root(t), ".peers/openid-client"), g.URL, "rp", "rp-secret-of-the-test",
				"code,prompt_none,refresh,negative,client_credentials,revoke")
			t.Log(out)
			if err != nil || strings.Contains(out, "FAIL") || strings.Contains(out, "SKIP") || strings.Count(out, "PASS") < 6 {
				t.Fatalf("openid-client: %v", err)
			}
		})
	}
}
