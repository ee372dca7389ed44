// Package ciissuers stands in for the OpenID issuers of GitHub Actions, GitLab CI
// and the OpenID Connect provider plug-in of Jenkins, with keys of its own and
// the claims that their documentation and source show. A test may mint any
// claims, rotate keys the way each vendor does, and have an issuer misbehave.
// It checks nothing of what it signs, and has never been compared with a vendor.
package ciissuers

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // x5t is one
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// The kinds of issuers, as the provider of a trust rule calls them.
const (
	GitHub  = "github_actions"
	GitLab  = "gitlab_ci"
	Jenkins = "jenkins"
)

// How an issuer may misbehave.
const (
	Down     = "down"     // 503 for everything
	Page     = "page"     // a sign-in page in the place of every document
	Impostor = "impostor" // discovery names another issuer
	Away     = "away"     // the keys are on another host
	Redirect = "redirect" // the keys are behind a redirect
	Huge     = "huge"     // more than 256 KiB of keys
	Many     = "many"     // more than 64 keys
	Weak     = "weak"     // the key has 1024 bits
)

// Modes are the ways in which an issuer may misbehave.
var Modes = []string{Down, Page, Impostor, Away, Redirect, Huge, Many, Weak}

// Issuer is one issuer: an http.Handler for its discovery document and keys.
type Issuer struct {
	Kind string
	URL  string           // its iss
	Now  func() time.Time // nil is time.Now

	mu      sync.Mutex
	keys    []signer // the first signs
	mode    string
	seen    map[string]int  // by path below the issuer
	jobs    int             // that were made
	foreign *rsa.PrivateKey // one that is not the issuer's
	old     map[string]any  // a key of GitHub's that signs nothing any more, as it published them before
}

type signer struct {
	kid string
	key *rsa.PrivateKey
}

// New makes an issuer whose iss is u.
func New(kind, u string) (*Issuer, error) {
	if !slices.Contains([]string{GitHub, GitLab, Jenkins}, kind) {
		return nil, fmt.Errorf("%q is no kind of issuer", kind)
	}
	i := &Issuer{Kind: kind, URL: u, seen: map[string]int{}}
	if kind == GitHub {
		var err error
		if i.old, err = withCertificate(); err != nil {
			return nil, err
		}
	}
	return i, i.Rotate()
}

// withCertificate is a key as GitHub used to publish them: its kid is the
// thumbprint of a certificate that stands beside it.
func withCertificate() (map[string]any, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "*.token.actions.example"}, NotBefore: time.Unix(1700000000, 0), NotAfter: time.Unix(1760000000, 0)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	sum := sha1.Sum(der)
	return map[string]any{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": strings.ToUpper(hex.EncodeToString(sum[:])), "n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()), "e": "AQAB",
		"x5c": []string{base64.StdEncoding.EncodeToString(der)}, "x5t": base64.RawURLEncoding.EncodeToString(sum[:]),
	}, nil
}

func (i *Issuer) now() time.Time {
	if i.Now != nil {
		return i.Now()
	}
	return time.Now()
}

// Rotate takes a new key into use. GitHub and GitLab go on publishing the one
// before; Jenkins replaces it, and the new one has the same kid: the id of the
// credentials.
func (i *Issuer) Rotate() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.rotate(2048)
}

func (i *Issuer) rotate(bits int) error {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	s := signer{kid: kidOf(i.Kind, key), key: key}
	if i.Kind == Jenkins || bits < 2048 {
		i.keys = []signer{s}
	} else {
		i.keys = append([]signer{s}, i.keys[:min(1, len(i.keys))]...)
	}
	return nil
}

func kidOf(kind string, key *rsa.PrivateKey) string {
	sum := sha256.Sum256(key.N.Bytes())
	switch h := hex.EncodeToString(sum[:]); kind {
	case GitHub:
		return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:32]}, "-")
	case GitLab:
		return base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return "remotegpu"
}

// Misbehave makes the issuer answer by one of Modes from now on; "" is right
// again. Weak needs a key of its own.
func (i *Issuer) Misbehave(mode string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if mode != "" && !slices.Contains(Modes, mode) {
		return fmt.Errorf("%q is no way to misbehave: %s", mode, strings.Join(Modes, ", "))
	}
	i.mode = mode
	if mode == Weak {
		return i.rotate(1024)
	}
	return nil
}

// Seen counts the requests for a path below the issuer, such as its keys.
func (i *Issuer) Seen(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seen[path]
}

// KeysPath is where the keys are, below the issuer.
func (i *Issuer) KeysPath() string {
	switch i.Kind {
	case GitHub:
		return "/.well-known/jwks"
	case GitLab:
		return "/oauth/discovery/keys"
	}
	return "/jwks"
}

const discovery = "/.well-known/openid-configuration"

