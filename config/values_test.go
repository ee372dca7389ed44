package config_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/config"
)

func TestVariables(t *testing.T) {
	cfg, fs, err := parse(head+`brand: "${NAME}"
support: ${EMPTY:-help}@${NOWHERE:-example.com}
listen: 127.0.0.1:${PORT}
debug: ${DEBUG}
tokens: {access_ttl: "${TTL:-7m}"}
rate_limits: {attempts: "${ATTEMPTS}"}
clients:
  - {client_id: a, client_secret: "${SECRET}", redirect_uris: ["https://${HOST}/cb"]}
`, "NAME", "A ${B}", "EMPTY", "", "PORT", "1234", "DEBUG", "true", "ATTEMPTS", "5", "SECRET", "se: c'r\"et#", "HOST", "a.example.com")
	if err != nil {
		t.Fatal(fs)
	}
	if cfg.Brand != "A ${B}" || cfg.Support != "help@example.com" || cfg.Listen != "127.0.0.1:1234" || !cfg.Debug || cfg.Tokens.AccessTTL != 7*time.Minute || cfg.RateLimits.Attempts != 5 ||
		cfg.Clients[0].ClientSecret.Reveal() != "se: c'r\"et#" || cfg.Clients[0].RedirectURIs[0] != "https://a.example.com/cb" {
		t.Fatalf("%+v", cfg)
	}
	// A variable that is set and empty is no secret.
	if _, fs, err := parse(head+`github: {client_id: a, client_secret: "${EMPTY}"}`, "EMPTY", ""); err == nil || !has(fs, "c.yml:5:39", "secret.empty", "") {
		t.Errorf("%v", fs)
	}
}

