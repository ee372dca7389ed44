package workload

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/remotegpu/gatehouse/broker/store/storetest"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/jwks"
)

func TestVerify(t *testing.T) {
	is := newIssuer(t)
	c := is.open(&storetest.Clock{}, nil)
	claims, err := c.VerifyToken(t.Context(), is.sign(nil, nil))
	if err != nil || claims["sub"] != "https://jenkins.example.com/job/deploy/" || claims["build_number"] != json.Number("17") {
		t.Fatalf("%v %v", claims, err)
	}
	if n := is.asked(jwksPath); n != 1 {
		t.Errorf("the keys were asked for %d times", n)
	}
	if _, err := c.VerifyToken(t.Context(), is.sign(nil, map[jose.HeaderKey]any{"typ": "jwt"})); err != nil || is.asked(jwksPath) != 1 {
		t.Errorf("a second token: %v, asked %d times", err, is.asked(jwksPath))
	}
}

// What is not this issuer's token for a program is refused, and refused alike.
func TestVerifyRefuses(t *testing.T) {
	is, other := newIssuer(t), newIssuer(t)
	other.use(rsaKeys()[1], "jenkins-key", jose.RS256)
	good := is.sign(nil, nil)
	parts := strings.Split(good, ".")
	hs, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(strings.Repeat("k", 32))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := hs.Sign([]byte(`{"iss":"` + is.URL + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	symmetric, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	ed := newIssuer(t)
	ed.use(edKey(t), "k", jose.EdDSA)
	for name, raw := range map[string]string{
		"nothing": "", "a word": "token", "two parts": parts[0] + "." + parts[1], "four parts": good + ".x", "huge": good + strings.Repeat("a", maxToken),
		"no signature": parts[0] + "." + parts[1] + ".", "another payload": parts[0] + "." + strings.Split(is.sign(map[string]any{"sub": "x"}, nil), ".")[1] + "." + parts[2],
		"alg none":      "eyJhbGciOiJub25lIn0." + parts[1] + ".",
		"symmetric":     symmetric,
		"another key":   other.sign(map[string]any{"iss": is.URL}, nil),
		"another iss":   is.sign(map[string]any{"iss": is.URL + "/"}, nil),
		"no iss":        is.sign(map[string]any{"iss": nil}, nil),
		"access token":  is.sign(nil, map[jose.HeaderKey]any{"typ": "at+jwt"}),
		"logout token":  is.sign(nil, map[jose.HeaderKey]any{"typ": "logout+jwt"}),
		"critical":      is.sign(nil, map[jose.HeaderKey]any{"crit": []string{"x"}, "x": 1}),
		"an EdDSA key":  ed.sign(map[string]any{"iss": is.URL}, nil),
		"a kid of none": is.sign(nil, map[jose.HeaderKey]any{"kid": "other"}),
	} {
		c := is.open(&storetest.Clock{}, nil)
		if claims, err := c.VerifyToken(t.Context(), raw); err == nil || errors.Is(err, connectors.ErrUnavailable) {
			t.Errorf("%s: %v %v", name, claims, err)
		}
	}
}

// The algorithms are RS256 and ES256; EdDSA is for an issuer whose keys are such.
func TestAlgorithms(t *testing.T) {
	for _, tc := range []struct {
		provider string
		alg      jose.SignatureAlgorithm
		ok       bool
	}{
		{"github_actions", jose.RS256, true}, {"gitlab_ci", jose.ES256, true}, {"oidc", jose.EdDSA, true}, {"github_actions", jose.EdDSA, false},
		{"jenkins", jose.PS256, false}, {"oidc", jose.RS512, false},
	} {
		is := newIssuer(t)
		switch tc.alg {
		case jose.ES256:
			is.use(ecKey(t), "k", tc.alg)
		case jose.EdDSA:
			is.use(edKey(t), "k", tc.alg)
		default:
			is.use(rsaKeys()[0], "k", tc.alg)
		}
		_, err := is.open(&storetest.Clock{}, func(c *Config) { c.Provider = tc.provider }).VerifyToken(t.Context(), is.sign(nil, nil))
		if (err == nil) != tc.ok {
			t.Errorf("%s with %s: %v", tc.provider, tc.alg, err)
		}
	}
	if _, err := Open(connectors.Env{}, Config{Provider: "circleci"}); err == nil {
		t.Error("an unknown provider opens")
	}
}

// Jenkins keeps its kid when the key is another: a bad signature makes us ask,
// once a minute, whoever sends how many (docs/security.md CI-8).
func TestNewKeyUnderTheSameKid(t *testing.T) {
	is, clock := newIssuer(t), &storetest.Clock{}
	c := is.open(clock, nil)
	old := is.sign(nil, nil)
	if _, err := c.VerifyToken(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	is.use(rsaKeys()[1], "jenkins-key", jose.RS256)
	if _, err := c.VerifyToken(t.Context(), is.sign(nil, nil)); err != nil {
		t.Fatalf("after a new key: %v", err)
	}
	if n := is.asked(jwksPath); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
	for range 30 {
		if _, err := c.VerifyToken(t.Context(), old); err == nil {
			t.Fatal("the old key still counts")
		}
	}
	if n := is.asked(jwksPath); n != 2 {
		t.Errorf("asked %d times within a minute, want 2", n)
	}
	clock.Wait(jwks.RefetchEvery)
	if _, err := c.VerifyToken(t.Context(), old); err == nil || is.asked(jwksPath) != 3 {
		t.Errorf("a minute later: %v, asked %d times", err, is.asked(jwksPath))
	}
}

// An issuer that is away stops nothing: keys of yesterday are used, and one of
// which we have none is asked again after a while, not by every token.
func TestIssuerAway(t *testing.T) {
	is, clock := newIssuer(t), &storetest.Clock{}
	raw := is.sign(nil, nil)
	down := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	is.Answer(down, discoveryPath, jwksPath)
	c := is.open(clock, nil)
	for range 20 {
		if _, err := c.VerifyToken(t.Context(), raw); !errors.Is(err, connectors.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
	}
	if n := is.asked(discoveryPath); n != 1 {
		t.Errorf("asked %d times at once, want 1", n)
	}
	if err := c.Check(t.Context()); err == nil {
		t.Error("check is content")
	}
	is.Answer(nil, discoveryPath, jwksPath)
	clock.Wait(retryAfter)
	if _, err := c.VerifyToken(t.Context(), raw); err != nil {
		t.Fatalf("when it is back: %v", err)
	}
	is.Answer(down, discoveryPath, jwksPath)
	clock.Wait(jwks.Fresh)
	if _, err := c.VerifyToken(t.Context(), raw); err != nil {
		t.Errorf("with keys of an hour ago: %v", err)
	}
	clock.Wait(jwks.Stale)
	if _, err := c.VerifyToken(t.Context(), raw); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("with keys of yesterday: %v", err)
	}
	is.Answer(nil, discoveryPath, jwksPath)
	if said, err := c.Inspect(t.Context()); err != nil || said != "1 key" {
		t.Errorf("check: %q %v", said, err)
	}
}

// Key sets and discovery documents that are not to be believed.
func TestHostileIssuer(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // that is what is tested
	if err != nil {
		t.Fatal(err)
	}
	answer := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
	}
	for name, set := range map[string]func(is *issuer, elsewhere *issuer){
		"65 keys": func(is, _ *issuer) {
			for len(is.set) < 65 {
				is.set = append(is.set, is.set[0])
			}
		},
		"huge keys": func(is, _ *issuer) { is.set[0]["x"] = strings.Repeat("x", jwks.MaxBody) },
		"weak RSA": func(is, _ *issuer) {
			is.key, is.set = weak, []map[string]any{public(t, weak, "jenkins-key", jose.RS256)}
		},
		"symmetric key":    func(is, _ *issuer) { is.set = []map[string]any{{"kty": "oct", "kid": "jenkins-key", "k": "AAAA"}} },
		"another issuer":   func(is, _ *issuer) { is.meta["issuer"] = "https://evil.example" },
		"slash at its end": func(is, _ *issuer) { is.meta["issuer"] = is.URL + "/" },
		"no jwks_uri":      func(is, _ *issuer) { delete(is.meta, "jwks_uri") },
		"keys elsewhere":   func(is, other *issuer) { is.meta["jwks_uri"] = other.URL + "/jwks" },
		"keys over http":   func(is, _ *issuer) { is.meta["jwks_uri"] = strings.Replace(is.URL, "https:", "http:", 1) + "/jwks" },
		"keys in a file":   func(is, _ *issuer) { is.meta["jwks_uri"] = "file:///etc/passwd" },
	} {
		t.Run(name, func(t *testing.T) {
			is, other := newIssuer(t), newIssuer(t)
			other.use(is.key, is.kid, is.alg) // so that only the place of the keys is wrong
			is.Set(func() { set(is, other) })
			claims, err := is.open(&storetest.Clock{}, nil).VerifyToken(t.Context(), is.sign(nil, nil))
			if err == nil {
				t.Fatalf("believed: %v", claims)
			}
			if why := map[string]string{"65 keys": "more than 64", "keys elsewhere": "another host", "keys over http": "not https", "another issuer": "is of issuer", "weak RSA": "no key that"}[name]; !strings.Contains(err.Error(), why) {
				t.Errorf("refused for another reason: %v", err)
			}
		})
	}
	for name, h := range map[string]http.HandlerFunc{
		"a redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, jwksPath+"2", http.StatusFound) },
		"nonsense":   answer("<html>"), "an array": answer("[]"),
		"cut short": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("{"))
		},
	} {
		for _, path := range []string{jwksPath, discoveryPath} {
			is := newIssuer(t)
			is.Answer(h, path)
			if _, err := is.open(&storetest.Clock{}, nil).VerifyToken(t.Context(), is.sign(nil, nil)); !errors.Is(err, connectors.ErrUnavailable) {
				t.Errorf("%s at %s: %v", name, path, err)
			}
			if is.asked(jwksPath+"2") > 0 {
				t.Errorf("%s at %s was followed", name, path)
			}
		}
	}
}

