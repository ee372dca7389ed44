package google

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

func attempt() connectors.Attempt {
	return connectors.Attempt{ID: "AAAAAAAAAAAAAAAAAAAAAAAAA2", CallbackURL: "https://id.example.com/auth/google/callback"}
}

func open(t testing.TB, op *connectortest.OP, change func(*Config)) connectors.RedirectConnector {
	t.Helper()
	cfg := Config{ClientID: op.ClientID, ClientSecret: redact.String(op.ClientSecret), Issuer: op.URL}
	if change != nil {
		change(&cfg)
	}
	c, err := Open(connectors.Env{ID: "google", HTTP: func(string, string, ...string) (*http.Client, error) {
		return &http.Client{Transport: &http.Transport{}}, nil
	}}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c.(connectors.RedirectConnector)
}

// person is a Google account; like Google's, its tokens have no groups.
func person(sub string, pairs ...any) map[string]any {
	return connectortest.Person(sub, append([]any{"groups", nil, "sid", nil, "preferred_username", nil, "email", sub + "@example.com"}, pairs...)...)
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
		return connectortest.Trouble{Name: name, Unavailable: true, End: op.Behave, Begin: func() { op.Set(func() { op.Override["/token"] = f }) }}
	}
	connectortest.Redirect{
		Connector: open(t, op, func(c *Config) { c.HostedDomains = []string{"example.com"} }),
		Upstream: func(d connectors.Departure) connectors.Return {
			return connectors.Return{Method: http.MethodGet, Params: op.Approve(d.URL, person("110", "hd", "example.com"))}
		},
		Troubles: []connectortest.Trouble{trouble("down", func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })},
	}.Run(t)
}

