package oidc

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
	"github.com/remotegpu/gatehouse/connectors/jwks"
)

func hs256(t testing.TB, header, claims map[string]any, secret []byte) string {
	t.Helper()
	header["alg"] = "HS256"
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	in := base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(c)
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(in))
	return in + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// hostile is what a broken or malicious provider might put into an ID token, and
// a word of the reason that the log must give: each is refused for its own.
func hostile(t testing.TB, op *connectortest.OP) map[string]struct {
	set    func()
	reason string
} {
	type trick = struct {
		set    func()
		reason string
	}
	claim := func(f func(c map[string]any)) func() { return func() { op.Claims = f } }
	signed := func(f func(h, c map[string]any) string) func() { return func() { op.Sign = f } }
	now := func() int64 { return op.Now().Unix() }
	return map[string]trick{
		"wrong nonce":    {claim(func(c map[string]any) { c["nonce"] = "not-the-nonce" }), "nonce"},
		"no nonce":       {claim(func(c map[string]any) { delete(c, "nonce") }), "no nonce"},
		"wrong aud":      {claim(func(c map[string]any) { c["aud"] = "someone-else" }), "audience"},
		"no aud":         {claim(func(c map[string]any) { delete(c, "aud") }), "audience"},
		"aud by prefix":  {claim(func(c map[string]any) { c["aud"] = op.ClientID + "2" }), "audience"},
		"extra aud":      {claim(func(c map[string]any) { c["aud"] = []string{op.ClientID, "someone-else"} }), "azp"},
		"wrong azp":      {claim(func(c map[string]any) { c["azp"] = "someone-else" }), "azp"},
		"empty azp":      {claim(func(c map[string]any) { c["azp"] = "" }), "azp"},
		"wrong iss":      {claim(func(c map[string]any) { c["iss"] = "https://evil.example" }), "provider"},
		"no iss":         {claim(func(c map[string]any) { delete(c, "iss") }), "provider"},
		"iss with slash": {claim(func(c map[string]any) { c["iss"] = op.URL + "/" }), "provider"},
		"iss, no scheme": {claim(func(c map[string]any) { c["iss"] = strings.TrimPrefix(op.URL, "http://") }), "provider"},
		"expired":        {claim(func(c map[string]any) { c["iat"], c["exp"] = now()-7200, now()-3600 }), "expired"},
		"no exp":         {claim(func(c map[string]any) { delete(c, "exp") }), "expired"},
		"future iat":     {claim(func(c map[string]any) { c["iat"] = now() + 3600 }), "iat"},
		"no iat":         {claim(func(c map[string]any) { delete(c, "iat") }), "iat"},
		"old iat":        {claim(func(c map[string]any) { c["iat"] = now() - 3600 }), "long ago"},
		"nbf to come":    {claim(func(c map[string]any) { c["nbf"] = now() + 3600 }), "nbf"},
		"no sub":         {claim(func(c map[string]any) { delete(c, "sub") }), "sub"},
		"empty sub":      {claim(func(c map[string]any) { c["sub"] = "" }), "sub"},
		"long sub":       {claim(func(c map[string]any) { c["sub"] = strings.Repeat("x", 256) }), "sub"},
		"control sub":    {claim(func(c map[string]any) { c["sub"] = "a\x00b" }), "sub"},
		"numeric sub":    {claim(func(c map[string]any) { c["sub"] = 1001 }), "unmarshal"},
		"wrong at_hash":  {claim(func(c map[string]any) { c["at_hash"] = "AAAAAAAAAAAAAAAAAAAAAA" }), "at_hash"},
		"alg none": {signed(func(h, c map[string]any) string {
			h["alg"] = "none"
			s := op.Own(h, c)
			return s[:strings.LastIndex(s, ".")+1]
		}), "malformed"},
		"alg None":     {signed(func(h, c map[string]any) string { h["alg"] = "None"; return op.Own(h, c) }), "malformed"},
		"HS256 secret": {signed(func(h, c map[string]any) string { return hs256(t, h, c, []byte(op.ClientSecret)) }), "malformed"},
		"bad signature": {signed(func(h, c map[string]any) string {
			s := op.Own(h, c)
			i := strings.LastIndex(s, ".") + 1
			return s[:i] + flip(s[i]) + s[i+1:]
		}), "signature"},
		"no signature":        {signed(func(h, c map[string]any) string { s := op.Own(h, c); return s[:strings.LastIndex(s, ".")+1] }), "signature"},
		"other key":           {signed(func(h, c map[string]any) string { return op.Foreign(h, c) }), "signature"},
		"unknown kid":         {signed(func(h, c map[string]any) string { h["kid"] = "never-published"; return op.Own(h, c) }), "no key"},
		"alg of another":      {signed(func(h, c map[string]any) string { h["alg"] = "RS256"; return op.Own(h, c) }), "no key"},
		"unknown crit":        {signed(func(h, c map[string]any) string { h["crit"] = []string{"x"}; h["x"] = 1; return op.Own(h, c) }), ""},
		"key in header":       {signed(func(h, c map[string]any) string { h["jwk"] = op.PublicJWK(); delete(h, "kid"); return op.Foreign(h, c) }), "signature"},
		"claims a list":       {signed(func(h, _ map[string]any) string { return op.Own(h, nil) }), ""},
		"no ID token":         {func() { op.Answer = func(a map[string]any) { delete(a, "id_token") } }, "no ID token"},
		"ID token a list":     {func() { op.Answer = func(a map[string]any) { a["id_token"] = []string{"a"} } }, "no ID token"},
		"JSON form":           {func() { op.Answer = func(a map[string]any) { a["id_token"] = `{"payload":"e30","signatures":[]}` } }, "shape"},
		"huge ID token":       {claim(func(c map[string]any) { c["padding"] = strings.Repeat("x", maxToken) }), ""},
		"token type mac":      {func() { op.Answer = func(a map[string]any) { a["token_type"] = "mac" } }, "bearer"},
		"userinfo of another": {func() { op.UserInfo = func(c map[string]any) { c["sub"] = "someone-else" } }, "somebody else"},
		"userinfo of nobody":  {func() { op.UserInfo = func(c map[string]any) { delete(c, "sub") } }, "somebody else"},
		"groups of objects": {func() {
			op.Claims = func(c map[string]any) { c["groups"] = []any{map[string]any{"name": "admins"}, 7, nil} }
		}, "groups"},
		"groups a number": {func() { op.Claims = func(c map[string]any) { c["groups"] = 7 } }, "groups"},
		"groups elsewhere": {func() {
			op.Claims = func(c map[string]any) {
				delete(c, "groups")
				c["_claim_names"], c["_claim_sources"] = map[string]any{"groups": "src1"}, map[string]any{"src1": map[string]any{"endpoint": "https://graph.example"}}
			}
			op.UserInfo = func(c map[string]any) { delete(c, "groups") }
		}, "more groups"},
	}
}

