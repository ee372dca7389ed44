package user

import "github.com/remotegpu/gatehouse/broker/problem"

// ServiceAccount is an account of programs. This version decodes and validates
// it; CI trust and API keys come later.
type ServiceAccount struct {
	Name   string   `yaml:"name"`
	Groups []string `yaml:"groups"`
}

// Problems complains about an account without a name.
func (a ServiceAccount) Problems() []problem.Problem {
	if a.Name == "" {
		return []problem.Problem{{Field: "Name", Rule: "service_account.name", Text: "A service account needs a name."}}
	}
	return nil
}
