package gitlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

func attempt() connectors.Attempt {
	return connectors.Attempt{ID: "AAAAAAAAAAAAAAAAAAAAAAAAA2", CallbackURL: "https://id.example.com/auth/gitlab/callback"}
}

func open(t testing.TB, op *connectortest.OP, change func(*Config)) connectors.RedirectConnector {
	t.Helper()
	cfg := Config{ClientID: op.ClientID, ClientSecret: redact.String(op.ClientSecret), BaseURL: op.URL + "/"}
	if change != nil {
		change(&cfg)
	}
	c, err := Open(connectors.Env{ID: "gitlab", HTTP: func(string, string, ...string) (*http.Client, error) {
		return &http.Client{Transport: &http.Transport{}}, nil
	}}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c.(connectors.RedirectConnector)
}

// person is a GitLab account: the groups with those inherited are in userinfo
// alone.
func person(sub string, groups []any, pairs ...any) map[string]any {
	return connectortest.Person(sub, append([]any{"groups", nil, "sid", nil, "userinfo:groups", groups, "groups_direct", groups}, pairs...)...)
}

func signIn(t testing.TB, c connectors.RedirectConnector, op *connectortest.OP, who map[string]any) (connectors.Identity, error) {
	t.Helper()
	d, err := c.Begin(t.Context(), attempt())
	if err != nil {
		t.Fatal(err)
	}
	return c.Finish(t.Context(), attempt(), d.Secret, connectors.Return{Method: http.MethodGet, Params: op.Approve(d.URL, who)})
}

func TestSuite(t *testing.T) {
	op := connectortest.NewOP(t)
	trouble := func(name string, f func(http.ResponseWriter, *http.Request) bool) connectortest.Trouble {
		return connectortest.Trouble{Name: name, Unavailable: true, End: op.Behave, Begin: func() { op.Set(func() { op.Override["/userinfo"] = f }) }}
	}
	connectortest.Redirect{
		Connector: open(t, op, func(c *Config) { c.Groups = []string{"acme"} }),
		Upstream: func(d connectors.Departure) connectors.Return {
			return connectors.Return{Method: http.MethodGet, Params: op.Approve(d.URL, person("11", []any{"acme"}))}
		},
		Troubles: []connectortest.Trouble{
			trouble("down", func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }),
			trouble("503", func(w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}),
		},
	}.Run(t)
}

// Groups are compared by their whole path: a part of a name is no name
// (docs/security.md UP-6).
func TestGroups(t *testing.T) {
	op := connectortest.NewOP(t)
	all := []any{"acme", "acme/ml", "acme/ml/gpu", "acme/mlops", "acme-evil", "other"}
	for name, tc := range map[string]struct {
		allowed []string
		groups  []any
		want    []string // nil: refused
	}{
		"anybody":                {nil, all, []string{"acme", "acme-evil", "acme/ml", "acme/ml/gpu", "acme/mlops", "other"}},
		"anybody, no groups":     {nil, nil, []string{}},
		"the group":              {[]string{"acme/ml"}, all, []string{"acme/ml", "acme/ml/gpu"}},
		"another case":           {[]string{"Acme/ML"}, all, []string{"acme/ml", "acme/ml/gpu"}},
		"two":                    {[]string{"acme/ml", "other"}, all, []string{"acme/ml", "acme/ml/gpu", "other"}},
		"none of them":           {[]string{"else"}, all, nil},
		"a prefix":               {[]string{"acme"}, []any{"acme-evil", "acmex"}, nil},
		"longer":                 {[]string{"acme/ml"}, []any{"acme/mlops"}, nil},
		"elsewhere":              {[]string{"ml"}, []any{"acme/ml", "evil/ml"}, nil},
		"a subgroup alone":       {[]string{"acme"}, []any{"acme/ml"}, nil},
		"the parent alone":       {[]string{"acme/ml"}, []any{"acme"}, nil},
		"no groups":              {[]string{"acme"}, nil, nil},
		"groups in the ID token": {[]string{"acme"}, []any{}, nil},
	} {
		c := open(t, op, func(c *Config) { c.Groups = tc.allowed })
		who := person("11", tc.groups)
		if name == "groups in the ID token" {
			who["groups"], who["userinfo:groups"] = []any{"acme"}, []any{}
		}
		id, err := signIn(t, c, op, who)
		if (err == nil) != (tc.want != nil) || err == nil && !reflect.DeepEqual(id.Groups, tc.want) {
			t.Errorf("%s: %v %v, want %v", name, id.Groups, err, tc.want)
		}
		if r, ok := errors.AsType[*connectors.Refusal](err); tc.want == nil && (!ok || r.Code != "not_member") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, groups := range map[string]any{"a text": "acme", "objects": []any{map[string]any{"full_path": "acme"}}, "a bad path": []any{"acme//ml"}, "control": []any{"acme\n"}} {
		who := person("11", nil)
		who["userinfo:groups"] = groups
		if id, err := signIn(t, open(t, op, func(c *Config) { c.Groups = []string{"acme"} }), op, who); err == nil {
			t.Errorf("%s: %+v", name, id)
		}
	}
}

// api answers as GitLab's REST API.
func api(op *connectortest.OP, user map[string]any, groups []map[string]any) {
	op.Set(func() {
		op.Override["/api/v4/user"] = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer at-") {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			_ = json.NewEncoder(w).Encode(user)
			return true
		}
		op.Override["/api/v4/groups"] = func(w http.ResponseWriter, r *http.Request) bool {
			page, per := 0, 0
			_, _ = fmt.Sscan(r.URL.Query().Get("page"), &page)
			_, _ = fmt.Sscan(r.URL.Query().Get("per_page"), &per)
			from := min((page-1)*per, len(groups))
			out := groups[from:min(from+per, len(groups))]
			if out == nil {
				out = []map[string]any{}
			}
			_ = json.NewEncoder(w).Encode(out)
			return true
		}
	})
}

