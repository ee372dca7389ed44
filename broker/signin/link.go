package signin

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// linking is what an attempt is to link. It has one of three forms, each proved
// within the ten minutes since At:
//   - User and Session: the person of this session wants the identity that the
//     attempt proves;
//   - Identity: that identity was proved, has another account's address, and is
//     offered to the account that the attempt proves;
//   - User alone: that account was proved by a connector that its domain must not
//     use any more (enforce), and the identity that the attempt proves is offered
//     to it. With Identity: both were, and the person is asked.
type linking struct {
	User     string    `json:"u,omitempty"`
	Session  string    `json:"s,omitempty"`
	Identity *proved   `json:"i,omitempty"`
	At       time.Time `json:"t"`
}

// proved is an identity that waits to be linked: never its groups (UP-11).
type proved struct {
	Connector string `json:"c"`
	Subject   string `json:"s"`
	Username  string `json:"u,omitempty"`
	Name      string `json:"n,omitempty"`
	Email     string `json:"e,omitempty"`
	Verified  bool   `json:"v,omitempty"`
}

func provedBy(id connectors.Identity) *proved {
	return &proved{id.Connector, id.Subject, cut(id.Username, 128), cut(id.Name, 128), id.Email, id.EmailVerified}
}

func (p *proved) identity() connectors.Identity {
	return connectors.Identity{Connector: p.Connector, Subject: p.Subject, Username: p.Username, Name: p.Name, Email: p.Email, EmailVerified: p.Verified}
}

// errOffer means that the identity is to be offered to the account that its
// owner has proved.
var errOffer = errors.New("the identity is offered to an account")

// linking returns what an attempt is to link, while its proof is fresh.
func (d *Door) linking(a attempt) *linking {
	if a.Link == nil || d.cfg.Now().Sub(a.Link.At) >= attemptTTL {
		return nil
	}
	return a.Link
}

// here reports whether somebody who is signed in wants another identity.
func (k *linking) here() bool { return k != nil && k.Session != "" && k.Identity == nil }

// note is what the sign-in page says of it.
func (k *linking) note() string {
	switch {
	case k.here():
		return "signin.linking"
	case k.Identity != nil:
		return "signin.link_first"
	}
	return ""
}

// mayUse reports whether an attempt may use a method: one for linking alone
// opens no session (docs/security.md UP-8).
func (d *Door) mayUse(m *Method, a attempt) bool { return !m.LinkOnly || d.linking(a).here() }

// speaks reports whether a connector's word about addresses of a domain counts.
func (d *Door) speaks(connector, domain string) bool {
	m := d.methods[connector]
	return m != nil && m.speaks(domain)
}

// byHand reports whether an account is never linked unasked (UP-5): break-glass
// ones, and those of people who have a role.
func (d *Door) byHand(ctx context.Context, u user.User) (bool, error) {
	for _, l := range u.Identities {
		if m := d.methods[l.Connector]; m != nil && m.Type == "local" {
			return true, nil
		}
	}
	return d.cfg.Staff(ctx, session.Session{}, u)
}

// remember notes on the account that somebody with a role has signed in to it.
func (d *Door) remember(ctx context.Context, s session.Session, u user.User) error {
	if u.Staff {
		return nil
	}
	staff, err := d.cfg.Staff(ctx, s, user.User{})
	if err != nil || !staff {
		return err
	}
	return d.cfg.Users.MarkStaff(ctx, u.ID)
}

// announce records what happens to an account before it does; how says why an
// identity is linked.
func (d *Door) announce(r *http.Request, m *Method, id connectors.Identity, how string) user.Announce {
	return func(_ context.Context, u user.User, what user.Change) error {
		e := event.Event{Name: event.UserUpdated, Actor: u.ID, Target: u.ID, Connector: m.ID}
		switch what {
		case user.Created:
			e.Name = event.UserCreated
		case user.Linked:
			e.Name = event.IdentityLinked
			e.Details = map[string]string{"identity": user.Link{Connector: id.Connector, Subject: id.Subject}.ID(), "how": how}
		}
		return d.record(r, e)
	}
}

// StartFresh begins a sign-in that proves anew who the person is.
func (d *Door) StartFresh(w http.ResponseWriter, r *http.Request, returnTo string) error {
	return d.StartWith(w, r, Start{ReturnTo: returnTo, Force: true})
}

