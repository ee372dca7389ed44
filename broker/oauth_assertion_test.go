package broker_test

import (
	"crypto/rand"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

// signers starts a broker with clients that sign with op's key: one that lists
// it, one that has it at an address.
func signers(t *testing.T) (*harness, *connectortest.OP) {
	t.Helper()
	op := connectortest.NewOP(t)
	key, err := op.PublicJWK().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, `
clients:
  - client_id: listed
    jwks: {keys: [`+string(key)+`]}
    grant_types: [client_credentials]
    scope: jobs:run
  - client_id: https://fetched.example # names may be addresses
    jwks_uri: `+op.URL+`/jwks
    token_endpoint_auth_method: private_key_jwt
    grant_types: [client_credentials]
  - client_id: rsa
    jwks_uri: `+op.URL+`/jwks
    token_endpoint_auth_signing_alg: RS256
    grant_types: [client_credentials]
  - client_id: secret
    client_secret: secret-secret
    jwks: {keys: [`+string(key)+`]}
    token_endpoint_auth_method: client_secret_basic
    grant_types: [client_credentials]
  - client_id: plain
    client_secret: plain-secret
    grant_types: [client_credentials]
`), op
}

// assertion is a good one of a client; nil in kv takes a claim out.
func (h *harness) assertion(client string, kv ...any) map[string]any {
	now := h.now()
	c := map[string]any{"iss": client, "sub": client, "aud": h.URL, "jti": rand.Text(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	for i := 0; i+1 < len(kv); i += 2 {
		if c[kv[i].(string)] = kv[i+1]; kv[i+1] == nil {
			delete(c, kv[i].(string))
		}
	}
	return c
}

func (h *harness) asserts(path, raw string, kv ...string) answer {
	h.t.Helper()
	return h.raw("POST", path, with(url.Values{"grant_type": {"client_credentials"}, "token": {"x"}, "client_assertion": {raw}, "client_assertion_type": {clientAssertion}}, kv...).Encode())
}

// private_key_jwt (RFC 7523 section 3, docs/security.md ISS-10): everything that
// may differ, and each assertion once.
func TestClientAssertions(t *testing.T) {
	t.Parallel()
	h, op := signers(t)
	const fetched = "https://fetched.example"
	for name, raw := range map[string]string{
		"keys of the file":     op.Token("JWT", h.assertion("listed")),
		"keys at an address":   op.Token("JWT", h.assertion(fetched)),
		"for the endpoint":     op.Token("JWT", h.assertion("listed", "aud", h.URL+"/oauth2/token")),
		"without iat":          op.Token("JWT", h.assertion("listed", "iat", nil)),
		"five minutes":         op.Token("JWT", h.assertion("listed", "exp", h.now().Add(5*time.Minute).Unix())),
		"an exp in fractions":  op.Token("JWT", h.assertion("listed", "exp", float64(h.now().Add(time.Minute).Unix())+0.5)),
		"a clock that is slow": op.Token("JWT", h.assertion("listed", "exp", h.now().Add(-30*time.Second).Unix())),
	} {
		if a := h.asserts("/oauth2/token", raw); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.Body)
		}
		oauthError(t, h.asserts("/oauth2/token", raw), 401, "invalid_client") // again
	}
	if a := h.asserts("/oauth2/token", op.Token("JWT", h.assertion("listed")), "client_id", "listed", "scope", "jobs:run"); a.StatusCode != http.StatusOK || claims(t, a.json(t)["access_token"])["sub"] != "listed" {
		t.Errorf("with its client_id: %d %s", a.StatusCode, a.Body)
	}
	for _, path := range []string{"/oauth2/introspect", "/oauth2/revoke"} {
		if a := h.asserts(path, op.Token("JWT", h.assertion("listed"))); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.Body)
		}
	}
	good := op.Token("JWT", h.assertion("listed"))
	for name, raw := range map[string]string{
		"another iss":            op.Token("JWT", h.assertion("listed", "iss", fetched)),
		"another sub":            op.Token("JWT", h.assertion("listed", "sub", fetched)),
		"no sub":                 op.Token("JWT", h.assertion("listed", "sub", nil)),
		"unknown client":         op.Token("JWT", h.assertion("nobody")),
		"of a client of secrets": op.Token("JWT", h.assertion("plain")),
		"of basic, with keys":    op.Token("JWT", h.assertion("secret")),
		"another algorithm":      op.Token("JWT", h.assertion("rsa")),
		"another audience":       op.Token("JWT", h.assertion("listed", "aud", "https://other.example")),
		"a slash more":           op.Token("JWT", h.assertion("listed", "aud", h.URL+"/")),
		"a list":                 op.Token("JWT", h.assertion("listed", "aud", []string{h.URL})),
		"two audiences":          op.Token("JWT", h.assertion("listed", "aud", []string{h.URL, "https://other.example"})),
		"no audience":            op.Token("JWT", h.assertion("listed", "aud", nil)),
		"expired":                op.Token("JWT", h.assertion("listed", "exp", h.now().Add(-2*time.Minute).Unix())),
		"for an hour":            op.Token("JWT", h.assertion("listed", "exp", h.now().Add(time.Hour).Unix())),
		"for ever":               op.Token("JWT", h.assertion("listed", "exp", nil)),
		"exp is a text":          op.Token("JWT", h.assertion("listed", "exp", "soon")),
		"issued ahead":           op.Token("JWT", h.assertion("listed", "iat", h.now().Add(2*time.Minute).Unix())),
		"not before":             op.Token("JWT", h.assertion("listed", "nbf", h.now().Add(2*time.Minute).Unix())),
		"no jti":                 op.Token("JWT", h.assertion("listed", "jti", nil)),
		"a long jti":             op.Token("JWT", h.assertion("listed", "jti", strings.Repeat("x", 300))),
		"a stranger's key":       op.Foreign(map[string]any{"alg": "ES256", "kid": op.PublicJWK().KeyID}, h.assertion("listed")),
		"another kid":            op.Own(map[string]any{"alg": "ES256", "kid": "k"}, h.assertion("listed")),
		"another typ":            op.Token("at+jwt", h.assertion("listed")),
		"cut":                    good[:len(good)-4],
		"no JWT":                 "x",
		"an access token":        h.asserts("/oauth2/token", op.Token("JWT", h.assertion("listed"))).json(t)["access_token"].(string),
	} {
		a := h.asserts("/oauth2/token", raw)
		oauthError(t, a, 401, "invalid_client")
		if t.Failed() {
			t.Fatalf("%s: %s", name, a.Body)
		}
		challenged(t, a, basicChallenge)
	}
	for name, c := range map[string]struct {
		kv     []string
		status int
		code   string
	}{
		"another client_id": {[]string{"client_id", "plain"}, 401, "invalid_client"},
		"a secret too":      {[]string{"client_id", "listed", "client_secret", "x"}, 400, "invalid_request"},
		"another type":      {[]string{"client_assertion_type", "x"}, 401, "invalid_client"},
		"no type":           {[]string{"client_assertion_type", ""}, 401, "invalid_client"},
		"no assertion":      {[]string{"client_assertion", ""}, 401, "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			oauthError(t, h.asserts("/oauth2/token", good, c.kv...), c.status, c.code)
		})
	}
	// None of that has used the good one up; a keyed client has no secret, not
	// even an empty one, and is not public.
	for name, headers := range map[string][]string{"empty secret": {"Authorization", basicAuth("listed", "")}, "public": nil} {
		if a := h.raw("POST", "/oauth2/token", "grant_type=client_credentials&client_id=listed", headers...); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.Body)
		}
	}
	n := 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if a := h.asserts("/oauth2/token", good); a.StatusCode == http.StatusOK {
				mu.Lock()
				defer mu.Unlock()
				n++
			}
		})
	}
	wg.Wait()
	if n != 1 {
		t.Errorf("one assertion was good %d times", n)
	}
	// After a restart too.
	late := op.Token("JWT", h.assertion("listed"))
	if a := h.asserts("/oauth2/token", late); a.StatusCode != http.StatusOK {
		t.Fatal(a.Body)
	}
	h.restart()
	oauthError(t, h.asserts("/oauth2/token", late), 401, "invalid_client")
}

