package policy

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCompileRefuses(t *testing.T) {
	for _, c := range []struct {
		place Place
		src   string
		says  string
	}{
		{AtRoute, "", "empty"},
		{AtRoute, "   ", "empty"},
		{AtRoute, "1 +", "Syntax error"},
		{AtRoute, "1 + 1", "not to true or false"},
		{AtRoute, `"a"`, "not to true or false"},
		{AtRoute, "lease.owner == user.id", "undeclared reference"}, // only on lease routes
		{AtRoute, "identity.groups.size() > 0", `identity has no "groups" here`},
		{AtRoute, "nobody.id == 'x'", "undeclared reference"},
		{AtConnector, "user.id == 'x'", "undeclared reference"},
		{AtConnector, "identity.grops.size() > 0", `identity has no "grops"`},
		{AtConnector, `identity["grops"] == 1`, `identity has no "grops"`},
		{AtExchange, "request.path == '/'", `request has no "path" here`},
		{AtExchange, "target.scope.size() == 0", `target has no "scope" here`},
		{AtExchange, "route.name == 'x'", "undeclared reference"},
		{AtRoute, "target.audience == 'x'", "undeclared reference"},
		{AtClaims, "request.ip == 'x'", "undeclared reference"},
		{Place("elsewhere"), "true", "no place"},
		{AtRoute, strings.Repeat("(", 5000), "longer"},
	} {
		if _, err := Compile(c.place, Bool, c.src); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("Compile(%s, %q): %v; want an error with %q", c.place, c.src, err, c.says)
		}
	}
}

func TestDecide(t *testing.T) {
	in := Input{
		User: &User{ID: "u1", Groups: []string{"gpu-users"}}, Session: &Session{Kind: "browser", Scope: []string{}, AuthTime: time.Now(), Age: time.Minute},
		Request: &Request{Method: "GET", Path: "/x", Host: "api", Time: time.Now()}, Route: &Route{Name: "api"}, Lease: &Lease{ID: "l", Users: []string{"u1"}},
		Identity: &Identity{Connector: "local"},
	}
	for src, want := range map[string]bool{
		`"gpu-users" in user.groups || "deployments:write" in session.scope`: true,
		`"admins" in user.groups`:                     false,
		`user.id in lease.users`:                      true,
		`session.age < duration("5m")`:                true,
		`request.method == "POST"`:                    false,
		`identity.connector == "local"`:               true,
		`user.groups.exists(g, g.startsWith("gpu-"))`: true,
		`true`: true,
	} {
		e, err := Compile(AtLease, Bool, src)
		if err != nil {
			t.Errorf("Compile(%q): %v", src, err)
			continue
		}
		d, err := e.Decide(t.Context(), in)
		if err != nil || d.Allowed != want {
			t.Errorf("%q = %v, %v; want %v", src, d, err, want)
		}
	}
}

// AD-10: what is absent is unset and equals nothing; an evaluation error refuses.
func TestAbsentIsARefusal(t *testing.T) {
	for _, src := range []string{`lease.owner == user.id`, `lease.owner != "x"`, `user.email == ""`, `!(user.name == "x")`, `client.id == client.name`} {
		e, err := Compile(AtLease, Bool, src)
		if err != nil {
			t.Fatal(src, err)
		}
		for name, in := range map[string]Input{"empty parts": {User: &User{}, Lease: &Lease{}, Client: &Client{}}, "no parts": {}} {
			if d, err := e.Decide(t.Context(), in); err == nil || d.Allowed {
				t.Errorf("%q on %s: allowed=%v, err=%v; want an error", src, name, d.Allowed, err)
			}
		}
	}
}

func TestCostIsBounded(t *testing.T) {
	e, err := Compile(AtRoute, Bool, `user.groups.all(a, user.groups.all(b, user.groups.all(c, a != "x")))`)
	if err != nil {
		t.Fatal(err)
	}
	many := make([]string, 2000)
	if d, err := e.Decide(t.Context(), Input{User: &User{Groups: many}}); err == nil || d.Allowed {
		t.Fatalf("eight billion comparisons: %v, %v", d, err)
	}
}

