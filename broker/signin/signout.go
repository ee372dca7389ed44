package signin

import (
	"cmp"
	"net/http"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

type signOutPage struct{ Token, As string }

// SignedInAs makes the layout show the navigation.
func (p signOutPage) SignedInAs() string { return p.As }

// SignOut is GET and POST /signout. GET asks: it never changes anything
// (docs/security.md SE-4).
func (d *Door) SignOut(w http.ResponseWriter, r *http.Request) error {
	s, in, err := d.Current(r)
	if err != nil {
		return err
	}
	if !in {
		d.cfg.Edge.SetCookie(w, SessionCookie, "", -1)
		d.cfg.Edge.Redirect(w, r, "/signed-out")
		return nil
	}
	if r.Method != http.MethodPost {
		return d.cfg.Edge.Page(w, r, http.StatusOK, "signout", signOutPage{Token: d.cfg.Edge.FormToken(s.ID, "signout"), As: d.nameOf(r, s)})
	}
	form, err := web.Form(w, r, maxForm)
	if err != nil {
		return err
	}
	if !d.cfg.Edge.CheckFormToken(s.ID, "signout", form.Get("token")) {
		return web.Fail(http.StatusForbidden, "request.form_token", "error.form_token", nil)
	}
	ev := event.Event{Name: event.Signout, Actor: s.UserID, Target: s.ID, Connector: s.Connector}
	if form.Get("everywhere") != "" {
		ev.Details = map[string]string{"everywhere": "true"}
	}
	if err := d.record(r, ev); err != nil {
		return err
	}
	if form.Get("everywhere") != "" {
		// One write voids every session and grant of all kinds.
		if err := d.cfg.Users.BumpEpoch(r.Context(), s.UserID); err != nil {
			return err
		}
	}
	if err := d.cfg.Sessions.Revoke(r.Context(), s.ID, "signed out"); err != nil {
		return err
	}
	d.cfg.Edge.SetCookie(w, SessionCookie, "", -1)
	if gone, err := d.signOutUpstream(w, r, s); gone || err != nil {
		return err
	}
	to := "/signed-out"
	if m := d.methods[s.Connector]; m != nil {
		if _, ok := m.Connector.(connectors.RedirectConnector); ok { // a directory keeps no sign-in of its own
			to += "?from=" + m.ID
		}
	}
	d.cfg.Edge.Redirect(w, r, to)
	return nil
}

// nameOf is what a person is called; who cannot be looked up is called as at
// the sign-in.
func (d *Door) nameOf(r *http.Request, s session.Session) string {
	u, err := d.cfg.Users.Profile(r.Context(), s.UserID)
	if err != nil {
		return cmp.Or(s.Username, s.UserID)
	}
	return cmp.Or(u.Name, u.Username, s.Username, u.ID)
}

// SignedOut is GET /signed-out. ?from= names the connector at which the person
// may still be signed in.
func (d *Door) SignedOut(w http.ResponseWriter, r *http.Request) error {
	name := ""
	if m := d.methods[r.URL.Query().Get("from")]; m != nil {
		name = m.Name
	}
	return d.cfg.Edge.Page(w, r, http.StatusOK, "signed-out", struct{ Upstream string }{name})
}