// check reads the keys of each client that has some.
func TestCheckReadsClientKeys(t *testing.T) {
	t.Parallel()
	h, op := signers(t)
	probes := func() map[string]broker.Probe {
		t.Helper()
		cfg, _, err := h.load("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]broker.Probe{}
		for _, p := range broker.Check(t.Context(), cfg, broker.Options{Log: discard()}) {
			out[p.Name] = p
		}
		return out
	}
	ps := probes()
	for _, client := range []string{"listed", "https://fetched.example"} {
		if p := ps["keys of client "+client]; !p.OK || p.Detail != "1 key" {
			t.Errorf("%s: %+v", client, p)
		}
	}
	if _, asked := ps["keys of client plain"]; asked {
		t.Error("a client without keys is asked for them")
	}
	op.Set(func() {
		op.Override["/jwks"] = func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
	})
	if p := probes()["keys of client https://fetched.example"]; p.OK || !strings.Contains(p.Detail, "502") {
		t.Errorf("%+v", p)
	}
}

// Keys that are away are our fault, not the client's; what was read stays.
func TestClientKeysAway(t *testing.T) {
	t.Parallel()
	h, op := signers(t)
	op.Set(func() {
		op.Override["/jwks"] = func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
	})
	a := h.asserts("/oauth2/token", op.Token("JWT", h.assertion("https://fetched.example")))
	oauthError(t, a, 503, "temporarily_unavailable")
	if a.Header.Get("Retry-After") == "" {
		t.Error("when to come again is not said")
	}
	if a := h.asserts("/oauth2/token", op.Token("JWT", h.assertion("listed"))); a.StatusCode != http.StatusOK {
		t.Errorf("keys of the file: %d %s", a.StatusCode, a.Body)
	}
	op.Behave()
	h.wait(6 * time.Second)
	if a := h.asserts("/oauth2/token", op.Token("JWT", h.assertion("https://fetched.example"))); a.StatusCode != http.StatusOK {
		t.Errorf("again: %d %s", a.StatusCode, a.Body)
	}
}
