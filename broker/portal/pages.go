package portal

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

// person is what every page of a signed-in person has.
type person struct {
	Name  string
	Token string // of the page's forms
}

// SignedInAs makes the layout show the navigation.
func (p person) SignedInAs() string { return p.Name }

func (p *Portal) person(s session.Session, u user.User) person {
	name := u.Name
	if name == "" {
		name = u.Username
	}
	if name == "" {
		name = u.ID
	}
	return person{Name: name, Token: p.edge.FormToken(s.ID, "portal")}
}

// maxForm bounds a form of the portal, in bytes.
const maxForm = 16 << 10

// form reads a posted form and checks its token.
func (p *Portal) form(w http.ResponseWriter, r *http.Request, s session.Session) (map[string]string, error) {
	f, err := web.Form(w, r, maxForm)
	if err != nil {
		return nil, err
	}
	if !p.edge.CheckFormToken(s.ID, "portal", f.Get("token")) {
		return nil, web.Fail(http.StatusForbidden, "request.form_token", "error.form_token", nil)
	}
	out := map[string]string{}
	for k := range f {
		out[k] = f.Get(k)
	}
	return out, nil
}

type homePage struct {
	person
	Apps   []App
	Query  string // what was searched for
	Search bool   // there are enough to search
}

// manyApps is from how many on a search is offered.
const manyApps = 7

// Home is GET /: the apps and consoles that this person may open.
func (p *Portal) Home(w http.ResponseWriter, r *http.Request) error {
	s, u, done, err := p.who(w, r)
	if done {
		return err
	}
	apps, err := p.apps(r, s, u)
	if err != nil {
		return err
	}
	page := homePage{person: p.person(s, u), Query: strings.TrimSpace(r.URL.Query().Get("q")), Search: len(apps) >= manyApps}
	for _, a := range apps {
		if page.Query == "" || containsFold(page.Query, a.Name, a.Node, a.Kind) {
			page.Apps = append(page.Apps, a)
		}
	}
	page.Search = page.Search || page.Query != ""
	return p.edge.Page(w, r, http.StatusOK, "home", page)
}

func containsFold(part string, in ...string) bool {
	return slices.ContainsFunc(in, func(s string) bool { return strings.Contains(strings.ToLower(s), strings.ToLower(part)) })
}

type accountPage struct {
	person
	User      user.User
	Session   session.Session
	Connector string
	Roles     []Role
}

// Account is GET /account: who I am, and who says so.
func (p *Portal) Account(w http.ResponseWriter, r *http.Request) error {
	s, u, done, err := p.who(w, r)
	if done {
		return err
	}
	roles, err := p.rolesOf(r.Context(), s)
	if err != nil {
		return err
	}
	return p.edge.Page(w, r, http.StatusOK, "account", accountPage{p.person(s, u), u, s, p.connectorName(s.Connector), roles})
}

func (p *Portal) connectorName(id string) string {
	for _, c := range p.connectors() {
		if c.ID == id {
			return c.Name
		}
	}
	return id
}

type sessionsPage struct {
	person
	Sessions []sessionRow
	Others   bool
}

type sessionRow struct {
	ID, Device, IP, Place, Connector string
	parent                           string
	Kind                             session.Kind
	Started, Seen                    time.Time
	Current, Under                   bool // Under: an offline one below the browser that it came from
}

// Sessions is GET /account/sessions: the current one first.
func (p *Portal) Sessions(w http.ResponseWriter, r *http.Request) error {
	s, u, done, err := p.who(w, r)
	if done {
		return err
	}
	all, err := p.sessions.ByUser(r.Context(), s.UserID)
	if err != nil {
		return err
	}
	page := sessionsPage{person: p.person(s, u), Others: len(all) > 1}
	for _, x := range all {
		page.Sessions = append(page.Sessions, sessionRow{ID: x.ID, parent: x.Parent, Device: deviceOf(x), IP: x.IP, Place: cmp.Or(p.place(x.IP, web.RequestOf(r).Locale), x.Place), Connector: p.connectorName(x.Connector), Kind: x.Kind, Started: x.Created, Seen: x.Seen, Current: x.ID == s.ID})
	}
	page.Sessions = inFamilies(page.Sessions, s.ID)
	return p.edge.Page(w, r, http.StatusOK, "sessions", page)
}

// deviceOf names what a session is on, as far as that is known.
func deviceOf(s session.Session) string {
	agent := session.DeviceName(s.Agent)
	if s.Name != "" && agent != "" {
		return s.Name + " · " + agent
	}
	return cmp.Or(s.Name, agent)
}

// inFamilies puts the current session first, and each offline one below the
// browser that it came from.
func inFamilies(rows []sessionRow, current string) []sessionRow {
	there := map[string]bool{}
	for _, row := range rows {
		there[row.ID] = true
	}
	slices.SortStableFunc(rows, func(a, b sessionRow) int { return b.Seen.Compare(a.Seen) })
	slices.SortStableFunc(rows, func(a, b sessionRow) int {
		switch {
		case a.ID == current:
			return -1
		case b.ID == current:
			return 1
		}
		return 0
	})
	var out []sessionRow
	for _, row := range rows {
		if there[row.parent] {
			continue
		}
		out = append(out, row)
		for _, child := range rows {
			if child.parent == row.ID {
				child.Under = true
				out = append(out, child)
			}
		}
	}
	return out
}