// Who is of which organization says the hd claim of the verified ID token: not
// the address, not the parameter, not userinfo (docs/security.md UP-6).
func TestHostedDomains(t *testing.T) {
	op := connectortest.NewOP(t)
	c := open(t, op, func(c *Config) { c.HostedDomains = []string{"Example.com", "acme.com"} })
	for name, tc := range map[string]struct {
		pairs []any
		ok    bool
	}{
		"alice": {[]any{"hd", "example.com"}, true}, "the other": {[]any{"hd", "acme.com", "email", "x@sub.acme.com"}, true},
		"a work address, no hd": {nil, false}, "another domain": {[]any{"hd", "other.example"}, false}, "empty": {[]any{"hd", ""}, false},
		"hd a list": {[]any{"hd", []any{"example.com"}}, false}, "below": {[]any{"hd", "x.example.com"}, false}, "longer": {[]any{"hd", "example.com.evil"}, false},
		"in userinfo alone": {[]any{"userinfo:hd", "example.com"}, false}, "personal": {[]any{"email", "p@gmail.com"}, false},
	} {
		id, err := signIn(t, c, op, person("110", tc.pairs...))
		if (err == nil) != tc.ok {
			t.Errorf("%s: %+v %v", name, id, err)
		}
		if r, ok := errors.AsType[*connectors.Refusal](err); !tc.ok && (!ok || r.Code != "hosted_domain") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Google speaks for its own addresses and a Workspace's; any account can carry a
// foreign one.
func TestVerifiedAddress(t *testing.T) {
	op := connectortest.NewOP(t)
	c := open(t, op, nil)
	for name, tc := range map[string]struct {
		pairs []any
		want  bool
	}{
		"workspace": {[]any{"hd", "example.com"}, true}, "workspace, not verified": {[]any{"hd", "example.com", "email_verified", false}, false},
		"gmail": {[]any{"email", "p@gmail.com"}, true}, "gmail, not verified": {[]any{"email", "p@gmail.com", "email_verified", false}, false},
		"foreign": {nil, false}, "like gmail": {[]any{"email", "p@gmail.com.evil"}, false}, "below gmail": {[]any{"email", "p@x.gmail.com"}, false},
	} {
		id, err := signIn(t, c, op, person("110", tc.pairs...))
		if err != nil || id.EmailVerified != tc.want {
			t.Errorf("%s: verified %v, %v", name, id.EmailVerified, err)
		}
	}
}

func TestDeparture(t *testing.T) {
	op := connectortest.NewOP(t)
	for name, tc := range map[string]struct {
		change func(*Config)
		force  bool
		want   url.Values
	}{
		"anybody":       {nil, false, url.Values{"prompt": {"select_account"}, "access_type": {"offline"}, "hd": nil}},
		"one Workspace": {func(c *Config) { c.HostedDomains = []string{"acme.com"} }, false, url.Values{"prompt": {"select_account consent"}, "hd": {"acme.com"}}},
		"two":           {func(c *Config) { c.HostedDomains = []string{"acme.com", "b.example"} }, false, url.Values{"hd": {"*"}}},
		"forced":        {nil, true, url.Values{"prompt": {"select_account"}, "max_age": nil}},
		"own prompt":    {func(c *Config) { c.Prompt = "consent" }, false, url.Values{"prompt": {"consent"}}},
		"the document's scopes": {func(c *Config) {
			c.Scopes = []string{"https://www.googleapis.com/auth/userinfo.email", "https://www.googleapis.com/auth/userinfo.profile"}
		}, false, url.Values{"scope": {"openid https://www.googleapis.com/auth/userinfo.email https://www.googleapis.com/auth/userinfo.profile"}}},
	} {
		op.Set(func() {
			op.Metadata = func(m map[string]any) { m["scopes_supported"] = []string{"openid", "email", "profile"} }
		})
		a := attempt()
		a.ForceAuthn = tc.force
		d, err := open(t, op, tc.change).Begin(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(d.URL)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range tc.want {
			if !slices.Equal(u.Query()[k], v) {
				t.Errorf("%s: %s is %q, want %q", name, k, u.Query()[k], v)
			}
		}
	}
}

// workspace is Google's Directory API with a service account.
type workspace struct {
	*httptest.Server
	mu     sync.Mutex
	groups map[string][]string // members' key to groups
	status int
	asked  []string
	subs   []string
}

func newWorkspace(t testing.TB) (*workspace, Directory) {
	t.Helper()
	w := &workspace{groups: map[string][]string{}}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(rw http.ResponseWriter, r *http.Request) {
		parts := strings.Split(r.FormValue("assertion"), ".")
		claims := map[string]any{}
		if len(parts) != 3 || json.Unmarshal(decode(parts[1]), &claims) != nil || claims["scope"] != directoryScope || r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
			http.Error(rw, "SECRET details", http.StatusBadRequest)
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.subs = append(w.subs, fmt.Sprint(claims["sub"]))
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprint(rw, `{"access_token":"sa-token","token_type":"Bearer","expires_in":3600}`)
	})
	mux.HandleFunc("GET /admin/directory/v1/groups", func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		user := r.URL.Query().Get("userKey")
		w.asked = append(w.asked, user)
		if w.status != 0 || r.Header.Get("Authorization") != "Bearer sa-token" {
			http.Error(rw, `{"error":{"message":"SECRET"}}`, max(w.status, 400))
			return
		}
		all := w.groups[user]
		n := 0
		fmt.Sscan(r.URL.Query().Get("pageToken"), &n)
		page := all[min(n, len(all)):min(n+2, len(all))]
		out := map[string]any{}
		var gs []map[string]string
		for _, g := range page {
			gs = append(gs, map[string]string{"email": g})
		}
		out["groups"] = gs
		if n+2 < len(all) {
			out["nextPageToken"] = fmt.Sprint(n + 2)
		}
		_ = json.NewEncoder(rw).Encode(out)
	})
	w.Server = httptest.NewServer(mux)
	t.Cleanup(w.Close)
	js, err := json.Marshal(map[string]string{"type": "service_account", "client_email": "sa@project.example", "private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "token_uri": w.URL + "/token"})
	if err != nil {
		t.Fatal(err)
	}
	return w, Directory{ServiceAccount: redact.String(js), Admins: map[string]string{"example.com": "admin@example.com"}, URL: w.URL}
}

// Groups are asked for by the account's number, in the Workspace's
// administrator's name, to the end of the list; an answer that is not whole lets
// nobody in.
func TestDirectoryGroups(t *testing.T) {
	op := connectortest.NewOP(t)
	w, dir := newWorkspace(t)
	w.groups["110"] = []string{"ml@example.com", "All@example.com", "ops@example.com"}
	w.groups["ml@example.com"] = []string{"research@example.com"}
	w.groups["research@example.com"] = []string{"ml@example.com", "top@example.com"} // a ring
	flat := open(t, op, func(c *Config) { c.Directory = dir })
	id, err := signIn(t, flat, op, person("110", "hd", "Example.com", "groups", []any{"forged"}))
	if err != nil || !reflect.DeepEqual(id.Groups, []string{"all@example.com", "ml@example.com", "ops@example.com"}) || !slices.Contains(w.subs, "admin@example.com") || w.asked[0] != "110" {
		t.Fatalf("groups %v, %v; asked %v as %v", id.Groups, err, w.asked, w.subs)
	}
	dir.Nested = true
	nested := open(t, op, func(c *Config) { c.Directory = dir })
	if id, err = signIn(t, nested, op, person("110", "hd", "example.com")); err != nil || len(id.Groups) != 5 || !slices.Contains(id.Groups, "top@example.com") {
		t.Errorf("nested groups %v, %v", id.Groups, err)
	}
	before := len(w.asked)
	for _, hd := range []any{nil, "other.example"} {
		if id, err = signIn(t, nested, op, person("110", "hd", hd)); err != nil || len(id.Groups) != 0 || len(w.asked) != before {
			t.Errorf("an account of %v: %v %v", hd, id.Groups, err)
		}
	}
	renewed, err := flat.(connectors.Renewer).Renew(t.Context(), connectors.Identity{Connector: "google", Subject: "110", Renewal: func() []byte {
		id, err := signIn(t, flat, op, person("110", "hd", "example.com"))
		if err != nil {
			t.Fatal(err)
		}
		w.groups["110"] = []string{"new@example.com"}
		return id.Renewal
	}()})
	if err != nil || !reflect.DeepEqual(renewed.Groups, []string{"new@example.com"}) {
		t.Errorf("renewed groups %v, %v", renewed.Groups, err)
	}
	for _, status := range []int{401, 403, 404, 500} {
		w.mu.Lock()
		w.status = status
		w.mu.Unlock()
		id, err := signIn(t, flat, op, person("110", "hd", "example.com"))
		if err == nil || errors.Is(err, connectors.ErrNotAllowed) || strings.Contains(err.Error(), "SECRET") || errors.Is(err, connectors.ErrUnavailable) != (status == 500) {
			t.Errorf("status %d: %+v %v", status, id, err)
		}
		// Our own account's trouble is no word about the person.
		if _, err := flat.(connectors.Renewer).Renew(t.Context(), connectors.Identity{Subject: "110", Renewal: renewed.Renewal}); !errors.Is(err, connectors.ErrUnavailable) || errors.Is(err, connectors.ErrNotAllowed) {
			t.Errorf("renewal with status %d: %v", status, err)
		}
	}
}

func TestDirectoryIsBounded(t *testing.T) {
	op := connectortest.NewOP(t)
	w, dir := newWorkspace(t)
	for i := range maxCalls + 10 { // a chain without end
		w.groups[fmt.Sprintf("g%d@example.com", i)] = []string{fmt.Sprintf("g%d@example.com", i+1)}
	}
	w.groups["110"] = []string{"g0@example.com"}
	dir.Nested = true
	if id, err := signIn(t, open(t, op, func(c *Config) { c.Directory = dir }), op, person("110", "hd", "example.com")); err == nil || len(w.asked) > maxCalls {
		t.Errorf("%d groups after %d questions, %v", len(id.Groups), len(w.asked), err)
	}
}

func TestProblems(t *testing.T) {
	_, dir := newWorkspace(t)
	good := Config{ClientID: "a", ClientSecret: "b", Directory: dir}
	if ps := good.Problems(); len(ps) != 0 {
		t.Fatalf("a good section: %v", ps)
	}
	for name, tc := range map[string]struct {
		change func(*Config)
		field  string
	}{
		"no client": {func(c *Config) { c.ClientID = "" }, "ClientID"}, "no secret": {func(c *Config) { c.ClientSecret = "" }, "ClientSecret"},
		"an address": {func(c *Config) { c.HostedDomains = []string{"a@acme.com"} }, "HostedDomains[0]"}, "a star": {func(c *Config) { c.HostedDomains = []string{"*"} }, "HostedDomains[0]"},
		"prompt": {func(c *Config) { c.Prompt = "none" }, "Prompt"}, "url": {func(c *Config) { c.TokenURL = "x" }, "TokenURL"},
		"no account": {func(c *Config) { c.Directory.ServiceAccount = "" }, "Directory.ServiceAccount"}, "not a key file": {func(c *Config) { c.Directory.ServiceAccount = "{}" }, "Directory.ServiceAccount"},
		"no admins": {func(c *Config) { c.Directory.Admins = nil }, "Directory.Admins"}, "bad admin": {func(c *Config) { c.Directory.Admins = map[string]string{"acme.com": "admin"} }, "Directory.Admins[acme.com]"},
	} {
		cfg := good
		tc.change(&cfg)
		if ps := cfg.Problems(); len(ps) == 0 || ps[0].Field != tc.field {
			t.Errorf("%s: %v", name, ps)
		}
	}
}

// The issuer with and without scheme are Google's two spellings; of anybody else
// there is one.
func TestIssuerWithoutScheme(t *testing.T) {
	op := connectortest.NewOP(t)
	c, err := Open(connectors.Env{ID: "google", HTTP: func(string, string, ...string) (*http.Client, error) {
		return &http.Client{Transport: &http.Transport{}}, nil
	}},
		Config{ClientID: op.ClientID, ClientSecret: redact.String(op.ClientSecret), AuthorizeURL: op.URL + "/authorize", TokenURL: op.URL + "/token", JWKSURL: op.URL + "/jwks"})
	if err != nil {
		t.Fatal(err)
	}
	for iss, ok := range map[string]bool{"https://accounts.google.com": true, "accounts.google.com": true, "http://accounts.google.com": false, "accounts.google.com.evil": false} {
		op.Set(func() { op.Claims = func(c map[string]any) { c["iss"] = iss } })
		if _, err := signIn(t, c.(connectors.RedirectConnector), op, person("110")); (err == nil) != ok {
			t.Errorf("%s: %v", iss, err)
		}
	}
}

func decode(s string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}

// The service account's token is asked for once while it is good, and check says
// when it is not to be had.
func TestDirectoryToken(t *testing.T) {
	op := connectortest.NewOP(t)
	w, dir := newWorkspace(t)
	c := open(t, op, func(c *Config) { c.Directory = dir })
	for range 3 {
		if _, err := signIn(t, c, op, person("110", "hd", "example.com")); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Check(t.Context()); err != nil || len(w.subs) != 1 {
		t.Errorf("check: %v; %d tokens", err, len(w.subs))
	}
	dir.Admins = map[string]string{"example.com": "admin@example.com"}
	w.Close()
	if err := open(t, op, func(c *Config) { c.Directory = dir }).Check(t.Context()); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("check without Google: %v", err)
	}
}
