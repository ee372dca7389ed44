package github

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode"
)

// FuzzAnswers feeds every parser of what GitHub, or whoever stands between,
// could answer.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		`{"access_token":"gho_x","token_type":"bearer","scope":"read:org,user:email"}`,
		`{"error":"bad_verification_code","error_description":"x"}`,
		`{"id":1,"login":"octocat","name":null}`, `{"id":1e2,"login":"a"}`,
		`[{"email":"a@b.example","primary":true,"verified":true}]`,
		`[{"state":"active","organization":{"id":1,"login":"acme"}}]`,
		`[{"slug":"ml","organization":{"id":1,"login":"acme"}}]`,
		`<https://api.github.com/user/teams?page=2>; rel="next", <https://api.github.com/user/teams?page=9>; rel="last"`,
		`required; url=https://github.com/orgs/acme/sso`, `<`, `<>`, `<a>;rel=next<`, `null`, `{}`, `[]`, ``,
	} {
		f.Add(s)
	}
	c := &Connector{cfg: &Config{ClientID: "app"}, ends: Config{}.endpoints()}
	own := c.settingsURL()
	f.Fuzz(func(t *testing.T, s string) {
		body := []byte(s)
		g, err := parseToken(body)
		if err == nil && !opaque(g.Token) {
			t.Errorf("token %q", g.Token)
		}
		if err != nil && (len(err.Error()) > 200 || strings.ContainsFunc(err.Error(), unicode.IsControl)) {
			t.Errorf("error %q", err)
		}
		if u, claims, err := parseUser(body); err == nil && (u.ID <= 0 || u.Login == "" || claims == nil) {
			t.Errorf("user %+v", u)
		}
		if l, err := parseList[address](body); err == nil {
			if e := primary(l); e != "" && (strings.Count(e, "@") != 1 || strings.ContainsAny(e, " \r\n\x00")) {
				t.Errorf("e-mail %q", e)
			}
		}
		orgs, _ := parseList[org](body)
		states, _ := parseList[membership](body)
		teams, _ := parseList[team](body)
		for _, s := range states {
			orgs = append(orgs, s.Organization)
		}
		m := join(orgs, states, teams)
		for id := range m.teams {
			if _, ok := m.orgs[id]; !ok {
				t.Errorf("a team of no organization: %d", id)
			}
		}
		for _, n := range m.orgNames() {
			if strings.Contains(n, "/") {
				t.Errorf("organization %q", n)
			}
		}
		for _, n := range m.teamNames() {
			if strings.Count(n, "/") != 1 {
				t.Errorf("team %q", n)
			}
		}
		if q, ok := nextPage([]string{s}); ok && q == nil {
			t.Error("a next page of nothing")
		}
		if page, ok := ssoRequired(s); ok {
			if p := c.ownPage(page); p != own && !strings.HasPrefix(strings.ToLower(p), "https://github.com") {
				t.Errorf("help %q", p)
			}
		}
		a := answer{status: http.StatusForbidden, header: http.Header{"Retry-After": {s}}, body: body}
		_, _ = a.limited(), short(s)
		if code, err := returnedCode(url.Values{"code": {s}}); err == nil && !opaque(code) {
			t.Errorf("code %q", code)
		}
		if w := word(s); len(w) > 64 {
			t.Errorf("word %q", w)
		}
	})
}
