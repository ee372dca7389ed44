package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/config"
)

const head = "issuer: https://id.example.com\ntrusted_proxies: [127.0.0.1]\nslack: {webhook_url: https://hooks.slack.com/services/x}\nlocal: {users: []}\n"

// has reports whether a finding of this place, rule and text is among them.
func has(fs config.Findings, place, rule, text string) bool {
	return slices.ContainsFunc(fs, func(f config.Finding) bool {
		return fmt.Sprintf("%s:%d:%d", f.File, f.Line, f.Column) == place && f.Rule == rule && strings.Contains(f.Text+" "+f.Fix, text)
	})
}

// Every complaint names file, line, column, what is wrong and what to write instead.
func TestErrorsNameThePlace(t *testing.T) {
	for _, c := range []struct{ yaml, place, rule, text string }{
		// Keys: the nearest right one.
		{"listn: 1", "c.yml:5:1", "yaml.unknown_key", `"listn" is unknown. did you mean "listen"?`},
		{"gihtub: {}", "c.yml:5:1", "yaml.unknown_key", `did you mean "github"?`},
		{"conectors: []", "c.yml:5:1", "yaml.unknown_key", `did you mean "connectors"?`},
		{"tokens:\n  acces_ttl: 5m", "c.yml:6:3", "yaml.unknown_key", `did you mean "access_ttl"?`},
		{"ldap:\n  host: h\n  bind_pasword: x", "c.yml:7:3", "yaml.unknown_key", `did you mean "bind_password"?`},
		{"github:\n  client_id: a\n  client_secret: b\n  organizations:\n    - name: acme\n      team: [ml]", "c.yml:10:7", "yaml.unknown_key", `did you mean "teams"?`},
		{"routes:\n  - name: api\n    host: a.example.com\n    upstream: http://127.0.0.1:1\n    audiance: x", "c.yml:9:5", "yaml.unknown_key", `did you mean "audience"?`},
		{"clients:\n  - {client_id: a, redirect_uri: https://a.example.com}", "c.yml:6:20", "yaml.unknown_key", `did you mean "redirect_uris"?`},
		{"log: {xyzzy: 1}", "c.yml:5:7", "yaml.unknown_key", "one of access, access_fields, flood, format, level"},
		{"connectors:\n  - {id: a, type: lpad, host: h}", "c.yml:6:19", "connector.type", `did you mean "ldap"?`},
		{"connectors:\n  - {id: a, type: ldap, host: h, base_dn: dc=a, trust_emial: true}", "c.yml:6:49", "yaml.unknown_key", `did you mean "trust_email"?`},
		// Kinds.
		{"listen: [a]", "c.yml:5:9", "yaml.kind", "single value"},
		{"routes: {name: a}", "c.yml:5:9", "yaml.list", "a list is needed"},
		{"routes: [a]", "c.yml:5:10", "yaml.mapping", "keys with values"},
		{"connectors: {id: a}", "c.yml:5:1", "yaml.list", "connectors is a list"},
		{"connectors: [a]", "c.yml:5:14", "yaml.mapping", "mapping of keys"},
		{"ldap: yes", "c.yml:5:1", "yaml.mapping", "keys with values"},
		{"tokens: {access_ttl: 10}", "c.yml:5:22", "yaml.duration", "10s, 15m, 720h"},
		{"debug: maybe", "c.yml:5:8", "yaml.bool", "true or false"},
		{"rate_limits: {attempts: many}", "c.yml:5:25", "yaml.number", "whole number"},
		{"sentry: {traces_sample_rate: lots}", "c.yml:5:30", "yaml.number", "not a number"},
		{"sentry: {traces_sample_rate: 7}", "c.yml:5:30", "sentry.rate", "at most 1"},
		// Absent and empty are not the same (G1).
		{"routes:\n  - name: api\n    host: a.example.com\n    upstream: http://127.0.0.1:1\n    allow:", "c.yml:9:5", "yaml.empty", "no value"},
		{"routes:\n  - name: api\n    host: a.example.com\n    upstream: http://127.0.0.1:1\n    allow: ''", "c.yml:9:12", "route.allow", "empty"},
		{"routes:\n  - name: api\n    host: a.example.com\n    upstream: http://127.0.0.1:1\n    auth: []", "c.yml:9:5", "yaml.empty", "no limit at all"},
		{"connectors: [{id: l, type: local, allow: ' '}]", "c.yml:5:42", "connector.allow", "empty"},
		{"clients: [{client_id: a, client_secret: '', redirect_uris: [https://a.example.com]}]", "c.yml:5:41", "secret.empty", "leave the key out"},
		{"github: {client_id: a, client_secret: b, organizations: []}", "c.yml:5:42", "yaml.empty", "no limit at all"},
		{"github: {client_id: a, client_secret: b, organizations: [{name: acme, teams: []}]}", "c.yml:5:71", "yaml.empty", "no limit at all"},
		{"connectors: [{id: l, type: local, users: [{username: a, cidrs: []}]}]", "c.yml:5:57", "yaml.empty", "no limit at all"},
		{"connectors: [{id: l, type: local, users: [{username: a, cidrs: ~}]}]", "c.yml:5:57", "yaml.empty", "no value"},
		{"google: {client_id: a, client_secret: b, hosted_domains: []}", "c.yml:5:42", "yaml.empty", "no limit at all"},
		{"clients: [{client_id: a, redirect_uris: [https://a.example.com], allowed_connectors: []}]", "c.yml:5:66", "yaml.empty", "no limit at all"},
		{"store: ''", "c.yml:5:8", "secret.empty", "secret is empty"},
		{"listen:", "c.yml:5:1", "yaml.empty", "no value"},
		// Variables.
		{"listen: ${NOWHERE}", "c.yml:5:9", "env.unset", "NOWHERE is not set"},
		{"brand: ${NOWHERE", "c.yml:5:8", "env.form", "begins no variable"},
		{"brand: ${NO-WHERE}", "c.yml:5:8", "env.form", "begins no variable"},
		{"brand: ${}", "c.yml:5:8", "env.form", "begins no variable"},
		// Anchors.
		{"brand: *nobody", "c.yml:5:1", "yaml.alias", "names no anchor"},
		{"tls: &t {<<: *t}", "c.yml:5:10", "yaml.depth", "too deeply"},
		{"brand: &a x\nsupport: &a y", "c.yml:6:10", "yaml.anchor", "twice"},
		{"brand: !env NAME", "c.yml:5:8", "yaml.tag", "means nothing"},
		{"tls:\n  <<: &a [1]", "c.yml:6:3", "yaml.merge", "takes in a mapping"},
		// Syntax.
		{"brand: [a", "c.yml:5:8", "yaml.syntax", "not YAML"},
		{"brand: a\nbrand: b", "c.yml:6:1", "yaml.syntax", "already defined"},
		{"---\nbrand: a", "c.yml:6:1", "yaml.documents", "one document"},
		// What the owners say.
		{"keys: {rotate_every: -1h}", "c.yml:5:22", "keys.negative", ""},
		{"default_locale: de", "c.yml:5:17", "locale", "en or zh-CN"},
		{"time_zone: Mars/Base", "c.yml:5:12", "time_zone", "IANA"},
		{"log: {level: loud}", "c.yml:5:14", "log.level", "debug, info"},
		{"store: mysql://x", "c.yml:5:8", "store", `no store driver "mysql"`},
		{"store: rediss://h/?skip_verify=true", "c.yml:5:8", "store", "ca_file"},
		{"store: sqlite:x?mode=memory", "c.yml:5:8", "store", "durability=full"},
		{"outgoing: {allow_private: [10.0.0.0/33]}", "c.yml:5:28", "outgoing.allow_private", "neither a host nor a network"},
		{"tls: {cert_file: a}", "c.yml:5:6", "tls.pair", "both"},
		{"consoles: {networks: [10.8.0.1]}", "c.yml:5:23", "consoles.network", "not a network"},
	} {
		yaml := head + c.yaml + "\n"
		_, fs, err := parse(yaml)
		if err == nil || !has(fs, c.place, c.rule, c.text) {
			t.Errorf("%s\n  wanted %s [%s] …%s…\n  got %v", c.yaml, c.place, c.rule, c.text, fs)
		}
		for _, f := range fs {
			if f.File == "" {
				t.Errorf("%s: a finding without a file: %s", c.yaml, f)
			}
		}
	}
}

