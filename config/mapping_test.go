package config_test

import (
	"fmt"
	"strings"
	"testing"
)

// Expressions in a connector's section are compiled with the file, so that a
// mistake is found where it stands and not at the first sign-in.
func TestClaimsAreCompiled(t *testing.T) {
	section := "connectors:\n  - id: a\n    type: oidc\n    issuer: https://idp.example.com\n    client_id: x\n    client_secret: y\n    claims:\n      %s\n"
	for claims, want := range map[string]string{
		"groups: claims.roles":                           "",
		`username: 'claims["https://acme.example/upn"]'`: "",
		`email: 'has(claims.mail) ? claims.mail : ""'`:   "",
		"groups: 'claims.groups.map(g, g.name)'":         "",
		"groups: roles":                                  "undeclared reference",
		"groups: 'claims.'":                              "Syntax error",
		"groups: identity.groups":                        "undeclared reference",
		"groups: ''":                                     "empty",
		"subject: claims.email":                          "no \"subject\"",
	} {
		_, findings, err := parse(head + fmt.Sprintf(section, claims))
		text := fmt.Sprint(findings)
		if (err == nil) != (want == "") || !strings.Contains(text, want) {
			t.Errorf("%s: %v\n%s", claims, err, text)
		}
		if want != "" && !strings.Contains(text, "c.yml:12:") {
			t.Errorf("%s: no place in %s", claims, text)
		}
	}
}
