package issuer

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/connectors"
)

// signatures verifies what clients sign, with the keys that they registered.
type signatures interface {
	// VerifyAssertion returns the claims of a JWT of the client's.
	// connectors.ErrUnavailable means that its keys could not be had.
	VerifyAssertion(ctx context.Context, clientID, raw string) (map[string]any, error)
}

const (
	// maxAssertionTTL is how far ahead the exp of a client's assertion may be.
	maxAssertionTTL = 5 * time.Minute
	maxJTI          = 256
	// clockSkew is how far a client's clock may be from ours.
	clockSkew = time.Minute
)

// byAssertion authenticates a client by a JWT that it signed: private_key_jwt
// (RFC 7523 section 3, OpenID Connect Core section 9, docs/security.md ISS-10).
// An assertion is good once.
func (is *Issuer) byAssertion(ctx context.Context, form url.Values) (*grant.Client, error) {
	refuse := func(why error) error { return oauth(errInvalidClient, "Client authentication failed.", why) }
	raw := form.Get("client_assertion")
	if form.Get("client_assertion_type") != assertionOfJWT {
		return nil, oauth(errInvalidClient, "client_assertion_type must be "+assertionOfJWT+".", nil)
	}
	id := issuerIn(raw)
	c, ok := is.cfg.Clients.Get(id)
	if !ok || !c.Accepts(grant.AuthPrivateKeyJWT) {
		return nil, refuse(errors.New("the assertion is of no client that signs"))
	}
	if asked := form.Get("client_id"); asked != "" && asked != id {
		return nil, refuse(errors.New("client_id is another than the assertion's"))
	}
	if want := c.TokenEndpointAuthSigningAlg; want != "" && algIn(raw) != want {
		return nil, refuse(errors.New("the assertion is signed with another algorithm than " + want))
	}
	claims, err := is.cfg.Signatures.VerifyAssertion(ctx, id, raw)
	switch {
	case errors.Is(err, connectors.ErrUnavailable):
		return nil, err
	case err != nil:
		return nil, refuse(err)
	}
	until, err := is.assertionHolds(id, claims)
	if err != nil {
		return nil, refuse(err)
	}
	jti, _ := claims["jti"].(string)
	err = is.cfg.Ledger.UseAssertion(ctx, id, jti, until)
	if errors.Is(err, store.ErrUnavailable) {
		return nil, err
	}
	if err != nil {
		return nil, refuse(err)
	}
	return c, nil
}

// assertionHolds judges the claims of an assertion whose signature is good, and
// returns when it expires.
func (is *Issuer) assertionHolds(clientID string, claims map[string]any) (time.Time, error) {
	now := is.cfg.Now()
	text := func(name string) string { s, _ := claims[name].(string); return s }
	if text("iss") != clientID || text("sub") != clientID {
		return time.Time{}, errors.New("iss and sub are not both the client")
	}
	// One text: who takes a list takes what was meant for others as well
	// (draft-ietf-oauth-rfc7523bis).
	if aud := text("aud"); aud != is.cfg.Issuer && aud != is.cfg.Issuer+"/oauth2/token" {
		return time.Time{}, errors.New("aud is not this issuer, as the only text")
	}
	exp, ok := moment(claims, "exp")
	switch {
	case !ok:
		return time.Time{}, errors.New("exp is missing")
	case !now.Before(exp.Add(clockSkew)):
		return time.Time{}, errors.New("expired")
	case exp.After(now.Add(maxAssertionTTL + clockSkew)):
		return time.Time{}, errors.New("exp is further ahead than five minutes")
	}
	for _, name := range []string{"nbf", "iat"} {
		if at, ok := moment(claims, name); claims[name] != nil && (!ok || at.After(now.Add(clockSkew))) {
			return time.Time{}, errors.New(name + " is ahead")
		}
	}
	if jti := text("jti"); jti == "" || len(jti) > maxJTI {
		return time.Time{}, errors.New("jti is missing or too long")
	}
	return exp.Add(clockSkew), nil
}

// algIn reads the algorithm that a JWT says it is signed with; whoever verifies
// it uses that one or none.
func algIn(raw string) string {
	head, _, _ := strings.Cut(raw, ".")
	js, err := base64.RawURLEncoding.DecodeString(head)
	var h struct {
		Alg string `json:"alg"`
	}
	if err != nil || json.Unmarshal(js, &h) != nil {
		return ""
	}
	return h.Alg
}

// moment reads a NumericDate, which may have a fraction (RFC 7519 section 2).
func moment(claims map[string]any, name string) (time.Time, bool) {
	n, ok := claims[name].(json.Number)
	if !ok {
		return time.Time{}, false
	}
	f, err := n.Float64()
	if err != nil || f < 0 || f > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(f), 0), true
}
