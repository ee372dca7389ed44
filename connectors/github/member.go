package github

import (
	"context"
	"slices"
	"strings"
)

func (c *Connector) email(ctx context.Context, token string) (email string, verified bool, err error) {
	l, _, err := pages[address](ctx, c, token, "/user/emails")
	if err != nil {
		return "", false, err
	}
	if email = primary(l); email != "" || !c.cfg.UnverifiedEmail {
		return email, email != "", nil
	}
	for i := range l {
		l[i].Verified = true // as far as it goes: it is given on as not verified
	}
	return primary(l), false, nil
}

// member is where somebody belongs: organizations by their number, and the
// slugs of the teams in each.
type member struct {
	orgs  map[int64]org
	teams map[int64][]string
	// hidden: GitHub left organizations out until the person has passed their
	// own single sign-on.
	hidden bool
}

// memberships reads three lists. The organizations that the token sees do not
// say whether an invitation was accepted, memberships do; teams say neither.
// They are joined by the organization's number: a name can change hands
// between two of the calls.
func (c *Connector) memberships(ctx context.Context, token string) (member, error) {
	orgs, h1, err := pages[org](ctx, c, token, "/user/orgs")
	if err != nil {
		return member{}, err
	}
	states, h2, err := pages[membership](ctx, c, token, "/user/memberships/orgs")
	if err != nil {
		return member{}, err
	}
	teams, h3, err := pages[team](ctx, c, token, "/user/teams")
	if err != nil {
		return member{}, err
	}
	m := join(orgs, states, teams)
	m.hidden = h1 || h2 || h3
	return m, nil
}

func join(orgs []org, states []membership, teams []team) member {
	m := member{orgs: map[int64]org{}, teams: map[int64][]string{}}
	active := map[int64]bool{}
	for _, s := range states {
		if s.State == "active" {
			active[s.Organization.ID] = true
		}
	}
	for _, o := range orgs {
		// A slash would let an organization pass for somebody's team.
		if o.ID > 0 && active[o.ID] && o.Login != "" && !strings.Contains(o.Login, "/") {
			m.orgs[o.ID] = o
		}
	}
	for _, t := range teams {
		if _, ok := m.orgs[t.Organization.ID]; ok && t.Slug != "" && !strings.Contains(t.Slug, "/") {
			m.teams[t.Organization.ID] = append(m.teams[t.Organization.ID], t.Slug)
		}
	}
	return m
}

// groups applies the configured organizations. Only these become groups: where
// else somebody belongs is no business of the applications behind us. Without
// any configured, read:org was asked for on purpose and all of them count.
func (c *Connector) groups(m member) ([]string, error) {
	if len(c.cfg.Organizations) == 0 {
		return sorted(append(m.orgNames(), m.teamNames()...)), nil
	}
	var names []string
	allowed := false
	for _, want := range c.cfg.Organizations {
		for id, o := range m.orgs {
			if !strings.EqualFold(o.Login, want.Name) || want.ID != 0 && want.ID != id {
				continue
			}
			names = append(names, o.Login)
			for _, slug := range m.teams[id] {
				names = append(names, o.Login+"/"+slug)
			}
			if len(want.Teams) == 0 || slices.ContainsFunc(want.Teams, func(t string) bool { return slices.Contains(m.teams[id], t) }) {
				allowed = true
			}
		}
	}
	switch {
	case allowed:
		return sorted(names), nil
	case m.hidden:
		return nil, c.refuse("sso_required", c.settingsURL(), "in none of the configured organizations, and some were left out for want of single sign-on")
	}
	return nil, c.refuse("not_member", c.settingsURL(), "in none of the configured organizations and teams")
}

func (m member) orgNames() []string {
	var names []string
	for _, o := range m.orgs {
		names = append(names, o.Login)
	}
	return sorted(names)
}

func (m member) teamNames() []string {
	var names []string
	for id, slugs := range m.teams {
		for _, s := range slugs {
			names = append(names, m.orgs[id].Login+"/"+s)
		}
	}
	return sorted(names)
}

// sorted makes two answers comparable, in whatever order they came.
func sorted(l []string) []string {
	slices.Sort(l)
	return slices.Compact(l)
}