// EndSession is POST /account/sessions/end: one session of the person's own.
func (p *Portal) EndSession(w http.ResponseWriter, r *http.Request) error {
	s, _, done, err := p.who(w, r)
	if done {
		return err
	}
	f, err := p.form(w, r, s)
	if err != nil {
		return err
	}
	if err := p.endOwn(r.Context(), &caller{sess: s}, f["session"], r); err != nil {
		return apiError(err)
	}
	p.edge.SetNotice(w, "notice.session_ended")
	p.edge.Redirect(w, r, "/account/sessions")
	return nil
}

// AskEndOthers is GET /account/sessions/end-others: it asks once, since it
// cannot be taken back.
func (p *Portal) AskEndOthers(w http.ResponseWriter, r *http.Request) error {
	s, u, done, err := p.who(w, r)
	if done {
		return err
	}
	return p.edge.Page(w, r, http.StatusOK, "end-others", p.person(s, u))
}

// EndOthers is POST /account/sessions/end-others: all but this one.
func (p *Portal) EndOthers(w http.ResponseWriter, r *http.Request) error {
	s, _, done, err := p.who(w, r)
	if done {
		return err
	}
	if _, err := p.form(w, r, s); err != nil {
		return err
	}
	if _, err := p.endOthers(r.Context(), &caller{sess: s}, r); err != nil {
		return err
	}
	p.edge.SetNotice(w, "notice.others_ended")
	p.edge.Redirect(w, r, "/account/sessions")
	return nil
}

type appsPage struct {
	person
	Apps []appRow
}

type appRow struct {
	ID, Name string
	Scopes   []string
	Since    time.Time
	Consent  bool
}

// Apps is GET /account/apps: which clients may act for this person.
func (p *Portal) Apps(w http.ResponseWriter, r *http.Request) error {
	s, u, done, err := p.who(w, r)
	if done {
		return err
	}
	rows, err := p.acting(r.Context(), s)
	if err != nil {
		return err
	}
	return p.edge.Page(w, r, http.StatusOK, "apps", appsPage{p.person(s, u), rows})
}

// acting lists the clients that have a consent or a living refresh grant.
func (p *Portal) acting(ctx context.Context, s session.Session) ([]appRow, error) {
	at := map[string]int{}
	var rows []appRow
	row := func(client string) *appRow {
		if _, ok := at[client]; !ok {
			name := client
			if c, ok := p.clients.Get(client); ok {
				name = c.Name()
			}
			at[client] = len(rows)
			rows = append(rows, appRow{ID: client, Name: name})
		}
		return &rows[at[client]]
	}
	consents, err := p.ledger.Consents(ctx, s.UserID)
	if err != nil {
		return nil, err
	}
	for _, c := range consents {
		a := row(c.ClientID)
		a.Scopes, a.Since, a.Consent = c.Scopes, c.Given, true
	}
	grants, err := p.ledger.ByUser(ctx, s.UserID)
	if err != nil {
		return nil, err
	}
	for _, g := range grants {
		if !g.Refresh || g.UserEpoch != s.UserEpoch {
			continue
		}
		a := row(g.ClientID)
		for _, sc := range g.Scopes {
			if !slices.Contains(a.Scopes, sc) {
				a.Scopes = append(a.Scopes, sc)
			}
		}
		if a.Since.IsZero() || g.Created.Before(a.Since) {
			a.Since = g.Created
		}
	}
	return rows, nil
}

// RevokeApp is POST /account/apps/revoke: the consent and all grants of a client.
func (p *Portal) RevokeApp(w http.ResponseWriter, r *http.Request) error {
	s, _, done, err := p.who(w, r)
	if done {
		return err
	}
	f, err := p.form(w, r, s)
	if err != nil {
		return err
	}
	rows, err := p.acting(r.Context(), s)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(rows, func(a appRow) bool { return a.ID == f["client"] }) {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	if err := p.record(r.Context(), r, event.Event{Name: event.ConsentRevoked, Actor: s.UserID, Target: f["client"], Client: f["client"]}); err != nil {
		return err
	}
	ended, err := p.ledger.RevokeConsent(r.Context(), s.UserID, f["client"])
	if err != nil {
		return err
	}
	for _, g := range ended {
		if own := g.OwnSession(); own != "" {
			if err := p.sessions.Revoke(r.Context(), own, "consent taken back"); err != nil {
				return err
			}
		}
	}
	p.edge.SetNotice(w, "notice.app_revoked")
	p.edge.Redirect(w, r, "/account/apps")
	return nil
}

type claimsPage struct {
	person
	Access, ID string
	Issuer     string
}

// Claims is GET /account/claims: what services would read in this person's
// tokens.
func (p *Portal) Claims(w http.ResponseWriter, r *http.Request) error {
	s, u, done, err := p.who(w, r)
	if done {
		return err
	}
	access, id, err := p.preview(r.Context(), s)
	if err != nil {
		return err
	}
	a, err := json.MarshalIndent(access, "", "  ")
	if err != nil {
		return err
	}
	i, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return p.edge.Page(w, r, http.StatusOK, "claims", claimsPage{p.person(s, u), string(a), string(i), p.issuer})
}

// Prefs is POST /prefs: language and theme, for anybody. It sets a cookie that
// grants nothing, and is behind the same-origin check alone.
func (p *Portal) Prefs(w http.ResponseWriter, r *http.Request) error {
	f, err := web.Form(w, r, maxForm)
	if err != nil {
		return err
	}
	p.edge.SetPreferences(w, r, f.Get("lang"), f.Get("theme"))
	// A path of ours alone (docs/security.md SE-5).
	back := f.Get("back")
	if _, ok := web.SafeReturn(back, func(string) bool { return false }, p.url); !ok || !strings.HasPrefix(back, "/") {
		back = "/"
	}
	p.edge.Redirect(w, r, back)
	return nil
}