// ServeHTTP answers the two documents.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u, err := url.Parse(i.URL)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, u.Path)
	i.mu.Lock()
	i.seen[path]++
	mode := i.mode
	i.mu.Unlock()
	switch {
	case mode == Down:
		http.Error(w, "down for maintenance", http.StatusServiceUnavailable)
	case mode == Page:
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<!doctype html><title>Sign in</title>"))
	case path == discovery:
		answer(w, i.document(mode))
	case path == i.KeysPath() && mode == Redirect:
		http.Redirect(w, r, i.URL+i.KeysPath()+"/moved", http.StatusFound) // lint:allow a peer of tests
	case path == i.KeysPath() || path == i.KeysPath()+"/moved":
		answer(w, i.JWKS())
	default:
		http.NotFound(w, r)
	}
}

func answer(w http.ResponseWriter, js []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(js)
}

func (i *Issuer) document(mode string) []byte {
	d := map[string]any{
		"issuer": i.URL, "jwks_uri": i.URL + i.KeysPath(),
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
	}
	switch i.Kind {
	case GitHub:
		d["subject_types_supported"], d["response_types_supported"], d["scopes_supported"] = []string{"public", "pairwise"}, []string{"id_token"}, []string{"openid"}
	case GitLab:
		d["response_types_supported"], d["authorization_endpoint"], d["token_endpoint"] = []string{"code"}, i.URL+"/oauth/authorize", i.URL+"/oauth/token"
	case Jenkins: // whose plug-in fills the members that it must have, and does not serve, with this address
		d["response_types_supported"], d["authorization_endpoint"], d["token_endpoint"] = []string{"code"}, "https://unimplemented", "https://unimplemented"
		d["id_token_signing_alg_values_supported"] = []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"}
	}
	switch mode {
	case Impostor:
		d["issuer"] = i.URL + "/other"
	case Away:
		d["jwks_uri"] = strings.Replace(i.URL, "127.0.0.1", "127.0.0.2", 1) + i.KeysPath()
	}
	js, _ := json.Marshal(d) // strings and lists of them
	return js
}

// JWKS is the key set, as the issuer publishes it.
func (i *Issuer) JWKS() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	var keys []map[string]any
	for _, s := range i.keys {
		n := s.key.N.Bytes()
		if i.Kind == Jenkins {
			n = append([]byte{0}, n...) // Java's BigInteger.toByteArray keeps the byte of the sign
		}
		k := map[string]any{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": s.kid, "n": base64.RawURLEncoding.EncodeToString(n), "e": "AQAB"}
		keys = append(keys, k)
	}
	if i.old != nil {
		keys = append(keys, i.old)
	}
	for c := 0; i.mode == Many && c < 65; c++ {
		k := maps.Clone(keys[0])
		k["kid"] = fmt.Sprintf("more-%d", c)
		keys = append(keys, k)
	}
	d := map[string]any{"keys": keys}
	if i.mode == Huge {
		d["padding"] = strings.Repeat("x", 300<<10)
	}
	js, _ := json.Marshal(d) // strings and numbers
	return js
}

// Ways of signing that a receiver must refuse, beside the right one.
const (
	RS256   = "RS256"
	None    = "none"    // no signature (RFC 7519 section 6)
	HS256   = "HS256"   // the public key as the secret (RFC 8725 section 2.1)
	Foreign = "foreign" // the right kid, another key
)

func (i *Issuer) foreignKey() (*rsa.PrivateKey, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.foreign == nil {
		var err error
		if i.foreign, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return nil, err
		}
	}
	return i.foreign, nil
}

// Sign signs claims as they are; how is RS256 unless given.
func (i *Issuer) Sign(c Claims, how string) (string, error) {
	i.mu.Lock()
	s := i.keys[0]
	i.mu.Unlock()
	head := map[string]any{"alg": RS256, "kid": s.kid}
	if i.Kind != Jenkins {
		head["typ"] = "JWT"
	}
	if i.Kind == GitHub {
		sum := sha1.Sum(s.key.N.Bytes())
		head["x5t"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if how == None || how == HS256 {
		head["alg"] = how
	}
	h, err := json.Marshal(head)
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("claims: %w", err)
	}
	text := base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(body)
	sum := sha256.Sum256([]byte(text))
	var sig []byte
	switch how {
	case "", RS256:
		sig, err = rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, sum[:])
	case Foreign:
		var other *rsa.PrivateKey
		if other, err = i.foreignKey(); err == nil {
			sig, err = rsa.SignPKCS1v15(rand.Reader, other, crypto.SHA256, sum[:])
		}
	case HS256:
		var der []byte
		if der, err = x509.MarshalPKIXPublicKey(&s.key.PublicKey); err == nil {
			mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
			mac.Write([]byte(text))
			sig = mac.Sum(nil)
		}
	case None:
	default:
		err = errors.New("is no way of signing")
	}
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", how, err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}
