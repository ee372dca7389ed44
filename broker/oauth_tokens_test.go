package broker_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// verified checks a JWT with nothing but the published keys, as a service would,
// and returns header and claims.
func (h *harness) verified(raw any) (header, payload map[string]any) {
	h.t.Helper()
	parts := strings.Split(fmt.Sprint(raw), ".")
	if len(parts) != 3 {
		h.t.Fatalf("%v is not a JWT", raw)
	}
	b64 := base64.RawURLEncoding
	js, err := b64.DecodeString(parts[0])
	if err != nil || json.Unmarshal(js, &header) != nil {
		h.t.Fatalf("header %q: %v", parts[0], err)
	}
	sig, err := b64.DecodeString(parts[2])
	if err != nil {
		h.t.Fatal(err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal([]byte(h.raw("GET", "/oauth2/jwks", "").Body), &set); err != nil {
		h.t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	num := func(s string) *big.Int {
		b, err := b64.DecodeString(s)
		if err != nil {
			h.t.Fatal(err)
		}
		return new(big.Int).SetBytes(b)
	}
	for _, k := range set.Keys {
		if k["kid"] != header["kid"] {
			continue
		}
		if k["alg"] != header["alg"] {
			h.t.Fatalf("alg %v with a key for %s", header["alg"], k["alg"])
		}
		if k["kty"] == "RSA" {
			err = rsa.VerifyPKCS1v15(&rsa.PublicKey{N: num(k["n"]), E: int(num(k["e"]).Int64())}, crypto.SHA256, sum[:], sig)
		} else {
			point := append(num(k["x"]).FillBytes(make([]byte, 32)), num(k["y"]).FillBytes(make([]byte, 32))...)
			var pub *ecdsa.PublicKey
			if pub, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, point...)); err == nil && !ecdsa.Verify(pub, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
				err = errors.New("the signature is not its")
			}
		}
		if err != nil {
			h.t.Fatalf("%s: %v", header["alg"], err)
		}
		return header, claims(h.t, raw)
	}
	h.t.Fatalf("no key %v among %v", header["kid"], set.Keys)
	return nil, nil
}

func keysOf(m map[string]any) string { return strings.Join(slices.Sorted(maps.Keys(m)), " ") }

// RFC 9068 section 2.2, OpenID Connect Core section 2, ISS-6: exactly these
// headers and claims.
func TestClaimsOfTokens(t *testing.T) {
	t.Parallel()
	h := start(t, strings.Replace(oauthYAML, "    require_pkce: false", "    require_pkce: false\n    id_token_signed_response_alg: ES256\n    claims: {tenant: '\"t-\" + user.username'}", 1))
	b := h.signedIn()
	asked := h.now().Unix()
	tok := h.grantOf(b, "demo-secret", with(authRequest(), "nonce", `n"<é>`))
	if got := keysOf(tok); got != "access_token expires_in id_token refresh_token scope token_type" || tok["token_type"] != "Bearer" || tok["expires_in"] != 600.0 || tok["scope"] != authRequest().Get("scope") {
		t.Errorf("answer: %v", tok)
	}
	header, access := h.verified(tok["access_token"])
	if keysOf(header) != "alg kid typ" || header["alg"] != "ES256" || header["typ"] != "at+jwt" {
		t.Errorf("header: %v", header)
	}
	if got, want := keysOf(access), "amr aud auth_time client_id email email_verified exp gatehouse:connector gatehouse:kind gatehouse:org groups iat iss jti name preferred_username scope sid sub"; got != want {
		t.Errorf("access token:\n%s, want\n%s", got, want)
	}
	idHeader, id := h.verified(tok["id_token"])
	if keysOf(idHeader) != "alg kid typ" || idHeader["alg"] != "RS256" || idHeader["typ"] != "JWT" {
		t.Errorf("header: %v", idHeader)
	}
	if got, want := keysOf(id), "amr at_hash aud auth_time azp email email_verified exp gatehouse:connector gatehouse:kind gatehouse:org groups iat iss name nonce preferred_username sid sub updated_at"; got != want {
		t.Errorf("ID token:\n%s, want\n%s", got, want)
	}
	sum := sha256.Sum256([]byte(tok["access_token"].(string)))
	for what, bad := range map[string]bool{
		"iss":          access["iss"] != h.URL || id["iss"] != h.URL,
		"aud":          access["aud"] != "demo-api" || id["aud"] != "demo-app" || id["azp"] != "demo-app",
		"client_id":    access["client_id"] != "demo-app",
		"scope":        access["scope"] != authRequest().Get("scope"),
		"nonce":        id["nonce"] != `n"<é>` || access["nonce"] != nil,
		"at_hash":      id["at_hash"] != base64.RawURLEncoding.EncodeToString(sum[:16]),
		"life":         access["exp"].(float64)-access["iat"].(float64) != 600 || id["exp"].(float64)-id["iat"].(float64) != 3600,
		"iat":          access["iat"].(float64) < float64(asked) || access["auth_time"].(float64) > access["iat"].(float64),
		"auth_time":    access["auth_time"] != id["auth_time"],
		"sub":          access["sub"] != id["sub"] || strings.Contains(fmt.Sprint(id["sub"]), "demo"),
		"sid":          access["sid"] == id["sid"] || access["sid"] == "" || id["sid"] == "", // its own session, and the browser's
		"email":        id["email"] != "demo@example.com",
		"kind":         access["gatehouse:kind"] != "user" || access["gatehouse:connector"] != "local" || access["gatehouse:org"] != "local",
		"groups":       fmt.Sprint(access["groups"]) != "[gpu-users]" || fmt.Sprint(id["groups"]) != "[gpu-users]",
		"jti is never": access["jti"] == h.verifiedClaims(h.grantOf(b, "demo-secret", authRequest())["access_token"])["jti"],
	} {
		if bad {
			t.Errorf("%s: access %v, id %v", what, access, id)
		}
	}
	// Fewer scopes, fewer claims; an online grant lives by the browser's session;
	// another algorithm where the client registered it; claims of its own.
	tok = h.grantOf(b, "plain-secret", requestOf("plain", "https://rp.example/cb", "scope", "email openid", "nonce", ""))
	_, access = h.verified(tok["access_token"])
	idHeader, id = h.verified(tok["id_token"])
	if idHeader["alg"] != "ES256" || id["nonce"] != nil || id["sid"] != access["sid"] || access["aud"] != h.URL {
		t.Errorf("%v %v %v", idHeader, id, access)
	}
	if got, want := keysOf(id), "amr at_hash aud auth_time azp email email_verified exp gatehouse:connector gatehouse:kind gatehouse:org iat iss sid sub tenant"; got != want || id["tenant"] != "t-demo" || access["tenant"] != "t-demo" {
		t.Errorf("ID token:\n%s, want\n%s", got, want)
	}
	// Without openid it is plain OAuth.
	tok = h.grantOf(b, "plain-secret", requestOf("plain", "https://rp.example/cb", "scope", "profile"))
	if tok["id_token"] != nil || tok["scope"] != "profile" {
		t.Errorf("without openid: %v", tok)
	}
}

func (h *harness) verifiedClaims(raw any) map[string]any {
	h.t.Helper()
	_, c := h.verified(raw)
	return c
}

// RFC 8707, surface 5: one resource by name or URI, else the client's first,
// else the issuer; userinfo takes each of them.
func TestAudiences(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	for resource, aud := range map[string]string{"": "demo-api", "demo-api": "demo-api", "https://api.example": "demo-api", "other-api": "other-api", "https://other.example": "other-api"} {
		q := with(authRequest(), "resource", resource)
		code := b.code(q)
		form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {verifier}}
		if resource != "" {
			form.Set("resource", aud) // the same one again, by its name
		}
		a := h.token(form)
		if a.StatusCode != 200 {
			t.Fatalf("%s: %s", resource, a.Body)
		}
		access := a.json(t)["access_token"]
		if got := claims(t, access)["aud"]; got != aud {
			t.Errorf("resource %q: aud %v", resource, got)
		}
		if u := h.bearer("/oauth2/userinfo", access); u.StatusCode != 200 {
			t.Errorf("userinfo with aud %s: %d", aud, u.StatusCode)
		}
	}
	tok := h.grantOf(b, "plain-secret", requestOf("plain", "https://rp.example/cb", "resource", h.URL))
	if got := claims(t, tok["access_token"])["aud"]; got != h.URL {
		t.Errorf("without audiences: %v", got)
	}
}

