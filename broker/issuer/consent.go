package issuer

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/web"
)

type consentPage struct {
	Client, Action, Token, As string
	Site                      string // the client's own page, as it says; "" where it says none
	Back                      string // the host that the browser goes back to
	Scopes                    []consentScope
	Offline                   bool
}

type consentScope struct {
	Name string
	Text string // in words, from the resource; "" for ours, whose words are a message id
	ID   string
}

// Consent is GET and POST /consent/{id}: what a client that is not ours may do.
// The request waits in the store; the answer is bound to it, to the session and
// to the person (docs/security.md ISS-12).
func (is *Issuer) Consent(w http.ResponseWriter, r *http.Request) error {
	id := strings.TrimPrefix(r.URL.Path, "/consent/")
	gone := web.Fail(http.StatusNotFound, "consent.gone", "error.consent_gone", nil)
	s, in, err := is.cfg.SignIn.Current(r)
	if err != nil {
		return err
	}
	if !in {
		return gone
	}
	p, err := is.cfg.Ledger.GetPending(r.Context(), id, s.UserID, s.ID)
	if errors.Is(err, grant.ErrNoPending) || err == nil && p.State != "" {
		return gone
	}
	if err != nil {
		return err
	}
	c, ok := is.cfg.Clients.Get(p.ClientID)
	if !ok {
		return gone
	}
	if r.Method != http.MethodPost {
		as, err := is.called(r, s)
		if err != nil {
			return err
		}
		page := consentPage{Client: c.Name(), Action: r.URL.Path, Token: is.cfg.Edge.FormToken(s.ID+"/"+id, "consent"), As: as}
		if site, err := url.Parse(c.ClientURI); err == nil {
			page.Site = site.Host
		}
		if params, err := url.ParseQuery(p.Query); err == nil {
			web.Prefer(r, params.Get("ui_locales"))
			if back, err := url.Parse(params.Get("redirect_uri")); err == nil {
				page.Back = cmp.Or(back.Host, back.Scheme)
			}
		}
		page.Scopes, page.Offline = is.inWords(r, p.Audience, p.Scopes)
		return is.cfg.Edge.Page(w, r, http.StatusOK, "consent", page)
	}
	form, err := web.Form(w, r, 8<<10)
	if err != nil {
		return err
	}
	if !is.cfg.Edge.CheckFormToken(s.ID+"/"+id, "consent", form.Get("token")) {
		return web.Fail(http.StatusForbidden, "request.form_token", "error.form_token", nil)
	}
	answer := form.Get("answer")
	if answer != "allow" && answer != "deny" {
		return web.Fail(http.StatusBadRequest, errInvalidRequest, "error.bad_request", nil)
	}
	if answer == "deny" {
		req, _, err := is.parseTarget(p.Query)
		if err != nil { // the client is another now than it was
			return gone
		}
		if p, err = is.cfg.Ledger.Answer(r.Context(), id, s.UserID, s.ID, "denied"); errors.Is(err, grant.ErrNoPending) {
			return gone
		} else if err != nil {
			return err
		}
		return is.cfg.Edge.Hop(w, r, is.backURL(req, url.Values{"error": {errAccessDenied}, "error_description": {"The person did not agree."}}))
	}
	// The one transition comes first: of two answers at once one is told of.
	if p, err = is.cfg.Ledger.Answer(r.Context(), id, s.UserID, s.ID, "allowed"); errors.Is(err, grant.ErrNoPending) {
		return gone
	} else if err != nil {
		return err
	}
	q := web.RequestOf(r)
	if err := is.cfg.Events.Record(r.Context(), event.Event{Name: event.ConsentGranted, Actor: s.UserID, Target: c.ClientID, Client: c.ClientID, IP: q.IP.String(), Agent: q.Agent, RequestID: q.ID,
		Details: map[string]string{"scope": strings.Join(p.Scopes, " ")}}); err != nil {
		return err
	}
	if err := is.cfg.Ledger.GiveConsent(r.Context(), s.UserID, c.ClientID, p.Scopes); err != nil {
		return err
	}
	return is.cfg.Edge.Hop(w, r, "/oauth2/authorize?"+p.Query+"&"+markParam+"="+is.sealMark(mark{At: p.Began, Consent: id}, p.Query))
}

// called is what the person of a session is shown as.
func (is *Issuer) called(r *http.Request, s session.Session) (string, error) {
	u, err := is.cfg.Users.Profile(r.Context(), s.UserID)
	return cmp.Or(u.Email, u.Name, u.Username), err
}

// ownScopes are the texts for the scopes of our own API.
var ownScopes = map[string]string{
	"gatehouse:account":  "consent.scope.gatehouse",
	"gatehouse:consoles": "consent.scope.consoles",
	"gatehouse:storage":  "consent.scope.storage",
	"gatehouse:support":  "consent.scope.support",
	"gatehouse:audit":    "consent.scope.audit",
	"gatehouse:admin":    "consent.scope.admin",
}

// inWords says what scopes mean to the reader of a page, and whether
// offline_access is among them.
func (is *Issuer) inWords(r *http.Request, audience string, scopes []string) (words []consentScope, offline bool) {
	res, _ := is.cfg.Clients.Resource(audience)
	for _, sc := range scopes {
		cs := consentScope{Name: sc}
		switch {
		case sc == "offline_access":
			offline = true
			continue
		case sc == "openid", sc == "profile", sc == "email", sc == "groups":
			cs.ID = "consent.scope." + sc
		case strings.HasPrefix(sc, "gatehouse:"):
			cs.ID = cmp.Or(ownScopes[sc], "consent.scope.gatehouse")
		default:
			in := res.Scopes[sc]
			if cs.Text = in[web.RequestOf(r).Locale]; cs.Text == "" {
				cs.Text = in["en"]
			}
		}
		words = append(words, cs)
	}
	return words, offline
}
