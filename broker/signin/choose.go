package signin

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// Start says how a sign-in begins and where it ends.
type Start struct {
	// ReturnTo is a path of ours, with its query.
	ReturnTo string
	// LoginHint fills in the user name.
	LoginHint string
	// Connector goes straight to that method, if there is one of that id.
	Connector string
	// DomainHint goes straight to the one method that speaks for this domain.
	DomainHint string
	// Force wants a fresh proof although there may be a session.
	Force bool
	// App names what the person goes on to, as configured.
	App string
	// UILocales is the client's wish (OpenID Connect Core section 3.1.2.1).
	UILocales string
}

// Start begins a sign-in that comes back to returnTo, a path of ours.
func (d *Door) Start(w http.ResponseWriter, r *http.Request, returnTo string) error {
	return d.StartWith(w, r, Start{ReturnTo: returnTo})
}

// StartFor is Start for something that has a name: the page says what the
// person goes on to.
func (d *Door) StartFor(w http.ResponseWriter, r *http.Request, returnTo, app string, force bool) error {
	return d.StartWith(w, r, Start{ReturnTo: returnTo, App: app, Force: force})
}

// StartWith begins a sign-in: the request is sealed into an attempt's cookie,
// nothing is stored, and the browser goes to the sign-in page.
func (d *Door) StartWith(w http.ResponseWriter, r *http.Request, s Start) error {
	a, err := d.begin(r, s)
	if err != nil {
		return err
	}
	to := "/signin?attempt=" + a.ID
	if m := d.hinted(s); m != nil {
		if _, ok := m.Connector.(connectors.RedirectConnector); ok {
			return d.depart(w, r, m, a) // a page of ours between would show nothing
		}
		to = "/signin/" + m.ID + "?attempt=" + a.ID
	}
	if err := d.keep(w, r, a); err != nil {
		return err
	}
	d.cfg.Edge.Redirect(w, r, to)
	return nil
}

func (d *Door) begin(r *http.Request, s Start) (attempt, error) {
	if ok, retry := d.limits.attempts.Allow(web.ClientNetwork(web.RequestOf(r).IP)); !ok {
		return attempt{}, tooMany(retry)
	}
	if !web.OwnPath(s.ReturnTo) {
		s.ReturnTo = "/"
	}
	a := newAttempt(d.cfg.Now(), s.ReturnTo)
	a.LoginHint, a.Force, a.App, a.Locales = cut(s.LoginHint, 256), s.Force, s.App, cut(s.UILocales, 64)
	return a, nil
}

