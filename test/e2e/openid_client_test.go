//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// npm's openid-client, a certified relying party: code with PKCE, ID token with
// signature, nonce and at_hash, userinfo, refresh with rotation and reuse,
// revocation, client credentials, the device flow, token exchange, introspection, prompt=none, and what must be
// refused.
func TestOpenIDClient(t *testing.T) {
	dir := t.TempDir()
	jwk := signingKey(t, filepath.Join(dir, "client.pem"))
	write(t, dir, map[string]string{"config/gatehouse.yml": `
tokens: {refresh_grace: 2s} # the client waits for its end
resources: [{name: demo-api}, {name: other-api}]
clients:
  - client_id: rp
    client_secret: rp-secret-of-the-test
    redirect_uris: ["http://127.0.0.1:21700/callback"]
    post_logout_redirect_uris: ["http://127.0.0.1:21700/bye"]
    grant_types: [authorization_code, refresh_token, client_credentials, "urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:grant-type:token-exchange"]
    audiences: [demo-api, other-api]
    scope: openid profile email groups offline_access
    device_offline: true
    trusted: true
  - client_id: rp-public
    token_endpoint_auth_method: none
    id_token_signed_response_alg: ES256
    redirect_uris: ["http://127.0.0.1:21700/callback"]
    grant_types: [authorization_code, refresh_token, "urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:grant-type:token-exchange"]
    scope: openid profile email groups offline_access
    device_offline: true
    trusted: true
  - client_id: rp-signs # private_key_jwt
    jwks: {keys: [` + jwk + `]}
    redirect_uris: ["http://127.0.0.1:21700/callback"]
    grant_types: [authorization_code, refresh_token, client_credentials, "urn:ietf:params:oauth:grant-type:token-exchange"]
    audiences: [demo-api, other-api]
    scope: openid profile email groups offline_access
    trusted: true
`})
	g := serve(t, dir, []string{"--dev"})
	for _, c := range []struct{ auth, id, secret, alg, audience, flows string }{
		{"basic", "rp", "rp-secret-of-the-test", "RS256", "other-api", "code,prompt_none,introspect,refresh,negative,device,client_credentials,exchange,revoke"},
		{"post", "rp", "rp-secret-of-the-test", "RS256", "other-api", "code,prompt_none,introspect,refresh,negative,device,client_credentials,exchange,revoke"},
		{"none", "rp-public", "-", "ES256", "", "code,prompt_none,refresh,device,exchange,revoke"},
		{"pkjwt", "rp-signs", "-", "RS256", "other-api", "code,prompt_none,introspect,refresh,client_credentials,exchange,revoke"},
	} {
		t.Run(c.auth, func(t *testing.T) {
			out, err := script(t, 3*time.Minute, []string{"LOGIN_USER=demo", "LOGIN_PASSWORD=demo", "REFRESH_GRACE=2", "AUTH=" + c.auth, "ID_TOKEN_ALG=" + c.alg, "EXCHANGE_AUDIENCE=" + c.audience, "KEY_FILE=" + filepath.Join(dir, "client.pem"), "KEY_ID=k1"},
				filepath.Join(root(t), "test/peers/openid-client/run.sh"), filepath.Join(root(t), ".peers/openid-client"), g.URL, c.id, c.secret, c.flows)
			t.Log(out)
			if err != nil || strings.Contains(out, "FAIL") || strings.Contains(out, "SKIP") || strings.Count(out, "PASS") < strings.Count(c.flows, ",")+1 {
				t.Fatalf("openid-client: %v; if it is missing, install it with: test/e2e/install.sh core", err)
			}
		})
	}
}

// signingKey makes a key of a client's in a file and returns its public half.
func signingKey(t testing.TB, file string) (jwk string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding
	return fmt.Sprintf("{kty: EC, crv: P-256, kid: k1, alg: ES256, use: sig, x: %s, y: %s}", b64.EncodeToString(point[1:33]), b64.EncodeToString(point[33:]))
}
