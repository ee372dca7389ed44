package portal

import (
	"fmt"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/session"
)

// Role is what somebody may do beside looking after themselves.
type Role string

// The roles of the configuration's `roles` section.
const (
	RoleAdmin   Role = "admin"   // everything
	RoleAuditor Role = "auditor" // reads everything, changes nothing
	RoleSupport Role = "support" // looks after users and their sessions
)

// Roles says who has which role. An entry is "local:<user name>" for an account
// of the file's own users or "group:<name>" for a group spelt as the session
// carries it ("platform-admins", "acme:ops"). "email:<address>" counts only
// from a connector that owns the address's domain, which part B proves; until
// then such an entry is refused.
type Roles struct {
	Admin   []string `yaml:"admin"`
	Auditor []string `yaml:"auditor"`
	Support []string `yaml:"support"`
}

// Problems complains about entries that could never match or would match too much.
func (r Roles) Problems() []problem.Problem {
	var ps []problem.Problem
	for _, list := range []struct {
		field   string
		entries []string
	}{{"Admin", r.Admin}, {"Auditor", r.Auditor}, {"Support", r.Support}} {
		for i, e := range list.entries {
			kind, name, ok := strings.Cut(e, ":")
			field := fmt.Sprintf("%s[%d]", list.field, i)
			switch {
			case !ok || name == "" || (kind != "local" && kind != "group" && kind != "email"):
				ps = append(ps, problem.Problem{Field: field, Rule: "roles.entry",
					Text: fmt.Sprintf("%q names nobody.", e), Fix: `"local:<user name>" or "group:<group name>"`})
			case kind == "email":
				ps = append(ps, problem.Problem{Field: field, Rule: "roles.email", Warning: true,
					Text: fmt.Sprintf("%q has no effect yet: it counts only from a connector that owns the domain, and this version proves no domains.", e),
					Fix:  `"group:<connector>:<group>"`})
			}
		}
	}
	return ps
}

// Of returns the roles of the person behind a session. Roles follow the
// identity that opened this session, never another one of the same account
// (docs/security.md UP-11).
func (r Roles) Of(s session.Session) []Role {
	if s.Kind == session.Device {
		return nil // operators sign in by loopback or use data/admin.token (docs/api.md)
	}
	var out []Role
	for _, list := range []struct {
		role    Role
		entries []string
	}{{RoleAdmin, r.Admin}, {RoleAuditor, r.Auditor}, {RoleSupport, r.Support}} {
		if slices.ContainsFunc(list.entries, func(e string) bool { return matches(e, s) }) {
			out = append(out, list.role)
		}
	}
	return out
}

func matches(entry string, s session.Session) bool {
	kind, name, _ := strings.Cut(entry, ":")
	switch kind {
	case "local":
		return s.Connector == "local" && s.Username == name && name != ""
	case "group":
		return name != "" && slices.Contains(s.Groups, name)
	}
	return false
}