// again begins an attempt that goes where the old one went.
func (d *Door) again(r *http.Request, old attempt) (attempt, error) {
	a, err := d.begin(r, Start{ReturnTo: old.ReturnTo, LoginHint: old.LoginHint, App: old.App, Force: old.Force, UILocales: old.Locales})
	a.Invite, a.Link = old.Invite, d.linking(old)
	return a, err
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// hinted returns the method that the client asked for, if it is clear which.
func (d *Door) hinted(s Start) *Method {
	if m := d.methods[s.Connector]; m != nil && m.opens() {
		return m
	}
	domain, ok := web.Domain(s.DomainHint)
	if !ok {
		return nil
	}
	if ms := d.home(domain); len(ms) == 1 {
		return ms[0]
	}
	return nil
}

type button struct {
	ID, Name, Type, URL string
	Last, Down, Later   bool
	Since               time.Time
}

type choosePage struct {
	Attempt   string
	App, Note string
	NoteArgs  map[string]any
	Warn      bool
	As        string  // somebody is signed in in this browser already,
	Continue  string  // and may go on as such to this path
	First     *button // the method used last
	Email     *emailForm
	Form      *formPage
	Methods   []button
	Later     []button // configured, and not served by this version
	All       bool     // this is a part; there is a page of all methods

	only []*Method // those to choose among; nil means all that are not hidden
}

// At is where a change of language comes back to: the page may stand at the
// address of an older attempt, of a callback or of a form.
func (p choosePage) At() string { return "/signin?attempt=" + p.Attempt }

// NoteName is the {name} of the note's text.
func (p choosePage) NoteName() string { s, _ := p.NoteArgs["name"].(string); return s }

// shows reports whether the page has the method.
func (p choosePage) shows(m *Method) bool {
	if p.only != nil {
		return slices.Contains(p.only, m)
	}
	return !m.Hidden && !m.LinkOnly
}

// Choose is GET /signin: all methods. ?attempt= names the sign-in under way; an
// unknown or old one is a fresh page.
func (d *Door) Choose(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	id := q.Get("attempt")
	a, ok := d.open(r, id)
	if ok && a.Done {
		ok = false
	}
	note := ""
	switch {
	case ok && !d.fresh(a):
		a2, err := d.again(r, a)
		if err != nil {
			return err
		}
		a, note = a2, "signin.stale" // the old one stays: a reload finds its target again
	case !ok:
		if _, signedIn, err := d.Current(r); err != nil {
			return err
		} else if signedIn && id == "" {
			d.cfg.Edge.Redirect(w, r, "/")
			return nil
		}
		var err error
		if a, err = d.begin(r, Start{ReturnTo: "/"}); err != nil {
			return err
		}
		if id != "" {
			note = "signin.stale"
		}
	}
	return d.choosePage(w, r, http.StatusOK, a, choosePage{Note: note})
}

// startAgain shows a fresh sign-in page with the old target, where the old
// attempt is still known. It never leaves for an upstream by itself.
func (d *Door) startAgain(w http.ResponseWriter, r *http.Request, old attempt, status int, page choosePage) error {
	a, err := d.again(r, old)
	if err != nil {
		return err
	}
	if old.ID != "" && old.ReturnTo == "" { // it has led to a session; any other still knows its target after a reload
		d.drop(w, old.ID)
	}
	return d.choosePage(w, r, status, a, page)
}

func (d *Door) choosePage(w http.ResponseWriter, r *http.Request, status int, a attempt, p choosePage) error {
	if err := d.keep(w, r, a); err != nil {
		return err
	}
	if d.clearDeadSession(w, r) && p.Note == "" {
		p.Note = "signin.ended"
	}
	web.Prefer(r, a.Locales)
	p.Attempt, p.App, p.All = a.ID, a.App, p.only != nil
	if k := d.linking(a); k != nil && p.Note == "" {
		p.Note = k.note()
	}
	if a.Invite != "" && p.Note == "" {
		p.Note = "signin.invited"
	}
	if p.only == nil && p.Email == nil && d.routesByEmail() {
		p.Email = &emailForm{Value: a.LoginHint}
	}
	if s, alive, err := d.Current(r); err == nil && alive && !a.Force {
		p.As, p.Continue = d.nameOf(r, s), a.ReturnTo
	}
	last, _ := d.cfg.Edge.Cookie(r, lastCookie)
	var passwords []*Method
	shown := 0
	for i := range d.cfg.Methods {
		m := &d.cfg.Methods[i]
		if !p.shows(m) {
			continue
		}
		shown++
		if _, ok := m.Connector.(connectors.PasswordConnector); ok {
			passwords = append(passwords, m)
		}
	}
	for i := range d.cfg.Methods {
		m := &d.cfg.Methods[i]
		if !p.shows(m) || len(passwords) == 1 && passwords[0] == m {
			continue
		}
		b := button{ID: m.ID, Name: m.Name, Type: m.Type, URL: "/signin/" + m.ID + "?attempt=" + a.ID, Later: m.Connector == nil}
		if up, since := d.health.state(m.ID); !up && !b.Later {
			b.Down, b.Since = true, since
		}
		if m.ID == last && shown > 1 && !b.Down && !b.Later {
			b.Last = true
			p.First = &b
			continue
		}
		if b.Later {
			p.Later = append(p.Later, b)
			continue
		}
		p.Methods = append(p.Methods, b)
	}
	// What works stands before what does not.
	slices.SortStableFunc(p.Methods, func(x, y button) int { return rank(x) - rank(y) })
	if len(passwords) == 1 {
		f := d.form(passwords[0], a, a.LoginHint)
		f.Embedded, f.Last = shown > 1, shown > 1 && passwords[0].ID == last
		if up, since := d.health.state(f.ID); !up {
			f.Down, f.Since = true, since
		}
		p.Form = &f
	}
	return d.cfg.Edge.Page(w, r, status, "signin", p)
}

func rank(b button) int {
	if b.Down {
		return 1
	}
	return 0
}

// clearDeadSession removes a session cookie that no longer names a session
// (SE-6), one that is there twice included, and reports whether there was one.
func (d *Door) clearDeadSession(w http.ResponseWriter, r *http.Request) bool {
	if !d.cfg.Edge.CookieSent(r, SessionCookie) {
		return false
	}
	if _, alive, err := d.Current(r); alive || err != nil {
		return false
	}
	d.cfg.Edge.SetCookie(w, SessionCookie, "", -1)
	return true
}

// Resume is GET /resume/{id}: the 200 hop between a form and where it leads.
func (d *Door) Resume(w http.ResponseWriter, r *http.Request) error {
	id := strings.TrimPrefix(r.URL.Path, "/resume/")
	a, ok := d.open(r, id)
	if ok && a.Done {
		d.drop(w, id)
		if a.Ends != nil {
			return d.passwordEnds(w, r, a)
		}
		return d.cfg.Edge.Hop(w, r, a.ReturnTo)
	}
	if !ok { // an old page in the history of somebody who is in
		if _, in, err := d.Current(r); err != nil {
			return err
		} else if in {
			d.cfg.Edge.Redirect(w, r, "/")
			return nil
		}
	}
	return d.startAgain(w, r, a, http.StatusOK, choosePage{Note: "signin.stale"})
}

func tooMany(retry time.Duration) error {
	secs := max(1, int(retry/time.Second))
	e := web.Fail(http.StatusTooManyRequests, "rate_limited", "error.rate_limited", nil)
	e.Args = map[string]any{"minutes": (secs + 59) / 60}
	e.Header = http.Header{"Retry-After": {itoa(secs)}}
	return e
}

func pathAttempt(u *url.URL) string { return u.Query().Get("attempt") }
