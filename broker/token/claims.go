package token

import "time"

// Alg is a signature algorithm of JWA (RFC 7518 section 3.1).
type Alg string

// The algorithms that we sign with. None and HS* do not exist here.
const (
	RS256 Alg = "RS256" // RSASSA-PKCS1-v1_5, 2048 bits: ID tokens, which every client understands
	ES256 Alg = "ES256" // ECDSA P-256: access tokens, cheap to sign
)

// Type is the JOSE header typ, which tells tokens of different use apart
// (RFC 8725 section 3.11).
type Type string

// The types of our tokens. Verify wants exactly one of them.
const (
	TypeID      Type = "JWT"         // ID token
	TypeAccess  Type = "at+jwt"      // access token, RFC 9068
	TypeGateway Type = "gateway+jwt" // told to a lease upstream; nothing of ours accepts it
	TypeLogout  Type = "logout+jwt"  // back-channel logout
	// TypeStorage is shown to the token services of object stores, which lend
	// credentials against it; nothing of ours accepts it (docs/security.md ST-4).
	TypeStorage Type = "storage+jwt"
)

// Claims are the members of a token's payload as JSON gives them.
type Claims map[string]any

// Has reports whether the claim is there.
func (c Claims) Has(name string) bool { _, ok := c[name]; return ok }

// String returns a string claim, or "".
func (c Claims) String(name string) string {
	s, _ := c[name].(string)
	return s
}

// Strings returns a claim that is one string or a list of strings.
func (c Claims) Strings(name string) []string {
	switch v := c[name].(type) {
	case string:
		return []string{v}
	case []string:
		return v
	case []any:
		out := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil
			}
			out = append(out, s)
		}
		return out
	}
	return nil
}

// Time returns a NumericDate claim (seconds since 1970), or the zero time.
func (c Claims) Time(name string) time.Time {
	switch v := c[name].(type) {
	case float64:
		return time.Unix(int64(v), 0)
	case int64:
		return time.Unix(v, 0)
	}
	return time.Time{}
}