// An issuer that hangs holds nobody longer than our own patience: the client's
// limit is the one of all outgoing calls, a small one here.
func TestSlowIssuer(t *testing.T) {
	is := newIssuer(t)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	is.Answer(func(http.ResponseWriter, *http.Request) { <-hang }, jwksPath)
	is.Client().Timeout = 100 * time.Millisecond
	if _, err := is.open(&storetest.Clock{}, nil).VerifyToken(t.Context(), is.sign(nil, nil)); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// Jenkins writes the modulus as Java does, with a zero before it.
func TestJavaModulus(t *testing.T) {
	is := newIssuer(t)
	is.Set(func() { is.set[0]["n"] = javaModulus(rsaKeys()[0].N) })
	if _, err := is.open(&storetest.Clock{}, nil).VerifyToken(t.Context(), is.sign(nil, nil)); err != nil {
		t.Error(err)
	}
}

// jwks_uri by hand may be on another host, and discovery is not asked.
func TestKeysByHand(t *testing.T) {
	is, other := newIssuer(t), newIssuer(t)
	other.use(is.key, is.kid, is.alg)
	c := is.open(&storetest.Clock{}, func(c *Config) { c.JWKSURI = other.URL + "/jwks" })
	if _, err := c.VerifyToken(t.Context(), is.sign(nil, nil)); err != nil || len(is.Addresses()) != 0 {
		t.Errorf("%v, %v", err, is.Addresses())
	}
}

// A rule that came by the API may not lead to private hosts; one of the file may.
func TestHosts(t *testing.T) {
	cfg := Config{Issuer: "https://jenkins.internal/oidc", JWKSURI: "https://keys.internal/jwks"}
	if h := cfg.hosts(); h != nil {
		t.Errorf("trusted %v", h)
	}
	cfg.Listed = true
	if h := cfg.hosts(); len(h) != 2 || h[0] != "jenkins.internal" || h[1] != "keys.internal" {
		t.Errorf("trusted %v", h)
	}
}

func TestJWKSFile(t *testing.T) {
	is := newIssuer(t)
	path := filepath.Join(t.TempDir(), "jenkins.jwks")
	lay := func(set ...map[string]any) {
		t.Helper()
		js, err := json.Marshal(map[string]any{"keys": set})
		if err != nil {
			t.Fatal(err)
		}
		next := path + ".new"
		if err := os.WriteFile(next, js, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
	}
	c := is.open(&storetest.Clock{}, func(c *Config) { c.JWKSFile = path })
	raw := is.sign(nil, nil)
	if _, err := c.VerifyToken(t.Context(), raw); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("without the file: %v", err)
	}
	lay(is.set...)
	if _, err := c.VerifyToken(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	if said, err := c.Inspect(t.Context()); err != nil || !strings.HasPrefix(said, "1 key of jwks_file, as of 20") {
		t.Errorf("check: %q %v", said, err)
	}
	// Another key: the file is read again, without a restart.
	is.use(rsaKeys()[1], "jenkins-key", jose.RS256)
	lay(is.set...)
	if _, err := c.VerifyToken(t.Context(), raw); err == nil || errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("the key that was taken out: %v", err)
	}
	if _, err := c.VerifyToken(t.Context(), is.sign(nil, nil)); err != nil {
		t.Errorf("the key that was put in: %v", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.VerifyToken(t.Context(), is.sign(nil, nil)); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("a broken file: %v", err)
	}
	if len(is.Addresses()) != 0 {
		t.Errorf("asked the issuer: %v", is.Addresses())
	}
}
