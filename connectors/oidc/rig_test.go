package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

const attemptID = "AAAAAAAAAAAAAAAAAAAAAAAAA2"

func attempt() connectors.Attempt {
	return connectors.Attempt{ID: attemptID, CallbackURL: "https://id.example.com/auth/test/callback"}
}

// clock is a clock that a test moves.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// open makes a connector of the provider.
func open(t testing.TB, op *connectortest.OP, c *clock, change func(*Config)) *Connector {
	t.Helper()
	cfg := Config{Issuer: op.URL, ClientID: op.ClientID, ClientSecret: redact.String(op.ClientSecret)}
	if change != nil {
		change(&cfg)
	}
	if c == nil {
		c = &clock{}
	}
	env := connectors.Env{ID: "test", Now: c.now, HTTP: func(string, string, ...string) (*http.Client, error) {
		return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}, nil
	}}
	conn, err := New(env, cfg, Flavour{})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// signIn goes to the provider and comes back.
func signIn(t testing.TB, c *Connector, op *connectortest.OP, person map[string]any, change ...func(url.Values)) (connectors.Identity, error) {
	t.Helper()
	d, err := c.Begin(t.Context(), attempt())
	if err != nil {
		return connectors.Identity{}, err
	}
	v := op.Approve(d.URL, person)
	for _, f := range change {
		f(v)
	}
	return c.Finish(t.Context(), attempt(), d.Secret, connectors.Return{Method: http.MethodGet, Params: v})
}

func must(t testing.TB, id connectors.Identity, err error) connectors.Identity {
	t.Helper()
	if err != nil {
		t.Fatalf("nobody gets in: %v", err)
	}
	return id
}

func status(code int, body string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
		return true
	}
}

func slow(_ http.ResponseWriter, r *http.Request) bool {
	_ = r.ParseForm()
	<-r.Context().Done()
	return true
}

func TestSuite(t *testing.T) {
	op := connectortest.NewOP(t)
	everywhere := func(name string, unavailable bool, f func(http.ResponseWriter, *http.Request) bool) connectortest.Trouble {
		return connectortest.Trouble{Name: name, Unavailable: unavailable, End: op.Behave,
			Begin: func() {
				op.Set(func() { op.Override["/token"], op.Override["/userinfo"] = f, f })
			}}
	}
	connectortest.Redirect{
		Connector: open(t, op, nil, nil),
		Upstream: func(d connectors.Departure) connectors.Return {
			return connectors.Return{Method: http.MethodGet, Params: op.Approve(d.URL, connectortest.Person("p1"))}
		},
		Troubles: []connectortest.Trouble{
			everywhere("down", true, func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }),
			everywhere("502", true, status(http.StatusBadGateway, "<html>")),
			everywhere("slow", true, slow),
			everywhere("huge", false, status(http.StatusOK, `{"access_token":"a","token_type":"bearer","id_token":"`+strings.Repeat("a", 2<<20)+`"}`)),
			everywhere("nonsense", false, status(http.StatusOK, "<html>")),
		},
	}.Run(t)
}

