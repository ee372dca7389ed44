package connectortest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// OP is an OpenID provider in the test's own process. It keeps to the
// specification until a test sets one of its hooks; all of them are called and
// must be set under Set.
type OP struct {
	URL          string
	ClientID     string
	ClientSecret string
	Now          func() time.Time

	// Metadata changes the discovery document.
	Metadata func(m map[string]any)
	// Claims changes an ID token's claims before they are signed, Sign replaces
	// the signing.
	Claims func(c map[string]any)
	Sign   func(header, claims map[string]any) string
	// Answer changes the token endpoint's answer, UserInfo that endpoint's.
	Answer   func(a map[string]any)
	UserInfo func(c map[string]any)
	// Override stands in for an endpoint, by path; it returns true if it answered.
	Override map[string]func(w http.ResponseWriter, r *http.Request) bool
	// Client says who calls the token endpoint; nil checks the secret.
	Client func(r *http.Request) bool
	// NoRefresh gives no refresh tokens; Rotate gives a new one at each use.
	NoRefresh, Rotate bool

	t       testing.TB
	mu      sync.Mutex
	keys    []signer
	codes   map[string]*proof
	refresh map[string]*proof
	access  map[string]*proof
	calls   map[string]int
	forms   []url.Values
	n       int
}

type signer struct {
	kid string
	key *ecdsa.PrivateKey
}

type proof struct {
	person    map[string]any
	challenge string
	redirect  string
	nonce     string
	used      bool
}

// NewOP starts a provider.
func NewOP(t testing.TB) *OP {
	op := &OP{ClientID: "broker", ClientSecret: "broker-s3cret", Now: time.Now, t: t, codes: map[string]*proof{}, refresh: map[string]*proof{}, access: map[string]*proof{},
		calls: map[string]int{}, Override: map[string]func(http.ResponseWriter, *http.Request) bool{}}
	op.NewKey(true)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", op.discovery)
	mux.HandleFunc("GET /jwks", op.jwks)
	mux.HandleFunc("POST /token", op.token)
	mux.HandleFunc("GET /userinfo", op.userInfo)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		op.mu.Lock()
		op.calls[r.URL.Path]++
		instead := op.Override[r.URL.Path]
		op.mu.Unlock()
		if instead != nil && instead(w, r) {
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	op.URL = srv.URL
	return op
}

// Set changes the provider while it runs.
func (op *OP) Set(change func()) {
	op.mu.Lock()
	defer op.mu.Unlock()
	change()
}

// Behave takes all hooks away.
func (op *OP) Behave() {
	op.Set(func() {
		op.Metadata, op.Claims, op.Sign, op.Answer, op.UserInfo = nil, nil, nil, nil, nil
		clear(op.Override)
	})
}

// Calls says how often a path was asked for.
func (op *OP) Calls(path string) int {
	op.mu.Lock()
	defer op.mu.Unlock()
	return op.calls[path]
}

// LastForm is what came to the token endpoint last.
func (op *OP) LastForm() url.Values {
	op.mu.Lock()
	defer op.mu.Unlock()
	if len(op.forms) == 0 {
		return nil
	}
	return op.forms[len(op.forms)-1]
}

// NewKey signs with a new key from now on; keep leaves the old ones in the set.
func (op *OP) NewKey(keep bool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		op.t.Fatal(err)
	}
	op.mu.Lock()
	defer op.mu.Unlock()
	if !keep {
		op.keys = nil
	}
	op.n++
	op.keys = append([]signer{{fmt.Sprint("k", op.n), key}}, op.keys...)
}

// Approve is what happens at the provider's page: the person signs in and the
// browser is sent back with this.
func (op *OP) Approve(departure string, person map[string]any) url.Values {
	op.t.Helper()
	u, err := url.Parse(departure)
	if err != nil || !strings.HasPrefix(departure, op.URL+"/") {
		op.t.Fatalf("departure to %s: %v", departure, err)
	}
	q := u.Query()
	op.mu.Lock()
	defer op.mu.Unlock()
	op.n++
	code := fmt.Sprintf("code-%d", op.n)
	op.codes[code] = &proof{person: person, challenge: q.Get("code_challenge"), redirect: q.Get("redirect_uri"), nonce: q.Get("nonce")}
	return url.Values{"code": {code}, "state": {q.Get("state")}}
}

// Withdraw ends all refresh tokens, as when an account is locked.
func (op *OP) Withdraw() { op.Set(func() { clear(op.refresh) }) }

// Change changes what the provider says of a person from now on.
func (op *OP) Change(sub string, change func(person map[string]any)) {
	op.Set(func() {
		for _, all := range []map[string]*proof{op.refresh, op.access, op.codes} {
			for _, p := range all {
				if p.person["sub"] == sub {
					p.person = maps.Clone(p.person)
					change(p.person)
				}
			}
		}
	})
}

// Token signs claims as the provider does.
func (op *OP) Token(typ string, claims map[string]any) string {
	op.t.Helper()
	op.mu.Lock()
	key := op.keys[0]
	op.mu.Unlock()
	return sign(op.t, key.key, map[string]any{"alg": "ES256", "kid": key.kid, "typ": typ}, claims)
}

// Foreign signs with a key that is not the provider's.
func (op *OP) Foreign(header, claims map[string]any) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		op.t.Fatal(err)
	}
	return sign(op.t, key, header, claims)
}