// RFC 6749 section 4.4, RFC 9068 section 2.2: the client speaks for itself.
func TestClientCredentials(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	for name, c := range map[string]struct{ client, secret, form, keys, scope, aud string }{
		"nothing asked":   {"machine", "machine-secret", "", "aud client_id exp gatehouse:kind iat iss jti sub", "", h.URL},
		"a scope":         {"machine", "machine-secret", "&scope=jobs:run", "aud client_id exp gatehouse:kind iat iss jti scope sub", "jobs:run", h.URL},
		"two, one twice":  {"machine", "machine-secret", "&scope=jobs:run+jobs:read+jobs:run", "aud client_id exp gatehouse:kind iat iss jti scope sub", "jobs:run jobs:read", h.URL},
		"a person's also": {"demo-app", "demo-secret", "&scope=openid+deployments:write+offline_access", "aud client_id exp gatehouse:kind iat iss jti scope sub", "deployments:write", "demo-api"},
		"a resource":      {"demo-app", "demo-secret", "&resource=https://other.example", "aud client_id exp gatehouse:kind iat iss jti sub", "", "other-api"},
		"unknown things":  {"machine", "machine-secret", "&audience=x&x=y", "aud client_id exp gatehouse:kind iat iss jti sub", "", h.URL},
	} {
		t.Run(name, func(t *testing.T) {
			a := h.raw("POST", "/oauth2/token", "grant_type=client_credentials"+c.form, "Authorization", basicAuth(c.client, c.secret))
			if a.StatusCode != 200 || a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Content-Type") != "application/json" {
				t.Fatalf("%d %v %s", a.StatusCode, a.Header, a.Body)
			}
			tok := a.json(t)
			if tok["refresh_token"] != nil || tok["id_token"] != nil || tok["token_type"] != "Bearer" || tok["expires_in"] != 600.0 {
				t.Errorf("answer: %v", tok)
			}
			header, got := h.verified(tok["access_token"])
			if header["typ"] != "at+jwt" || header["alg"] != "ES256" || keysOf(got) != c.keys || got["sub"] != c.client || got["client_id"] != c.client || got["aud"] != c.aud || got["gatehouse:kind"] != "service" {
				t.Errorf("%v %v", header, got)
			}
			if scope, _ := tok["scope"].(string); scope != c.scope || c.scope != "" && got["scope"] != c.scope {
				t.Errorf("scope %q, %v", scope, got["scope"])
			}
		})
	}
}

