package grant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/store"
)

// JWKS are the public keys of a client (RFC 7517 section 5), as the file holds
// them: members that are texts.
type JWKS struct {
	Keys []map[string]string `yaml:"keys" json:"keys"`
}

// JSON is the set as programs read it.
func (s JWKS) JSON() ([]byte, error) { return json.Marshal(s) }

// Keyed reports whether the client has keys to authenticate with.
func (c *Client) Keyed() bool { return len(c.JWKS.Keys) > 0 || c.JWKSURI != "" }

// keyProblems complains about keys that could not be used.
func (c *Client) keyProblems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: "client.keys", Text: text, Fix: fix})
	}
	if len(c.JWKS.Keys) > 0 && c.JWKSURI != "" {
		add("JWKSURI", "A client has jwks or jwks_uri, not both (RFC 7591 section 2).", "leave one out")
	}
	for i, k := range c.JWKS.Keys {
		switch at := fmt.Sprintf("JWKS.Keys[%d]", i); {
		case k["d"] != "" || k["k"] != "":
			add(at, "This is the private half of a key, or a secret; it is the client's alone.", "its public half")
		case k["kty"] != "RSA" && k["kty"] != "EC" && k["kty"] != "OKP":
			add(at, "This is no public key that a signature could be verified with.", `{kty: EC, crv: P-256, kid: …, x: …, y: …}`)
		}
	}
	if u, err := url.Parse(c.JWKSURI); c.JWKSURI != "" && (err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http") {
		add("JWKSURI", "jwks_uri is not an address of keys.", "https://app.example.com/jwks.json")
	}
	switch alg := c.TokenEndpointAuthSigningAlg; {
	case alg == "":
	case !c.Keyed():
		add("TokenEndpointAuthSigningAlg", "Without keys the client signs nothing.", "jwks_uri, or leave it out")
	case !slices.Contains(AssertionAlgs(), alg):
		add("TokenEndpointAuthSigningAlg", fmt.Sprintf("%q is not taken from clients.", alg), "ES256, RS256 or EdDSA")
	}
	if c.Keyed() && c.ClientSecret != "" && c.TokenEndpointAuthMethod == "" {
		add("JWKS", "With a secret and keys it must be said which of them the client authenticates with.", "token_endpoint_auth_method: "+AuthPrivateKeyJWT)
	}
	return ps
}

// AssertionAlgs are the algorithms with which clients may sign.
func AssertionAlgs() []string { return []string{"RS256", "ES256", "EdDSA"} }

// ErrAssertionUsed means that a client's assertion was used before.
var ErrAssertionUsed = errors.New("the assertion was used before")

// usedAssertion is the tombstone of a client's assertion.
type usedAssertion struct {
	Until time.Time `json:"until"`
}

// UseAssertion uses a client's assertion up; until is when it expires
// (docs/security.md G3, ISS-10).
func (l *Ledger) UseAssertion(ctx context.Context, clientID, jti string, until time.Time) error {
	err := l.assertions.Create(ctx, store.HashID(clientID+"\x00"+jti), usedAssertion{until.Add(time.Minute)})
	if errors.Is(err, store.ErrConflict) {
		return ErrAssertionUsed
	}
	if err != nil {
		return fmt.Errorf("use assertion: %w", err)
	}
	return nil
}