// GW-13: a decision is kept only if neither the request nor the clock is in it,
// however the member is spelt. GW-4: nor may a rule judge an ambiguous path.
func TestWhatARuleReads(t *testing.T) {
	for src, want := range map[string]struct{ request, path, keepable bool }{
		`user.id == "x"`: {false, false, true},
		`session.kind == "browser" && session.acr == ""`: {false, false, true},
		`has(session.acr) && session["kind"] == "x"`:     {false, false, true},
		`lease.owner == user.id`:                         {false, false, true},
		`request.ip == "x"`:                              {true, false, false},
		`request["ip"] == "x"`:                           {true, false, false},
		`.request.ip == "x"`:                             {true, false, false},
		`request.path == "/x"`:                           {true, true, false},
		`request["path"] == "/x"`:                        {true, true, false},
		`request["pa" + "th"] == "/x"`:                   {true, true, false},
		`.request.path == "/x"`:                          {true, true, false},
		`[request].all(r, r.path == "/x")`:               {true, true, false},
		`request.exists(k, k == "path")`:                 {true, true, false},
		`session.age < duration("5m")`:                   {false, false, false},
		`session["age"] < duration("5m")`:                {false, false, false},
		`session["a" + "ge"] < duration("5m")`:           {false, false, false},
		`.session.age < duration("5m")`:                  {false, false, false},
		`[session].all(s, s.age < duration("5m"))`:       {false, false, false},
		`user.groups.exists(g, session[g] == "x")`:       {false, false, false},
		`user == {"id": "x"} || session == {"id": "x"}`:  {false, false, false},
	} {
		e, err := Compile(AtLease, Bool, src)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		if e.ReadsRequest() != want.request || e.ReadsPath() != want.path || e.Keepable() != want.keepable {
			t.Errorf("%s: request %v, path %v, keepable %v", src, e.ReadsRequest(), e.ReadsPath(), e.Keepable())
		}
	}
}

// AD-10: a regular expression is RE2 over a bounded cost, and a wrong one is an
// error at the start where it is written out.
func TestMatchesIsBounded(t *testing.T) {
	if _, err := Compile(AtRoute, Bool, `request.path.matches("(")`); err == nil {
		t.Error("a pattern that does not compile is taken")
	}
	e, err := Compile(AtRoute, Bool, `request.path.matches("(a+)+(b+)+(c+)+(d+)+(e+)+(f+)+$")`)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := e.Decide(t.Context(), Input{Request: &Request{Path: strings.Repeat("abcdef", 1<<15)}}); err == nil || d.Allowed {
		t.Errorf("megabytes of input: %v, %v", d, err)
	}
	if d, err := e.Decide(t.Context(), Input{Request: &Request{Path: "/aabbccddeeff"}}); err != nil || !d.Allowed {
		t.Errorf("a path: %v, %v", d, err)
	}
}

// Each place has its own variables (docs/configuration.md); naming another is an
// error at the start.
func TestVariablesOfPlaces(t *testing.T) {
	sees := map[Place]string{AtConnector: "identity request", AtRoute: "user session client request route identity", AtLease: "user session client request route identity lease",
		AtClaims: "user session client", AtStorage: "user session client", AtMapping: "claims"}
	for place, names := range sees {
		for _, name := range []string{"user", "session", "client", "request", "route", "identity", "lease", "claims"} {
			_, err := Compile(place, Bool, "size("+name+") > 0")
			if want := slices.Contains(strings.Fields(names), name); (err == nil) != want {
				t.Errorf("%s sees %s: %v", place, name, err)
			}
		}
	}
}

// An upstream's claims have whatever members it sends; one that is not there is
// an error, and has() asks before.
func TestMappingValues(t *testing.T) {
	claims := map[string]any{"roles": []any{"a", "b"}, "n": 7.0, "https://acme.example/upn": "jdoe", "deep": map[string]any{"x": "y"}}
	for source, want := range map[string]any{
		"claims.roles": []any{"a", "b"}, `claims["https://acme.example/upn"]`: "jdoe", "claims.deep.x": "y", `has(claims.mail) ? claims.mail : ""`: "", "claims.roles.exists(r, r == 'b')": true,
		"claims.mail": nil,
	} {
		e, err := Compile(AtMapping, Any, source)
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		got, err := e.Value(t.Context(), Input{Claims: claims})
		if (err != nil) != (want == nil) || want != nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %#v, %v", source, got, err)
		}
	}
}

func TestClaimValues(t *testing.T) {
	e, err := Compile(AtClaims, Any, `{"tenant": user.attributes.tenant, "list": user.groups.map(g, g + "!")}`)
	if err != nil {
		t.Fatal(err)
	}
	v, err := e.Value(t.Context(), Input{User: &User{Groups: []string{"a"}, Attributes: map[string]any{"tenant": "acme"}}})
	m, ok := v.(map[string]any)
	if err != nil || !ok || m["tenant"] != "acme" || m["list"].([]any)[0] != "a!" {
		t.Fatalf("%#v, %v", v, err)
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(`"a" in user.groups`)
	f.Add(`lease.owner == user.id`)
	f.Fuzz(func(t *testing.T, src string) {
		if e, err := Compile(AtLease, Bool, src); err == nil {
			_, _ = e.Decide(t.Context(), Input{}) // must not panic or hang
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	e, err := Compile(AtRoute, Bool, `"gpu-users" in user.groups || "deployments:write" in session.scope`)
	if err != nil {
		b.Fatal(err)
	}
	in := Input{User: &User{ID: "u", Groups: []string{"a", "gpu-users"}}, Session: &Session{}}
	b.ReportAllocs()
	for b.Loop() {
		if d, err := e.Decide(b.Context(), in); err != nil || !d.Allowed {
			b.Fatal(d, err)
		}
	}
}