// With its number, a group that took over the path of another does not count;
// the list of numbers is read to its end.
func TestGroupIDs(t *testing.T) {
	op := connectortest.NewOP(t)
	user := map[string]any{"id": 11, "state": "active", "confirmed_at": "2020-01-01T00:00:00Z"}
	var many []map[string]any
	for i := range 250 {
		many = slices.Concat(many, []map[string]any{{"id": 1000 + i, "full_path": fmt.Sprintf("g%d", i)}})
	}
	c := open(t, op, func(c *Config) { c.Groups, c.GroupIDs = []string{"acme/ml", "plain"}, map[string]int64{"acme/ml": 42} })
	d, err := c.Begin(t.Context(), attempt())
	if err != nil || !strings.Contains(d.URL, "read_api") {
		t.Errorf("departure to %s, %v", d.URL, err)
	}
	for name, tc := range map[string]struct {
		list []map[string]any
		ok   bool
	}{
		"the group": {slices.Concat(many, []map[string]any{{"id": 42, "full_path": "acme/ml"}}), true}, "another of that path": {slices.Concat(many, []map[string]any{{"id": 43, "full_path": "acme/ml"}}), false},
		"not listed": {many, false}, "the number elsewhere": {slices.Concat(many, []map[string]any{{"id": 42, "full_path": "evil/ml"}}), false},
	} {
		api(op, user, tc.list)
		id, err := signIn(t, c, op, person("11", []any{"acme/ml"}))
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v %v", name, id.Groups, err)
		}
	}
	api(op, user, many)
	if id, err := signIn(t, c, op, person("11", []any{"plain"})); err != nil || !reflect.DeepEqual(id.Groups, []string{"plain"}) {
		t.Errorf("a group without a number: %v %v", id.Groups, err)
	}
	op.Set(func() {
		op.Override["/api/v4/groups"] = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusForbidden); return true }
	})
	if id, err := signIn(t, c, op, person("11", []any{"acme/ml", "plain"})); err == nil {
		t.Errorf("without the numbers: %+v", id)
	}
}

// An address that GitLab has not had confirmed, an account that is not active.
func TestConfirmed(t *testing.T) {
	op := connectortest.NewOP(t)
	for _, said := range []any{false, nil, "true"} {
		_, err := signIn(t, open(t, op, nil), op, person("13", nil, "email_verified", said))
		if r, ok := errors.AsType[*connectors.Refusal](err); !ok || r.Code != "email_unconfirmed" {
			t.Errorf("email_verified %v: %v", said, err)
		}
	}
	c := open(t, op, func(c *Config) { c.Scopes = []string{"openid", "email", "read_user"} })
	for name, tc := range map[string]struct {
		user map[string]any
		ok   bool
	}{
		"good": {map[string]any{"id": 11, "state": "active", "confirmed_at": "2020-01-01T00:00:00Z"}, true}, "not confirmed": {map[string]any{"id": 11, "state": "active", "confirmed_at": nil}, false},
		"blocked": {map[string]any{"id": 11, "state": "blocked", "confirmed_at": "2020-01-01T00:00:00Z"}, false}, "another": {map[string]any{"id": 12, "state": "active", "confirmed_at": "2020-01-01T00:00:00Z"}, false},
		"nobody": {map[string]any{}, false},
	} {
		api(op, tc.user, nil)
		if id, err := signIn(t, c, op, person("11", nil)); (err == nil) != tc.ok {
			t.Errorf("%s: %+v %v", name, id, err)
		}
	}
}

