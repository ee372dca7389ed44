package portal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
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
// of the file's own users, "group:<name>" for a group spelt as the session
// carries it ("platform-admins", "acme:ops"), or "email:<address>", which counts
// only from a connector that owns the address's domain (docs/security.md AD-2).
type Roles struct {
	Admin   []string `yaml:"admin"`
	Auditor []string `yaml:"auditor"`
	Support []string `yaml:"support"`
}

type roleEntries struct {
	role    Role
	field   string
	entries []string
}

func (r Roles) all() []roleEntries {
	return []roleEntries{{RoleAdmin, "Admin", r.Admin}, {RoleAuditor, "Auditor", r.Auditor}, {RoleSupport, "Support", r.Support}}
}

// Problems complains about entries that could never match.
func (r Roles) Problems() []problem.Problem {
	var ps []problem.Problem
	for _, list := range r.all() {
		for i, e := range list.entries {
			kind, name, ok := strings.Cut(e, ":")
			field := fmt.Sprintf("%s[%d]", list.field, i)
			switch {
			case !ok || name == "" || (kind != "local" && kind != "group" && kind != "email"):
				ps = append(ps, problem.Problem{Field: field, Rule: "roles.entry",
					Text: fmt.Sprintf("%q names nobody.", e), Fix: `"local:<user name>" or "group:<group name>"`})
			case kind == "email" && !plainEmail(name):
				ps = append(ps, problem.Problem{Field: field, Rule: "roles.email",
					Text: fmt.Sprintf("%q is no plain e-mail address, so that nobody has it.", name), Fix: `"email:alice@example.com"`})
			}
		}
	}
	return ps
}

// EmailDomains returns the domains of the email: entries, for the complaint
// about one that no connector owns.
func (r Roles) EmailDomains() []string {
	var out []string
	for _, list := range r.all() {
		for _, e := range list.entries {
			addr, ok := strings.CutPrefix(e, "email:")
			if _, domain, plain := web.ValidEmail(addr); ok && plain {
				out = append(out, domain)
			}
		}
	}
	return out
}

// Of returns the roles of the person behind a session. Roles follow the
// identity that opened this session, never another one of the same account
// (docs/security.md UP-11). email is the address of that identity, if its
// connector owns the domain, else "".
func (r Roles) Of(s session.Session, email string) []Role {
	if s.Kind == session.Device && !s.Operator {
		return nil // operators sign in by loopback or use data/admin.token (docs/api.md)
	}
	var out []Role
	for _, list := range r.all() {
		if slices.ContainsFunc(list.entries, func(e string) bool { return matches(e, s, email) }) {
			out = append(out, list.role)
		}
	}
	return out
}

func matches(entry string, s session.Session, email string) bool {
	kind, name, _ := strings.Cut(entry, ":")
	switch kind {
	case "local":
		return s.Connector == "local" && s.Username == name && name != ""
	case "group":
		return name != "" && slices.Contains(s.Groups, name)
	case "email":
		return email != "" && sameEmail(name, email)
	}
	return false
}

func plainEmail(s string) bool {
	_, _, ok := web.ValidEmail(s)
	return ok
}

// sameEmail compares two addresses, the domain in its one normal form.
func sameEmail(a, b string) bool {
	la, da, oka := web.ValidEmail(a)
	lb, db, okb := web.ValidEmail(b)
	return oka && okb && da == db && strings.EqualFold(la, lb)
}

// rolesOf is Roles.Of with the address that this session's identity proved.
func (p *Portal) rolesOf(ctx context.Context, s session.Session) ([]Role, error) {
	if len(p.roles.EmailDomains()) == 0 {
		return p.roles.Of(s, ""), nil
	}
	u, err := p.users.Profile(ctx, s.UserID)
	if err != nil {
		return nil, err
	}
	for _, l := range u.Identities {
		if l.Connector == s.Connector && l.Subject == s.Subject {
			return p.roles.Of(s, p.proven(l)), nil
		}
	}
	return p.roles.Of(s, ""), nil
}

// proven returns the link's e-mail address if its connector may speak for the
// domain.
func (p *Portal) proven(l user.Link) string {
	_, domain, ok := web.ValidEmail(l.Email)
	if !ok || !p.ownsDomain(l.Connector, domain, l.EmailVerified) {
		return ""
	}
	return l.Email
}

// holdsRole reports whether somebody has a role now: by a live session, or by an
// identity that the file names outright.
func (p *Portal) holdsRole(ctx context.Context, u user.User) (bool, error) {
	for _, l := range u.Identities {
		if len(p.roles.Of(session.Session{Connector: l.Connector, Username: l.Username, Kind: session.Browser}, p.proven(l))) > 0 {
			return true, nil
		}
	}
	ss, err := p.sessions.ByUser(ctx, u.ID)
	if errors.Is(err, user.ErrSuspended) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, s := range ss {
		if len(p.roles.Of(s, "")) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// Staff reports whether a proof that would open this session, or this account by
// a living session or an identity that the file names, has a role.
func (p *Portal) Staff(ctx context.Context, s session.Session, u user.User) (bool, error) {
	if len(p.roles.Of(s, "")) > 0 {
		return true, nil
	}
	if u.ID == "" {
		return false, nil
	}
	return p.holdsRole(ctx, u)
}

// GrantableScopes drops the scopes of our own API that the person's roles do
// not carry, so that no token claims what its bearer may not do. The API asks
// for the role again at each call.
func (p *Portal) GrantableScopes(ctx context.Context, s session.Session, scopes []string) ([]string, error) {
	if !slices.ContainsFunc(scopes, func(sc string) bool { return strings.HasPrefix(sc, "gatehouse:") }) {
		return scopes, nil
	}
	roles, err := p.rolesOf(ctx, s)
	if err != nil {
		return nil, err
	}
	has := func(want ...Role) bool {
		return slices.ContainsFunc(roles, func(r Role) bool { return r == RoleAdmin || slices.Contains(want, r) })
	}
	var out []string
	for _, sc := range scopes {
		switch sc {
		case ScopeSupport:
			if !has(RoleSupport) {
				continue
			}
		case ScopeAudit:
			if !has(RoleAuditor) {
				continue
			}
		case ScopeAdmin:
			if !has() {
				continue
			}
		}
		out = append(out, sc)
	}
	return out, nil
}
