package ldap

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/remotegpu/gatehouse/connectors"
)

// Names with a meaning in filters and DNs find the one whose name they are, and
// nobody else (LD-2, LD-3).
func TestHostileNames(t *testing.T) {
	names := []string{"a)(uid=*", "张三", "O'Brien, Jr.", `trailing\`, `x\2a`, "#hash", " ", "two  spaces", `"quoted"`, "a+b=c;d<e>f", "al*", "ſharp", "%s", "%u"}
	objects := []object{alice()}
	for i, n := range names {
		o := person("u"+string(rune('a'+i)), nil)
		o.attrs["uid"], o.password = []string{n}, n+"-secret"
		objects = append(objects, o)
	}
	c := newDirectory(t, objects...).connector(nil)
	for _, n := range names {
		id, err := c.Authenticate(t.Context(), n, n+"-secret")
		if strings.TrimSpace(n) == "" {
			if !errors.Is(err, connectors.ErrBadCredentials) {
				t.Errorf("%q: %v", n, err)
			}
			continue
		}
		if err != nil || id.Username != strings.TrimSpace(n) {
			t.Errorf("%q: %+v, %v", n, id, err)
		}
		if _, err := c.Authenticate(t.Context(), n, "alice-secret"); !errors.Is(err, connectors.ErrBadCredentials) {
			t.Errorf("%q with another's password: %v", n, err)
		}
	}
	for _, n := range []string{"*", "**", "alic*", "alice)(uid=*", "*)(uid=alice", `alice\`, `alice\00`, "alice\x00", strings.Repeat("A", 1<<20)} {
		if _, err := c.Authenticate(t.Context(), n, "alice-secret"); !errors.Is(err, connectors.ErrBadCredentials) {
			t.Errorf("%.20q: %v", n, err)
		}
	}
}

// A directory that answers with two entries, or without end, signs nobody in and
// is not read to its end.
func TestHostileAnswers(t *testing.T) {
	twin := alice()
	twin.dn = "uid=alice,ou=old,dc=example,dc=com"
	c := newDirectory(t, alice(), twin).connector(nil)
	if _, err := c.Authenticate(t.Context(), "alice", "alice-secret"); !errors.Is(err, connectors.ErrBadCredentials) {
		t.Errorf("two entries: %v", err)
	}
	d := newDirectory(t, alice())
	d.set(func() { d.flood = "(uid=alice)" })
	c = d.connector(func(cfg *Config) { cfg.Groups.Nested = new(true) })
	if _, err := c.Authenticate(t.Context(), "alice", "alice-secret"); !errors.Is(err, connectors.ErrBadCredentials) {
		t.Errorf("a million people: %v", err)
	}
	d.set(func() { d.flood = "(member=" })
	if _, err := c.Authenticate(t.Context(), "alice", "alice-secret"); !errors.Is(err, errTooManyGroups) {
		t.Errorf("a million groups: %v", err)
	}
	d.set(func() { d.flood = "" })
	if _, err := c.Authenticate(t.Context(), "alice", "alice-secret"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Behind a directory that hangs a crowd is turned away, and does not have it
// shown as down.
func TestHostileCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		places := make(chan struct{}, 1)
		leave, err := enter(t.Context(), places)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := enter(t.Context(), places); !errors.Is(err, connectors.ErrBusy) {
			t.Errorf("the second: %v", err)
		}
		leave()
		if leave, err = enter(t.Context(), places); err != nil {
			t.Errorf("with a place: %v", err)
		}
		leave()
	})
}
