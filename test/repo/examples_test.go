package repo

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/config"
)

// keyFiles writes a private key, and a Google service account with that key.
func keyFiles(t *testing.T) (key, account string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	js, err := json.Marshal(map[string]string{"type": "service_account", "client_email": "a@b.example", "private_key": string(text)})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	key, account = filepath.Join(dir, "key"), filepath.Join(dir, "account")
	for name, content := range map[string][]byte{key: text, account: js} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return key, account
}

// Every YAML example of the pages loads: its secrets are files that are there, and
// what it leaves out is put beside it.
func TestExamplesLoad(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("a-secret-of-a-test"), 0o600); err != nil {
		t.Fatal(err)
	}
	key, account := keyFiles(t)
	count := 0
	walk(t, ".md", func(path, text string) {
		for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(text, -1) {
			count++
			yaml := regexp.MustCompile(`/run/secrets/[^\s,}]+\.pem`).ReplaceAllString(m[1], key)
			yaml = regexp.MustCompile(`/run/secrets/[^\s,}]+\.json`).ReplaceAllString(yaml, account)
			yaml = regexp.MustCompile(`/run/secrets/\S+`).ReplaceAllString(yaml, secret)
			yaml = regexp.MustCompile(`\b(ca_file|cert_file|key_file): [^\s,}]+`).ReplaceAllString(yaml, `$1: ""`)
			yaml = strings.ReplaceAll(yaml, "$argon2id$v=19$…", "$$argon2id$$v=19$$m=19456,t=2,p=1$$mrRp2ryD1oG1tkOpAvBCcw$$SZDW+Y2c1en3d0yfC2GKx8l70aDkabRHTSUlBCfJrHQ")
			yaml = strings.ReplaceAll(yaml, "$$", "$")
			rest := ""
			for _, l := range []string{"issuer: https://id.example.com", "trusted_proxies: [127.0.0.1]", "resources: [{name: platform-api}]"} {
				if key, _, _ := strings.Cut(l, ":"); !regexp.MustCompile(`(?m)^` + key + `:`).MatchString(yaml) {
					rest += l + "\n"
				}
			}
			docs := []config.Document{{Name: path, YAML: []byte(yaml)}, {Name: "rest.yml", YAML: []byte(rest)}}
			if _, findings, err := config.Parse(docs, config.LoadOptions{Types: broker.Types(), Env: func(string) (string, bool) { return "", false }}); err != nil {
				t.Errorf("%s:\n%s\n%v", path, yaml, findings.Error())
			}
		}
	})
	if count < 5 {
		t.Fatalf("only %d examples", count)
	}
}
