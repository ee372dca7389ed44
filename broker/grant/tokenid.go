package grant

import (
	"crypto/rand"
	"encoding/base64"
	"strings"
)

// NewTokenID returns a jti: the grant that the token belongs to in front, so
// that a token whose grant has ended is recognised, and randomness behind.
func NewTokenID(grantID string) string {
	var b [9]byte
	rand.Read(b[:])
	return grantID + "." + base64.RawURLEncoding.EncodeToString(b[:])
}

// OfToken returns the grant in a jti; "" for a token without one.
func OfToken(jti string) string {
	id, _, ok := strings.Cut(jti, ".")
	if !ok {
		return ""
	}
	return id
}
