package workload

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

const (
	// maxToken bounds a job's token, in bytes.
	maxToken = 16 << 10
	// skew is how far an issuer's clock may be ahead of ours.
	skew = time.Minute
)

// IssuerOf returns the iss that a JWT claims for itself, or "". It is unverified:
// it says whose keys have to be asked, and nothing else.
func IssuerOf(raw string) string {
	claims := peek(raw)
	iss, _ := claims["iss"].(string)
	return iss
}

// peek decodes the claims of a JWT without verifying anything; nil for what is
// none.
func peek(raw string) map[string]any {
	_, payload, ok := segments(raw)
	if !ok {
		return nil
	}
	claims, err := DecodeClaims(payload)
	if err != nil {
		return nil
	}
	return claims
}

// DecodeClaims reads a JSON object with numbers as they are written, so that none
// is rounded into another.
func DecodeClaims(js []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(js))
	d.UseNumber()
	var claims map[string]any
	if err := d.Decode(&claims); err != nil {
		return nil, err
	}
	if claims == nil || d.More() {
		return nil, errors.New("not one JSON object")
	}
	return claims, nil
}

// segments decodes the header and the payload of a compact JWS (RFC 7515 section
// 7.1). What has other characters than base64url is none: decoders skip some.
func segments(raw string) (header, payload []byte, ok bool) {
	if len(raw) > maxToken || strings.ContainsFunc(raw, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.'
	}) {
		return nil, nil, false
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return nil, nil, false
	}
	header, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		return nil, nil, false
	}
	if payload, err = base64.RawURLEncoding.DecodeString(parts[1]); err != nil {
		return nil, nil, false
	}
	return header, payload, true
}

// onceID is the id under which a token is used up: of its jti, or without one of
// what was signed. The signature is not part of it, and neither is how the parts
// were encoded: both can be written in several ways that verify, and each would
// be another token.
func onceID(issuer, raw string, claims map[string]any) string {
	if jti, ok := claims["jti"].(string); ok && jti != "" {
		return store.HashID("jti\n" + issuer + "\n" + jti)
	}
	header, payload, _ := segments(raw)
	sum := sha256.Sum256([]byte(base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)))
	return store.HashID("sha256\n" + issuer + "\n" + hex.EncodeToString(sum[:]))
}

// audience returns the token's only audience. Several are nobody's in particular:
// each of them could have passed the token on.
func audience(claims map[string]any) (string, bool) {
	switch v := claims["aud"].(type) {
	case string:
		return v, v != ""
	case []any:
		if len(v) == 1 {
			s, ok := v[0].(string)
			return s, ok && s != ""
		}
	}
	return "", false
}

// moment reads a NumericDate (RFC 7519 section 2).
func moment(claims map[string]any, name string) (t time.Time, there, ok bool) {
	v, there := claims[name]
	if !there {
		return time.Time{}, false, true
	}
	n, isNumber := v.(json.Number)
	if !isNumber {
		return time.Time{}, true, false
	}
	f, err := n.Float64()
	if err != nil || f < 0 || f > 1<<40 {
		return time.Time{}, true, false
	}
	return time.Unix(int64(f), 0), true, true
}

// times are those of a token that is good now.
type times struct{ issued, expires time.Time }

// timely checks exp, nbf and iat, and returns the claim that is wrong, or "". exp
// has no leeway: what is lent ends with the token, and after its end there is
// nothing left to lend.
func timely(claims map[string]any, now time.Time) (t times, wrong string) {
	exp, there, ok := moment(claims, "exp")
	if !there || !ok || !now.Before(exp) {
		return t, "exp"
	}
	iat, there, ok := moment(claims, "iat")
	if !there || !ok || iat.After(now.Add(skew)) {
		return t, "iat"
	}
	if nbf, there, ok := moment(claims, "nbf"); there && (!ok || nbf.After(now.Add(skew))) {
		return t, "nbf"
	}
	return times{iat, exp}, ""
}
