package signin

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

func itoa(n int) string { return strconv.Itoa(n) }

type formPage struct {
	ID, Name, Attempt, Username, App string
	Problem                          string // message id; "" before the first try
	Minutes, Left                    int
	Reset                            string // the page for a forgotten password
	Back                             bool   // there are other methods
	Embedded                         bool   // part of the page of all methods
	Last, Down                       bool
	Since                            time.Time // when it went down
}

// At is where a change of language comes back to: this form of this attempt.
func (p formPage) At() string { return "/signin/" + p.ID + "?attempt=" + p.Attempt }

func (d *Door) form(m *Method, a attempt, username string) formPage {
	p := formPage{ID: m.ID, Name: m.Name, Attempt: a.ID, Username: username, App: a.App, Back: len(d.cfg.Methods) > 1}
	if rs, ok := m.Connector.(connectors.PasswordResetter); ok {
		p.Reset = rs.ResetURL()
	}
	return p
}

// maxForm bounds the sign-in form's body, in bytes.
const maxForm = 16 << 10

// Method is GET and POST /signin/{connector}: the form of a password connector,
// or the departure to a redirect connector.
func (d *Door) Method(w http.ResponseWriter, r *http.Request) error {
	m := d.methods[strings.TrimPrefix(r.URL.Path, "/signin/")]
	if m == nil {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	if m.Connector == nil {
		a, _ := d.open(r, pathAttempt(r.URL))
		return d.startAgain(w, r, a, http.StatusServiceUnavailable, choosePage{Note: "signin.later", NoteArgs: map[string]any{"name": m.Name}, Warn: true})
	}
	pc, password := m.Connector.(connectors.PasswordConnector)
	switch {
	case r.Method == http.MethodPost && password:
		return d.password(w, r, m, pc)
	case r.Method == http.MethodPost:
		e := web.Fail(http.StatusMethodNotAllowed, "request.method", "error.method", nil)
		e.Header = http.Header{"Allow": {http.MethodGet}}
		return e
	}
	a, ok := d.open(r, pathAttempt(r.URL))
	if !d.mayUse(m, a) {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	if !ok || a.Done || !d.fresh(a) {
		if !password {
			// A bookmarked or stale link never leaves by itself (UP-1).
			note := ""
			if pathAttempt(r.URL) != "" {
				note = "signin.stale"
			}
			return d.startAgain(w, r, a, http.StatusOK, choosePage{Note: note})
		}
		var err error
		if a, err = d.again(r, a); err != nil {
			return err
		}
	}
	if !password {
		return d.depart(w, r, m, a)
	}
	if err := d.keep(w, r, a); err != nil {
		return err
	}
	d.clearDeadSession(w, r)
	web.Prefer(r, a.Locales)
	return d.cfg.Edge.Page(w, r, http.StatusOK, "password", d.form(m, a, a.LoginHint))
}

// password is the posted form.
func (d *Door) password(w http.ResponseWriter, r *http.Request, m *Method, pc connectors.PasswordConnector) error {
	form, err := web.Form(w, r, maxForm)
	if err != nil {
		return err
	}
	username, password := form.Get("username"), form.Get("password")
	a, ok := d.open(r, form.Get("attempt"))
	if !ok || a.Done || !d.fresh(a) {
		// A form without its cookie may have been put there by somebody else
		// (login CSRF); one that is old is simply shown again.
		note := "signin.stale"
		if len(r.Cookies()) == 0 { // a second tab of a sign-in that is over still brings others
			note = "signin.cookies"
		}
		return d.startAgain(w, r, a, http.StatusOK, choosePage{Note: note, Warn: note == "signin.cookies"})
	}
	if !d.mayUse(m, a) {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	web.Prefer(r, a.Locales)
	page := d.form(m, a, username)
	if len(username) > 256 || !utf8.ValidString(username) || strings.TrimSpace(username) == "" || password == "" {
		page.Problem, page.Username = "password.mismatch", cut(strings.ToValidUTF8(username, ""), 256)
		return d.refuse(w, r, http.StatusUnprocessableEntity, page)
	}
	used, err := d.consumed(r.Context(), a.ID)
	if err != nil {
		return err
	}
	if used {
		return d.secondComer(w, r, a)
	}
	return d.try(w, r, m, a, username, password, page, pc)
}

// try checks a password, if the counters allow another try.
func (d *Door) try(w http.ResponseWriter, r *http.Request, m *Method, a attempt, username, password string, page formPage, pc connectors.PasswordConnector) error {
	keys := d.limits.keys(d, r, m.ID, username)
	leave, err := d.limits.enter(r.Context(), &keys)
	if err != nil {
		return d.failed(w, r, m, a, keys, page, err)
	}
	defer leave()
	ctx := connectors.WithThrottle(connectors.WithClientIP(r.Context(), web.RequestOf(r).IP), func(subject string) bool { return d.limits.canonical(d, &keys, subject) })
	ctx, span := m.span(ctx, "authenticate")
	began := time.Now()
	id, err := pc.Authenticate(ctx, username, password)
	if !errors.Is(err, connectors.ErrBadCredentials) { // which is an answer like another
		span.Fail(err)
	}
	span.End()
	d.cfg.Observe(m.ID, time.Since(began))
	if err != nil {
		return d.failed(w, r, m, a, keys, page, err)
	}
	d.limits.succeeded(keys)
	return d.finish(w, r, m, a, id, keys.account)
}

// failed answers a password that did not lead in. An unknown user and a wrong
// password are the same to here and from here.
func (d *Door) failed(w http.ResponseWriter, r *http.Request, m *Method, a attempt, keys limitKeys, page formPage, err error) error {
	var refusal *connectors.Refusal
	switch {
	case errors.Is(err, connectors.ErrThrottled):
		retry := d.limits.retry(keys)
		page.Problem, page.Minutes = "password.paused", int((retry+time.Minute-1)/time.Minute)
		w.Header().Set("Retry-After", itoa(max(1, int(retry/time.Second))))
		return d.refuse(w, r, http.StatusTooManyRequests, page)
	case errors.Is(err, connectors.ErrUnavailable):
		d.unavailable(r, m, err)
		page.Problem = "password.unavailable"
		return d.refuse(w, r, http.StatusServiceUnavailable, page)
	case errors.As(err, &refusal):
		// The password was right: what is in the way may be said (LD-7).
		d.noteFailure(r, m, keys, refusal.Code)
		if refusal.Code == "account_disabled" || refusal.Code == "account_expired" {
			// A directory says these without looking at the password: a guess.
			d.limits.failed(r.Context(), d.cfg.Bus, keys)
		}
		page.Problem = "password." + refusal.Code
		if refusal.Help != "" {
			page.Reset = refusal.Help
		}
		return d.refuse(w, r, http.StatusForbidden, page)
	case errors.Is(err, connectors.ErrNotAllowed):
		return d.notAllowed(w, r, m, a, page.Username, "connector", err)
	case !errors.Is(err, connectors.ErrBadCredentials):
		return err
	}
	locked, left := d.limits.failed(r.Context(), d.cfg.Bus, keys)
	owner := d.noteFailure(r, m, keys, "credentials")
	if locked {
		d.note(r, event.Event{Name: event.SigninLockout, Target: owner, Connector: m.ID, Details: map[string]string{"account": keys.account}})
	}
	page.Problem, page.Left = "password.mismatch", left
	return d.refuse(w, r, http.StatusUnprocessableEntity, page)
}

// noteFailure records a failed try. People type passwords where the name goes,
// so that what was typed is in no event: it is the account's id if there is one,
// and else a keyed hash (docs/security.md ST-5). It returns that id, or "".
func (d *Door) noteFailure(r *http.Request, m *Method, keys limitKeys, reason string) string {
	e := event.Event{Name: event.SigninFailed, Connector: m.ID, Details: map[string]string{"account": keys.account, "reason": reason}}
	// Looked up for unknown names too: it takes as long (LD-8).
	if u, err := d.cfg.Users.ByIdentity(r.Context(), m.ID, keys.subject); err == nil {
		e.Target = u
	}
	d.note(r, e)
	return e.Target
}

func (d *Door) refuse(w http.ResponseWriter, r *http.Request, status int, page formPage) error {
	return d.cfg.Edge.Page(w, r, status, "password", page)
}

// notAllowed is the page for somebody whom the upstream knows and who may not in.
func (d *Door) notAllowed(w http.ResponseWriter, r *http.Request, m *Method, a attempt, who, why string, err error) error {
	d.note(r, event.Event{Name: event.SigninFailed, Connector: m.ID, Details: map[string]string{"reason": why}})
	e := web.Fail(http.StatusForbidden, "policy.denied", "error.not_allowed", err)
	e.Args, e.Who = map[string]any{"name": m.Name}, who
	e.Actions = []web.Action{d.otherAccount(w, r, a)}
	return e
}
