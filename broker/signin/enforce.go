package signin

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// speaks reports whether the operator trusts the connector's word about the
// addresses of a domain: both are written down, and its people can sign in.
func (m *Method) speaks(domain string) bool {
	return m.opens() && m.TrustEmail && slices.Contains(m.Domains, domain)
}

// vouch says whether the identity's address counts as verified (docs/security.md
// UP-5). A connector that has domains speaks for those alone: what it says of
// others is hearsay. For its own, trust_email stands for the word that LDAP and
// SAML do not have; where a protocol has it, what the upstream said counts.
func (m *Method) vouch(id connectors.Identity) connectors.Identity {
	_, domain, ok := web.ValidEmail(id.Email)
	bound := ok && slices.Contains(m.Domains, domain)
	switch {
	case m.Type == "local": // the operator wrote the address down
	case len(m.Domains) > 0 && !bound:
		id.EmailVerified = false
	case bound && m.TrustEmail && (m.Type == "ldap" || m.Type == "saml"):
		id.EmailVerified = true
	}
	return id
}

// must returns the methods by which the people of these addresses must come;
// none if m is one of them, or there are no such.
func (d *Door) must(m *Method, addresses []string) (by []*Method, who string) {
	for _, a := range addresses {
		_, domain, ok := web.ValidEmail(a)
		if !ok {
			continue
		}
		for i := range d.cfg.Methods {
			e := &d.cfg.Methods[i]
			if !e.Enforce || !e.opens() || !slices.Contains(e.Domains, domain) {
				continue
			}
			if e == m {
				return nil, ""
			}
			if !slices.Contains(by, e) {
				by = append(by, e)
			}
			if who == "" {
				who = a
			}
		}
	}
	return by, who
}

// breakGlass reports whether a proof is by a local user who has a role: the
// operator's way in when an identity provider is broken, which enforce leaves
// open.
func (d *Door) breakGlass(ctx context.Context, m *Method, id connectors.Identity, owner user.User) (bool, error) {
	if m.Type != "local" {
		return false, nil
	}
	return d.cfg.Staff(ctx, session.Session{Kind: session.Browser, Connector: m.ID, Username: id.Username, Groups: d.groups(ctx, m, id.Groups)}, owner)
}

// elsewhere answers a proof by a connector that its owner's domain must not use
// (enforce), with the way that it must. An account that is not linked to that
// one yet is offered it, once. The whole account counts, not this identity's
// address alone: whoever leaves the company must not come back by another door.
func (d *Door) elsewhere(w http.ResponseWriter, r *http.Request, m *Method, a attempt, id connectors.Identity) (done bool, err error) {
	if !slices.ContainsFunc(d.cfg.Methods, func(e Method) bool { return e.Enforce }) {
		return false, nil
	}
	addresses := []string{id.Email}
	var owner user.User
	uid, err := d.cfg.Users.ByIdentity(r.Context(), m.ID, id.Subject)
	if err == nil {
		owner, err = d.cfg.Users.Get(r.Context(), uid)
	}
	if err != nil && !errors.Is(err, user.ErrNotFound) {
		return true, err
	}
	for _, l := range owner.Identities {
		addresses = append(addresses, l.Email)
	}
	by, who := d.must(m, addresses)
	if by == nil || owner.Suspended {
		return false, nil
	}
	if exempt, err := d.breakGlass(r.Context(), m, id, owner); exempt || err != nil {
		return err != nil, err
	}
	d.note(r, event.Event{Name: event.SigninFailed, Target: owner.ID, Connector: m.ID, Details: map[string]string{"reason": "enforced"}})
	next, err := d.again(r, a)
	if err != nil {
		return true, err
	}
	p := elsewherePage{Title: "signin.enforced", Text: "signin.enforced_text", Name: by[0].Name, Who: who}
	linked := slices.ContainsFunc(owner.Identities, func(l user.Link) bool {
		return slices.ContainsFunc(by, func(e *Method) bool { return e.ID == l.Connector })
	})
	if owner.ID != "" && !linked {
		next.Link = &linking{User: owner.ID, At: d.cfg.Now()}
		p.Text = "signin.enforced_link"
	}
	return true, d.elsewherePage(w, r, http.StatusForbidden, next, by, p)
}
