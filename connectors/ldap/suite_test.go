package ldap

import (
	"errors"
	"testing"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

func TestSuite(t *testing.T) {
	d := newDirectory(t, alice(), person("bob", nil))
	c := d.connector(nil)
	trouble := func(name string, unavailable bool, begin, end func()) connectortest.Trouble {
		return connectortest.Trouble{Name: name, Unavailable: unavailable, Begin: func() { d.set(begin); d.cut() }, End: func() { d.set(end); d.cut() }}
	}
	connectortest.Password{
		Connector: c, Username: "alice", Password: "alice-secret", Other: "bob",
		Troubles: []connectortest.Trouble{
			trouble("no answer", true, func() { d.hang = true }, func() { d.hang = false }),
			trouble("no StartTLS", true, func() { d.startTLS = goldap.LDAPResultProtocolError }, func() { d.startTLS = 0 }),
			trouble("busy", true, func() { d.search = goldap.LDAPResultBusy }, func() { d.search = 0 }),
			trouble("hangs up", true, func() { d.drop = 100 }, func() { d.drop = 0 }),
		},
	}.Run(t)
	d.stop()
	if _, err := c.Authenticate(t.Context(), "alice", "alice-secret"); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("the directory is gone: %v", err)
	}
}
