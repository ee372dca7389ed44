package grant

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// CodeRequest is what an authorization code stands for.
type CodeRequest struct {
	ClientID    string    `json:"client"`
	UserID      string    `json:"user"`
	UserEpoch   uint64    `json:"epoch"`
	SessionID   string    `json:"session"` // the one that the grant will live by
	SID         string    `json:"sid"`     // of ID tokens: the browser's
	Connector   string    `json:"connector"`
	RedirectURI string    `json:"redirect_uri"`
	Nonce       string    `json:"nonce,omitempty"`
	Challenge   string    `json:"challenge,omitempty"` // S256
	Scopes      []string  `json:"scopes"`
	Audience    string    `json:"aud"`
	AuthTime    time.Time `json:"auth_time"`
	ACR         string    `json:"acr,omitempty"`
	AMR         []string  `json:"amr,omitempty"`
}

type codeRecord struct {
	CodeRequest
	Issued time.Time `json:"issued"`
	Grant  string    `json:"grant,omitempty"` // set by the one redemption
}

const (
	codeTTL  = time.Minute      // a code is good for (RFC 6749 section 4.1.2)
	codeKept = 10 * time.Minute // its tombstone is kept, to recognise a replay
)

// ErrInvalidGrant means that a code or refresh token is unknown, expired, ended
// or another client's (RFC 6749 section 5.2). The wrapped text is for the log.
var ErrInvalidGrant = errors.New("invalid grant")

// ErrCodeReused means that a code was presented again; what it gave is revoked.
var ErrCodeReused = fmt.Errorf("the code was used before: %w", ErrInvalidGrant)

// NewCode stores a code for 60 s under its hash.
func (l *Ledger) NewCode(ctx context.Context, r CodeRequest) (string, error) {
	code := rand.Text() + rand.Text()
	if err := l.codes.Create(ctx, store.HashID(code), codeRecord{CodeRequest: r, Issued: l.cfg.Now()}); err != nil {
		return "", fmt.Errorf("new code: %w", err)
	}
	return code, nil
}

// RedeemRequest presents a code. GrantID names the grant that the caller will
// make of it, so that a replay knows what to revoke. Audience is what the
// client names again at the token endpoint (RFC 8707 section 2.2); "" is nothing.
type RedeemRequest struct{ ClientID, Code, RedirectURI, Verifier, Audience, GrantID string }

// Redeem is the one success of a code: binding and use are one transition, so
// that a wrong client uses nothing up (docs/security.md ISS-4, G3). A second
// sight by the same client, whatever else it sends, revokes the grant that the
// first one gave: ErrCodeReused, and that grant as it ended.
func (l *Ledger) Redeem(ctx context.Context, r RedeemRequest) (CodeRequest, Grant, error) {
	var gave string
	rec, err := l.codes.Update(ctx, store.HashID(r.Code), func(c *codeRecord) error {
		switch {
		case c.ClientID != r.ClientID:
			return fmt.Errorf("the code is another client's: %w", ErrInvalidGrant)
		case c.Grant != "":
			gave = c.Grant
			return ErrCodeReused
		case !l.cfg.Now().Before(c.Issued.Add(codeTTL)):
			return fmt.Errorf("the code has expired: %w", ErrInvalidGrant)
		case c.RedirectURI != r.RedirectURI:
			return fmt.Errorf("redirect_uri is not the request's: %w", ErrInvalidGrant)
		case r.Audience != "" && r.Audience != c.Audience:
			return fmt.Errorf("the code is for another resource: %w", ErrInvalidTarget)
		}
		if err := checkPKCE(c.Challenge, r.Verifier); err != nil {
			return err
		}
		c.Grant = r.GrantID
		return nil
	})
	switch {
	case errors.Is(err, ErrCodeReused):
		g, err := l.Revoke(ctx, gave, "authorization code used twice")
		if err != nil {
			return CodeRequest{}, Grant{}, err
		}
		return CodeRequest{}, g, ErrCodeReused
	case errors.Is(err, store.ErrNotFound):
		return CodeRequest{}, Grant{}, fmt.Errorf("no such code: %w", ErrInvalidGrant)
	case err != nil:
		return CodeRequest{}, Grant{}, err
	}
	return rec.CodeRequest, Grant{}, nil
}

// checkPKCE compares verifier and challenge (RFC 7636 section 4.6). A code
// without a challenge takes no verifier: somebody may have stripped it.
func checkPKCE(challenge, verifier string) error {
	if challenge == "" {
		if verifier != "" {
			return fmt.Errorf("a verifier for a code that was asked for without a challenge: %w", ErrInvalidGrant)
		}
		return nil
	}
	if !ValidVerifier(verifier) {
		return fmt.Errorf("code_verifier is missing or not one (RFC 7636 section 4.1): %w", ErrInvalidGrant)
	}
	sum := sha256.Sum256([]byte(verifier))
	if subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) != 1 {
		return fmt.Errorf("code_verifier does not fit: %w", ErrInvalidGrant)
	}
	return nil
}

// ValidVerifier reports whether s has the form of a code_verifier, 43 to 128
// unreserved characters (RFC 7636 section 4.1).
func ValidVerifier(s string) bool {
	if len(s) < 43 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.', c == '_', c == '~':
		default:
			return false
		}
	}
	return true
}

// ValidChallenge reports whether s is base64url of 32 bytes: the only challenge
// that S256 makes.
func ValidChallenge(s string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == 32
}