// OpenID Connect Core section 5.3: three ways to bring the token, the claims of
// its scopes, and the sub of the ID token.
func TestUserInfo(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	for scope, want := range map[string]string{
		"openid":                      "gatehouse:connector gatehouse:kind gatehouse:org sub",
		"openid email":                "email email_verified gatehouse:connector gatehouse:kind gatehouse:org sub",
		"openid profile":              "gatehouse:connector gatehouse:kind gatehouse:org name preferred_username sub updated_at",
		"groups openid profile email": "email email_verified gatehouse:connector gatehouse:kind gatehouse:org groups name preferred_username sub updated_at",
	} {
		tok := h.grantOf(b, "demo-secret", with(authRequest(), "scope", scope))
		access := tok["access_token"].(string)
		for how, a := range map[string]answer{
			"GET":              h.raw("GET", "/oauth2/userinfo", "", "Authorization", "Bearer "+access),
			"small letters":    h.raw("GET", "/oauth2/userinfo", "", "Authorization", "bearer "+access),
			"POST, header":     h.raw("POST", "/oauth2/userinfo", "", "Authorization", "Bearer "+access),
			"POST, empty form": h.raw("POST", "/oauth2/userinfo", "x=", "Authorization", "Bearer "+access),
			"POST, body":       h.raw("POST", "/oauth2/userinfo", "access_token="+access),
		} {
			if a.StatusCode != 200 || a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "no-store" {
				t.Fatalf("%s: %d %v %s", how, a.StatusCode, a.Header, a.Body)
			}
			m := a.json(t)
			if got := keysOf(m); got != want || m["sub"] != claims(t, tok["id_token"])["sub"] {
				t.Errorf("%s, %s: %s, want %s", scope, how, got, want)
			}
		}
	}
}

