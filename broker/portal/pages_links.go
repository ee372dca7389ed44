package portal

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

type linksPage struct {
	person
	Links []linkRow
	More  []ConnectorState // what can be linked
	Stale bool             // it needs a fresh sign-in
}

type linkRow struct {
	ID, Name, Type, Who string
	Linked, Used        time.Time
	Current             bool // it opened this session
	Gone                bool // nobody can sign in by it any more
	Last                bool // the last way in: cannot be unlinked
}

// Links is GET /account/links: the identities that are linked to the account.
func (p *Portal) Links(w http.ResponseWriter, r *http.Request) error {
	s, u, done, err := p.who(w, r)
	if done {
		return err
	}
	page := linksPage{person: p.person(s, u), Stale: p.now().Sub(s.AuthTime) > stepUp}
	kinds := map[string]string{}
	for _, c := range p.connectors() {
		kinds[c.ID] = c.Type
		if c.Served && !c.Hidden && !slices.ContainsFunc(u.Identities, func(l user.Link) bool { return l.Connector == c.ID }) {
			page.More = append(page.More, c)
		}
	}
	for _, l := range u.Identities {
		others := slices.ContainsFunc(u.Identities, func(o user.Link) bool { return o.ID() != l.ID() && p.leadsIn(o) })
		page.Links = append(page.Links, linkRow{ID: l.ID(), Name: p.connectorName(l.Connector), Type: kinds[l.Connector], Who: cmp.Or(l.Username, l.Email, l.Subject),
			Linked: l.Linked, Used: l.Used, Current: l.Connector == s.Connector && l.Subject == s.Subject, Gone: !p.leadsIn(l), Last: !others})
	}
	return p.edge.Page(w, r, http.StatusOK, "links", page)
}

// Link is POST /account/links/link: on to another connector. Only whoever has
// just signed in changes who may (ux 3.7).
func (p *Portal) Link(w http.ResponseWriter, r *http.Request) error {
	s, _, done, err := p.who(w, r)
	if done {
		return err
	}
	f, err := p.form(w, r, s)
	if err != nil {
		return err
	}
	if p.now().Sub(s.AuthTime) > stepUp {
		return p.signIn.StartFresh(w, r, "/account/links")
	}
	return p.signIn.StartLink(w, r, s, f["connector"], "/account/links")
}

// Unlink is POST /account/links/unlink.
func (p *Portal) Unlink(w http.ResponseWriter, r *http.Request) error {
	s, _, done, err := p.who(w, r)
	if done {
		return err
	}
	f, err := p.form(w, r, s)
	if err != nil {
		return err
	}
	if p.now().Sub(s.AuthTime) > stepUp {
		return p.signIn.StartFresh(w, r, "/account/links")
	}
	err = p.unlink(r.Context(), &caller{sess: s}, f["identity"], r)
	if errors.Is(err, user.ErrLastIdentity) {
		e := web.Fail(http.StatusConflict, "identity.last", "error.identity_last", err)
		e.Actions = []web.Action{{Text: "error.to_links", URL: "/account/links"}}
		return e
	}
	if err != nil {
		return apiError(err)
	}
	p.edge.SetNotice(w, "notice.unlinked")
	p.edge.Redirect(w, r, "/account/links")
	return nil
}
