package issuer

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/remotegpu/gatehouse/broker/token"
)

// Who acts, who did before, and who may (RFC 8693 sections 4.1 and 4.4).
func TestActClaim(t *testing.T) {
	t.Parallel()
	chain := func(n int) map[string]any {
		var act map[string]any
		for range n {
			next := map[string]any{"sub": "x"}
			if act != nil {
				next["act"] = act
			}
			act = next
		}
		return act
	}
	claimsOf := func(kv ...any) *presented {
		c := token.Claims{}
		for i := 0; i+1 < len(kv); i += 2 {
			c[kv[i].(string)] = kv[i+1]
		}
		return &presented{claims: c}
	}
	actor := claimsOf("sub", "svc", "client_id", "svc")
	for name, c := range map[string]struct {
		subject, actor *presented
		want           string // "" for a refusal
	}{
		"nobody":              {claimsOf("sub", "u"), nil, "null"},
		"who did before":      {claimsOf("act", chain(1)), nil, `{"sub":"x"}`},
		"one":                 {claimsOf("sub", "u"), actor, `{"client_id":"svc","sub":"svc"}`},
		"one above another":   {claimsOf("act", chain(1)), actor, `{"act":{"sub":"x"},"client_id":"svc","sub":"svc"}`},
		"as long as may be":   {claimsOf("act", chain(maxActors-1)), actor, `{"act":{"act":{"act":{"sub":"x"},"sub":"x"},"sub":"x"},"client_id":"svc","sub":"svc"}`},
		"too long":            {claimsOf("act", chain(maxActors)), actor, ""},
		"acts for another":    {claimsOf("sub", "u"), claimsOf("sub", "svc", "act", chain(1)), ""},
		"named":               {claimsOf("may_act", map[string]any{"sub": "svc"}), actor, `{"client_id":"svc","sub":"svc"}`},
		"another is named":    {claimsOf("may_act", map[string]any{"sub": "other"}), actor, ""},
		"nobody is named":     {claimsOf("may_act", map[string]any{}), actor, ""},
		"something is named":  {claimsOf("may_act", "svc"), actor, ""},
		"named, and no actor": {claimsOf("may_act", map[string]any{"sub": "other"}), nil, "null"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			act, err := actClaim(c.subject, c.actor)
			var oe *oauthError
			if c.want == "" {
				if !errors.As(err, &oe) || oe.code != errInvalidRequest {
					t.Fatalf("%v, %v", act, err)
				}
				return
			}
			js, jerr := json.Marshal(act)
			if err != nil || jerr != nil || string(js) != c.want {
				t.Errorf("%s, %v; want %s", js, err, c.want)
			}
		})
	}
}