// ISS-14, RFC 7009: what revoking ends, and what it does not.
func TestRevocation(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	revoke := func(token any, client, secret string) {
		t.Helper()
		form := url.Values{"token": {token.(string)}, "client_id": {client}}
		if secret != "" {
			form.Set("client_secret", secret)
		}
		if a := h.raw("POST", "/oauth2/revoke", form.Encode()); a.StatusCode != 200 || a.Body != "" {
			t.Fatalf("%d %s", a.StatusCode, a.Body)
		}
	}
	alive := func(tok map[string]any) bool {
		t.Helper()
		return h.bearer("/oauth2/userinfo", tok["access_token"]).StatusCode == 200
	}
	for _, kind := range []string{"refresh_token", "access_token"} {
		for _, scope := range []string{"openid offline_access", "openid"} {
			tok := h.grantOf(b, "demo-secret", with(authRequest(), "scope", scope))
			revoke(tok[kind], "plain", "plain-secret") // another client's
			revoke(tok[kind], "spa", "")
			revoke(tok["id_token"], "demo-app", "demo-secret") // an ID token is nothing to revoke
			if !alive(tok) {
				t.Fatalf("%s: another client revoked it", kind)
			}
			revoke(tok[kind], "demo-app", "demo-secret")
			if alive(tok) {
				t.Errorf("%s, %s: the access token lives", kind, scope)
			}
			oauthError(t, h.refresh(tok["refresh_token"]), 400, "invalid_grant")
			revoke(tok[kind], "demo-app", "demo-secret") // again is as well
			if got := b.sessions(); len(got) != 1 || got[0] != "browser" {
				t.Errorf("%s, %s: sessions left: %v", kind, scope, got)
			}
		}
	}
	// An older refresh token of the family ends it too; a public client revokes its own.
	tok := h.grantOf(b, "demo-secret", authRequest())
	next := h.refresh(tok["refresh_token"]).json(t)
	revoke(tok["refresh_token"], "demo-app", "demo-secret")
	if alive(next) {
		t.Error("the family lives on")
	}
	cli := h.grantOf(b, "", requestOf("gatehouse-cli", "http://127.0.0.1:40000/callback"))
	revoke(cli["refresh_token"], "gatehouse-cli", "")
	if alive(cli) {
		t.Error("a public client could not revoke")
	}
	// After a restart, that is from the store.
	tok = h.grantOf(b, "demo-secret", authRequest())
	revoke(tok["refresh_token"], "demo-app", "demo-secret")
	h.restart()
	if alive(tok) {
		t.Error("the revocation was forgotten")
	}
}

// ISS-6: what the gateway tells upstreams is accepted nowhere of ours.
func TestGatewayTokensAreNoAccessTokens(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.signedIn()
	e := b.follow(b.get(strings.Replace(h.URL, "127.0.0.1", "api.localhost", 1) + "/echo"))
	_, raw, ok := strings.Cut(e.Body, `"Bearer `)
	if e.StatusCode != http.StatusOK || !ok {
		t.Fatalf("%d %s", e.StatusCode, e.Body)
	}
	raw, _, _ = strings.Cut(raw, `"`)
	header, c := h.verified(raw)
	if c["aud"] != "demo-api" || c["exp"].(float64)-c["iat"].(float64) > (5*time.Minute).Seconds() {
		t.Errorf("%v %v", header, c)
	}
	if u := h.bearer("/oauth2/userinfo", raw); u.StatusCode == http.StatusOK {
		t.Errorf("userinfo takes it: %v %s", header, u.Body)
	}
	if a := h.raw("POST", "/oauth2/revoke", "token="+raw, "Authorization", basicAuth("demo-app", "demo-secret")); a.StatusCode != 200 {
		t.Errorf("revoking it: %d", a.StatusCode)
	}
	if q := h.back(b.ask(with(authRequest(), "id_token_hint", raw)), callback, "st&ate="); q.Get("error") != "invalid_request" {
		t.Errorf("as a hint: %v", q)
	}
}
