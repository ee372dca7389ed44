package signin

import (
	"cmp"
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
	id = m.vouch(id)
	k := d.linking(a)
	if k.here() {
		return d.linkHere(w, r, m, a, *k, id)
	}
	if done, err := d.elsewhere(w, r, m, a, id); done || err != nil {
		return err
	}
	u, created, err := d.admit(w, r, m, a, id)
	if err != nil {
		return d.notAdmitted(w, r, m, a, id, u, err)
	}
	groups := d.groups(r.Context(), m, id.Groups)
	now := d.cfg.Now()
	q := web.RequestOf(r)
	s := session.Session{
		UserID: u.ID, UserEpoch: u.Epoch, Connector: m.ID, Org: m.Org, Subject: id.Subject, Username: id.Username, Upstream: id.Session, UpstreamKey: id.SessionKey,
		Groups: groups, Proved: now, AuthTime: authTime(id.AuthTime, now), ACR: id.ACR, AMR: id.AMR, Expires: id.SessionEnds,
		IP: q.IP.String(), Agent: q.Agent,
	}
	s.Country, s.Place = d.cfg.Place(r.Context(), s.IP)
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
	if owner, err := d.cfg.Users.ByIdentity(r.Context(), m.ID, id.Subject); err != nil || owner != u.ID {
		// It was unlinked or merged away while it signed in, and whoever ended its
		// sessions may not have seen this one.
		if errors.Is(err, user.ErrNotFound) || err == nil {
			err = errMoved
		}
		return errors.Join(err, d.cfg.Sessions.Revoke(r.Context(), s.ID, "unlinked"))
	}
	if err := d.record(r, event.Event{Name: event.SigninSucceeded, Actor: u.ID, Target: s.ID, Connector: m.ID}); err != nil {
		return err
	}
	if err := d.remember(r.Context(), s, u); err != nil {
		return err
	}
	d.limits.finished(web.ClientNetwork(q.IP), a.Writes)
	d.health.worked(r.Context(), m.ID)
	d.cfg.Edge.SetCookie(w, SessionCookie, string(h), 0)
	d.cfg.Edge.SetCookie(w, lastCookie, m.ID, 180*24*time.Hour)
	d.rememberDevice(w, r, s, account)
	if k != nil && k.Identity != nil && !created {
		if a.ReturnTo, err = d.offer(w, r, a, linking{User: u.ID, Session: s.ID, Identity: k.Identity, At: k.At}); err != nil {
			return err
		}
	}
	if r.Method != http.MethodPost {
		d.drop(w, a.ID)
		d.cfg.Edge.Redirect(w, r, a.ReturnTo)
		return nil
	}
	// A form's answer must end on a page of ours (form-action, ADR 13).
	a.Done, a.Secret, a.Link, a.Ends = true, nil, nil, endsSoon(m, id, now)
	if err := d.keep(w, r, a); err != nil {
		return err
	}
	d.cfg.Edge.Redirect(w, r, "/resume/"+a.ID)
	return nil
}

var errMoved = errors.New("the identity was taken from the account while it signed in")

// admit asks the directory for the account of an identity.
func (d *Door) admit(w http.ResponseWriter, r *http.Request, m *Method, a attempt, id connectors.Identity) (user.User, bool, error) {
	k := d.linking(a)
	if k != nil && k.User != "" && k.Identity == nil && m.Enforce {
		// Somebody whose account is asked to come by this connector from now on.
		if _, err := d.cfg.Users.ByIdentity(r.Context(), m.ID, id.Subject); errors.Is(err, user.ErrNotFound) {
			return user.User{ID: k.User}, false, errOffer
		} else if err != nil {
			return user.User{}, false, err
		}
	}
	return d.cfg.Users.Admit(r.Context(), id, user.Admission{
		Signup: m.Signup, Domains: m.Domains, Invite: a.Invite, Apart: a.Apart, Speaks: d.speaks, ByHand: d.byHand,
		Announce: d.announce(r, m, id, "email"),
	})
}

// notAdmitted answers a proof that leads into no account.
func (d *Door) notAdmitted(w http.ResponseWriter, r *http.Request, m *Method, a attempt, id connectors.Identity, u user.User, err error) error {
	fail := func(reason string) {
		d.note(r, event.Event{Name: event.SigninFailed, Target: u.ID, Connector: m.ID, Details: map[string]string{"reason": reason}})
	}
	var e *web.Error
	var taken *user.ExistingAccount
	switch {
	case errors.Is(err, errOffer):
		to, err := d.offer(w, r, a, linking{User: u.ID, Identity: provedBy(id), At: a.Link.At})
		if err == nil {
			d.cfg.Edge.Redirect(w, r, to)
		}
		return err
	case errors.As(err, &taken):
		fail("existing_account")
		return d.existing(w, r, m, a, id, taken)
	case errors.Is(err, user.ErrSuspended):
		fail("suspended")
		e = web.Fail(http.StatusForbidden, "account.disabled", "error.account_disabled", err)
		e.Who = cmp.Or(id.Email, id.Username, id.Name)
	case errors.Is(err, user.ErrSignupClosed):
		fail("signup_closed")
		e = web.Fail(http.StatusForbidden, "account.signup_closed", "error.signup_closed", err)
	case errors.Is(err, user.ErrInvite):
		fail("invite")
		a.Invite = ""
		e = web.Fail(http.StatusForbidden, "account.invite", "error.invite", err)
		e.Who = cmp.Or(id.Email, id.Username, id.Name)
	default:
		return err
	}
	e.Actions = []web.Action{d.otherAccount(w, r, a)}
	return e
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
