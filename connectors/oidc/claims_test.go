package oidc

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

func TestIdentity(t *testing.T) {
	op := connectortest.NewOP(t)
	c := open(t, op, nil, nil)
	id, err := signIn(t, c, op, connectortest.Person("p1", "picture", "https://idp.example/p1.png", "locale", "zh-CN", "acr", "urn:mfa", "amr", []any{"pwd", "otp"},
		"groups", []any{"b", "a", "", "a"}, "userinfo:department", "ml"))
	must(t, id, err)
	if id.Connector != "test" || id.Subject != "p1" || id.Username != "p1" || id.Name != "Person p1" || id.Email != "p1@example.org" || !id.EmailVerified ||
		!reflect.DeepEqual(id.Groups, []string{"a", "b"}) || id.Picture != "https://idp.example/p1.png" || id.Locale != "zh-CN" || id.ACR != "urn:mfa" ||
		!reflect.DeepEqual(id.AMR, []string{"pwd", "otp"}) || id.Session != "s-p1" || id.AuthTime.IsZero() || id.Renewal == nil || id.OneRenewal {
		t.Errorf("identity %+v", id)
	}
	if id.Claims["department"] != "ml" || id.Claims["iss"] != op.URL {
		t.Errorf("claims %v", id.Claims)
	}
	// One group by itself, one amr by itself, as some send them.
	id, err = signIn(t, c, op, connectortest.Person("p2", "groups", "admins", "amr", "pwd", "picture", "javascript:alert(1)", "name", "A\u202eB\nC", "email", "no address"))
	must(t, id, err)
	if !reflect.DeepEqual(id.Groups, []string{"admins"}) || !reflect.DeepEqual(id.AMR, []string{"pwd"}) || id.Picture != "" || id.Name != "ABC" || id.Email != "" || id.EmailVerified {
		t.Errorf("identity %+v", id)
	}
	// Strange letters in a sub, a name that looks like a path: nothing to us.
	id, err = signIn(t, c, op, connectortest.Person("u-1006|ü", "preferred_username", "../zoe"))
	if must(t, id, err); id.Subject != "u-1006|ü" || id.Username != "../zoe" {
		t.Errorf("identity %+v", id)
	}
}

// Only the provider's own word, as a boolean, makes an address verified
// (docs/security.md UP-5).
func TestEmailVerified(t *testing.T) {
	op := connectortest.NewOP(t)
	c := open(t, op, nil, nil)
	for name, tc := range map[string]struct {
		pairs []any
		want  bool
	}{
		"true": {[]any{"email_verified", true}, true}, "false": {[]any{"email_verified", false}, false}, "absent": {[]any{"email_verified", nil}, false},
		"text": {[]any{"email_verified", "true"}, false}, "one": {[]any{"email_verified", 1}, false}, "no address": {[]any{"email", nil}, false},
		"in userinfo":              {[]any{"email", nil, "email_verified", nil, "userinfo:email", "p1@example.org", "userinfo:email_verified", true}, true},
		"verified there, the same": {[]any{"email_verified", nil, "userinfo:email_verified", true}, true},
		"verified there, another":  {[]any{"email_verified", nil, "userinfo:email", "other@example.org", "userinfo:email_verified", true}, false},
	} {
		id, err := signIn(t, c, op, connectortest.Person("p1", tc.pairs...))
		if must(t, id, err); id.EmailVerified != tc.want {
			t.Errorf("%s: verified %v, %q", name, id.EmailVerified, id.Email)
		}
		if name == "verified there, another" && id.Email != "p1@example.org" {
			t.Errorf("the ID token's address lost to userinfo's: %q", id.Email)
		}
	}
}

