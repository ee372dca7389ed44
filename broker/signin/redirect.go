package signin

import (
	"errors"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

func (d *Door) upstreamAttempt(m *Method, a attempt) connectors.Attempt {
	return connectors.Attempt{ID: a.ID, CallbackURL: d.callbackURL(m.ID), LoginHint: a.LoginHint, ForceAuthn: a.Force}
}

// depart sends the browser to the upstream of a redirect connector.
func (d *Door) depart(w http.ResponseWriter, r *http.Request, m *Method, a attempt) error {
	rc, ok := m.Connector.(connectors.RedirectConnector)
	if !ok {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	up := d.upstreamAttempt(m, a)
	up.UserAgent = r.UserAgent() // whole: what tells stands at its end
	ctx, span := m.span(r.Context(), "begin")
	dep, err := rc.Begin(ctx, up)
	span.Fail(err)
	span.End()
	if err != nil {
		return d.upstreamFailed(w, r, m, a, err)
	}
	a.Connector, a.Secret = m.ID, dep.Secret
	if err := d.keep(w, r, a); err != nil {
		return err
	}
	return d.leave(w, r, m, dep)
}

// Callback is /auth/{connector}/callback, by GET, and for connectors that screen
// what is posted to them by POST, which ends in the GET. The id that came back, this
// browser's cookie and the connector in the path must agree; anything else is a
// fresh start (docs/security.md UP-1, UP-2).
func (d *Door) Callback(w http.ResponseWriter, r *http.Request) error {
	name, ok := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/auth/"), "/callback")
	m := d.methods[name]
	if !ok || m == nil || m.Connector == nil {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	rc, ok := m.Connector.(connectors.RedirectConnector)
	if !ok {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	screener, posts := m.Connector.(connectors.Screener)
	if posts && r.Method == http.MethodPost {
		return d.posted(w, r, m, screener)
	}
	if r.Method != http.MethodGet {
		e := web.Fail(http.StatusMethodNotAllowed, "request.method", "error.method", nil)
		e.Header = http.Header{"Allow": {"GET"}}
		if posts {
			e.Header.Add("Allow", "POST")
		}
		return e
	}
	params, err := web.ParseValues(r.URL.RawQuery)
	if err != nil {
		return err
	}
	handle := params.Get("answer")
	var a attempt
	if posts { // nothing but a parked answer counts
		a, params, ok, err = d.parkedAttempt(r, m, handle)
	} else {
		a, ok = d.open(r, params.Get("state"))
	}
	if err != nil {
		return err
	}
	if !ok || a.Done || a.Connector != m.ID || !d.fresh(a) || !d.mayUse(m, a) {
		return d.startAgain(w, r, a, http.StatusOK, choosePage{Note: "signin.stale"})
	}
	used, err := d.consumed(r.Context(), a.ID)
	if err != nil {
		return err
	}
	if used {
		return d.secondComer(w, r, a)
	}
	if posts {
		if first, err := d.useAnswer(r, handle); err != nil {
			return err
		} else if !first {
			return d.startAgain(w, r, a, http.StatusOK, choosePage{Note: "signin.stale"})
		}
		a.Writes++ // what was parked came to something
	}
	began := time.Now()
	ctx, span := m.span(r.Context(), "finish")
	id, err := rc.Finish(ctx, d.upstreamAttempt(m, a), a.Secret, connectors.Return{Method: r.Method, Params: params})
	span.Fail(err)
	span.End()
	d.cfg.Observe(m.ID, time.Since(began))
	if err != nil {
		return d.upstreamFailed(w, r, m, a, err)
	}
	if first, err := d.once(r, m, id.Once); err != nil {
		return err
	} else if !first {
		return d.upstreamFailed(w, r, m, a, &connectors.Fault{Code: "saml.replayed", Err: errors.New("the answer was brought a second time")})
	}
	return d.finish(w, r, m, a, id, "")
}

// upstreamFailed answers a departure or return that came to nothing.
func (d *Door) upstreamFailed(w http.ResponseWriter, r *http.Request, m *Method, a attempt, err error) error {
	args := map[string]any{"name": m.Name}
	var refusal *connectors.Refusal
	switch {
	case errors.Is(err, connectors.ErrCancelled):
		return d.startAgain(w, r, a, http.StatusOK, choosePage{Note: "signin.cancelled", NoteArgs: args})
	case errors.As(err, &refusal):
		d.noteAnswer(r, m, refusal.Code)
		e := web.Fail(http.StatusForbidden, "connector."+refusal.Code, "error.connector."+refusal.Code, err)
		e.Args = args
		if refusal.Help != "" {
			e.Actions = append(e.Actions, web.Action{Text: "error.help_upstream", URL: refusal.Help})
		}
		e.Actions = append(e.Actions, d.otherAccount(w, r, a))
		return e
	case errors.Is(err, connectors.ErrNotAllowed):
		return d.notAllowed(w, r, m, a, "", "connector", err)
	case errors.Is(err, connectors.ErrUnavailable):
		d.unavailable(r, m, err)
		return d.startAgain(w, r, a, http.StatusServiceUnavailable, choosePage{Note: "signin.unreachable", NoteArgs: args, Warn: true})
	}
	e := web.Fail(http.StatusBadGateway, "upstream.answer", "error.upstream", err)
	e.Args = args
	reason := "answer"
	var fault *connectors.Fault
	if errors.As(err, &fault) {
		e.Code, e.Text, reason = fault.Code, "error."+fault.Code, fault.Code
		maps.Copy(args, fault.Args)
	}
	again := d.otherAccount(w, r, a)
	again.Text = "error.try_again"
	e.Actions = []web.Action{again}
	d.noteAnswer(r, m, reason)
	return e
}

// unavailable takes notice of an upstream that did not answer. A visitor who
// went away while it was asked, or a crowd, says nothing about it: else anybody
// could have a connector shown as down.
func (d *Door) unavailable(r *http.Request, m *Method, err error) {
	if r.Context().Err() != nil || errors.Is(err, connectors.ErrBusy) {
		return
	}
	d.cfg.Log.WarnContext(r.Context(), "a connector is unavailable", "connector", m.ID, "err", err)
	d.health.failed(r.Context(), m.ID, err)
}

// noteAnswer records a return that came to nothing. Nobody has proved anything
// there, so that only the first of a minute and address are worth a write.
func (d *Door) noteAnswer(r *http.Request, m *Method, reason string) {
	if ok, _ := d.limits.addresses.Allow("answer/" + web.ClientNetwork(web.RequestOf(r).IP)); ok {
		d.note(r, event.Event{Name: event.SigninFailed, Connector: m.ID, Details: map[string]string{"reason": reason}})
	}
}
