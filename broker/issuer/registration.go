package issuer

import (
	"fmt"

	"github.com/remotegpu/gatehouse/broker/problem"
)

// RegistrationConfig is the `registration` section (RFC 7591). This version
// decodes and validates it; registration comes later.
type RegistrationConfig struct {
	Mode        string `yaml:"mode"`
	RequirePKCE *bool  `yaml:"require_pkce"`
}

// Problems complains about a mode that is none.
func (c RegistrationConfig) Problems() []problem.Problem {
	switch c.Mode {
	case "", "off", "token", "open":
		return nil
	}
	return []problem.Problem{{Field: "Mode", Rule: "registration.mode", Text: fmt.Sprintf("%q is unknown.", c.Mode), Fix: "off, token or open"}}
}
