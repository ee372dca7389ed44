package local

import (
	"testing"

	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

func TestSuite(t *testing.T) {
	hash := hashed(t, "Right password")
	connectortest.Password{
		Connector: open(t, User{Username: "ann", PasswordHash: hash}, User{Username: "bob", PasswordHash: hashed(t, "another")}),
		Username:  "ann", Password: "Right password", Other: "bob",
	}.Run(t)
}
