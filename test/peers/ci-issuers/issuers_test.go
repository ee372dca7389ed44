package ciissuers

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func site(t *testing.T) (*Site, *http.Client) {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	s, err := NewSite("https://" + srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = s
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return s, srv.Client()
}

func fetch(t *testing.T, c *http.Client, method, u, body string, into any, header ...string) int {
	t.Helper()
	req, err := http.NewRequest(method, u, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k := 0; k+1 < len(header); k += 2 {
		req.Header.Set(header[k], header[k+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if into != nil && resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatalf("%s: %v\n%s", u, err, raw)
		}
	}
	return resp.StatusCode
}

// verify is a receiver's view: discovery, keys, signature by kid.
func verify(t *testing.T, c *http.Client, iss, raw string) (Claims, bool) {
	t.Helper()
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if s := fetch(t, c, http.MethodGet, iss+discovery, "", &doc); s != http.StatusOK || doc.Issuer != iss {
		t.Fatalf("discovery of %s: %d %+v", iss, s, doc)
	}
	var set struct {
		Keys []struct{ Kid, N, E string } `json:"keys"`
	}
	fetch(t, c, http.MethodGet, doc.JWKSURI, "", &set)
	parts := strings.Split(raw, ".")
	var head struct{ Alg, Kid string }
	var claims Claims
	for k, into := range []any{&head, &claims} {
		js, err := base64.RawURLEncoding.DecodeString(parts[k])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(js, into); err != nil {
			t.Fatal(err)
		}
	}
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	for _, k := range set.Keys {
		n, err := base64.RawURLEncoding.DecodeString(k.N)
		if err != nil || k.E != "AQAB" {
			t.Fatalf("key %+v: %v", k, err)
		}
		if k.Kid == head.Kid && head.Alg == RS256 && rsa.VerifyPKCS1v15(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}, crypto.SHA256, sum[:], sig) == nil {
			return claims, true
		}
	}
	return claims, false
}

// What each issuer signs verifies by what it publishes, before and after a
// rotation; what is signed otherwise does not.
func TestIssuers(t *testing.T) {
	t.Parallel()
	s, c := site(t)
	for _, i := range []*Issuer{s.GitHub, s.GitLab, s.Jenkins} {
		before, err := i.Sign(i.Job(), RS256)
		if err != nil {
			t.Fatal(err)
		}
		claims, ok := verify(t, c, i.URL, before)
		if !ok || claims["iss"] != i.URL || claims["sub"] == "" {
			t.Errorf("%s: %v %v", i.Kind, ok, claims)
		}
		if _, has := claims["jti"]; has == (i.Kind == Jenkins) {
			t.Errorf("%s: jti %v", i.Kind, claims["jti"])
		}
		for _, how := range []string{None, HS256, Foreign} {
			raw, err := i.Sign(i.Job(), how)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := verify(t, c, i.URL, raw); ok {
				t.Errorf("%s: %s verifies", i.Kind, how)
			}
		}
		kid := i.keys[0].kid
		if err := i.Rotate(); err != nil {
			t.Fatal(err)
		}
		if same := i.keys[0].kid == kid; same != (i.Kind == Jenkins) {
			t.Errorf("%s: the kid after a rotation is the same: %v", i.Kind, same)
		}
		if _, ok := verify(t, c, i.URL, before); ok == (i.Kind == Jenkins) {
			t.Errorf("%s: a token of the key before verifies: %v", i.Kind, ok)
		}
	}
	n, err := base64.RawURLEncoding.DecodeString(jwk(t, s.Jenkins)["n"].(string))
	if err != nil || len(n) != 257 || n[0] != 0 {
		t.Errorf("the modulus of Jenkins has %d bytes and begins with %v (%v)", len(n), n[:1], err)
	}
}

func jwk(t *testing.T, i *Issuer) map[string]any {
	t.Helper()
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(i.JWKS(), &set); err != nil {
		t.Fatal(err)
	}
	return set.Keys[0]
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	s, _ := site(t)
	for want, got := range map[string]string{
		"repo:acme/train:environment:production": s.GitHub.Job().text("sub"),
		"repo:acme/train:environment:prod%3Aeu":  s.GitHub.Job("environment", "prod:eu").text("sub"),
		"repo:acme/train:ref:refs/heads/main":    s.GitHub.Job("environment", nil).text("sub"),
		"repo:acme/train:ref:refs/tags/v1":       s.GitHub.Job("environment", nil, "ref", "refs/tags/v1").text("sub"),
		"repo:acme/train:pull_request":           s.GitHub.Job("environment", nil, "event_name", "pull_request").text("sub"),
		"mine":                                   s.GitHub.Job("sub", "mine").text("sub"),
		"":                                       s.GitHub.Job("sub", nil).text("sub"),
		"repo:acme@789/train@123456:ref:refs/heads/main":              ImmutableSubject(s.GitHub.Job("environment", nil)),
		"repository_owner:acme:repository_visibility:private":         CustomSubject(s.GitHub.Job(), "repository_owner", "repository_visibility"),
		"repo:acme/train:environment:production:repository_id:123456": CustomSubject(s.GitHub.Job(), "repo", "context", "repository_id"),
		"project_path:acme/train:ref_type:branch:ref:main":            s.GitLab.Job().text("sub"),
		s.URL + "/jenkins/job/train/":                                 s.Jenkins.Job().text("sub"),
	} {
		if got != want {
			t.Errorf("sub is %q, want %q", got, want)
		}
	}
}

// The runner's endpoint wants its token, and gives what was asked for.
func TestRunner(t *testing.T) {
	t.Parallel()
	s, c := site(t)
	u, token := s.Runner("ref", "refs/heads/other")
	if code := fetch(t, c, http.MethodGet, u, "", nil); code != http.StatusUnauthorized {
		t.Errorf("without its token: %d", code)
	}
	s.RunnerFails(1)
	if code := fetch(t, c, http.MethodGet, u, "", nil, "Authorization", "bearer "+token); code != http.StatusBadGateway {
		t.Errorf("in an outage: %d", code)
	}
	for query, aud := range map[string]string{"": "https://github.com/acme", "&audience=https://id.example": "https://id.example"} {
		var reply struct{ Value string }
		fetch(t, c, http.MethodGet, u+query, "", &reply, "Authorization", "bearer "+token)
		if claims, ok := verify(t, c, s.GitHub.URL, reply.Value); !ok || claims["aud"] != aud || claims["ref"] != "refs/heads/other" {
			t.Errorf("%q: %v %v", query, ok, claims)
		}
	}
}

func TestControl(t *testing.T) {
	t.Parallel()
	s, c := site(t)
	var reply struct{ Token string }
	fetch(t, c, http.MethodPost, s.URL+"/control/gitlab_ci/mint", `{"aud": "https://id.example", "ref_protected": null, "runner_id": 12}`, &reply)
	claims, ok := verify(t, c, s.GitLab.URL, reply.Token)
	if _, has := claims["ref_protected"]; !ok || has || claims["aud"] != "https://id.example" || claims["runner_id"] != 12.0 {
		t.Errorf("minted: %v %v", ok, claims)
	}
	fetch(t, c, http.MethodPost, s.URL+"/control/jenkins/sign", `{"iss": "https://elsewhere.example"}`, &reply)
	if claims, ok := verify(t, c, s.Jenkins.URL, reply.Token); !ok || len(claims) != 1 {
		t.Errorf("signed: %v %v", ok, claims)
	}
	n := jwk(t, s.Jenkins)["n"]
	fetch(t, c, http.MethodPost, s.URL+"/control/jenkins/rotate", "", nil)
	if jwk(t, s.Jenkins)["n"] == n {
		t.Error("not rotated")
	}
	for _, mode := range Modes {
		if code := fetch(t, c, http.MethodPost, s.URL+"/control/github_actions/"+mode, "", nil); code != http.StatusOK {
			t.Errorf("%s: %d", mode, code)
		}
		good := fetch(t, c, http.MethodGet, s.GitHub.URL+discovery, "", nil) == http.StatusOK
		if good == slices.Contains([]string{Down}, mode) {
			t.Errorf("%s: discovery answers: %v", mode, good)
		}
	}
	for _, bad := range []string{"/control/github_actions/sleep", "/control/travis/rotate"} {
		if code := fetch(t, c, http.MethodPost, s.URL+bad, "", nil); code < 400 || code >= 500 {
			t.Errorf("%s: %d", bad, code)
		}
	}
	fetch(t, c, http.MethodPost, s.URL+"/control/github_actions/well", "", nil)
	if s.GitHub.Seen(discovery) != len(Modes) || s.GitHub.mode != "" {
		t.Errorf("seen %d, mode %q", s.GitHub.Seen(discovery), s.GitHub.mode)
	}
}