func flip(b byte) string {
	if b == 'A' {
		return "B"
	}
	return "A"
}

// Each is refused for its own reason, and afterwards the connector works.
func TestHostileProvider(t *testing.T) {
	op := connectortest.NewOP(t)
	now := &clock{}
	op.Now = now.now
	c := open(t, op, now, nil)
	id, err := signIn(t, c, op, connectortest.Person("p1"))
	must(t, id, err)
	for name, trick := range hostile(t, op) {
		t.Run(name, func(t *testing.T) {
			now.move(jwks.RefetchEvery) // so that no trick spoils the next one's keys
			op.Set(trick.set)
			id, err := signIn(t, c, op, connectortest.Person("p1"))
			op.Behave()
			if err == nil {
				t.Fatalf("signed in: %+v", id)
			}
			if id.Subject != "" || !strings.Contains(err.Error(), trick.reason) {
				t.Errorf("refused for %q, want %q", err, trick.reason)
			}
		})
	}
	id, err = signIn(t, c, op, connectortest.Person("p1"))
	must(t, id, err)
}

// HS256 with the public key as the secret is the old confusion of algorithms
// (docs/security.md ISS-7); it does not get as far as a key.
func TestHS256WithThePublicKey(t *testing.T) {
	op := connectortest.NewOP(t)
	pub, err := x509.MarshalPKIXPublicKey(op.PublicJWK().Key)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := op.PublicJWK().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string][]byte{"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}), "DER": pub, "JWK": jwk} {
		op.Set(func() { op.Sign = func(h, c map[string]any) string { return hs256(t, h, c, secret) } })
		if id, err := signIn(t, open(t, op, nil, nil), op, connectortest.Person("p1")); err == nil {
			t.Errorf("%s: signed in as %s", name, id.Subject)
		}
	}
}

