package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/config"
)

// FuzzLoad: whatever a file holds, there is no panic, every finding has a file, a
// rule and a text of one line, and what is refused says why.
func FuzzLoad(f *testing.F) {
	for _, dir := range []string{"testdata/full", "testdata/requirements", "dev"} {
		files, err := filepath.Glob(dir + "/*.yml")
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range files {
			raw, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(raw))
			for section := range strings.SplitSeq(string(raw), "\n\n") {
				f.Add(section)
			}
		}
	}
	for _, s := range []string{"", "-", "a", "{}", "[]", "? a\n: b", "<<: *a", "a: &a [*a]", "connectors: [{type: ldap, <<: {id: a}}]", "local: &l {<<: *l}", "clients: [~, !!str x, {claims: {a: b}}]", "issuer: ${A:-b}${", "tls: {a:b: c}",
		"routes: [{name: a, host: \"{node}.x\", lease: true, allow: 'lease.owner == user.id'}]", "tokens: {access_ttl: 99999999999999999999h}", "\xff", "a: \"\\x", "%YAML 1.1\n---\n", "listen: |\n  a\n", "smtp: {port: 0x1F}", "keys: *a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, yaml string) {
		for _, dev := range []bool{false, true} {
			o := options("SET", "value")
			o.Dev = dev
			cfg, findings, err := config.Parse([]config.Document{{Name: "c.yml", YAML: []byte(yaml)}}, o)
			if cfg == nil {
				t.Fatal("no configuration")
			}
			if (err != nil) != (findings.Err() != nil) {
				t.Fatalf("%v, but %v", err, findings)
			}
			for _, f := range findings {
				if f.File == "" || f.Rule == "" || f.Text == "" || strings.ContainsAny(f.String(), "\n\r") {
					t.Fatalf("%+v", f)
				}
			}
		}
	})
}
