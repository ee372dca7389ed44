package github

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/connectors"
)

func TestOrganizations(t *testing.T) {
	f := newFake(t)
	c := f.open(f.config(Organization{Name: "Acme", Teams: []string{"ml"}}, Organization{Name: "other"}))
	id, err := f.signIn(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	// hobby is not configured, so that the applications do not hear of it.
	if !slices.Equal(id.Groups, []string{"acme", "acme/ml", "acme/ops"}) {
		t.Errorf("groups %v", id.Groups)
	}
	if got := fmt.Sprint(id.Claims["organizations"], id.Claims["teams"]); got != "[acme hobby] [acme/ml acme/ops hobby/chess]" {
		t.Errorf("claims %s", got)
	}
	if len(id.Renewal) == 0 || len(f.revokedTokens()) != 0 {
		t.Error("the token that renewal needs is gone")
	}
}

func TestAllGroupsByScope(t *testing.T) {
	f := newFake(t)
	cfg := f.config()
	cfg.Scopes = []string{"read:user", "read:org"}
	id, err := f.signIn(t.Context(), f.open(cfg))
	if err != nil || !slices.Equal(id.Groups, []string{"acme", "acme/ml", "acme/ops", "hobby", "hobby/chess"}) {
		t.Errorf("groups %v, %v", id.Groups, err)
	}
	if id.Renewal != nil || len(f.revokedTokens()) != 1 {
		t.Error("the token was kept without organizations")
	}
}

func TestPaging(t *testing.T) {
	f := newFake(t)
	f.page = 7
	f.teams = nil
	for i := range 99 {
		f.teams = append(f.teams, teamOf(fmt.Sprintf("t%02d", i), 1, "acme"))
	}
	f.teams = append(f.teams, teamOf("last", 1, "acme"))
	c := f.open(f.config(Organization{Name: "acme", Teams: []string{"last"}}))
	id, err := f.signIn(t.Context(), c)
	if err != nil || len(id.Groups) != 101 {
		t.Fatalf("%d groups, %v", len(id.Groups), err)
	}
	// A list without an end is no list.
	f.set(func() { f.page = 1 })
	if _, err = f.signIn(t.Context(), c); err == nil || !strings.Contains(err.Error(), "pages") || errors.Is(err, connectors.ErrNotAllowed) {
		t.Errorf("got %v", err)
	}
}

func TestNotMember(t *testing.T) {
	for name, tc := range map[string]struct {
		want   Organization
		change func(*fake)
	}{
		"other organization": {Organization{Name: "megacorp"}, func(*fake) {}},
		"other team":         {Organization{Name: "acme", Teams: []string{"chess"}}, func(*fake) {}},
		"prefix of a name":   {Organization{Name: "acm"}, func(*fake) {}},
		"name of a team":     {Organization{Name: "acme", Teams: []string{"m"}}, func(*fake) {}},
		"no organization":    {Organization{Name: "acme"}, func(f *fake) { f.orgs, f.states, f.teams = nil, nil, nil }},
		"pending":            {Organization{Name: "acme"}, func(f *fake) { f.states[0]["state"] = "pending" }},
		"pending, in a team": {Organization{Name: "acme", Teams: []string{"ml"}}, func(f *fake) { f.states[0]["state"] = "pending" }},
		"no membership":      {Organization{Name: "acme"}, func(f *fake) { f.states = f.states[1:] }},
		"not seen":           {Organization{Name: "acme"}, func(f *fake) { f.orgs = f.orgs[1:] }},
		"other number":       {Organization{Name: "acme", ID: 99}, func(*fake) {}},
		"team of a namesake": {Organization{Name: "acme", Teams: []string{"ml"}}, func(f *fake) { f.teams[0] = teamOf("ml", 99, "acme") }},
		"slash in a name":    {Organization{Name: "acme"}, func(f *fake) { f.orgs[0]["login"] = "acme/ml" }},
		"zero number":        {Organization{Name: "acme"}, func(f *fake) { f.orgs[0]["id"] = 0; f.states[0] = stateOf(0, "acme", "active") }},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			tc.change(f)
			_, err := f.signIn(t.Context(), f.open(f.config(tc.want)))
			r := refusal(t, err, "not_member")
			if r.Help != f.srv.URL+"/settings/connections/applications/app" {
				t.Errorf("help %q", r.Help)
			}
			if len(f.revokedTokens()) != 1 {
				t.Error("the token of somebody who was refused was kept")
			}
		})
	}
}