// A CI job's token has the same issuer and the same keys.
func TestCIJobToken(t *testing.T) {
	op := connectortest.NewOP(t)
	op.Set(func() { op.Claims = func(c map[string]any) { c["job_id"], c["project_id"] = "7", "8" } })
	if id, err := signIn(t, open(t, op, nil), op, person("11", nil)); !errors.Is(err, connectors.ErrNotAllowed) {
		t.Errorf("%+v %v", id, err)
	}
}

// Who left the group is out at the next renewal; who is in another follows.
func TestRenew(t *testing.T) {
	op := connectortest.NewOP(t)
	op.Rotate = true
	c := open(t, op, func(c *Config) { c.Groups = []string{"acme"} })
	id, err := signIn(t, c, op, person("11", []any{"acme"}))
	if err != nil {
		t.Fatal(err)
	}
	renew := func() error {
		fresh, err := c.(connectors.Renewer).Renew(t.Context(), connectors.Identity{Connector: "gitlab", Subject: "11", Renewal: id.Renewal})
		if fresh.Renewal != nil {
			id = fresh
		}
		return err
	}
	op.Change("11", func(p map[string]any) { p["userinfo:groups"] = []any{"acme", "acme/ml"} })
	if err := renew(); err != nil || !reflect.DeepEqual(id.Groups, []string{"acme", "acme/ml"}) {
		t.Errorf("renewed groups %v, %v", id.Groups, err)
	}
	op.Change("11", func(p map[string]any) { p["userinfo:groups"] = []any{"acme/ml"} })
	if err := renew(); !errors.Is(err, connectors.ErrNotAllowed) {
		t.Errorf("who left the group: %v", err)
	}
}

func TestProblems(t *testing.T) {
	good := Config{ClientID: "a", ClientSecret: "b", BaseURL: "https://example.com/gitlab/", Groups: []string{"acme/ml", "acme"}, GroupIDs: map[string]int64{"acme": 7}}
	if ps := good.Problems(); len(ps) != 0 {
		t.Fatalf("a good section: %v", ps)
	}
	for name, tc := range map[string]struct {
		change func(*Config)
		field  string
	}{
		"no client": {func(c *Config) { c.ClientID = "" }, "ClientID"}, "no secret": {func(c *Config) { c.ClientSecret = "" }, "ClientSecret"},
		"the API": {func(c *Config) { c.BaseURL = "https://gitlab.com/api/v4" }, "BaseURL"}, "no address": {func(c *Config) { c.BaseURL = "gitlab.com" }, "BaseURL"},
		"a URL": {func(c *Config) { c.Groups = []string{"https://gitlab.com/acme"} }, "Groups[0]"}, "a star": {func(c *Config) { c.Groups = []string{"acme/*"} }, "Groups[0]"},
		"a slash": {func(c *Config) { c.Groups = []string{"/acme"} }, "Groups[0]"}, "twice": {func(c *Config) { c.Groups = []string{"acme", "Acme"} }, "Groups[1]"},
		"number of none": {func(c *Config) { c.GroupIDs = map[string]int64{"x": 1} }, "GroupIDs[x]"}, "number 0": {func(c *Config) { c.GroupIDs = map[string]int64{"acme": 0} }, "GroupIDs[acme]"},
	} {
		cfg := good
		tc.change(&cfg)
		if ps := cfg.Problems(); len(ps) == 0 || ps[0].Field != tc.field {
			t.Errorf("%s: %v", name, ps)
		}
	}
}

// A GitLab below a path keeps it, in its issuer and its API.
func TestBaseURLWithAPath(t *testing.T) {
	op := connectortest.NewOP(t)
	op.Set(func() {
		op.Override["/gitlab/.well-known/openid-configuration"] = func(w http.ResponseWriter, _ *http.Request) bool {
			_ = json.NewEncoder(w).Encode(map[string]any{"issuer": op.URL + "/gitlab", "authorization_endpoint": op.URL + "/gitlab/oauth/authorize", "token_endpoint": op.URL + "/token", "jwks_uri": op.URL + "/jwks", "userinfo_endpoint": op.URL + "/userinfo"})
			return true
		}
		op.Claims = func(c map[string]any) { c["iss"] = op.URL + "/gitlab" }
	})
	id, err := signIn(t, open(t, op, func(c *Config) { c.BaseURL = op.URL + "/gitlab" }), op, person("11", []any{"acme"}))
	if err != nil || id.Subject != "11" {
		t.Errorf("%+v %v", id, err)
	}
}
