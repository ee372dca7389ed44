package portal

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/apikey"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

type keysPage struct {
	person
	Keys   []apiKeyView
	Scopes []scopeChoice
	Days   []int
	New    string // a key that was just made: shown once
	Stale  bool   // making one needs a fresh sign-in
	Error  string // what was wrong with the form
	Form   map[string]string
}

type scopeChoice struct{ Name, Text string }

// lives are the lives that the page offers, in days.
var lives = []int{30, 90, 180, 365}

// Keys is GET /account/keys: the person's API keys.
func (p *Portal) Keys(w http.ResponseWriter, r *http.Request) error {
	s, u, done, err := p.who(w, r)
	if done {
		return err
	}
	return p.showKeys(w, r, s, u, http.StatusOK, keysPage{})
}

// showKeys shows the page with what has just happened.
func (p *Portal) showKeys(w http.ResponseWriter, r *http.Request, s session.Session, u user.User, status int, page keysPage) error {
	page.person, page.Days, page.Stale = p.person(s, u), lives, p.stale(s)
	ks, err := p.apiKeys.Of(r.Context(), s.UserID)
	if err != nil {
		return err
	}
	for _, k := range ks {
		v, err := p.viewKey(r.Context(), k)
		if err != nil {
			return err
		}
		page.Keys = append(page.Keys, v)
	}
	locale := web.RequestOf(r).Locale
	for _, res := range p.clients.Resources() {
		for name, text := range res.Scopes {
			c := scopeChoice{Name: name, Text: text[locale]}
			if c.Text == "" {
				c.Text = text["en"]
			}
			page.Scopes = append(page.Scopes, c)
		}
	}
	slices.SortFunc(page.Scopes, func(a, b scopeChoice) int { return strings.Compare(a.Name, b.Name) })
	return p.edge.Page(w, r, status, "keys", page)
}

func (p *Portal) stale(s session.Session) bool { return p.now().Sub(s.AuthTime) > keyFresh }

// keysForm reads a form of the page.
func (p *Portal) keysForm(w http.ResponseWriter, r *http.Request) (s session.Session, u user.User, f map[string]string, done bool, err error) {
	if s, u, done, err = p.who(w, r); done {
		return s, u, nil, true, err
	}
	f, err = p.form(w, r, s)
	return s, u, f, err != nil, err
}

// CreateKey is POST /account/keys: the key is on the page that answers, once.
func (p *Portal) CreateKey(w http.ResponseWriter, r *http.Request) error {
	s, u, f, done, err := p.keysForm(w, r)
	if done {
		return err
	}
	if p.stale(s) {
		return p.signIn.StartFresh(w, r, "/account/keys")
	}
	days, err := strconv.Atoi(f["days"])
	if err != nil || !slices.Contains(lives, days) {
		days = 90
	}
	cidrs, err := networks(strings.FieldsFunc(f["cidrs"], func(c rune) bool { return strings.ContainsRune(" ,;\r\n\t", c) }))
	var text string
	if err == nil {
		d := apikey.Draft{Name: f["name"], Owner: s.UserID, CIDRs: cidrs, Life: time.Duration(days) * 24 * time.Hour}
		for k := range f {
			if scope, ok := strings.CutPrefix(k, "scope."); ok {
				d.Scopes = append(d.Scopes, scope)
			}
		}
		slices.Sort(d.Scopes)
		_, text, err = p.makeKey(r.Context(), &caller{sess: s}, r, d)
	}
	return p.made(w, r, s, u, f, text, err)
}

// made shows a new key, or what was wrong.
func (p *Portal) made(w http.ResponseWriter, r *http.Request, s session.Session, u user.User, f map[string]string, text string, err error) error {
	page, status := keysPage{New: text, Form: f}, http.StatusOK
	var known *web.Error
	switch {
	case errors.Is(err, apikey.ErrTooMany):
		page.Error, status = "keys.error.many", http.StatusUnprocessableEntity
	case errors.Is(err, apikey.ErrInvalid):
		page.Error, status = "keys.error.name", http.StatusUnprocessableEntity
	case errors.As(err, &known) && known.Code == "apikey.cidr":
		page.Error, status = "keys.error.cidr", http.StatusUnprocessableEntity
	case err != nil:
		return apiError(err)
	default:
		page.Form = nil
	}
	return p.showKeys(w, r, s, u, status, page)
}

// RevokeKey is POST /account/keys/revoke.
func (p *Portal) RevokeKey(w http.ResponseWriter, r *http.Request) error {
	s, _, f, done, err := p.keysForm(w, r)
	if done {
		return err
	}
	k, err := p.ownKey(r.Context(), s.UserID, f["key"])
	if err == nil {
		err = p.revokeKey(r.Context(), &caller{sess: s}, r, k)
	}
	if err != nil {
		return apiError(err)
	}
	p.edge.SetNotice(w, "notice.key_revoked")
	p.edge.Redirect(w, r, "/account/keys")
	return nil
}

// RotateKey is POST /account/keys/rotate: a new key is shown, the old one is
// good for another day.
func (p *Portal) RotateKey(w http.ResponseWriter, r *http.Request) error {
	s, u, f, done, err := p.keysForm(w, r)
	if done {
		return err
	}
	if p.stale(s) {
		return p.signIn.StartFresh(w, r, "/account/keys")
	}
	k, err := p.ownKey(r.Context(), s.UserID, f["key"])
	if err != nil {
		return apiError(err)
	}
	_, text, err := p.rotateKey(r.Context(), &caller{sess: s}, r, k, 24*time.Hour)
	return p.made(w, r, s, u, nil, text, err)
}
