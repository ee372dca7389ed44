package signin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// finish turns a proof into a session: the attempt's one transition, the
// connector's rule, the account, the session under a new handle, the event. The
// transition comes first, so that a second comer changes nothing, not even an
// account (docs/architecture.md, section 5).
func (d *Door) finish(w http.ResponseWriter, r *http.Request, m *Method, a attempt, id connectors.Identity, account string) error {
	if id.Connector != m.ID || id.Subject == "" {
		return fmt.Errorf("connector %s gave an identity of %q without a subject", m.ID, id.Connector)
	}
	first, err := d.consume(r.Context(), a.ID)
	if err != nil {
		return err
	}
	if !first {
		return d.secondComer(w, r, a)
	}
	if err := d.allowed(r, m, id); err != nil {
		return d.notAllowed(w, r, m, a, cmp.Or(id.Email, id.Username, id.Name), "policy", err)
	}
	u, _, err := d.cfg.Users.Admit(r.Context(), id, user.Admission{Signup: m.Signup, Domains: m.Domains, Announce: func(_ context.Context, u user.User, created bool) error {
		name := event.UserUpdated
		if created {
			name = event.UserCreated
		}
		return d.record(r, event.Event{Name: name, Actor: u.ID, Target: u.ID, Connector: m.ID})
	}})
	switch {
	case errors.Is(err, user.ErrSuspended):
		d.note(r, event.Event{Name: event.SigninFailed, Target: u.ID, Connector: m.ID, Details: map[string]string{"reason": "suspended"}})
		e := web.Fail(http.StatusForbidden, "account.disabled", "error.account_disabled", err)
		e.Who = cmp.Or(id.Email, id.Username, id.Name)
		e.Actions = []web.Action{d.otherAccount(w, r, a)}
		return e
	case errors.Is(err, user.ErrSignupClosed):
		d.note(r, event.Event{Name: event.SigninFailed, Connector: m.ID, Details: map[string]string{"reason": "signup_closed"}})
		e := web.Fail(http.StatusForbidden, "account.signup_closed", "error.signup_closed", err)
		e.Actions = []web.Action{d.otherAccount(w, r, a)}
		return e
	case err != nil:
		return err
	}
	groups := d.groups(m, id.Groups)
	now := d.cfg.Now()
	q := web.RequestOf(r)
	s := session.Session{
		UserID: u.ID, UserEpoch: u.Epoch, Connector: m.ID, Org: m.Org, Subject: id.Subject, Username: id.Username, Upstream: id.Session,
		Groups: groups, Proved: now, AuthTime: authTime(id.AuthTime, now), ACR: id.ACR, AMR: id.AMR, Expires: id.SessionEnds,
		IP: q.IP.String(), Agent: q.Agent,
	}
	if _, ok := m.Connector.(connectors.Renewer); ok && id.Renewal != nil {
		s.Renewal, err = d.cfg.Sessions.SaveRenewal(r.Context(), session.Renewal{Connector: m.ID, Subject: id.Subject, State: id.Renewal, Groups: groups, Proved: now}, id.OneRenewal)
		if err != nil {
			return err
		}
	}
	previous, _ := d.cfg.Edge.Cookie(r, SessionCookie)
	s, h, err := d.cfg.Sessions.Start(r.Context(), s, session.Handle(previous))
	if err != nil {
		return err
	}
	if err := d.record(r, event.Event{Name: event.SigninSucceeded, Actor: u.ID, Target: s.ID, Connector: m.ID}); err != nil {
		return err
	}
	d.limits.finished(web.ClientNetwork(q.IP), a.Writes)
	d.health.worked(r.Context(), m.ID)
	d.cfg.Edge.SetCookie(w, SessionCookie, string(h), 0)
	d.cfg.Edge.SetCookie(w, lastCookie, m.ID, 180*24*time.Hour)
	if account != "" {
		d.rememberDevice(w, r, account)
	}
	if r.Method != http.MethodPost {
		d.drop(w, a.ID)
		d.cfg.Edge.Redirect(w, r, a.ReturnTo)
		return nil
	}
	// A form's answer must end on a page of ours (form-action, ADR 13).
	a.Done, a.Secret = true, nil
	if err := d.keep(w, r, a); err != nil {
		return err
	}
	d.cfg.Edge.Redirect(w, r, "/resume/"+a.ID)
	return nil
}

// secondComer answers whoever brings an attempt that has led to a session. A
// form that was sent twice leads to the hop, which lets in the browser that got
// the first answer; anybody else sees our sign-in page.
func (d *Door) secondComer(w http.ResponseWriter, r *http.Request, a attempt) error {
	if r.Method == http.MethodPost {
		d.cfg.Edge.Redirect(w, r, "/resume/"+a.ID)
		return nil
	}
	return d.startAgain(w, r, a, http.StatusOK, choosePage{Note: "signin.stale"})
}

// otherAccount begins another attempt at the same target: the refused one is
// spent.
func (d *Door) otherAccount(w http.ResponseWriter, r *http.Request, a attempt) web.Action {
	to := "/signin"
	if next, err := d.again(r, a); err == nil && d.keep(w, r, next) == nil {
		to += "?attempt=" + next.ID
	}
	return web.Action{Text: "error.other_account", URL: to}
}

// authTime never believes an upstream that the person will sign in later.
func authTime(upstream, now time.Time) time.Time {
	if upstream.IsZero() || upstream.After(now) {
		return now
	}
	return upstream
}

// allowed asks the connector's own rule. An error of the rule refuses.
func (d *Door) allowed(r *http.Request, m *Method, id connectors.Identity) error {
	if m.Allow == nil {
		return nil
	}
	q := web.RequestOf(r)
	return decide(r.Context(), m, id, &policy.Request{Method: r.Method, Path: r.URL.Path, Host: q.Host, IP: q.IP.String(), Time: d.cfg.Now()})
}