// CEL's complaints carry their place in the expression beside that in the file.
func TestExpressionErrors(t *testing.T) {
	for _, c := range []struct{ yaml, place, rule, text string }{
		{"routes:\n  - name: api\n    host: a.example.com\n    upstream: http://127.0.0.1:1\n    allow: 'user.id == nobody'", "c.yml:9:12", "route.allow", "undeclared reference to 'nobody' at 1:12 of the expression; here an expression sees client, identity, request, route, session, user"},
		{"routes:\n  - name: api\n    host: a.example.com\n    upstream: http://127.0.0.1:1\n    allow: 'lease.owner == user.id'", "c.yml:9:12", "route.allow", "undeclared reference to 'lease'"},
		{"routes:\n  - name: api\n    host: a.example.com\n    upstream: http://127.0.0.1:1\n    allow: 'user.id =='", "c.yml:9:12", "route.allow", "at 1:11 of the expression"},
		{"routes:\n  - name: api\n    host: a.example.com\n    upstream: http://127.0.0.1:1\n    allow: '\"x\"'", "c.yml:9:12", "route.allow", "string, not to true or false"},
		{"connectors: [{id: l, type: local, allow: 'user.id == \"x\"'}]", "c.yml:5:42", "connector.allow", "sees identity, request"},
		{"clients: [{client_id: a, redirect_uris: [https://a.example.com], claims: {t: 'request.ip'}}]", "c.yml:5:78", "client.claims", "sees client, session, user"},
		{"minio: {endpoint: a, access_key: a, secret_key: a, bucket: b}\nstorage_credentials: [{name: a, provider: minio, allow: 'lease.id', role_arn: 'arn:minio:iam:::role/a'}]", "c.yml:6:57", "storage_credentials.allow", "undeclared reference"},
		{"minio: {endpoint: a, access_key: a, secret_key: a, bucket: b}\nstorage_credentials: [{name: a, provider: minio, allow: '', role_arn: 'arn:minio:iam:::role/a'}]", "c.yml:6:57", "storage_credentials.allow", "empty"},
	} {
		_, fs, err := parse(head + c.yaml + "\n")
		if err == nil || !has(fs, c.place, c.rule, c.text) {
			t.Errorf("%s\n  wanted %s [%s] …%s…\n  got %v", c.yaml, c.place, c.rule, c.text, fs)
		}
		if strings.ContainsAny(strings.TrimSpace(fs.Error()), "\n\r") {
			t.Errorf("more than one line: %q", fs.Error())
		}
	}
}

