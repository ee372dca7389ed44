package portal

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/broker/session"
)

func serves(context.Context, *caller, *http.Request) (any, error) { return nil, nil }

// AD-1: a handler without an entry in the permission table does not start.
func TestEveryEndpointHasAPermission(t *testing.T) {
	ok := permission{self: true, scopes: []string{ScopeAccount}}
	for name, c := range map[string]struct {
		table []endpoint
		want  string
	}{
		"no entry":       {[]endpoint{{method: "GET", path: "/x", serve: serves}}, "no entry"},
		"two kinds":      {[]endpoint{{method: "GET", path: "/x", needs: permission{public: true, self: true, scopes: []string{"s"}}, serve: serves}}, "no entry"},
		"roles and self": {[]endpoint{{method: "GET", path: "/x", needs: permission{roles: []Role{RoleAdmin}, self: true, scopes: []string{"s"}}, serve: serves}}, "no entry"},
		"without scope":  {[]endpoint{{method: "GET", path: "/x", needs: permission{roles: []Role{RoleAdmin}}, serve: serves}}, "no entry"},
		"twice":          {[]endpoint{{method: "GET", path: "/x", needs: ok, serve: serves}, {method: "GET", path: "/x", needs: ok, serve: serves}}, "twice"},
		"no handler":     {[]endpoint{{method: "GET", path: "/x", needs: ok}}, "no handler"},
		"odd method":     {[]endpoint{{method: "TRACE", path: "/x", needs: ok, serve: serves}}, "odd method"},
	} {
		if _, err := (&Portal{}).api(c.table, false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What changes something is not reached by GET, needs a role or is one's own.
func TestEndpointsByMethod(t *testing.T) {
	for _, e := range (&Portal{}).endpoints() {
		if !e.needs.set() {
			t.Errorf("%s %s has no permission", e.method, e.path)
		}
		if e.needs.public && e.method != http.MethodGet {
			t.Errorf("%s %s changes something for anybody", e.method, e.path)
		}
		if len(e.needs.roles) > 0 && e.needs.fresh == 0 {
			t.Errorf("%s %s takes a sign-in of any age (AD-2)", e.method, e.path)
		}
		if e.method == http.MethodGet && e.body != nil {
			t.Errorf("GET %s takes a body", e.path)
		}
		if e.method != http.MethodGet && slices.Contains(e.needs.roles, RoleAuditor) && e.path != "/access/check" && e.path != "/trust/explain" { // these ask, and change nothing
			t.Errorf("an auditor changes something by %s %s", e.method, e.path)
		}
	}
}

func TestRoles(t *testing.T) {
	r := Roles{Admin: []string{"local:root", "group:platform-admins", "email:boss@acme.example"}, Auditor: []string{"group:acme:audit"}, Support: []string{"group:"}}
	s := func(connector, user string, kind session.Kind, groups ...string) session.Session {
		return session.Session{Connector: connector, Username: user, Kind: kind, Groups: groups}
	}
	for name, c := range map[string]struct {
		s     session.Session
		email string
		want  []Role
	}{
		"by name":                         {s("local", "root", session.Browser), "", []Role{RoleAdmin}},
		"offline":                         {s("local", "root", session.Offline), "", []Role{RoleAdmin}},
		"a device token carries none":     {s("local", "root", session.Device), "", nil},
		"the name at another connector":   {s("acme", "root", session.Browser), "", nil},
		"a user called local:root":        {s("acme", "local:root", session.Browser), "", nil},
		"another case":                    {s("local", "Root", session.Browser), "", nil},
		"by group":                        {s("acme", "x", session.Browser, "platform-admins"), "", []Role{RoleAdmin}},
		"a connector's group of the name": {s("acme", "x", session.Browser, "acme:platform-admins"), "", nil},
		"a connector's group":             {s("acme", "x", session.Browser, "acme:audit"), "", []Role{RoleAuditor}},
		"an empty group":                  {s("acme", "x", session.Browser, ""), "", nil},
		"by address":                      {s("acme", "x", session.Browser), "Boss@ACME.example", []Role{RoleAdmin}},
		"an address not proved":           {s("acme", "boss@acme.example", session.Browser), "", nil},
		"a look-alike":                    {s("acme", "x", session.Browser), "bo\u017fs@acme.example", nil},
		"two addresses":                   {s("acme", "x", session.Browser), "boss@acme.example@evil.example", nil},
		"nobody":                          {s("", "", session.Browser), "", nil},
	} {
		if got := r.Of(c.s, c.email); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got := r.EmailDomains(); !slices.Equal(got, []string{"acme.example"}) {
		t.Errorf("domains %v", got)
	}
	bad := Roles{Admin: []string{"admin", "group:", "user:x", "email:x", "email:a@b@c.example"}}
	var rules []string
	for _, p := range bad.Problems() {
		rules = append(rules, p.Field+" "+p.Rule)
	}
	if want := "Admin[0] roles.entry,Admin[1] roles.entry,Admin[2] roles.entry,Admin[3] roles.email,Admin[4] roles.email"; strings.Join(rules, ",") != want {
		t.Errorf("problems %v", rules)
	}
	if ps := (Roles{Admin: []string{"local:a", "group:acme:x", "email:a@b.example"}}).Problems(); len(ps) != 0 {
		t.Errorf("problems %v", ps)
	}
}