func TestMemberByNumber(t *testing.T) {
	f := newFake(t)
	if _, err := f.signIn(t.Context(), f.open(f.config(Organization{Name: "acme", ID: 1}))); err != nil {
		t.Error(err)
	}
}

func TestScopeMissing(t *testing.T) {
	for name, tc := range map[string]struct {
		scope    string
		noHeader bool
		refused  bool
	}{
		"granted":         {"read:org,read:user,user:email", false, false},
		"by admin:org":    {"admin:org,user", false, false},
		"by the answer":   {"read:org,user:email", true, false},
		"missing":         {"read:user,user:email", false, true},
		"no header":       {"read:user,user:email", true, true},
		"nothing granted": {"", false, true},
		"lookalike":       {"read:orgs,xread:org", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.scope, f.noHeader = tc.scope, tc.noHeader
			_, err := f.signIn(t.Context(), f.open(f.config(Organization{Name: "acme"})))
			if !tc.refused {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			refusal(t, err, "scope_missing")
			if f.called("GET /api/v3/user/orgs") || len(f.revokedTokens()) != 1 {
				t.Errorf("went on: %v", f.calls)
			}
		})
	}
}

func TestSSO(t *testing.T) {
	open := func(f *fake) *Connector { return f.open(f.config(Organization{Name: "acme"})) }
	for given, want := range map[string]string{
		"required; url=%s/orgs/acme/sso?authorization_request=A": "%s/orgs/acme/sso?authorization_request=A",
		"required; url=https://evil.example/orgs/acme/sso":       "%s/settings/connections/applications/app",
		"required; url=javascript:alert(1)":                      "%s/settings/connections/applications/app",
		"required":                                               "%s/settings/connections/applications/app",
	} {
		f := newFake(t)
		f.override["/api/v3/user/orgs"] = status(403, `{"message":"Resource protected by organization SAML enforcement."}`,
			map[string]string{"X-GitHub-SSO": strings.ReplaceAll(given, "%s", f.srv.URL)})
		_, err := f.signIn(t.Context(), open(f))
		if r := refusal(t, err, "sso_required"); r.Help != strings.ReplaceAll(want, "%s", f.srv.URL) {
			t.Errorf("%s: help %q", given, r.Help)
		}
	}
	t.Run("left out", func(t *testing.T) {
		f := newFake(t)
		f.override["/api/v3/user/orgs"] = status(200, `[]`, map[string]string{"X-GitHub-SSO": "partial-results; organizations=1,2"})
		_, err := f.signIn(t.Context(), open(f))
		refusal(t, err, "sso_required")
	})
	t.Run("another one left out", func(t *testing.T) {
		f := newFake(t)
		f.override["/api/v3/user/orgs"] = status(200, `[{"id":1,"login":"acme"}]`, map[string]string{"X-GitHub-SSO": "partial-results; organizations=2"})
		if _, err := f.signIn(t.Context(), open(f)); err != nil {
			t.Error(err)
		}
	})
}

func TestGarbageLists(t *testing.T) {
	for _, path := range []string{"/user/emails", "/user/orgs", "/user/memberships/orgs", "/user/teams"} {
		for _, body := range []string{"<html>", "null", "{}", `[{"id":"x","slug":1,"state":2,"email":3}]`, ""} {
			f := newFake(t)
			f.override["/api/v3"+path] = status(200, body, nil)
			_, err := f.signIn(t.Context(), f.open(f.config(Organization{Name: "acme"})))
			if !errors.Is(err, errShape) || errors.Is(err, connectors.ErrNotAllowed) {
				t.Errorf("%s %q: %v", path, body, err)
			}
		}
	}
}

