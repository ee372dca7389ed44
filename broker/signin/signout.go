package signin

import (
	"net/http"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/web"
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
		return d.cfg.Edge.Page(w, r, http.StatusOK, "signout", signOutPage{Token: d.cfg.Edge.FormToken(s.ID, "signout"), As: s.Username})
	}
	form, err := web.Form(w, r, maxForm)
	if err != nil {
		return err
	}
	if !d.cfg.Edge.CheckFormToken(s.ID, "signout", form.Get("token")) {
		return web.Fail(http.StatusForbidden, "request.form_token", "error.form_token", nil)
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
	ev := event.Event{Name: event.Signout, Actor: s.UserID, Target: s.ID, Connector: s.Connector}
	if form.Get("everywhere") != "" {
		ev.Details = map[string]string{"everywhere": "true"}
	}
	d.note(r, ev)
	d.cfg.Edge.SetCookie(w, SessionCookie, "", -1)
	to := "/signed-out"
	if m := d.methods[s.Connector]; m != nil && m.Type != "local" {
		to += "?from=" + m.ID
	}
	d.cfg.Edge.Redirect(w, r, to)
	return nil
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