// The files of a folder are one configuration; sub-folders and other files are not
// part of it; the same key twice names both places.
func TestFolderIsMerged(t *testing.T) {
	dir := folder(t, "gatehouse.yml", "issuer: https://id.example.com\n", "b.yaml", "local: {users: []}\n", "dev/dev.yml", "nonsense: [", "notes.txt", "nonsense: [", ".hidden.yml", "nonsense: [", "empty.yml", "", "comment.yml", "# nothing\n")
	cfg, fs, err := config.Load(dir, options())
	if err != nil || cfg.Issuer != "https://id.example.com" || len(cfg.Connectors) != 1 {
		t.Fatalf("%+v %v %v", cfg, fs, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "z.yml"), []byte("brand: a\nissuer: https://other.example.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, fs, err = config.Load(dir, options())
	if err == nil || !has(fs, filepath.Join(dir, "z.yml")+":2:1", "yaml.duplicate", `"issuer" is set here and in `+filepath.Join(dir, "gatehouse.yml")+", line 1") {
		t.Fatalf("%v", fs)
	}
}

// What belongs to no key stands in the main file; what the environment says names it.
func TestFindingsAlwaysNameAFile(t *testing.T) {
	dir := folder(t, "a.yml", "brand: A\n", "gatehouse.yml", "debug: false\n")
	_, fs, err := config.Load(dir, options("GATEHOUSE_LISTEN", "nonsense"))
	if err == nil || !has(fs, filepath.Join(dir, "gatehouse.yml")+":0:0", "issuer.missing", "") || !has(fs, filepath.Join(dir, "gatehouse.yml")+":0:0", "connector.none", "Nobody can sign in") || !has(fs, "$GATEHOUSE_LISTEN:0:0", "listen.address", "nonsense") {
		t.Fatalf("%v", fs)
	}
}

func TestReading(t *testing.T) {
	dir := folder(t, "big.yml", strings.Repeat("# comment\n", 110_000), "notes.txt", "")
	for path, says := range map[string]string{
		filepath.Join(dir, "none.yml"): "gatehouse init", filepath.Join(dir, "none"): "gatehouse init",
		filepath.Join(dir, "big.yml"): "larger than", folder(t, "notes.txt", ""): "no *.yml",
	} {
		if _, _, err := config.Load(path, options()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
	// The demo needs no folder, but a file that was named must be there.
	dev := options()
	dev.Dev = true
	if _, _, err := config.Load(filepath.Join(dir, "none"), dev); err != nil {
		t.Errorf("the demo without configuration: %v", err)
	}
	if _, _, err := config.Load(filepath.Join(dir, "none.yml"), dev); err == nil {
		t.Error("the demo ignored that its file is missing")
	}
}
