package oidc

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
	"github.com/remotegpu/gatehouse/connectors/jwks"
)

// The provider rolls its key twice: sign-in goes on, and what the old key signs
// is refused once it has left the set.
func TestKeysRoll(t *testing.T) {
	op, now := connectortest.NewOP(t), &clock{}
	op.Now = now.now
	c := open(t, op, now, nil)
	in := func() error { _, err := signIn(t, c, op, connectortest.Person("p1")); return err }
	if err := in(); err != nil {
		t.Fatal(err)
	}
	old := op.PublicJWK()
	for range 2 {
		op.NewKey(true)
		now.move(jwks.RefetchEvery)
		if err := in(); err != nil {
			t.Fatalf("after a new key: %v", err)
		}
	}
	op.NewKey(false)
	now.move(jwks.RefetchEvery)
	if err := in(); err != nil {
		t.Fatal(err)
	}
	set, err := c.keys.Get(t.Context(), op.URL+"/jwks")
	if err != nil || len(set) != 1 || set[0].KeyID == old.KeyID {
		t.Errorf("keys %v %v", set, err)
	}
}

// An unknown kid and a bad signature make us ask once a minute, whoever sends
// how many (docs/security.md CI-8).
func TestKeysAreAskedForWithALimit(t *testing.T) {
	op, now := connectortest.NewOP(t), &clock{}
	op.Now = now.now
	c := open(t, op, now, nil)
	id, err := signIn(t, c, op, connectortest.Person("p1"))
	must(t, id, err)
	now.move(jwks.RefetchEvery)
	before := op.Calls("/jwks")
	for _, header := range []map[string]any{{"alg": "ES256", "kid": "nobody's"}, {"alg": "ES256", "kid": op.PublicJWK().KeyID}} {
		for range 20 {
			if _, err := c.VerifyLogout(t.Context(), op.Foreign(header, map[string]any{})); err == nil {
				t.Fatal("a foreign signature counts")
			}
		}
	}
	if n := op.Calls("/jwks") - before; n != 1 {
		t.Errorf("asked %d times in a minute, want 1", n)
	}
	now.move(jwks.RefetchEvery)
	if _, err := c.VerifyLogout(t.Context(), op.Foreign(map[string]any{"alg": "ES256"}, map[string]any{})); err == nil || op.Calls("/jwks")-before != 2 {
		t.Errorf("a minute later: %d calls, %v", op.Calls("/jwks")-before, err)
	}
}

// Keys of yesterday are used while the provider is away, older ones are not.
func TestKeysWhileTheProviderIsAway(t *testing.T) {
	op, now := connectortest.NewOP(t), &clock{}
	op.Now = now.now
	c := open(t, op, now, nil)
	id, err := signIn(t, c, op, connectortest.Person("p1"))
	must(t, id, err)
	op.Set(func() { op.Override["/jwks"] = status(http.StatusInternalServerError, "") })
	now.move(jwks.Fresh)
	id, err = signIn(t, c, op, connectortest.Person("p1"))
	must(t, id, err)
	now.move(jwks.Stale)
	if _, err := signIn(t, c, op, connectortest.Person("p1")); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("with very old keys: %v", err)
	}
	fresh := open(t, op, now, nil)
	if _, err := signIn(t, fresh, op, connectortest.Person("p1")); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("without keys: %v", err)
	}
	if err := fresh.Check(t.Context()); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("check: %v", err)
	}
}

// A token without kid is verified only where there is one key to choose.
func TestTokenWithoutKid(t *testing.T) {
	op := connectortest.NewOP(t)
	op.Set(func() { op.Sign = func(h, c map[string]any) string { delete(h, "kid"); return op.Own(h, c) } })
	id, err := signIn(t, open(t, op, nil, nil), op, connectortest.Person("p1"))
	must(t, id, err)
	op.NewKey(true)
	if _, err := signIn(t, open(t, op, nil, nil), op, connectortest.Person("p1")); err == nil || !strings.Contains(err.Error(), "names none") {
		t.Errorf("with two keys: %v", err)
	}
}

// The operator's list of algorithms is the only one (docs/security.md ISS-7).
func TestSigningAlgs(t *testing.T) {
	op := connectortest.NewOP(t)
	if _, err := signIn(t, open(t, op, nil, func(c *Config) { c.SigningAlgs = []string{"RS256"} }), op, connectortest.Person("p1")); err == nil {
		t.Error("ES256 counts where RS256 alone is listed")
	}
	id, err := signIn(t, open(t, op, nil, func(c *Config) { c.SigningAlgs = []string{"ES256"} }), op, connectortest.Person("p1"))
	must(t, id, err)
}
