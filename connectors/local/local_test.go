package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
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

func hashed(t testing.TB, password string) redact.String {
	t.Helper()
	h, err := HashPassword(password)
	if err != nil {
		t.Fatal(err)
	}
	return redact.String(h)
}

func changed(h redact.String, from, to string) redact.String {
	return redact.String(strings.Replace(h.Reveal(), from, to, 1))
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

// SE-7: an unknown user costs one hash of a price that a user has, and always
// the same one.
func TestUnknownUserCostsTheSame(t *testing.T) {
	cheap := hashed(t, "x")
	dear := changed(cheap, "m=19456,t=2", "m=65536,t=3")
	c := open(t, User{Username: "ann", PasswordHash: cheap}, User{Username: "bob", PasswordHash: dear})
	cost := func(h hash) [5]int {
		return [5]int{int(h.memory), int(h.time), int(h.lanes), len(h.salt), len(h.key)}
	}
	got := map[[5]int]bool{}
	for i := range 64 {
		name := fmt.Sprint("nobody", i)
		first := cost(c.dummy(name))
		if again := cost(c.dummy(name)); again != first {
			t.Fatal("the price of a name changes")
		}
		got[first] = true
	}
	if want := map[[5]int]bool{cost(c.users["ann"].hash): true, cost(c.users["bob"].hash): true}; !maps.Equal(got, want) {
		t.Errorf("unknown users cost %v, users %v", got, want)
	}
	if none := open(t); cost(none.dummy("x")) != cost(c.users["ann"].hash) {
		t.Errorf("without users: %v", cost(none.dummy("x")))
	}
}

// SE-7: hashes at once are bounded; who waits too long is not refused as wrong.
func TestHashesAtOnceAreBounded(t *testing.T) {
	c := open(t, User{Username: "ann", PasswordHash: hashed(t, "right")})
	for range cap(c.slots) {
		c.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Authenticate(ctx, "ann", "right"); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("no slot is free: %v", err)
	}
	<-c.slots
	if _, err := c.Authenticate(t.Context(), "ann", "right"); err != nil || len(c.slots) != cap(c.slots)-1 {
		t.Errorf("one slot is free: %v, %d taken", err, len(c.slots))
	}
	if _, err := c.Authenticate(t.Context(), "ann", strings.Repeat("a", 1025)); !errors.Is(err, connectors.ErrBadCredentials) {
		t.Errorf("a long one: %v", err)
	}
}

func TestHashPassword(t *testing.T) {
	a, b := hashed(t, "pass word"), hashed(t, "pass word")
	if a == b || !strings.HasPrefix(a.Reveal(), "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("%s, %s", a.Reveal(), b.Reveal())
	}
	for _, p := range []string{"", "a\x00b", "\xff", strings.Repeat("a", 1025)} {
		if _, err := HashPassword(p); !errors.Is(err, ErrPassword) {
			t.Errorf("%q: %v", p, err)
		}
	}
}

func TestCheckNewPassword(t *testing.T) {
	for p, ok := range map[string]bool{
		"tangled otter parade": true, "xK8#vQ2!mZ9@": true, "正确的马电池订书钉很长": false, "正确的马电池订书钉很长的密码": true,
		"short": false, "elevenchars": false, "aaaaaaaaaaaaaaaa": false, "123456789012": false, "Password1234!": false, "passwordpassword": false,
		"qwertyuiop12": false, "1qaz2wsx3edc": false, "operator12345": false, "123operator!!": false, "operatoroperator": false, "": false, "abcdefghijkl": false,
		"correct horse battery": true, "gatehouse2026!": false,
	} {
		if err := CheckNewPassword("operator", p); (err == nil) != ok || err != nil && p != "" && strings.Contains(err.Error(), p) {
			t.Errorf("%q: %v", p, err)
		}
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
		"weak":          {User{Username: "a", PasswordHash: changed(good, "m=19456,t=2", "m=19456,t=1")}, "local.hash"},
		"tiny":          {User{Username: "a", PasswordHash: changed(good, "m=19456,t=2", "m=1024,t=16")}, "local.hash"},
		"huge":          {User{Username: "a", PasswordHash: changed(good, "m=19456", "m=99999999")}, "local.hash"},
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
		if h, err := parseHash(s); err == nil && (h.memory > maxMemoryKiB || h.time > maxPasses || h.lanes < 1 || h.memory*h.time < minWork) {
			t.Fatalf("%q asks for %+v", s, h)
		}
	})
}
