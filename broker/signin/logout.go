package signin

import (
	"errors"
	"net/http"
	"strings"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

func (d *Door) logoutURL(connector string) string {
	return d.cfg.Issuer + "/auth/" + connector + "/slo"
}

// signOutUpstream goes on to the upstream at which s signed in, after its
// session here is over, where that upstream can end its own. It reports whether
// it has answered.
func (d *Door) signOutUpstream(w http.ResponseWriter, r *http.Request, s session.Session) (bool, error) {
	m := d.methods[s.Connector]
	if m == nil {
		return false, nil
	}
	lc, ok := m.Connector.(connectors.LogoutConnector)
	if !ok {
		return false, nil
	}
	id := connectors.Identity{Connector: m.ID, Subject: s.Subject, Session: s.Upstream}
	if kept, err := d.cfg.Sessions.RenewalOf(r.Context(), s); err != nil {
		d.cfg.Log.WarnContext(r.Context(), "how the upstream knows a session could not be read", "connector", m.ID, "err", err)
	} else {
		id.Renewal = kept.State // an ID token, by which OpenID providers know whom they sign out
	}
	ctx, span := m.span(r.Context(), "begin logout")
	dep, err := lc.BeginLogout(ctx, id, d.logoutURL(m.ID))
	span.Fail(err)
	span.End()
	if err != nil {
		// Signed out here is what was asked first; the page says that the other is not.
		d.cfg.Log.WarnContext(r.Context(), "the upstream's session was not ended", "connector", m.ID, "err", err)
		return false, nil
	}
	switch {
	case dep.URL == "":
		return false, nil
	case dep.Request != "":
		if err := d.logouts.Create(r.Context(), askedID(m, dep.Request), askedLogout{At: d.cfg.Now()}); err != nil {
			// The upstream's session shall end all the same; its answer will not be believed.
			d.cfg.Log.WarnContext(r.Context(), "that a logout was asked for could not be kept", "connector", m.ID, "err", err)
		}
	}
	switch {
	case dep.Form != nil:
		return true, d.cfg.Edge.PostTo(w, r, dep.URL, dep.Form, m.Name)
	}
	// Our form's answer may not redirect to another origin (ADR 13).
	return true, d.cfg.Edge.Hop(w, r, dep.URL)
}

// Logout is GET and POST /auth/{connector}/slo: an upstream's answer to our
// sign-out, or its own word that somebody signed out there. No cookie counts
// here; the message itself is signed (docs/security.md SP-12).
func (d *Door) Logout(w http.ResponseWriter, r *http.Request) error {
	name, _ := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/auth/"), "/slo")
	m := d.methods[name]
	if m == nil {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	lc, ok := m.Connector.(connectors.LogoutConnector)
	if !ok {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	ret := connectors.Return{Method: r.Method, Query: r.URL.RawQuery}
	var err error
	switch r.Method {
	case http.MethodGet:
		ret.Params, err = web.ParseValues(r.URL.RawQuery)
	case http.MethodPost:
		ret.Params, err = web.Form(w, r, maxAnswer)
	default:
		e := web.Fail(http.StatusMethodNotAllowed, "request.method", "error.method", nil)
		e.Header = http.Header{"Allow": {"GET, POST"}}
		return e
	}
	if err != nil {
		return err
	}
	ctx, span := m.span(r.Context(), "finish logout")
	out, err := lc.FinishLogout(ctx, ret)
	span.Fail(err)
	span.End()
	if err == nil && out.InResponseTo != "" {
		if err = d.answered(r, m, out.InResponseTo); err != nil && !errors.Is(err, connectors.ErrNotEnded) {
			return err
		}
	}
	if errors.Is(err, connectors.ErrNotEnded) {
		d.cfg.Log.WarnContext(r.Context(), "the upstream's session was not ended", "connector", m.ID, "err", err)
		d.cfg.Edge.Redirect(w, r, "/signed-out?from="+m.ID)
		return nil
	}
	if err != nil {
		d.cfg.Log.WarnContext(r.Context(), "a logout message was refused", "connector", m.ID, "err", err)
		e := web.Fail(http.StatusBadRequest, "upstream.logout", "error.logout", err)
		e.Args = map[string]any{"name": m.Name}
		var fault *connectors.Fault
		if errors.As(err, &fault) {
			e.Code = fault.Code
		}
		return e
	}
	if used, err := d.used(r, m, out.Once); err != nil {
		return err
	} else if used {
		e := web.Fail(http.StatusBadRequest, "saml.replayed", "error.logout", errors.New("the logout message was brought a second time"))
		e.Args = map[string]any{"name": m.Name}
		return e
	}
	if err := d.endUpstream(r, m, out); err != nil {
		return err
	}
	// Not before: a message that ended nothing yet is brought again. Two of the
	// same at once end the same sessions.
	if _, err := d.once(r, m, out.Once); err != nil {
		return err
	}
	if h, ok := d.cfg.Edge.Cookie(r, SessionCookie); ok {
		if _, err := d.cfg.Sessions.Lookup(r.Context(), session.Handle(h)); errors.Is(err, session.ErrEnded) || errors.Is(err, session.ErrNoSession) {
			d.cfg.Edge.SetCookie(w, SessionCookie, "", -1)
		}
	}
	if out.Answer.URL != "" {
		return d.leave(w, r, m, out.Answer)
	}
	d.cfg.Edge.Redirect(w, r, "/signed-out")
	return nil
}

// endUpstream ends the browser sessions that an upstream ended. Offline and
// device sessions go on until their connector refuses to vouch again.
func (d *Door) endUpstream(r *http.Request, m *Method, out connectors.Logout) error {
	all, err := d.cfg.Sessions.ByUpstream(r.Context(), m.ID, out.Key)
	if err != nil {
		return err
	}
	if out.Subject != "" {
		id, err := d.cfg.Users.ByIdentity(r.Context(), m.ID, out.Subject)
		if err != nil && !errors.Is(err, user.ErrNotFound) {
			return err
		}
		if err == nil {
			theirs, err := d.cfg.Sessions.ByUser(r.Context(), id)
			if err != nil && !errors.Is(err, user.ErrSuspended) {
				return err
			}
			for _, s := range theirs {
				if s.Connector == m.ID && s.Subject == out.Subject && s.Kind == session.Browser {
					all = append(all, s)
				}
			}
		}
	}
	for _, s := range all {
		if out.Includes != nil && !out.Includes(s.Upstream) {
			continue
		}
		if err := d.record(r, event.Event{Name: event.Signout, Actor: s.UserID, Target: s.ID, Connector: m.ID, Details: map[string]string{"by": "upstream"}}); err != nil {
			return err
		}
		if err := d.cfg.Sessions.Revoke(r.Context(), s.ID, "signed out upstream"); err != nil {
			return err
		}
	}
	return nil
}

// Describe is GET /auth/{connector}/metadata: what the upstream's administrator
// needs to know about us.
func (d *Door) Describe(w http.ResponseWriter, r *http.Request) error {
	name, _ := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/auth/"), "/metadata")
	m := d.methods[name]
	if m == nil {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	ds, ok := m.Connector.(connectors.Describer)
	if !ok {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	ct, doc, err := ds.Describe(r.Context())
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", ct)
	h.Set("Cache-Control", "public, max-age=3600")
	_, _ = w.Write(doc)
	return nil
}
