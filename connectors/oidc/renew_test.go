package oidc

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"testing"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

// kept is what the broker keeps of an identity.
func kept(id connectors.Identity) connectors.Identity {
	return connectors.Identity{Connector: id.Connector, Subject: id.Subject, Renewal: id.Renewal}
}

func TestRenew(t *testing.T) {
	for _, rotate := range []bool{true, false} {
		op := connectortest.NewOP(t)
		op.Rotate = rotate
		c := open(t, op, nil, nil)
		id, err := signIn(t, c, op, connectortest.Person("p1"))
		must(t, id, err)
		op.Change("p1", func(p map[string]any) { p["groups"] = []any{"new"} })
		for range 3 { // each with the renewal of the one before
			id, err = c.Renew(t.Context(), kept(id))
			if must(t, id, err); !reflect.DeepEqual(id.Groups, []string{"new"}) || id.Renewal == nil {
				t.Fatalf("rotate %v: renewed as %+v", rotate, id)
			}
		}
		op.Withdraw() // locked or removed
		if _, err := c.Renew(t.Context(), kept(id)); !errors.Is(err, connectors.ErrNotAllowed) {
			t.Errorf("rotate %v: after the account was locked: %v", rotate, err)
		}
	}
}

// The refresh token was spent, and then something failed: the new one is given
// back beside the error, and the next renewal works (docs/security.md UP-9).
func TestRenewKeepsTheNewToken(t *testing.T) {
	op := connectortest.NewOP(t)
	op.Rotate = true
	c := open(t, op, nil, nil)
	id, err := signIn(t, c, op, connectortest.Person("p1"))
	must(t, id, err)
	for name, f := range map[string]func(){
		"userinfo down": func() { op.Override["/userinfo"] = status(http.StatusBadGateway, "") },
		"wrong nonce":   func() { op.Claims = func(c map[string]any) { c["nonce"] = "another" } },
		"wrong aud":     func() { op.Claims = func(c map[string]any) { c["aud"] = "another" } },
	} {
		op.Set(f)
		failed, err := c.Renew(t.Context(), kept(id))
		op.Behave()
		if !errors.Is(err, connectors.ErrUnavailable) || errors.Is(err, connectors.ErrNotAllowed) || failed.Subject != "" || failed.Renewal == nil {
			t.Fatalf("%s: %+v %v", name, failed, err)
		}
		id.Renewal = failed.Renewal
		if id, err = c.Renew(t.Context(), kept(id)); err != nil {
			t.Fatalf("%s: the next renewal: %v", name, err)
		}
	}
}

func TestRenewRefusals(t *testing.T) {
	op := connectortest.NewOP(t)
	c := open(t, op, nil, nil)
	id, err := signIn(t, c, op, connectortest.Person("p1"))
	must(t, id, err)
	for name, tc := range map[string]struct {
		set  func()
		want error
	}{
		"somebody else's ID token": {func() { op.Claims = func(c map[string]any) { c["sub"] = "p2" } }, connectors.ErrNotAllowed},
		"userinfo refuses":         {func() { op.Override["/userinfo"] = status(http.StatusForbidden, "{}") }, connectors.ErrNotAllowed},
		"userinfo of another":      {func() { op.UserInfo = func(c map[string]any) { c["sub"] = "p2" } }, connectors.ErrUnavailable},
		"our secret is wrong":      {func() { op.Override["/token"] = status(http.StatusUnauthorized, `{"error":"invalid_client"}`) }, connectors.ErrUnavailable},
		"nonsense":                 {func() { op.Override["/token"] = status(http.StatusOK, "<html>") }, connectors.ErrUnavailable},
	} {
		op.Set(tc.set)
		_, err := c.Renew(t.Context(), kept(id))
		op.Behave()
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, raw := range map[string]string{"nothing": "", "nonsense": "x", "no token": `{"r":"","i":"a.b.c"}`, "no ID token": `{"r":"rt","i":""}`} {
		if _, err := c.Renew(t.Context(), connectors.Identity{Subject: "p1", Renewal: []byte(raw)}); !errors.Is(err, connectors.ErrNotAllowed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A refresh may bring no ID token (Core section 12.2). What userinfo says is
// newer then; what it does not say is what the last ID token said.
func TestRenewWithoutIDToken(t *testing.T) {
	op := connectortest.NewOP(t)
	c := open(t, op, nil, nil)
	id, err := signIn(t, c, op, connectortest.Person("p1", "tenant", "acme"))
	must(t, id, err)
	op.Change("p1", func(p map[string]any) { p["groups"] = []any{"new"} })
	op.Set(func() {
		op.Answer = func(a map[string]any) { delete(a, "id_token") }
		op.UserInfo = func(c map[string]any) { delete(c, "tenant") }
	})
	fresh, err := c.Renew(t.Context(), kept(id))
	if must(t, fresh, err); !reflect.DeepEqual(fresh.Groups, []string{"new"}) || fresh.Claims["tenant"] != "acme" {
		t.Errorf("renewed as %+v", fresh)
	}
	op.Set(func() { op.UserInfo = func(c map[string]any) { delete(c, "groups") } })
	if fresh, err = c.Renew(t.Context(), kept(id)); err != nil || !reflect.DeepEqual(fresh.Groups, []string{"staff"}) {
		t.Errorf("renewed as %+v, %v", fresh, err)
	}
}

// Without a refresh token a proof cannot be renewed, and says so.
func TestNoRefreshToken(t *testing.T) {
	op := connectortest.NewOP(t)
	op.NoRefresh = true
	id, err := signIn(t, open(t, op, nil, nil), op, connectortest.Person("p1"))
	if must(t, id, err); id.Renewal != nil {
		t.Errorf("a renewal of nothing: %s", id.Renewal)
	}
}

// The renewal keeps what it needs and no access token.
func TestRenewalKeepsLittle(t *testing.T) {
	op := connectortest.NewOP(t)
	id, err := signIn(t, open(t, op, nil, nil), op, connectortest.Person("p1"))
	must(t, id, err)
	var r map[string]string
	if err := json.Unmarshal(id.Renewal, &r); err != nil || len(r) != 3 || r["r"] == "" || r["i"] == "" || r["n"] == "" {
		t.Errorf("renewal %v %v", r, err)
	}
}
