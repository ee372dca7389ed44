package gateway

import (
	"encoding/base64"
	"net/url"
	"testing"
)

// GW-11: whatever we made, alive or not, of any kind and in any scheme, is no
// console's to see; what the console's own program made is.
func TestOurCredentials(t *testing.T) {
	b64 := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	jwt := func(payload string) string { return b64(`{"alg":"none"}`) + "." + b64(payload) + ".c2ln" }
	g := &Gateway{cfg: Config{Issuer: &url.URL{Scheme: "https", Host: "gate.example.com"}}}
	ours := jwt(`{"iss":"https://gate.example.com","exp":1}`)
	for auth, want := range map[string]bool{
		"Bearer " + ours:             true,
		"bearer  " + ours:            true,
		"token " + ours:              true,
		ours:                         true,
		`Token token="` + ours + `"`: true,
		"Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+ours)):           true,
		"Basic " + base64.StdEncoding.EncodeToString([]byte("rgpu_0123456789ab_x:")): true,
		"Bearer rgpu_0123456789ab_secret":                                            true,
		"token 3f1c9a":                                                               false,
		"Bearer " + jwt(`{"iss":"https://other.example"}`):                           false,
		"Bearer " + jwt(`not json`):                                                  false,
		"Basic " + base64.StdEncoding.EncodeToString([]byte("jovyan:pw")):            false,
		"": false,
	} {
		if got := g.isOurs(auth); got != want {
			t.Errorf("%q: %v", auth, got)
		}
	}
}