// Own signs with the provider's key under a header of the test's.
func (op *OP) Own(header, claims map[string]any) string {
	return sign(op.t, op.keys[0].key, header, claims)
}

// PublicJWK is the signing key as the provider shows it.
func (op *OP) PublicJWK() jose.JSONWebKey {
	return jose.JSONWebKey{Key: op.keys[0].key.Public(), KeyID: op.keys[0].kid, Algorithm: "ES256", Use: "sig"}
}

func sign(t testing.TB, key *ecdsa.PrivateKey, header, claims map[string]any) string {
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	input := base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(c)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (op *OP) discovery(w http.ResponseWriter, _ *http.Request) {
	m := map[string]any{"issuer": op.URL, "authorization_endpoint": op.URL + "/authorize", "token_endpoint": op.URL + "/token", "jwks_uri": op.URL + "/jwks",
		"userinfo_endpoint": op.URL + "/userinfo", "end_session_endpoint": op.URL + "/logout", "scopes_supported": []string{"openid", "profile", "email", "groups", "offline_access"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post", "private_key_jwt"}}
	op.mu.Lock()
	defer op.mu.Unlock()
	if op.Metadata != nil {
		op.Metadata(m)
	}
	reply(w, http.StatusOK, m)
}

func (op *OP) jwks(w http.ResponseWriter, _ *http.Request) {
	op.mu.Lock()
	defer op.mu.Unlock()
	var set jose.JSONWebKeySet
	for _, k := range op.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.key.Public(), KeyID: k.kid, Algorithm: "ES256", Use: "sig"})
	}
	reply(w, http.StatusOK, set)
}

func (op *OP) token(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	op.mu.Lock()
	defer op.mu.Unlock()
	op.forms = append(op.forms, r.PostForm)
	if op.Client != nil {
		if !op.Client(r) {
			reply(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
			return
		}
	} else if id, secret := client(r); id != op.ClientID || secret != op.ClientSecret {
		reply(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	var p *proof
	nonce := ""
	switch f := r.PostForm; f.Get("grant_type") {
	case "authorization_code":
		p = op.codes[f.Get("code")]
		sum := sha256.Sum256([]byte(f.Get("code_verifier")))
		if p == nil || p.used || p.redirect != f.Get("redirect_uri") || p.challenge != base64.RawURLEncoding.EncodeToString(sum[:]) {
			p = nil
			break
		}
		p.used, nonce = true, p.nonce
	case "refresh_token":
		if p = op.refresh[f.Get("refresh_token")]; p != nil && op.Rotate {
			delete(op.refresh, f.Get("refresh_token"))
		}
	}
	if p == nil {
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant", "error_description": "<b>grant request is invalid</b>"})
		return
	}
	op.n++
	access := fmt.Sprintf("at-%d", op.n)
	op.access[access] = p
	now := op.Now()
	sum := sha256.Sum256([]byte(access))
	claims := maps.Clone(p.person)
	maps.Copy(claims, map[string]any{"iss": op.URL, "aud": op.ClientID, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "at_hash": base64.RawURLEncoding.EncodeToString(sum[:16])})
	if _, said := claims["auth_time"]; !said {
		claims["auth_time"] = now.Unix()
	}
	maps.DeleteFunc(claims, func(k string, _ any) bool { return strings.HasPrefix(k, "userinfo:") })
	if nonce != "" {
		claims["nonce"] = nonce
	}
	if op.Claims != nil {
		op.Claims(claims)
	}
	header := map[string]any{"alg": "ES256", "kid": op.keys[0].kid, "typ": "JWT"}
	raw := ""
	if op.Sign != nil {
		raw = op.Sign(header, claims)
	} else {
		raw = sign(op.t, op.keys[0].key, header, claims)
	}
	a := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 3600, "id_token": raw}
	if !op.NoRefresh && (op.Rotate || r.PostForm.Get("grant_type") == "authorization_code") {
		rt := fmt.Sprintf("rt-%d", op.n)
		op.refresh[rt], a["refresh_token"] = p, rt
	}
	if op.Answer != nil {
		op.Answer(a)
	}
	reply(w, http.StatusOK, a)
}

// client reads the client's name and secret in either of the two ways.
func client(r *http.Request) (id, secret string) {
	if id, secret, ok := r.BasicAuth(); ok {
		return id, secret
	}
	return r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
}

func (op *OP) userInfo(w http.ResponseWriter, r *http.Request) {
	op.mu.Lock()
	defer op.mu.Unlock()
	p := op.access[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	if p == nil {
		reply(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
		return
	}
	c := map[string]any{}
	for _, k := range slices.Sorted(maps.Keys(p.person)) {
		c[strings.TrimPrefix(k, "userinfo:")] = p.person[k] // "userinfo:x" stands here alone
	}
	if op.UserInfo != nil {
		op.UserInfo(c)
	}
	reply(w, http.StatusOK, c)
}

// Person is somebody with an account at the provider; pairs are more claims.
// A claim "userinfo:x" is x at the userinfo endpoint alone.
func Person(sub string, pairs ...any) map[string]any {
	p := map[string]any{"sub": sub, "email": sub + "@example.org", "email_verified": true, "name": "Person " + sub, "preferred_username": sub, "groups": []any{"staff"}, "sid": "s-" + sub}
	for i := 0; i+1 < len(pairs); i += 2 {
		if k := fmt.Sprint(pairs[i]); pairs[i+1] == nil {
			delete(p, k)
		} else {
			p[k] = pairs[i+1]
		}
	}
	return p
}
