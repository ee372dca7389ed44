package ldap

import (
	"context"
	"errors"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/remotegpu/gatehouse/connectors"
)

// two are two servers of one directory, and the connector that knows both.
func two(t *testing.T) (a, b *directory, c *Connector) {
	a, b = newDirectory(t, alice()), newDirectory(t, alice())
	b.mustTrust(a)
	c = a.connector(func(cfg *Config) { cfg.Hosts = []string{b.listener.Addr().String()} })
	return a, b, c
}

// mustTrust makes this directory show the other's certificate.
func (d *directory) mustTrust(o *directory) { d.set(func() { d.tls = o.tls }) }

func signsIn(t *testing.T, c *Connector) {
	t.Helper()
	if _, err := c.Authenticate(t.Context(), "alice", "alice-secret"); err != nil {
		t.Fatal(err)
	}
}

// count returns the binds as alice.
func (d *directory) asked() (n int) {
	binds, _, _ := d.seen()
	for _, b := range binds {
		if sameDN(b.dn, aliceDN) {
			n++
		}
	}
	return n
}

// A server that goes away, refuses to serve or breaks off is left for the next
// one without a failed sign-in, and is used again when Check has seen it back.
func TestHostsFailOverAndBack(t *testing.T) {
	for name, trouble := range map[string][2]func(*directory){
		"busy":        {func(d *directory) { d.search = goldap.LDAPResultBusy }, func(d *directory) { d.search = 0 }},
		"unavailable": {func(d *directory) { d.search = goldap.LDAPResultUnavailable }, func(d *directory) { d.search = 0 }},
		"resets":      {func(d *directory) { d.drop = 1 << 20 }, func(d *directory) { d.drop = 0 }},
		"no StartTLS": {func(d *directory) { d.startTLS = goldap.LDAPResultProtocolError }, func(d *directory) { d.startTLS = 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, c := two(t)
			signsIn(t, c)
			if a.asked() != 1 || b.asked() != 0 {
				t.Fatalf("%d and %d binds: the first server is to be asked", a.asked(), b.asked())
			}
			a.set(func() { trouble[0](a) })
			a.cut()
			for range 3 {
				signsIn(t, c)
			}
			if a.asked() != 1 || b.asked() != 3 {
				t.Errorf("%d and %d binds: the second server is to be asked", a.asked(), b.asked())
			}
			_, _, before := a.seen()
			signsIn(t, c)
			if _, _, after := a.seen(); after != before {
				t.Errorf("a sign-in tried the server that is set aside")
			}
			a.set(func() { trouble[1](a) })
			if err := c.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			signsIn(t, c)
			if a.asked() != 2 {
				t.Errorf("%d binds: the first server is back", a.asked())
			}
			// Both away is an outage.
			a.set(func() { trouble[0](a) })
			b.set(func() { trouble[0](b) })
			a.cut()
			b.cut()
			if _, err := c.Authenticate(t.Context(), "alice", "alice-secret"); !errors.Is(err, connectors.ErrUnavailable) {
				t.Errorf("both away: %v", err)
			}
		})
	}
}

// One password is one bind, wherever it ends: a directory may have counted it.
func TestHostsBindOnce(t *testing.T) {
	a, b, c := two(t)
	signsIn(t, c)
	a.set(func() {
		for i := range a.objects {
			if a.objects[i].dn == aliceDN {
				a.objects[i].code = goldap.LDAPResultUnavailable
			}
		}
	})
	if _, err := c.Authenticate(t.Context(), "alice", "wrong"); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if a.asked() != 2 || b.asked() != 0 {
		t.Errorf("%d and %d binds of one password", a.asked()-1, b.asked())
	}
	signsIn(t, c) // the next one is asked elsewhere
	if b.asked() != 1 {
		t.Error("the second server was not asked")
	}
}

// A wrong bind_password is tried once, not once for each server.
func TestHostsRefuseServiceAccount(t *testing.T) {
	a, b, _ := two(t)
	c := a.connector(func(cfg *Config) { cfg.Hosts, cfg.BindPassword = []string{b.listener.Addr().String()}, "wrong" })
	for range 3 {
		if err := c.Check(t.Context()); !errors.Is(err, connectors.ErrUnavailable) {
			t.Errorf("%v", err)
		}
	}
	ofA, _, _ := a.seen()
	ofB, _, _ := b.seen()
	if len(ofA)+len(ofB) != 1 {
		t.Errorf("%d binds: the account would be locked", len(ofA)+len(ofB))
	}
}

// A caller who goes away says nothing about the server.
func TestHostsCallerLeaves(t *testing.T) {
	a, b, c := two(t)
	a.set(func() { a.hang = true })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Authenticate(ctx, "alice", "alice-secret"); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	a.set(func() { a.hang = false })
	signsIn(t, c)
	if b.asked() != 0 {
		t.Error("the first server was set aside")
	}
}