// Userinfo adds; it changes nothing that the ID token says, and nothing about
// the token itself.
func TestMerge(t *testing.T) {
	idToken := map[string]any{"iss": "i", "sub": "1", "name": "signed", "nonce": "n"}
	userInfo := map[string]any{"sub": "1", "name": "unsigned", "hd": "acme.com", "sid": "s", "aud": "x", "acr": "high", "auth_time": 1.0, "department": "ml", "_claim_names": map[string]any{}}
	got := merge(idToken, userInfo, false)
	want := map[string]any{"iss": "i", "sub": "1", "name": "signed", "nonce": "n", "department": "ml"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("merged %v", got)
	}
	if got = merge(idToken, userInfo, true); got["name"] != "unsigned" || got["hd"] != nil || got["iss"] != "i" {
		t.Errorf("merged with a newer one: %v", got)
	}
	if idToken["department"] != nil {
		t.Error("merge changed what it was given")
	}
}

func TestUserInfo(t *testing.T) {
	op := connectortest.NewOP(t)
	op.Set(func() { op.Override["/userinfo"] = status(http.StatusInternalServerError, "") })
	if _, err := signIn(t, open(t, op, nil, nil), op, connectortest.Person("p1")); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	id, err := signIn(t, open(t, op, nil, func(c *Config) { c.SkipUserInfo = true }), op, connectortest.Person("p1", "userinfo:department", "ml"))
	if must(t, id, err); id.Claims["department"] != nil {
		t.Error("userinfo was asked")
	}
	op.Behave()
	op.Set(func() { op.Override["/userinfo"] = status(http.StatusOK, "eyJhbGciOiJub25lIn0.e30.") })
	if _, err := signIn(t, open(t, op, nil, nil), op, connectortest.Person("p1")); err == nil || !strings.Contains(err.Error(), "skip_userinfo") {
		t.Errorf("got %v", err)
	}
}

// mapped makes a connector whose claims are mapped by functions: what compiles
// CEL is the broker's.
func mappedBy(t *testing.T, op *connectortest.OP, exprs map[string]connectors.Mapping) *Connector {
	t.Helper()
	cfg := Config{Issuer: op.URL, ClientID: op.ClientID, ClientSecret: "x", Claims: map[string]string{}}
	for name := range exprs {
		cfg.Claims[name] = name
	}
	c, err := New(connectors.Env{ID: "test", HTTP: func(string, string, ...string) (*http.Client, error) { return &http.Client{}, nil },
		Mapping: func(source string) (connectors.Mapping, error) { return exprs[source], nil }}, cfg, Flavour{})
	if err != nil {
		t.Fatal(err)
	}
	op.Set(func() { op.ClientSecret = "x" })
	return c
}

func TestMapping(t *testing.T) {
	op := connectortest.NewOP(t)
	value := func(v any) connectors.Mapping {
		return func(context.Context, map[string]any) (any, error) { return v, nil }
	}
	id, err := signIn(t, mappedBy(t, op, map[string]connectors.Mapping{
		"username": value("jdoe"), "email_verified": value(true), "groups": func(_ context.Context, c map[string]any) (any, error) { return c["roles"], nil },
	}), op, connectortest.Person("p1", "roles", []any{"ops"}, "email_verified", "yes"))
	if must(t, id, err); id.Username != "jdoe" || !id.EmailVerified || !reflect.DeepEqual(id.Groups, []string{"ops"}) || id.Name != "Person p1" {
		t.Errorf("identity %+v", id)
	}
	// What fails, or comes to something else, lets nobody in (docs/security.md G1).
	for name, m := range map[string]map[string]connectors.Mapping{
		"error":        {"groups": func(context.Context, map[string]any) (any, error) { return nil, errors.New("no such key: roles") }},
		"email number": {"email": value(7)}, "groups map": {"groups": value(map[string]any{"a": 1})}, "group number": {"groups": value([]any{"a", 1})},
	} {
		if id, err := signIn(t, mappedBy(t, op, m), op, connectortest.Person("p1")); !errors.Is(err, connectors.ErrNotAllowed) {
			t.Errorf("%s: %+v %v", name, id, err)
		}
	}
	if id, err := signIn(t, mappedBy(t, op, map[string]connectors.Mapping{"email_verified": value("true")}), op, connectortest.Person("p1")); err != nil || id.EmailVerified {
		t.Errorf("a text verifies an address: %+v %v", id, err)
	}
}
