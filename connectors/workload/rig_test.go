package workload

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/remotegpu/gatehouse/broker/store/storetest"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

const (
	discoveryPath = "/oidc/.well-known/openid-configuration"
	jwksPath      = "/oidc/jwks"
)

// issuer is a CI system's.
type issuer struct {
	*connectortest.Server
	t    testing.TB
	URL  string // the iss
	set  []map[string]any
	meta map[string]any
	key  crypto.Signer
	kid  string
	alg  jose.SignatureAlgorithm
}

// The keys are slow to make.
var rsaKeys = sync.OnceValue(func() []*rsa.PrivateKey {
	out := make([]*rsa.PrivateKey, 2)
	for i := range out {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		out[i] = k
	}
	return out
})

// newIssuer starts one that signs as Jenkins does: RS256, the kid is the name of
// the credentials.
func newIssuer(t testing.TB) *issuer {
	is := &issuer{t: t}
	is.Server = connectortest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		is.Server.Set(func() {
			switch r.URL.Path {
			case discoveryPath:
				_ = json.NewEncoder(w).Encode(is.meta)
			case jwksPath:
				_ = json.NewEncoder(w).Encode(map[string]any{"keys": is.set})
			default:
				w.WriteHeader(http.StatusNotFound)
			}
		})
	}))
	is.URL = is.Server.URL + "/oidc"
	is.meta = map[string]any{"issuer": is.URL, "jwks_uri": is.URL + "/jwks"}
	is.use(rsaKeys()[0], "jenkins-key", jose.RS256)
	return is
}

// use signs with a key from now on, and publishes it alone.
func (is *issuer) use(key crypto.Signer, kid string, alg jose.SignatureAlgorithm) {
	is.Server.Set(func() {
		is.key, is.kid, is.alg = key, kid, alg
		is.set = []map[string]any{public(is.t, key, kid, alg)}
	})
}

func public(t testing.TB, key crypto.Signer, kid string, alg jose.SignatureAlgorithm) map[string]any {
	t.Helper()
	js, err := json.Marshal(jose.JSONWebKey{Key: key.Public(), KeyID: kid, Algorithm: string(alg), Use: "sig"})
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(js, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// sign makes a token; more are members of the header.
func (is *issuer) sign(claims map[string]any, more map[jose.HeaderKey]any) string {
	is.t.Helper()
	all := map[string]any{"iss": is.URL, "sub": "https://jenkins.example.com/job/deploy/", "aud": "https://id.example.com", "build_number": 17}
	maps.Copy(all, claims)
	opts := &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{"kid": is.kid}}
	maps.Copy(opts.ExtraHeaders, more)
	if opts.ExtraHeaders["kid"] == nil {
		delete(opts.ExtraHeaders, "kid")
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: is.alg, Key: is.key}, opts)
	if err != nil {
		is.t.Fatal(err)
	}
	js, err := json.Marshal(all)
	if err != nil {
		is.t.Fatal(err)
	}
	jws, err := s.Sign(js)
	if err != nil {
		is.t.Fatal(err)
	}
	raw, err := jws.CompactSerialize()
	if err != nil {
		is.t.Fatal(err)
	}
	return raw
}

func (is *issuer) open(clock *storetest.Clock, change func(*Config)) *Connector {
	is.t.Helper()
	cfg := Config{Provider: "jenkins", Issuer: is.URL, Listed: true}
	if change != nil {
		change(&cfg)
	}
	c, err := Open(connectors.Env{Now: clock.Now, HTTP: func(string, string, ...string) (*http.Client, error) { return is.Client(), nil }}, cfg)
	if err != nil {
		is.t.Fatal(err)
	}
	return c
}

// asked says how often a path was asked for.
func (is *issuer) asked(path string) int { return is.Called("GET " + path) }

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func edKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// javaModulus writes n as java.math.BigInteger does, with a byte for the sign.
func javaModulus(n *big.Int) string {
	return base64.RawURLEncoding.EncodeToString(append([]byte{0}, n.Bytes()...))
}