// A code of somebody else's departure, and any answer that does not name the
// right issuer (RFC 9207, docs/security.md UP-2).
func TestAnswersOfAnotherFlow(t *testing.T) {
	op, other := connectortest.NewOP(t), connectortest.NewOP(t)
	c := open(t, op, nil, nil)
	d, err := c.Begin(t.Context(), attempt())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := c.Begin(t.Context(), attempt())
	if err != nil {
		t.Fatal(err)
	}
	finish := func(v url.Values) error {
		id, err := c.Finish(t.Context(), attempt(), d.Secret, connectors.Return{Method: http.MethodGet, Params: v})
		if err == nil {
			t.Errorf("signed in as %s by %v", id.Subject, v)
		}
		return err
	}
	_ = finish(op.Approve(theirs.URL, connectortest.Person("mallory")))
	stranger, err := open(t, other, nil, nil).Begin(t.Context(), attempt())
	if err != nil {
		t.Fatal(err)
	}
	_ = finish(other.Approve(stranger.URL, connectortest.Person("mallory")))
	before := op.Calls("/token")
	v := op.Approve(d.URL, connectortest.Person("p1"))
	v.Set("iss", "https://evil.example")
	_ = finish(v)
	v["iss"] = []string{op.URL, op.URL}
	_ = finish(v)
	if err := finish(url.Values{"error": {"access_denied"}, "iss": {"https://evil.example"}}); errors.Is(err, connectors.ErrCancelled) {
		t.Error("an error of another issuer counts")
	}
	// Whoever always names the issuer and does not is somebody else.
	op.Set(func() {
		op.Metadata = func(m map[string]any) { m["authorization_response_iss_parameter_supported"] = true }
	})
	c = open(t, op, nil, nil)
	if d, err = c.Begin(t.Context(), attempt()); err != nil {
		t.Fatal(err)
	}
	v = op.Approve(d.URL, connectortest.Person("p1"))
	_ = finish(v)
	if op.Calls("/token") != before {
		t.Error("the code was redeemed before its issuer was looked at")
	}
	v.Set("iss", op.URL)
	id, err := c.Finish(t.Context(), attempt(), d.Secret, connectors.Return{Method: http.MethodGet, Params: v})
	must(t, id, err)
}

// A fresh proof was asked for: only auth_time shows that there was one
// (docs/security.md ISS-11).
func TestFreshProof(t *testing.T) {
	op := connectortest.NewOP(t)
	c := open(t, op, nil, nil)
	a := attempt()
	a.ForceAuthn = true
	for name, tc := range map[string]struct {
		authTime any
		ok       bool
	}{"now": {op.Now().Unix(), true}, "an hour ago": {op.Now().Add(-time.Hour).Unix(), false}, "not said": {0, false}} {
		d, err := c.Begin(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Finish(t.Context(), a, d.Secret, connectors.Return{Params: op.Approve(d.URL, connectortest.Person("p1", "auth_time", tc.authTime))})
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
		if r, ok := errors.AsType[*connectors.Refusal](err); !tc.ok && (!ok || r.Code != "not_fresh") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A provider's own words reach neither the log nor the person (UP-10, G7).
func TestErrorsQuoteNobody(t *testing.T) {
	op := connectortest.NewOP(t)
	c := open(t, op, nil, nil)
	for name, body := range map[string]string{
		"json": `{"error":"<script>","error_description":"SECRET <b>words</b>"}`, "html": "<html>SECRET", "long": `{"error":"` + strings.Repeat("SECRET", 100) + `"}`,
	} {
		for _, code := range []int{200, 400, 401, 500} {
			op.Set(func() { op.Override["/token"] = status(code, body) })
			_, err := signIn(t, c, op, connectortest.Person("p1"))
			if err == nil || strings.Contains(err.Error(), "SECRET") || strings.ContainsAny(err.Error(), "<\n") {
				t.Errorf("%s %d: %v", name, code, err)
			}
		}
	}
}