// renewable signs in and returns what the broker gives back to Renew.
func renewable(t *testing.T, f *fake, c *Connector) connectors.Identity {
	t.Helper()
	id, err := f.signIn(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return connectors.Identity{Connector: id.Connector, Subject: id.Subject, Renewal: id.Renewal}
}

func TestRenewKept(t *testing.T) {
	f := newFake(t)
	c := f.open(f.config(Organization{Name: "acme"}))
	id := renewable(t, f, c)
	f.set(func() { f.teams = f.teams[1:]; f.user["login"] = "hubot" })
	fresh, err := c.Renew(t.Context(), id)
	if err != nil || fresh.Subject != id.Subject || fresh.Username != "hubot" || !slices.Equal(fresh.Groups, []string{"acme", "acme/ops"}) {
		t.Fatalf("%+v, %v", fresh, err)
	}
	if !slices.Equal(fresh.Renewal, id.Renewal) || fresh.Claims["login"] != "hubot" || len(f.revokedTokens()) != 0 {
		t.Errorf("renewal %q, claims %v", fresh.Renewal, fresh.Claims)
	}
}

func TestRenewRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*fake)
		code   string
	}{
		"left":           {func(f *fake) { f.orgs, f.states, f.teams = nil, nil, nil }, "not_member"},
		"scope withdrew": {func(f *fake) { f.scope = "user" }, "scope_missing"},
		"token revoked":  {func(f *fake) { f.revoked = []string{testToken} }, ""},
		"suspended":      {func(f *fake) { f.override["/api/v3/user"] = status(403, `{"message":"suspended"}`, nil) }, ""},
		"somebody else":  {func(f *fake) { f.user["id"] = 7 }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			c := f.open(f.config(Organization{Name: "acme"}))
			id := renewable(t, f, c)
			f.set(func() { tc.change(f) })
			_, err := c.Renew(t.Context(), id)
			if tc.code != "" {
				refusal(t, err, tc.code)
			}
			if !errors.Is(err, connectors.ErrNotAllowed) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("nothing to renew with", func(t *testing.T) {
		f := newFake(t)
		c := f.open(f.config(Organization{Name: "acme"}))
		for _, renewal := range []string{"", "1", "{}", `{"token":"a b"}`} {
			if _, err := c.Renew(t.Context(), connectors.Identity{Subject: "583231", Renewal: []byte(renewal)}); !errors.Is(err, connectors.ErrNotAllowed) {
				t.Errorf("%q: %v", renewal, err)
			}
		}
		if len(f.calls) != 0 {
			t.Errorf("called %v", f.calls)
		}
	})
}

func TestRenewUnavailable(t *testing.T) {
	for name, answer := range map[string]any{
		"500":     status(500, "", nil),
		"limit":   status(403, `{"message":"x"}`, map[string]string{"X-RateLimit-Remaining": "0"}),
		"garbage": "<html>",
		"404":     status(404, `{"message":"Not Found"}`, nil),
	} {
		for _, path := range []string{"/user", "/user/teams"} {
			f := newFake(t)
			c := f.open(f.config(Organization{Name: "acme"}))
			id := renewable(t, f, c)
			f.set(func() { f.override["/api/v3"+path] = answer })
			if _, err := c.Renew(t.Context(), id); !errors.Is(err, connectors.ErrUnavailable) || errors.Is(err, connectors.ErrNotAllowed) {
				t.Errorf("%s at %s: %v", name, path, err)
			}
		}
	}
	f := newFake(t)
	c := f.open(f.config(Organization{Name: "acme"}))
	id := renewable(t, f, c)
	f.srv.Close()
	if _, err := c.Renew(t.Context(), id); !errors.Is(err, connectors.ErrUnavailable) || errors.Is(err, connectors.ErrNotAllowed) {
		t.Errorf("closed: %v", err)
	}
}

// The identity that a session keeps never prints the token by accident of its
// groups or claims.
func TestTokenIsInRenewalAlone(t *testing.T) {
	f := newFake(t)
	id, err := f.signIn(t.Context(), f.open(f.config(Organization{Name: "acme"})))
	if err != nil {
		t.Fatal(err)
	}
	id.Renewal = nil
	if b, err := json.Marshal(id); err != nil || strings.Contains(string(b), testToken) {
		t.Errorf("%s %v", b, err)
	}
}
