package gateway

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/remotegpu/gatehouse/broker/apikey"
)

// isOurs reports whether an Authorization header holds a credential that we
// made, of any kind, alive or not: a lease upstream runs strangers' code and
// must never get one (GW-11). It need not verify, so it does not.
func (g *Gateway) isOurs(auth string) bool {
	if scheme, rest, ok := strings.Cut(auth, " "); ok && strings.EqualFold(scheme, "Basic") {
		if raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest)); err == nil {
			auth = string(raw)
		}
	}
	issuer := g.cfg.Issuer.String()
	for word := range strings.FieldsFuncSeq(auth, func(c rune) bool { return strings.ContainsRune(" \t,;:=\"'", c) }) {
		if apikey.Looks(word) || madeBy(issuer, word) {
			return true
		}
	}
	return false
}

// madeBy reports whether a text reads as a JWT of this issuer.
func madeBy(issuer, raw string) bool {
	parts := strings.SplitN(raw, ".", 3)
	if len(parts) != 3 {
		return false
	}
	js, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	return json.Unmarshal(js, &c) == nil && c.Issuer == issuer
}
