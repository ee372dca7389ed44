package oidc

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

// Whatever a token says, nobody is signed in unless the provider's key signed it.
func FuzzIDToken(f *testing.F) {
	op := connectortest.NewOP(f)
	c := open(f, op, nil, nil)
	good := map[string]any{"iss": op.URL, "aud": op.ClientID, "sub": "p1", "nonce": "n", "iat": op.Now().Unix(), "exp": op.Now().Unix() + 3600}
	raw := op.Token("JWT", good)
	f.Add(raw)
	f.Add(op.Own(map[string]any{"alg": "none"}, good))
	f.Add("a.b.c")
	f.Add(strings.Repeat("a", maxToken+1))
	p := &provider{Issuer: op.URL, JWKS: op.URL + "/jwks"}
	f.Fuzz(func(t *testing.T, s string) {
		it, err := c.verify(t.Context(), p, s, expect{nonce: "n", mustNonce: true})
		if err == nil && it.subject != "p1" {
			t.Errorf("%q signs in %s", s, it.subject)
		}
		if _, err := c.VerifyLogout(t.Context(), s); err == nil {
			t.Errorf("%q signs out", s)
		}
		_, _ = unverified(s)
	})
}

// Whatever a provider says of a person makes a tame identity or an error.
func FuzzClaims(f *testing.F) {
	for _, s := range []string{`{}`, `{"groups":["a","b"],"email":"a@b.c","email_verified":true}`, `{"groups":{"a":1}}`, `{"name":"\u202e","picture":"javascript:"}`, `{"groups":"x","_claim_names":{"groups":"s"}}`} {
		f.Add(s, s)
	}
	c := &Connector{}
	f.Fuzz(func(t *testing.T, a, b string) {
		idToken, userInfo := map[string]any{}, map[string]any{}
		if json.Unmarshal([]byte(a), &idToken) != nil || json.Unmarshal([]byte(b), &userInfo) != nil {
			return
		}
		id := connectors.Identity{Claims: merge(idToken, userInfo, false)}
		if c.fill(t.Context(), &id) != nil {
			return
		}
		for _, s := range append([]string{id.Name, id.Username, id.Email, id.Picture, id.Locale}, id.Groups...) {
			if len([]rune(s)) > maxText || strings.ContainsFunc(s, unicode.IsControl) {
				t.Errorf("%q", s)
			}
		}
		if id.EmailVerified && id.Email == "" || strings.Count(id.Email, "@") > 1 {
			t.Errorf("e-mail %q", id.Email)
		}
	})
}

// Whatever the browser brings back: a code, or an error that quotes nothing.
func FuzzReturned(f *testing.F) {
	f.Add("code=a&state=b&iss=https://idp.example")
	f.Add("error=access_denied")
	f.Add("code=a&code=b")
	f.Fuzz(func(t *testing.T, q string) {
		v, err := url.ParseQuery(q)
		if err != nil {
			return
		}
		code, err := returned(v, &provider{Issuer: "https://idp.example", IssParameter: true})
		if err == nil && (code == "" || v.Get("iss") != "https://idp.example" || len(v["code"]) != 1) {
			t.Errorf("%q: %q", q, code)
		}
		if err != nil && strings.ContainsAny(err.Error(), "<>\r\n") {
			t.Errorf("%q: %v", q, err)
		}
	})
}
