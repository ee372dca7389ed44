package local

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
)

func open(t testing.TB, users ...User) *Connector {
	t.Helper()
	c, err := Open(connectors.Env{ID: "local", Now: time.Now}, Config{Users: users})
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Connector)
}

func hashed(t testing.TB, password string) string {
	t.Helper()
	h, err := HashPassword(password)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestAuthenticate(t *testing.T) {
	c := open(t, User{Username: "Ann", Email: "ann@example.com", PasswordHash: hashed(t, "right"), Groups: []string{"g"}},
		User{Username: "bob", PasswordHash: hashed(t, "right"), CIDRs: []string{"10.0.0.0/8"}})
	inside := connectors.WithClientIP(t.Context(), netip.MustParseAddr("10.1.2.3"))
	outside := connectors.WithClientIP(t.Context(), netip.MustParseAddr("192.0.2.1"))
	for _, c2 := range []struct {
		ctx            context.Context
		user, password string
		ok             bool
	}{
		{t.Context(), "Ann", "right", true}, {t.Context(), "ANN", "right", true}, {t.Context(), "ann", "wrong", false},
		{t.Context(), "nobody", "right", false}, {t.Context(), "", "right", false}, {t.Context(), "ann", "", false},
		{t.Context(), "ann", "right\x00", false}, {t.Context(), "ann", strings.Repeat("a", 2000), false}, {t.Context(), "ann", "\xff", false},
		{inside, "bob", "right", true}, {outside, "bob", "right", false}, {t.Context(), "bob", "right", false},
	} {
		id, err := c.Authenticate(c2.ctx, c2.user, c2.password)
		if c2.ok != (err == nil) || err != nil && !errors.Is(err, connectors.ErrBadCredentials) {
			t.Errorf("%q/%q: %v", c2.user, c2.password, err)
		}
		if c2.ok && (id.Subject != strings.ToLower(c2.user) || id.Connector != "local") {
			t.Errorf("%q: %+v", c2.user, id)
		}
	}
}

// SE-7: an unknown user costs one hash of the same price.
func TestUnknownUserCostsTheSame(t *testing.T) {
	c := open(t, User{Username: "ann", PasswordHash: hashed(t, "x")})
	known := c.users["ann"].hash
	if c.dummy.memory != known.memory || c.dummy.time != known.time || c.dummy.lanes != known.lanes || len(c.dummy.key) != len(known.key) {
		t.Fatalf("the dummy costs %+v, a user %+v", c.dummy, known)
	}
}

func TestRenew(t *testing.T) {
	c := open(t, User{Username: "ann", PasswordHash: hashed(t, "x"), Groups: []string{"new"}})
	id, err := c.Renew(t.Context(), connectors.Identity{Subject: "ann"})
	if err != nil || id.Groups[0] != "new" {
		t.Fatal(id, err)
	}
	if _, err := c.Renew(t.Context(), connectors.Identity{Subject: "gone"}); !errors.Is(err, connectors.ErrNotAllowed) {
		t.Fatal(err)
	}
}

func TestProblems(t *testing.T) {
	good := hashed(t, "x")
	for name, c := range map[string]struct {
		u    User
		rule string
	}{
		"no hash":       {User{Username: "a"}, "local.hash"},
		"plain text":    {User{Username: "a", PasswordHash: "secret"}, "local.hash"},
		"bcrypt":        {User{Username: "a", PasswordHash: "$2y$10$abcdefghijklmnopqrstuv"}, "local.hash"},
		"huge":          {User{Username: "a", PasswordHash: strings.Replace(good, "m=19456", "m=99999999", 1)}, "local.hash"},
		"no name":       {User{PasswordHash: good}, "local.username"},
		"wrong network": {User{Username: "a", PasswordHash: good, CIDRs: []string{"10.0.0.1"}}, "local.cidr"},
	} {
		if ps := (Config{Users: []User{c.u}}).Problems(); len(ps) != 1 || ps[0].Rule != c.rule {
			t.Errorf("%s: %v", name, ps)
		}
	}
	if ps := (Config{Users: []User{{Username: "a", PasswordHash: good}, {Username: "A", PasswordHash: good}}}).Problems(); len(ps) != 1 || ps[0].Rule != "local.duplicate" {
		t.Errorf("duplicate: %v", ps)
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, s string) {
		if h, err := parseHash(s); err == nil && (h.memory > maxMemoryKiB || h.time > maxPasses || h.lanes < 1) {
			t.Fatalf("%q asks for %+v", s, h)
		}
	})
}
