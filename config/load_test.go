package config_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/config"
)

// environment is a lookup in a map, so that tests do not see the real one.
func environment(pairs ...string) func(string) (string, bool) {
	return func(k string) (string, bool) {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == k {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func options(pairs ...string) config.LoadOptions {
	return config.LoadOptions{Types: broker.Types(), Env: environment(pairs...)}
}

// parse reads one document called c.yml.
func parse(yaml string, env ...string) (*config.Config, config.Findings, error) {
	return config.Parse([]config.Document{{Name: "c.yml", YAML: []byte(yaml)}}, options(env...))
}

// folder writes files and returns their folder.
func folder(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i+1 < len(files); i += 2 {
		name := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The YAML blocks of the requirements, as they stand there, load beside a minimal
// gatehouse.yml, and this version serves them all.
func TestRequirementsLoad(t *testing.T) {
	cfg, findings, err := config.Load("testdata/requirements", options())
	if err != nil {
		t.Fatal(err)
	}
	if cfg.S3[0].Endpoint != "s3.amazonaws.com" || cfg.OSS[0].Bucket != "remotegpu-data" || cfg.DingTalk[0].Secret.Reveal() != "your_secret_key" || cfg.Sentry.TracesSampleRate != 0.1 {
		t.Errorf("decoded as %+v", cfg)
	}
	var ids []string
	for _, k := range cfg.Connectors {
		ids = append(ids, fmt.Sprintf("%s %s %v", k.ID, k.Name, k.Served))
	}
	if want := []string{"github GitHub true", "google Google true", "ldap LDAP true"}; !slices.Equal(ids, want) {
		t.Errorf("connectors %q", ids)
	}
	for _, f := range findings {
		if strings.Contains(f.Text, "not served") {
			t.Errorf("%s", f)
		}
	}
}

// The files hold the requirements' blocks verbatim: their sum is known.
func TestRequirementsAreSeparateFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/requirements/*.yml")
	if err != nil || len(files) != 8 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, name := range []string{"oauth", "ldap", "dingtalk", "wechat", "slack", "storage", "sentry", "gatehouse"} {
		if !slices.Contains(files, "testdata/requirements/"+name+".yml") {
			t.Errorf("%s.yml is missing", name)
		}
	}
}

// Every key of the documented configuration decodes.
func TestFullExampleLoads(t *testing.T) {
	cfg, findings, err := config.Load("testdata/full", options())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		if f.Severity != config.SeverityNote {
			t.Errorf("%s", f)
		}
	}
	if cfg.Tokens.AccessTTL != 10*time.Minute || *cfg.Sessions.OutageGrace != 10*time.Second || cfg.Routes[0].CORS.Origins[0] != "https://app.remotegpu.example.com" ||
		cfg.Resources[0].Scopes["deployments:write"]["zh-CN"] != "启动和停止部署" || cfg.DingTalk[1].Name != "dev" || cfg.SMTP[0].Port != 587 ||
		len(cfg.Connectors) != 11 || cfg.Trust[0].Match["repository_id"] != "123456" || *cfg.StorageCredentials[0].Allow == "" {
		t.Errorf("decoded as %+v", cfg)
	}
	for _, key := range []string{"backchannel_logout_uri", "registration"} {
		if !slices.ContainsFunc(findings, func(f config.Finding) bool {
			return f.Text == key+": accepted, not served by this version."
		}) {
			t.Errorf("nothing says that %s is not served", key)
		}
	}
	for _, f := range findings {
		if strings.HasPrefix(f.Text, "geoip_file") || strings.HasPrefix(f.Text, "proxy_protocol") {
			t.Errorf("a key that is off is no news: %s", f)
		}
	}
}

// Secrets are nowhere but in Reveal: not in findings, not in %v, not in JSON, not
// in a log.
func TestSecretsAreNotPrinted(t *testing.T) {
	raw, err := os.ReadFile("testdata/full/gatehouse.yml")
	if err != nil {
		t.Fatal(err)
	}
	secrets := regexp.MustCompile(`[a-z0-9]+-(secret|key|token2?|robot|access)\b|mrRp2ryD1oG1tkOpAvBCcw`).FindAllString(string(raw), -1)
	if len(secrets) < 20 {
		t.Fatalf("only %q", secrets)
	}
	yaml := strings.Replace(string(raw), "store: sqlite:data/gatehouse.db", "store: redis://gatehouse:redis-secret@redis.example.com:6379/0", 1)
	secrets = append(secrets, "redis-secret")
	cfg, findings, err := parse(yaml)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("configuration", "config", cfg, "connectors", cfg.Connectors[0].Settings)
	js, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range cfg.Connectors {
		fmt.Fprintf(&log, "%v %+v %#v\n", k.Settings, k.Settings, k)
	}
	for what, text := range map[string]string{"%v": fmt.Sprintf("%v", *cfg), "%+v": fmt.Sprintf("%+v", *cfg), "%#v": fmt.Sprintf("%#v", *cfg), "JSON": string(js), "log": log.String(), "findings": fmt.Sprint(findings)} {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("%s holds the secret %s", what, s)
			}
		}
	}
	// Mistakes beside and inside secrets name the key, not the value.
	for name, yaml := range map[string]string{
		"list for a secret":    "github: {client_id: x, client_secret: [hunter2hunter2]}",
		"mapping for a secret": "github: {client_id: x, client_secret: {hunter2hunter2: a}}",
		"no space":             "github:\n  client_secret:hunter2hunter2\n",
		"quote not closed":     "github:\n  client_secret: \"hunter2hunter2\n",
		"bad indent":           "github:\n  client_secret: hunter2hunter2\n   client_id: x\n",
		"tab":                  "github:\n\tclient_secret: hunter2hunter2\n",
		"short client secret":  "clients: [{client_id: a, client_secret: hunter2, redirect_uris: [https://a.example.com/]}]",
		"webhook":              "slack: {webhook_url: 'hunter2hunter2'}",
		"robot":                "dingtalk: {webhook_url: 'https://%zz/hunter2hunter2'}",
		"sentry":               "sentry: {dsn: 'hunter2hunter2'}",
		"push":                 "uptime_kuma: {push_url: 'ftp://x/hunter2hunter2'}",
		"hash":                 "local: {users: [{username: a, password_hash: hunter2hunter2}]}",
		"store":                "store: 'redis:hunter2hunter2'",
		"store, no driver":     "store: 'mysql://a:hunter2hunter2@h/'",
		"store, skip_verify":   "store: 'rediss://a:hunter2hunter2@h/?skip_verify=true'",
		"duplicate":            "smtp: {password: hunter2hunter2, password: hunter2hunter2}",
		"variable":             "github: {client_id: x, client_secret: '${hunter2 hunter2}'}",
		"proxy":                "outgoing: {proxy: 'ftp://a:hunter2hunter2@p'}",
	} {
		_, findings, err := parse("issuer: https://id.example.com\n" + yaml)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		text := fmt.Sprint(findings, err)
		if strings.Contains(text, "hunter2") && name != "variable" || strings.Contains(text, "hunter2 hunter2") {
			t.Errorf("%s: the secret is in %s", name, text)
		}
	}
}
