package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

func pemOf(t testing.TB, key crypto.Signer) redact.String {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return redact.String(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// private_key_jwt at the code's redemption and at a renewal: signed by our key,
// for the issuer alone, short-lived, once (RFC 7523).
func TestPrivateKeyJWT(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for alg, key := range map[jose.SignatureAlgorithm]crypto.Signer{jose.ES256: ec, jose.RS256: rs, jose.EdDSA: ed} {
		op := connectortest.NewOP(t)
		seen := map[string]bool{}
		op.Client = func(r *http.Request) bool {
			f := r.PostForm
			if f.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" || f.Has("client_secret") || r.Header.Get("Authorization") != "" || f.Get("client_id") != op.ClientID {
				return false
			}
			jws, err := jose.ParseSignedCompact(f.Get("client_assertion"), []jose.SignatureAlgorithm{alg})
			if err != nil || jws.Signatures[0].Header.KeyID != "kid-1" {
				return false
			}
			js, err := jws.Verify(key.Public())
			if err != nil {
				return false
			}
			var c struct {
				Iss, Sub, Jti string
				Aud           string // one, and no list
				Exp, Iat      int64
			}
			if json.Unmarshal(js, &c) != nil || c.Iss != op.ClientID || c.Sub != op.ClientID || c.Aud != op.URL || seen[c.Jti] || c.Exp-c.Iat > int64(5*time.Minute/time.Second) {
				return false
			}
			seen[c.Jti] = true
			return true
		}
		c := open(t, op, nil, func(c *Config) { c.ClientSecret, c.PrivateKey, c.PrivateKeyID = "", pemOf(t, key), "kid-1" })
		id, err := signIn(t, c, op, connectortest.Person("p1"))
		must(t, id, err)
		id, err = c.Renew(t.Context(), kept(id))
		if must(t, id, err); len(seen) != 2 {
			t.Errorf("%s: %d assertions", alg, len(seen))
		}
	}
}

// How we authenticate is chosen once: no secret is sent in two ways.
func TestAuthMethods(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		listed any
		want   string
	}{
		"default":            {nil, nil, "basic"},
		"listed both":        {nil, []string{"client_secret_post", "client_secret_basic"}, "basic"},
		"listed post":        {nil, []string{"client_secret_post"}, "post"},
		"by hand":            {func(c *Config) { c.AuthMethod = "client_secret_post" }, []string{"client_secret_basic"}, "post"},
		"public":             {func(c *Config) { c.ClientSecret = "" }, nil, "none"},
		"public by the word": {func(c *Config) { c.AuthMethod = "none" }, nil, "none"},
	} {
		op := connectortest.NewOP(t)
		got, calls := "", 0
		op.Set(func() {
			op.Metadata = func(m map[string]any) {
				delete(m, "token_endpoint_auth_methods_supported")
				if tc.listed != nil {
					m["token_endpoint_auth_methods_supported"] = tc.listed
				}
			}
			op.Client = func(r *http.Request) bool {
				calls++
				_, secret, basic := r.BasicAuth()
				switch post := r.PostForm.Get("client_secret"); {
				case basic && secret == op.ClientSecret && post == "":
					got = "basic"
				case !basic && post == op.ClientSecret:
					got = "post"
				case !basic && post == "" && r.PostForm.Get("client_id") == op.ClientID:
					got = "none"
				}
				return true
			}
		})
		id, err := signIn(t, open(t, op, nil, tc.change), op, connectortest.Person("p1"))
		if must(t, id, err); got != tc.want || calls != 1 {
			t.Errorf("%s: %q in %d calls, want %q", name, got, calls, tc.want)
		}
	}
}

func TestProblems(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := Config{Issuer: "https://idp.example.com", ClientID: "a", ClientSecret: "b"}
	if ps := good.Problems(); len(ps) != 0 {
		t.Fatalf("a good section: %v", ps)
	}
	for name, tc := range map[string]struct {
		change func(*Config)
		field  string
	}{
		"no issuer":         {func(c *Config) { c.Issuer = "" }, "Issuer"},
		"issuer a name":     {func(c *Config) { c.Issuer = "idp.example.com" }, "Issuer"},
		"discovery":         {func(c *Config) { c.Issuer += "/.well-known/openid-configuration" }, "Issuer"},
		"query":             {func(c *Config) { c.Issuer += "?a=b" }, "Issuer"},
		"no client":         {func(c *Config) { c.ClientID = "" }, "ClientID"},
		"scope":             {func(c *Config) { c.Scopes = []string{"openid email"} }, "Scopes[0]"},
		"HS256":             {func(c *Config) { c.SigningAlgs = []string{"HS256"} }, "SigningAlgs[0]"},
		"none":              {func(c *Config) { c.SigningAlgs = []string{"none"} }, "SigningAlgs[0]"},
		"prompt":            {func(c *Config) { c.Prompt = "none" }, "Prompt"},
		"subject":           {func(c *Config) { c.Claims = map[string]string{"subject": "claims.email"} }, "Claims[subject]"},
		"method":            {func(c *Config) { c.AuthMethod = "client_secret_jwt" }, "AuthMethod"},
		"method, no key":    {func(c *Config) { c.AuthMethod = "private_key_jwt" }, "AuthMethod"},
		"method, no secret": {func(c *Config) { c.AuthMethod, c.ClientSecret = "client_secret_post", "" }, "AuthMethod"},
		"bad key":           {func(c *Config) { c.ClientSecret, c.PrivateKey = "", "x" }, "PrivateKey"},
		"small key":         {func(c *Config) { c.ClientSecret, c.PrivateKey = "", pemOf(t, small) }, "PrivateKey"},
		"key and secret":    {func(c *Config) { c.PrivateKey = "x" }, "PrivateKey"},
		"endpoint":          {func(c *Config) { c.TokenURL = "ftp://x" }, "TokenURL"},
		"user in address":   {func(c *Config) { c.JWKSURL = "https://a:b@x/" }, "JWKSURL"},
	} {
		cfg := good
		tc.change(&cfg)
		ps := cfg.Problems()
		if len(ps) == 0 || ps[0].Field != tc.field || ps[0].Warning {
			t.Errorf("%s: %v", name, ps)
		}
		for _, p := range ps {
			if strings.Contains(p.Text, "BEGIN") {
				t.Errorf("%s: the complaint quotes the key", name)
			}
		}
	}
	cfg := good
	cfg.Issuer = "http://idp.example.com"
	if ps := cfg.Problems(); len(ps) != 1 || !ps[0].Warning {
		t.Errorf("plain http: %v", ps)
	}
}