// StartLink begins a sign-in by another connector whose identity is linked to
// the account of the session. It answers a form, by a page.
func (d *Door) StartLink(w http.ResponseWriter, r *http.Request, s session.Session, connector, returnTo string) error {
	m := d.methods[connector]
	if m == nil || m.Connector == nil {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	a, err := d.begin(r, Start{ReturnTo: returnTo, Force: true})
	if err != nil {
		return err
	}
	a.Link = &linking{User: s.UserID, Session: s.ID, At: d.cfg.Now()}
	if err := d.keep(w, r, a); err != nil {
		return err
	}
	return d.cfg.Edge.Hop(w, r, "/signin/"+m.ID+"?attempt="+a.ID)
}

// linkHere links what was proved to the account of the session that asked for
// it, if this browser still has that session.
func (d *Door) linkHere(w http.ResponseWriter, r *http.Request, m *Method, a attempt, k linking, id connectors.Identity) error {
	s, in, err := d.Current(r)
	if err != nil {
		return err
	}
	if !in || s.ID != k.Session || s.UserID != k.User {
		a.Link = nil
		return d.startAgain(w, r, a, http.StatusOK, choosePage{Note: "signin.ended"})
	}
	if _, err := d.cfg.Users.Link(r.Context(), k.User, id, d.announce(r, m, id, "signed_in")); err != nil {
		return linkFailed(err, m.Name)
	}
	d.limits.finished(web.ClientNetwork(web.RequestOf(r).IP), a.Writes)
	d.health.worked(r.Context(), m.ID)
	d.drop(w, a.ID)
	d.cfg.Edge.SetNotice(w, "notice.linked")
	d.cfg.Edge.Redirect(w, r, a.ReturnTo)
	return nil
}

func linkFailed(err error, name string) error {
	var e *web.Error
	switch {
	case errors.Is(err, user.ErrTaken):
		e = web.Fail(http.StatusConflict, "link.taken", "error.link_taken", err)
	case errors.Is(err, user.ErrSuspended), errors.Is(err, user.ErrNotFound):
		return web.Fail(http.StatusForbidden, "account.disabled", "error.account_disabled", err)
	default:
		return err
	}
	e.Args = map[string]any{"name": name}
	e.Actions = []web.Action{{Text: "error.to_links", URL: "/account/links"}}
	return e
}

// elsewherePage sends somebody to another way to sign in.
type elsewherePage struct {
	Title, Text string // message ids
	Name, Who   string // the method that was used, the address that decides
	Methods     []button
	Any         string // the page of all methods; "" for none
	Apart       string // where an account of one's own is made; "" for nowhere
}

// At makes a change of language lead to a page that is still there.
func (p elsewherePage) At() string { return cmp.Or(p.Any, "/signin") }

func (d *Door) elsewherePage(w http.ResponseWriter, r *http.Request, status int, a attempt, ms []*Method, p elsewherePage) error {
	if err := d.keep(w, r, a); err != nil {
		return err
	}
	for _, m := range ms {
		p.Methods = append(p.Methods, button{ID: m.ID, Name: m.Name, Type: m.Type, URL: "/signin/" + m.ID + "?attempt=" + a.ID})
	}
	web.Prefer(r, a.Locales)
	return d.cfg.Edge.Page(w, r, status, "elsewhere", p)
}

// existing explains that the address is another account's, and offers to sign in
// with that first. Which connectors lead there is told only to whoever proved
// the address.
func (d *Door) existing(w http.ResponseWriter, r *http.Request, m *Method, a attempt, id connectors.Identity, taken *user.ExistingAccount) error {
	next, err := d.again(r, a)
	if err != nil {
		return err
	}
	next.Link = &linking{Identity: provedBy(id), At: d.cfg.Now()}
	p := elsewherePage{Title: "signin.exists", Text: "signin.exists_text", Name: m.Name, Who: id.Email, Any: "/signin?attempt=" + next.ID}
	var ms []*Method
	if taken.Verified {
		for _, c := range taken.Connectors {
			if old := d.methods[c]; old != nil && old.opens() {
				ms = append(ms, old)
			}
		}
	}
	if taken.Apart {
		apart, err := d.again(r, a)
		if err != nil {
			return err
		}
		apart.Apart, apart.Link = true, nil
		if err := d.keep(w, r, apart); err != nil {
			return err
		}
		p.Apart = "/signin/" + m.ID + "?attempt=" + apart.ID
	}
	return d.elsewherePage(w, r, http.StatusConflict, next, ms, p)
}

// offer makes the attempt of the page that asks whether to link.
func (d *Door) offer(w http.ResponseWriter, r *http.Request, a attempt, k linking) (string, error) {
	if owner, err := d.cfg.Users.ByIdentity(r.Context(), k.Identity.Connector, k.Identity.Subject); err == nil && owner == k.User {
		return a.ReturnTo, nil // it is there already
	} else if err != nil && !errors.Is(err, user.ErrNotFound) {
		return "", err
	}
	c, err := d.begin(r, Start{ReturnTo: a.ReturnTo, App: a.App, UILocales: a.Locales})
	if err != nil {
		return "", err
	}
	c.Link = &k
	return "/account/links/confirm?attempt=" + c.ID, d.keep(w, r, c)
}

type confirmPage struct {
	Attempt, Token  string
	Name, Who       string // the identity's
	Account, Cancel string
}

// At is where a change of language comes back to.
func (p confirmPage) At() string { return "/account/links/confirm?attempt=" + p.Attempt }

// Confirm is GET and POST /account/links/confirm: it asks whether an identity
// and an account that were both proved in this browser belong together. Without
// the question, whoever left such an attempt on a shared computer would be linked
// to the next who signs in.
func (d *Door) Confirm(w http.ResponseWriter, r *http.Request) error {
	id, agreed := pathAttempt(r.URL), false
	if r.Method == http.MethodPost {
		form, err := web.Form(w, r, maxForm)
		if err != nil {
			return err
		}
		if id = form.Get("attempt"); !d.cfg.Edge.CheckFormToken(id, "link", form.Get("token")) {
			return web.Fail(http.StatusForbidden, "request.form_token", "error.form_token", nil)
		}
		agreed = true
	}
	a, ok := d.open(r, id)
	k := d.linking(a)
	if !ok || a.Done || !d.fresh(a) || k == nil || k.Identity == nil || k.User == "" {
		a.Link = nil
		return d.startAgain(w, r, a, http.StatusOK, choosePage{Note: "signin.stale"})
	}
	m := d.methods[k.Identity.Connector]
	if m == nil || m.Connector == nil {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	if k.Session != "" { // the person whom the page asks is the one who signed in
		if s, in, err := d.Current(r); err != nil {
			return err
		} else if !in || s.ID != k.Session || s.UserID != k.User {
			a.Link = nil
			return d.startAgain(w, r, a, http.StatusOK, choosePage{Note: "signin.ended"})
		}
	}
	if agreed {
		return d.confirmed(w, r, m, a, *k)
	}
	u, err := d.cfg.Users.Get(r.Context(), k.User)
	if err != nil {
		return linkFailed(err, m.Name)
	}
	p := confirmPage{Attempt: a.ID, Token: d.cfg.Edge.FormToken(a.ID, "link"), Name: m.Name, Who: cmp.Or(k.Identity.Email, k.Identity.Username, k.Identity.Name),
		Account: cmp.Or(u.Name, u.Username, u.Email, u.ID), Cancel: a.ReturnTo}
	if k.Session == "" {
		p.Cancel = "/signin"
	}
	return d.cfg.Edge.Page(w, r, http.StatusOK, "confirm-link", p)
}

// confirmed links, once, and goes on.
func (d *Door) confirmed(w http.ResponseWriter, r *http.Request, m *Method, a attempt, k linking) error {
	first, err := d.consume(r.Context(), a.ID)
	if err != nil {
		return err
	}
	id := k.Identity.identity()
	if first {
		if _, err := d.cfg.Users.Link(r.Context(), k.User, id, d.announce(r, m, id, "confirmed")); err != nil {
			return linkFailed(err, m.Name)
		}
	}
	d.drop(w, a.ID)
	if k.Session != "" {
		d.cfg.Edge.SetNotice(w, "notice.linked")
		return d.cfg.Edge.Hop(w, r, a.ReturnTo)
	}
	next, err := d.begin(r, Start{ReturnTo: a.ReturnTo, App: a.App, UILocales: a.Locales})
	if err != nil {
		return err
	}
	if err := d.keep(w, r, next); err != nil {
		return err
	}
	return d.cfg.Edge.Hop(w, r, "/signin/"+m.ID+"?attempt="+next.ID)
}

// Invite is GET /invite/{token}: a sign-in that may make an account where that
// needs an invitation. It uses nothing up.
func (d *Door) Invite(w http.ResponseWriter, r *http.Request) error {
	token := r.URL.Path[len("/invite/"):]
	r.URL.Path = "/invite/" // what the log says of this request holds no token
	i, err := d.cfg.Users.InviteByToken(r.Context(), token)
	if errors.Is(err, user.ErrInvite) {
		return web.Fail(http.StatusNotFound, "account.invite", "error.invite_gone", err)
	}
	if err != nil {
		return err
	}
	a, err := d.begin(r, Start{ReturnTo: "/", LoginHint: i.Email})
	if err != nil {
		return err
	}
	a.Invite = token
	if err := d.keep(w, r, a); err != nil {
		return err
	}
	to := "/signin"
	if m := d.methods[i.Connector]; m != nil && m.opens() {
		to += "/" + m.ID
	}
	d.cfg.Edge.Redirect(w, r, to+"?attempt="+a.ID)
	return nil
}