func TestSecretFiles(t *testing.T) {
	dir := folder(t, "secret", "from a file\n", "empty", "\n", "big", strings.Repeat("x", 70<<10), "store", "redis://:pw@127.0.0.1:6379/0\n")
	at := func(name string) string { return filepath.Join(dir, name) }
	cfg, fs, err := parse(head + "github: {client_id: a, client_secret_file: " + at("secret") + "}\nstore_file: ${DIR:-" + dir + "}/store\nconnectors: [{id: w, type: wecom, corp_id: a, agent_id: '1', secret_file: " + at("secret") + "}]\ndingtalk: {webhook_url: https://x.example.com, private: true, secret_file: " + at("secret") + "}\n")
	if err != nil {
		t.Fatal(fs)
	}
	if cfg.Store.Reveal() != "redis://:pw@127.0.0.1:6379/0" || cfg.DingTalk[0].Secret.Reveal() != "from a file" {
		t.Errorf("%q %q", cfg.Store.Reveal(), cfg.DingTalk[0].Secret.Reveal())
	}
	for _, c := range []struct{ yaml, place, rule, text string }{
		{"github: {client_id: a, client_secret_file: " + at("none") + "}", "c.yml:5:44", "secret.file", "cannot be read"},
		{"github: {client_id: a, client_secret_file: " + at("empty") + "}", "c.yml:5:44", "secret.empty", "file of this secret is empty"},
		{"github: {client_id: a, client_secret_file: " + at("big") + "}", "c.yml:5:44", "secret.file", "larger than"},
		{"github: {client_id: a, client_secret_file: " + dir + "}", "c.yml:5:44", "secret.file", "cannot be read"},
		{"github: {client_id: a, client_secret: b, client_secret_file: " + at("secret") + "}", "c.yml:5:42", "secret.twice", "keep one"},
		{"github: {client_id: a, client_secret_file: " + at("secret") + ", client_secret: b}", "c.yml:5:" + itoa(len("github: {client_id: a, client_secret_file: "+at("secret")+", ")+1), "secret.twice", "keep one"},
		{"store: sqlite:a.db\nstore_file: " + at("store"), "c.yml:6:1", "secret.twice", "keep one"},
		{"ldap: {host: h, base_dn: dc=a, base_dn_file: x}", "c.yml:5:32", "yaml.unknown_key", "base_dn"}, // only secrets come from files
		{"issuer_file: x", "c.yml:5:1", "yaml.unknown_key", ""},
	} {
		if _, fs, err := parse(head + c.yaml); err == nil || !has(fs, c.place, c.rule, c.text) {
			t.Errorf("%s\n  wanted %s [%s] …%s…\n  got %v", c.yaml, c.place, c.rule, c.text, fs)
		}
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

func TestAnchorsAndMergeKeys(t *testing.T) {
	cfg, fs, err := parse(head + `routes:
  - &api {name: api, host: &host api.example.com, path: /v1, upstream: "http://127.0.0.1:1", timeouts: &slow {connect: 9s}}
  - {<<: *api, name: two, path: /v2}
  - <<: [{auth: [bearer]}, *api]
    name: three
    path: /v3
    timeouts: *slow
clients:
  - {client_id: !!str 12, redirect_uris: [https://a.example.com]}
`)
	if err != nil {
		t.Fatal(fs)
	}
	r := cfg.Routes
	if r[1].Host != "api.example.com" || r[1].Name != "two" || r[1].Path != "/v2" || r[2].Auth[0] != "bearer" || r[2].Upstream != "http://127.0.0.1:1" || r[2].Timeouts.Connect != 9*time.Second || cfg.Clients[0].ClientID != "12" {
		t.Fatalf("%+v", r)
	}
}

// Aliases multiply: a small file must not become a large configuration.
func TestAliasesAreBounded(t *testing.T) {
	many := func(s string, n int) string { return strings.TrimSuffix(strings.Repeat(s+", ", n), ", ") }
	for name, yaml := range map[string]string{
		"lists":    "routes:\n  - {auth: &l [" + many("a", 1500) + "]}\n" + strings.Repeat("  - {auth: *l}\n", 1500),
		"mappings": "clients:\n  - claims: &m {" + many("a: b", 1) + "}\n    redirect_uris: &u [" + many("x", 1900) + "]\n" + strings.Repeat("  - {claims: *m, redirect_uris: *u, post_logout_redirect_uris: *u}\n", 1000),
		"merge":    "resources:\n  - scopes: &s {" + keys(1900) + "}\n" + strings.Repeat("  - scopes: {<<: *s}\n", 500),
		"itself":   "clients: &c [*c, *c]",
		"merges":   "tls: &t {<<: *t}",
	} {
		_, fs, err := parse(head + yaml + "\n")
		if err == nil || !slices.ContainsFunc(fs, func(f config.Finding) bool {
			return slices.Contains([]string{"yaml.size", "yaml.alias", "yaml.depth", "yaml.mapping"}, f.Rule)
		}) {
			t.Errorf("%s: %.400s", name, fs.Error())
		}
	}
}

func keys(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("k" + itoa(i) + ": {en: x}, ")
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// GATEHOUSE_DATA moves what lies in the data folder, and nothing else.
func TestEnvironmentOverrides(t *testing.T) {
	dir := filepath.Join("srv", "data")
	for _, c := range []struct{ name, yaml, data, key, store string }{
		{"nothing set", "", dir, "srv/data/secret.key", "sqlite:srv/data/gatehouse.db"},
		{"the defaults written out", "store: sqlite:data/gatehouse.db?durability=full\nsecret_key_file: data/secret.key\n", dir, "srv/data/secret.key", "sqlite:srv/data/gatehouse.db?durability=full"},
		{"a secret of the platform", "secret_key_file: /run/secrets/gatehouse\n", dir, "/run/secrets/gatehouse", "sqlite:srv/data/gatehouse.db"},
		{"redis", "store: redis://127.0.0.1:6379/0\n", dir, "srv/data/secret.key", "redis://127.0.0.1:6379/0"},
		{"a folder of its own", "data_dir: /var/lib/gatehouse\nstore: sqlite:/var/lib/gatehouse/sub/g.db\n", dir, "srv/data/secret.key", "sqlite:srv/data/sub/g.db"},
		{"a neighbour", "secret_key_file: data-keys/secret.key\n", dir, "data-keys/secret.key", "sqlite:srv/data/gatehouse.db"},
	} {
		cfg, fs, err := parse(head+c.yaml, "GATEHOUSE_DATA", dir, "GATEHOUSE_LISTEN", "127.0.0.1:1", "GATEHOUSE_ADMIN_LISTEN", "127.0.0.1:2")
		if err != nil {
			t.Errorf("%s: %v", c.name, fs)
		}
		if cfg.DataDir != c.data || cfg.SecretKeyFile != c.key || cfg.Store.Reveal() != c.store || cfg.Listen != "127.0.0.1:1" || cfg.AdminListen != "127.0.0.1:2" {
			t.Errorf("%s: %q %q %q %q %q", c.name, cfg.DataDir, cfg.SecretKeyFile, cfg.Store.Reveal(), cfg.Listen, cfg.AdminListen)
		}
	}
	cfg, _, err := parse(head+"store: redis://a\n", "GATEHOUSE_STORE", "sqlite:/x/y.db")
	if err != nil || cfg.Store.Reveal() != "sqlite:/x/y.db" {
		t.Errorf("GATEHOUSE_STORE: %q %v", cfg.Store.Reveal(), err)
	}
	cfg, _, _ = parse(head + "data_dir: /var/lib/gatehouse\n")
	if cfg.SecretKeyFile != "/var/lib/gatehouse/secret.key" || cfg.Store.Reveal() != "sqlite:/var/lib/gatehouse/gatehouse.db" {
		t.Errorf("data_dir: %q %q", cfg.SecretKeyFile, cfg.Store.Reveal())
	}
}
