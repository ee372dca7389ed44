package config_test

import (
	"slices"
	"testing"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/config"
)

// UP-7: domains have one form, so that who writes them in another still means
// the same people; what is none, or anybody's, is said.
func TestDomains(t *testing.T) {
	for _, c := range []struct{ keys, rule, severity string }{
		{"domains: [acme.example]", "", ""},
		{"domains: [ACME.Example, b\u00fccher.example, xn--bcher-kva.example]", "", ""},
		{"domains: [acme]", "connector.domain", config.SeverityError},
		{"domains: [acme.example.]", "connector.domain", config.SeverityError},
		{"domains: ['*.acme.example']", "connector.domain", config.SeverityError},
		{"domains: ['li@acme.example']", "connector.domain", config.SeverityError},
		{"domains: ['https://acme.example']", "connector.domain", config.SeverityError},
		{"domains: [\uff41cme.example]", "connector.domain", config.SeverityError},
		{"domains: [gmail.com]", "connector.public_mail", config.SeverityWarning},
		{"domains: [QQ.com], enforce: true", "connector.public_mail", config.SeverityError},
		{"domains: [acme.example], enforce: true, trust_email: true", "", ""},
		{"enforce: true", "connector.enforce", config.SeverityError},
		{"trust_email: true", "connector.trust_email", config.SeverityWarning},
		{"domains: [acme.example], enforce: true, link_only: true", "connector.enforce", config.SeverityError},
		{"domains: [acme.example], enforce: true, disabled: true", "connector.enforce", config.SeverityError},
	} {
		yaml := head + "connectors:\n  - {id: hub, type: github, client_id: a, client_secret: b, allow: 'true', " + c.keys + "}\n"
		cfg, findings, err := config.Parse([]config.Document{{Name: "c.yml", YAML: []byte(yaml)}}, config.LoadOptions{Types: broker.Types(), Env: func(string) (string, bool) { return "", false }})
		found := slices.ContainsFunc(findings, func(f config.Finding) bool { return f.Rule == c.rule && f.Severity == c.severity })
		if c.rule == "" {
			found = !slices.ContainsFunc(findings, func(f config.Finding) bool { return f.Severity != config.SeverityNote })
		}
		if !found || (err != nil) != (c.severity == config.SeverityError) {
			t.Errorf("%s: %v %v", c.keys, err, findings)
			continue
		}
		if err == nil && c.rule == "" {
			for _, d := range cfg.Connectors[1].Domains {
				if d != "acme.example" && d != "xn--bcher-kva.example" {
					t.Errorf("%s: %q", c.keys, d)
				}
			}
		}
	}
}
