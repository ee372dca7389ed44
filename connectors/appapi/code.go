package appapi

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/remotegpu/gatehouse/connectors"
)

// verifierLen is the length of 32 random bytes in base64url, as RFC 7636
// section 4.1 recommends.
const verifierLen = 43

// NewSecret makes a Departure's secret: a PKCE verifier, and the attempt that
// it belongs to. Where the vendor does not check PKCE the second half still
// binds the answer to its attempt (docs/security.md UP-1, UP-3).
func NewSecret(a connectors.Attempt) []byte {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	return []byte(base64.RawURLEncoding.EncodeToString(raw) + "." + a.ID)
}

// Challenge returns the S256 challenge of a secret's verifier.
func Challenge(secret []byte) string {
	verifier, _, _ := strings.Cut(string(secret), ".")
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Verifier returns the secret's PKCE verifier, if the secret is the one that
// was made for this attempt.
func Verifier(secret []byte, a connectors.Attempt) (string, error) {
	verifier, id, _ := strings.Cut(string(secret), ".")
	if len(verifier) != verifierLen || a.ID == "" || subtle.ConstantTimeCompare([]byte(id), []byte(a.ID)) != 1 {
		return "", errors.New("the answer does not belong to this attempt")
	}
	return verifier, nil
}

// ReturnedCode reads what the browser brought back. The code stands under one
// of names; the state must be the attempt's, which the broker has compared too.
func ReturnedCode(a connectors.Attempt, p url.Values, names ...string) (string, error) {
	if e := p.Get("error"); e == "access_denied" {
		return "", connectors.ErrCancelled
	} else if e != "" {
		// Anybody can write this address, so that its words stay out of the log.
		return "", fmt.Errorf("the sign-in page answered %s", Word(e))
	}
	if s := p["state"]; len(s) != 1 || subtle.ConstantTimeCompare([]byte(s[0]), []byte(a.ID)) != 1 {
		return "", errors.New("the answer of the sign-in page has another state")
	}
	for _, name := range names {
		code := p[name]
		if len(code) == 0 {
			continue
		}
		if len(code) != 1 || !Opaque(code[0]) {
			break
		}
		return code[0], nil
	}
	return "", errors.New("the answer of the sign-in page has no code")
}