// A provider that is down when we start, or when somebody comes, is asked again
// at the next need; a crowd asks once.
func TestDiscoveryIsLazyAndRetried(t *testing.T) {
	op, now := connectortest.NewOP(t), &clock{}
	op.Set(func() { op.Override["/.well-known/openid-configuration"] = status(http.StatusServiceUnavailable, "") })
	c := open(t, op, now, nil)
	if n := op.Calls("/.well-known/openid-configuration"); n != 0 {
		t.Fatalf("opening asked %d times", n)
	}
	for range 2 {
		if _, err := c.Begin(t.Context(), attempt()); !errors.Is(err, connectors.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
	}
	if n := op.Calls("/.well-known/openid-configuration"); n != 1 {
		t.Errorf("asked %d times at once, want 1", n)
	}
	op.Behave()
	now.move(retryAfter)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := c.Begin(t.Context(), attempt()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := op.Calls("/.well-known/openid-configuration"); n != 2 {
		t.Errorf("a crowd asked %d times, want once", n-1)
	}
	// Old, and the provider away: the last document is used, for a day.
	op.Set(func() { op.Override["/.well-known/openid-configuration"] = status(http.StatusServiceUnavailable, "") })
	now.move(metadataFresh)
	if _, err := c.Begin(t.Context(), attempt()); err != nil {
		t.Errorf("an old document is not used: %v", err)
	}
	now.move(metadataStale)
	if _, err := c.Begin(t.Context(), attempt()); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("a very old document: %v", err)
	}
}

// A visitor who goes away while discovery is asked spoils it for nobody.
func TestDiscoveryOfAVisitorWhoLeft(t *testing.T) {
	op := connectortest.NewOP(t)
	op.Set(func() { op.Override["/.well-known/openid-configuration"] = slow })
	c := open(t, op, nil, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Begin(ctx, attempt()); err == nil {
		t.Fatal("departed without discovery")
	}
	op.Behave()
	if _, err := c.Begin(t.Context(), attempt()); err != nil {
		t.Errorf("the next visitor: %v", err)
	}
}

func TestDiscoveryIsNotBelieved(t *testing.T) {
	for name, change := range map[string]func(m map[string]any){
		"another issuer":      func(m map[string]any) { m["issuer"] = "https://evil.example" },
		"issuer with a slash": func(m map[string]any) { m["issuer"] = m["issuer"].(string) + "/" },
		"no issuer":           func(m map[string]any) { m["issuer"] = "" },
		"no authorize":        func(m map[string]any) { delete(m, "authorization_endpoint") },
		"no token":            func(m map[string]any) { delete(m, "token_endpoint") },
		"no keys":             func(m map[string]any) { delete(m, "jwks_uri") },
		"javascript":          func(m map[string]any) { m["authorization_endpoint"] = "javascript:alert(1)" },
		"file":                func(m map[string]any) { m["jwks_uri"] = "file:///etc/passwd" },
		"with a password":     func(m map[string]any) { m["token_endpoint"] = "https://a:b@idp.example/token" },
		"wrong kind":          func(m map[string]any) { m["token_endpoint"] = 7 },
	} {
		t.Run(name, func(t *testing.T) {
			op := connectortest.NewOP(t)
			op.Set(func() { op.Metadata = change })
			if d, err := open(t, op, nil, nil).Begin(t.Context(), attempt()); err == nil {
				t.Errorf("departure to %s", d.URL)
			}
		})
	}
	t.Run("http behind https", func(t *testing.T) {
		op := connectortest.NewOP(t)
		srv := httptest.NewTLSServer(nil)
		defer srv.Close()
		srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(map[string]any{"issuer": srv.URL, "authorization_endpoint": srv.URL + "/a", "token_endpoint": op.URL + "/token", "jwks_uri": srv.URL + "/jwks"})
		})
		c := open(t, op, nil, func(c *Config) { c.Issuer = srv.URL })
		c.client = srv.Client()
		if _, err := c.Begin(t.Context(), attempt()); err == nil || !strings.Contains(err.Error(), "https") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("huge", func(t *testing.T) {
		op := connectortest.NewOP(t)
		op.Set(func() { op.Metadata = func(m map[string]any) { m["padding"] = strings.Repeat("x", maxMetadata) } })
		if _, err := open(t, op, nil, nil).Begin(t.Context(), attempt()); err == nil {
			t.Error("a huge document is read")
		}
	})
}

// With the three addresses that a sign-in needs written down, discovery is not
// asked; each by itself replaces what discovery says.
func TestEndpointsByHand(t *testing.T) {
	op := connectortest.NewOP(t)
	c := open(t, op, nil, func(c *Config) {
		c.AuthorizeURL, c.TokenURL, c.JWKSURL, c.UserInfoURL = op.URL+"/other", op.URL+"/token", op.URL+"/jwks", op.URL+"/userinfo"
	})
	d, err := c.Begin(t.Context(), attempt())
	if err != nil || !strings.HasPrefix(d.URL, op.URL+"/other?") {
		t.Fatalf("%s %v", d.URL, err)
	}
	id, err := signIn(t, c, op, connectortest.Person("p1"))
	if must(t, id, err); op.Calls("/.well-known/openid-configuration") != 0 {
		t.Error("discovery was asked")
	}
	one := open(t, op, nil, func(c *Config) { c.AuthorizeURL = op.URL + "/own" })
	if d, err = one.Begin(t.Context(), attempt()); err != nil || !strings.HasPrefix(d.URL, op.URL+"/own?") {
		t.Errorf("%s %v", d.URL, err)
	}
}

func TestDeparture(t *testing.T) {
	op := connectortest.NewOP(t)
	begin := func(c *Connector, a connectors.Attempt) url.Values {
		t.Helper()
		d, err := c.Begin(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(d.URL)
		if err != nil {
			t.Fatal(err)
		}
		return u.Query()
	}
	q := begin(open(t, op, nil, nil), attempt())
	if q.Get("scope") != "openid profile email groups offline_access" || q.Get("nonce") == "" || q.Get("client_id") != op.ClientID || q.Has("prompt") || q.Has("max_age") {
		t.Errorf("departure with %v", q)
	}
	a := attempt()
	a.LoginHint, a.ForceAuthn = "p1@example.org", true
	q = begin(open(t, op, nil, func(c *Config) { c.Scopes = []string{"email"}; c.Prompt = "consent" }), a)
	if q.Get("scope") != "openid email" && q.Get("scope") != "email openid" || q.Get("login_hint") != a.LoginHint || q.Get("prompt") != "consent login" || q.Get("max_age") != "0" {
		t.Errorf("forced departure with %v", q)
	}
	op.Set(func() { op.Metadata = func(m map[string]any) { delete(m, "scopes_supported") } })
	if q = begin(open(t, op, nil, nil), attempt()); q.Get("scope") != "openid profile email" {
		t.Errorf("without scopes_supported: %q", q.Get("scope"))
	}
}
