package jwks

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

func TestParse(t *testing.T) {
	op := connectortest.NewOP(t)
	good, err := op.PublicJWK().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := func(bits int) string {
		t.Helper()
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		js, err := json.Marshal(jose.JSONWebKey{Key: &key.PublicKey, KeyID: "r"})
		if err != nil {
			t.Fatal(err)
		}
		return string(js)
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	priv, err := json.Marshal(jose.JSONWebKey{Key: private, KeyID: "p"})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		keys string
		want int // usable ones; 0: an error
	}{
		"good": {string(good), 1}, "rsa": {rsaKey(2048), 1}, "short rsa": {rsaKey(1024), 0}, "symmetric": {`{"kty":"oct","k":"AAAA"}`, 0},
		"symmetric beside good": {`{"kty":"oct","k":"AAAA"},` + string(good), 1}, "private": {string(priv), 0},
		"encryption": {strings.Replace(string(good), `"use":"sig"`, `"use":"enc"`, 1), 0}, "unknown beside good": {`{"kty":"XX"},7,` + string(good), 1},
		"empty": {"", 0}, "65": {strings.TrimSuffix(strings.Repeat(string(good)+",", 65), ","), 0},
	} {
		got, err := Parse([]byte(`{"keys":[` + tc.keys + `]}`))
		if len(got) != tc.want || (err == nil) != (tc.want > 0) {
			t.Errorf("%s: %d keys, %v", name, len(got), err)
		}
	}
	for _, raw := range []string{"", "[]", "{}", `{"keys":null}`, `{"keys":{}}`} {
		if got, err := Parse([]byte(raw)); err == nil {
			t.Errorf("%s: %v", raw, got)
		}
	}
}
