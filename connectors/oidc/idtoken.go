package oidc

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/jwks"
)

// issuedWithin bounds the age of an ID token that has just been given: a sign-in
// takes no longer.
const issuedWithin = 15 * time.Minute

// expect is what an ID token must agree with.
type expect struct {
	nonce     string
	mustNonce bool // at a renewal it may be absent (Core section 12.2)
	access    string
	fresh     int64 // when a fresh proof was asked for
	subject   string
}

// idToken is a verified one.
type idToken struct {
	raw      string
	subject  string
	session  string
	authTime time.Time
	acr      string
	amr      []string
	claims   map[string]any
}

func (c *Connector) algs() []string {
	if len(c.cfg.SigningAlgs) > 0 {
		return c.cfg.SigningAlgs
	}
	return asymmetric
}

// library returns go-oidc's verifier with our keys in it, and where the keys'
// own trouble is kept. Its clock is a little slow, since it has no leeway for
// exp and five minutes for nbf.
func (c *Connector) library(p *provider) (*oidc.IDTokenVerifier, *jwks.Verifier) {
	keys := &jwks.Verifier{Keys: c.keys, Address: p.JWKS}
	for _, a := range c.algs() {
		keys.Algs = append(keys.Algs, jose.SignatureAlgorithm(a))
	}
	return oidc.NewVerifier(p.Issuer, keys, &oidc.Config{
		ClientID: c.cfg.ClientID, SupportedSigningAlgs: c.algs(), Now: func() time.Time { return c.now().Add(-skew) },
	}), keys
}

func jwtShape(raw string) bool {
	return raw != "" && len(raw) <= maxToken && strings.Count(raw, ".") == 2
}

// verify checks an ID token by OpenID Connect Core section 3.1.3.7: the library
// does signature, issuer, audience and expiry; the rest is here.
func (c *Connector) verify(ctx context.Context, p *provider, raw string, want expect) (idToken, error) {
	if !jwtShape(raw) {
		return idToken{}, errors.New("oidc: there is no ID token in the answer, or one of a strange shape")
	}
	lib, keys := c.library(p)
	t, err := lib.Verify(ctx, raw)
	if err != nil {
		if keys.Asked != nil {
			return idToken{}, keys.Asked
		}
		return idToken{}, fmt.Errorf("oidc: ID token: %w", err)
	}
	fail := func(why string) (idToken, error) { return idToken{}, errors.New("oidc: ID token: " + why) }
	var own struct {
		AZP      *string `json:"azp"`
		AuthTime float64 `json:"auth_time"`
		ACR      string  `json:"acr"`
		AMR      amr     `json:"amr"`
		SID      string  `json:"sid"`
	}
	claims := map[string]any{}
	if t.Claims(&own) != nil || t.Claims(&claims) != nil {
		return fail("claims of a wrong kind")
	}
	now := c.now()
	switch {
	case !goodSubject(t.Subject):
		return fail("no sub, or one that cannot be (Core section 2)")
	case want.subject != "" && t.Subject != want.subject:
		return idToken{}, fmt.Errorf("oidc: the provider speaks of somebody else: %w", connectors.ErrNotAllowed)
	case own.AZP != nil && *own.AZP != c.cfg.ClientID:
		return fail("azp is another client")
	case len(t.Audience) > 1 && own.AZP == nil:
		return fail("several audiences and no azp")
	case t.IssuedAt.IsZero() || t.IssuedAt.After(now.Add(skew)):
		return fail("iat is missing or in the future")
	case t.IssuedAt.Before(now.Add(-issuedWithin)):
		return fail("issued long ago, although it was asked for just now")
	case want.mustNonce && t.Nonce == "":
		return fail("no nonce")
	case t.Nonce != "" && subtle.ConstantTimeCompare([]byte(t.Nonce), []byte(want.nonce)) != 1:
		return fail("the nonce is of another sign-in")
	}
	if t.AccessTokenHash != "" && t.VerifyAccessToken(want.access) != nil {
		return fail("at_hash is of another access token")
	}
	it := idToken{raw: raw, subject: t.Subject, session: own.SID, acr: own.ACR, amr: own.AMR, claims: claims}
	if own.AuthTime > 0 && own.AuthTime < 1<<40 {
		it.authTime = time.Unix(int64(own.AuthTime), 0)
	}
	if want.fresh > 0 && !c.flavour.NoAuthTime {
		// max_age was sent, so that auth_time must be there (Core section 2), and
		// it is what proves that the person was asked (docs/security.md ISS-11).
		if it.authTime.IsZero() || it.authTime.Before(time.Unix(want.fresh, 0).Add(-skew)) {
			return idToken{}, &connectors.Refusal{Code: "not_fresh", Err: fmt.Errorf("oidc: a fresh sign-in was asked for, and auth_time is missing or older: %w", connectors.ErrNotAllowed)}
		}
	}
	return it, nil
}

// goodSubject: at most 255 characters (Core section 2), none of them invisible.
func goodSubject(s string) bool {
	return s != "" && len(s) <= 1020 && utf8.ValidString(s) && utf8.RuneCountInString(s) <= 255 &&
		!strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 })
}

// amr is a list; some providers send the only one by itself.
type amr []string

// UnmarshalJSON reads either.
func (a *amr) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = amr{one}
		return nil
	}
	var l []string
	if err := json.Unmarshal(b, &l); err != nil {
		return err
	}
	*a = slices.Clip(l)
	return nil
}
