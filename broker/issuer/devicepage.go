package issuer

import (
	"cmp"
	"encoding/base64"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/web"
)

// deviceEntry is the page where people type the code.
type deviceEntry struct {
	Token, Code string
	As          string
	Problem     string // message id
	at          string
}

// At is where the page is asked for again.
func (p deviceEntry) At() string { return p.at }

// deviceQuestion is the page that says who asks for what, and from where.
type deviceQuestion struct {
	Token, Request, Code string
	As, Client, Site     string
	Name, Agent, System  string // as the device says
	IP, Place            string
	YourIP, YourPlace    string
	Started              time.Time
	Minutes              int
	Elsewhere, FarAway   bool // another network; another country
	Scopes               []consentScope
	Offline              bool
	Until                time.Time // Offline: at the latest
	Access               int       // else: minutes
}

// deviceAnswer is the page after the answer.
type deviceAnswer struct {
	Allowed      bool
	Client, Name string
}

const maxDeviceForm = 8 << 10

func deviceGone() error {
	return web.Fail(http.StatusNotFound, "device.gone", "error.device_gone", nil)
}

// Device is GET and POST /device (RFC 8628 section 3.3): a person types the code
// of a device, sees who asks, and answers. A code in the address only fills in
// the field: nothing is ever allowed but by the answer's own form
// (docs/security.md DF-2, DF-3).
func (is *Issuer) Device(w http.ResponseWriter, r *http.Request) error {
	s, in, err := is.cfg.SignIn.Current(r)
	if err != nil {
		return err
	}
	if r.Method != http.MethodPost {
		q := r.URL.Query()
		code, _ := grant.ParseUserCode(q.Get("user_code"))
		if !in {
			return is.deviceSignIn(w, r, code, nil)
		}
		if q.Has("request") {
			return is.showDevice(w, r, s, q.Get("request"))
		}
		return is.enterCode(w, r, s, http.StatusOK, grant.FormatUserCode(code), "")
	}
	form, err := web.Form(w, r, maxDeviceForm)
	if err != nil {
		return err
	}
	if !in {
		code, _ := grant.ParseUserCode(form.Get("user_code"))
		return is.deviceSignIn(w, r, code, nil)
	}
	if form.Has("answer") {
		return is.answerDevice(w, r, s, form)
	}
	if !is.cfg.Edge.CheckFormToken(s.ID, "device", form.Get("token")) {
		return web.Fail(http.StatusForbidden, "request.form_token", "error.form_token", nil)
	}
	return is.lookUpDevice(w, r, s, form.Get("user_code"))
}

// deviceSignIn has the person sign in and come back to the code; again, where
// a client does not take the way that they came by. No way is gone to
// straight from here: a form may not end on another origin.
func (is *Issuer) deviceSignIn(w http.ResponseWriter, r *http.Request, code string, again *grant.Client) error {
	s := SignInRequest{ReturnTo: "/device"}
	if code != "" {
		s.ReturnTo += "?user_code=" + grant.FormatUserCode(code)
	}
	if again != nil {
		s.Force, s.App = true, again.Name()
	}
	return is.cfg.SignIn.StartWith(w, r, s)
}

func (is *Issuer) enterCode(w http.ResponseWriter, r *http.Request, s session.Session, status int, typed, problem string) error {
	as, err := is.called(r, s)
	if err != nil {
		return err
	}
	page := deviceEntry{Token: is.cfg.Edge.FormToken(s.ID, "device"), Code: typed, As: as, Problem: problem, at: "/device"}
	if r.Method != http.MethodPost && typed != "" {
		page.at += "?user_code=" + typed
	}
	return is.cfg.Edge.Page(w, r, status, "device", page)
}

// maxTyped bounds what is shown again of what somebody typed.
const maxTyped = 32

// lookUpDevice takes a code that somebody typed. An unknown one, one that has
// expired and one that was used are answered alike.
func (is *Issuer) lookUpDevice(w http.ResponseWriter, r *http.Request, s session.Session, typed string) error {
	wrongCode := func() error {
		if len(typed) > maxTyped {
			typed = ""
		}
		return is.enterCode(w, r, s, http.StatusUnprocessableEntity, strings.ToValidUTF8(typed, ""), "device.wrong")
	}
	code, ok := grant.ParseUserCode(typed)
	if !ok {
		return wrongCode() // not even a guess
	}
	found, wrong, err := is.cfg.Ledger.Guess(r.Context(), s.ID, s.UserID, web.ClientNetwork(web.RequestOf(r).IP))
	if ge, ok := errors.AsType[*grant.GuessError](err); ok {
		if ge.All {
			is.cfg.Log.ErrorContext(r.Context(), "too many wrong device codes of everybody together: somebody is guessing; nobody can enter one for a while", "again_in", ge.After)
		}
		secs := max(1, int(ge.After/time.Second))
		e := web.Fail(http.StatusTooManyRequests, "rate_limited", "error.device_codes", ge)
		e.Args = map[string]any{"minutes": (secs + 59) / 60}
		e.Header = http.Header{"Retry-After": {strconv.Itoa(secs)}}
		return e
	}
	if err != nil {
		return err
	}
	d, err := is.cfg.Ledger.FindDevice(r.Context(), code)
	if errors.Is(err, grant.ErrNoDevice) {
		wrong()
		return wrongCode()
	}
	found()
	if err != nil {
		return err
	}
	c, ok := is.deviceClient(d)
	if !ok {
		return deviceGone()
	}
	if !takes(c, s.Connector) {
		if s.AuthTime.Before(d.Issued) { // as for an authorization request: once by another way
			return is.deviceSignIn(w, r, code, c)
		}
		return otherWay(c)
	}
	is.cfg.Edge.Redirect(w, r, "/device?request="+is.deviceHandle(s, d.ID))
	return nil
}

// deviceClient is the client of a request, as long as it may have the grant.
func (is *Issuer) deviceClient(d grant.Device) (*grant.Client, bool) {
	c, ok := is.cfg.Clients.Get(d.ClientID)
	return c, ok && c.HasGrant(grant.DeviceCode)
}

func otherWay(c *grant.Client) error {
	e := web.Fail(http.StatusForbidden, "device.connector", "error.device_connector", nil)
	e.Args = map[string]any{"name": c.Name(), "ways": strings.Join(c.AllowedConnectors, ", ")}
	e.Actions = []web.Action{{Text: "nav.signout", URL: "/signout"}}
	return e
}

// deviceHandle names a request in an address of this session's: nobody can send
// somebody else straight to the question (docs/security.md DF-3).
func (is *Issuer) deviceHandle(s session.Session, id string) string {
	return base64.RawURLEncoding.EncodeToString(is.handles.Seal(s.ID, []byte(id)))
}

// asked returns the request that a handle names, and its client.
func (is *Issuer) asked(r *http.Request, s session.Session, handle string) (grant.Device, *grant.Client, error) {
	raw, err := base64.RawURLEncoding.DecodeString(handle)
	if err != nil {
		return grant.Device{}, nil, deviceGone()
	}
	id, err := is.handles.Open(s.ID, raw)
	if err != nil {
		return grant.Device{}, nil, deviceGone()
	}
	d, err := is.cfg.Ledger.Device(r.Context(), string(id))
	if errors.Is(err, grant.ErrNoDevice) {
		return grant.Device{}, nil, deviceGone()
	}
	if err != nil {
		return grant.Device{}, nil, err
	}
	c, ok := is.deviceClient(d)
	if !ok {
		return grant.Device{}, nil, deviceGone()
	}
	return d, c, nil
}

// showDevice is the question, or what became of it.
func (is *Issuer) showDevice(w http.ResponseWriter, r *http.Request, s session.Session, handle string) error {
	d, c, err := is.asked(r, s, handle)
	if err != nil {
		return err
	}
	if d.State != "" && d.By == s.ID {
		return is.cfg.Edge.Page(w, r, http.StatusOK, "device-answered", deviceAnswer{Allowed: d.State == grant.DeviceAllowed, Client: c.Name(), Name: d.Name})
	}
	if d.State != "" || !is.cfg.Now().Before(d.Ends()) {
		return deviceGone()
	}
	as, err := is.called(r, s)
	if err != nil {
		return err
	}
	scopes, err := is.deviceScopes(r.Context(), c, s, d.Scopes)
	if err != nil {
		return err
	}
	if len(scopes) == 0 {
		return nothingToAllow(c)
	}
	q := web.RequestOf(r)
	page := deviceQuestion{
		Token: is.answerToken(s, d, scopes), Request: handle, Code: grant.FormatUserCode(d.UserCode), As: as, Client: c.Name(),
		Name: d.Name, Agent: d.Agent, System: session.DeviceName(d.Agent), IP: d.IP, Place: cmp.Or(is.cfg.PlaceFor(d.IP, q.Locale), d.Place),
		YourIP: q.IP.String(), Started: d.Issued, Minutes: int(is.cfg.Now().Sub(d.Issued) / time.Minute),
		Until: is.cfg.Now().Add(is.cfg.Sessions.Longest(s, session.Device)), Access: int(is.cfg.Tokens.AccessTTL / time.Minute),
	}
	if site, err := url.Parse(c.ClientURI); err == nil {
		page.Site = site.Host
	}
	country, place := is.cfg.Place(r.Context(), page.YourIP)
	page.YourPlace = cmp.Or(is.cfg.PlaceFor(page.YourIP, q.Locale), place)
	page.FarAway = country != "" && d.Country != "" && country != d.Country
	page.Elsewhere = !page.FarAway && !sameNetwork(d.IP, q)
	page.Scopes, page.Offline = is.inWords(r, d.Audience, scopes)
	return is.cfg.Edge.Page(w, r, http.StatusOK, "device-confirm", page)
}

// sameNetwork reports whether a device asks from the /24 or /48 of the person.
func sameNetwork(device string, q *web.Request) bool {
	ip, err := netip.ParseAddr(device)
	return err == nil && web.WiderNetwork(ip) == web.WiderNetwork(q.IP)
}

func nothingToAllow(c *grant.Client) error {
	e := web.Fail(http.StatusForbidden, "device.scope", "error.device_scope", nil)
	e.Args = map[string]any{"name": c.Name()}
	return e
}

// answerToken binds an answer to the person's session, to the request, and to
// the scopes that were shown.
func (is *Issuer) answerToken(s session.Session, d grant.Device, scopes []string) string {
	return is.cfg.Edge.FormToken(s.ID+"/"+d.ID+"/"+strings.Join(scopes, " "), "device answer")
}

// answerDevice takes the answer, once.
func (is *Issuer) answerDevice(w http.ResponseWriter, r *http.Request, s session.Session, form url.Values) error {
	d, c, err := is.asked(r, s, form.Get("request"))
	if err != nil {
		return err
	}
	if d.State != "" || !is.cfg.Now().Before(d.Ends()) {
		return deviceGone()
	}
	scopes, err := is.deviceScopes(r.Context(), c, s, d.Scopes)
	if err != nil {
		return err
	}
	if !is.cfg.Edge.CheckFormToken(s.ID+"/"+d.ID+"/"+strings.Join(scopes, " "), "device answer", form.Get("token")) {
		return web.Fail(http.StatusForbidden, "request.form_token", "error.form_token", nil)
	}
	switch form.Get("answer") {
	case "deny":
		err = is.refuseDevice(r, s, d)
	case "allow":
		if !takes(c, s.Connector) {
			return otherWay(c)
		}
		if len(scopes) == 0 {
			return nothingToAllow(c)
		}
		err = is.allowDevice(r, s, d, c, scopes)
	default:
		return web.Fail(http.StatusBadRequest, errInvalidRequest, "error.bad_request", nil)
	}
	if errors.Is(err, grant.ErrNoDevice) { // somebody else was first
		return deviceGone()
	}
	if err != nil {
		return err
	}
	is.cfg.Edge.Redirect(w, r, "/device?request="+url.QueryEscape(form.Get("request")))
	return nil
}

// allowDevice is told of before it happens: a device that nobody heard of must
// not get in.
func (is *Issuer) allowDevice(r *http.Request, s session.Session, d grant.Device, c *grant.Client, scopes []string) error {
	ctx := r.Context()
	if err := is.recordDevice(r, event.DeviceApproved, s, d, scopes); err != nil {
		return err
	}
	if !c.Trusted { // the answer is the consent, and can be taken back like any other
		q := web.RequestOf(r)
		if err := is.cfg.Events.Record(ctx, event.Event{Name: event.ConsentGranted, Actor: s.UserID, Target: c.ClientID, Client: c.ClientID, IP: q.IP.String(), Agent: q.Agent, RequestID: q.ID,
			Details: map[string]string{"scope": strings.Join(scopes, " ")}}); err != nil {
			return err
		}
		if err := is.cfg.Ledger.GiveConsent(ctx, s.UserID, c.ClientID, scopes); err != nil {
			return err
		}
	}
	return is.cfg.Ledger.AllowDevice(ctx, d.ID, grant.DeviceApproval{
		UserID: s.UserID, UserEpoch: s.UserEpoch, SessionID: s.ID, SID: s.BrowserID(), Connector: s.Connector, Granted: scopes, AuthTime: s.AuthTime, ACR: s.ACR, AMR: s.AMR,
	})
}

func (is *Issuer) refuseDevice(r *http.Request, s session.Session, d grant.Device) error {
	if err := is.recordDevice(r, event.DeviceDenied, s, d, nil); err != nil {
		return err
	}
	return is.cfg.Ledger.RefuseDevice(r.Context(), d.ID, s.ID)
}

// recordDevice tells who answered from where, and of what device.
func (is *Issuer) recordDevice(r *http.Request, name event.Name, s session.Session, d grant.Device, scopes []string) error {
	q := web.RequestOf(r)
	details := map[string]string{}
	for k, v := range map[string]string{"name": d.Name, "device_ip": d.IP, "device_place": d.Place, "device_agent": d.Agent, "scope": strings.Join(scopes, " ")} {
		if v != "" {
			details[k] = v
		}
	}
	return is.cfg.Events.Record(r.Context(), event.Event{Name: name, Actor: s.UserID, Target: d.ClientID, Connector: s.Connector, Client: d.ClientID, IP: q.IP.String(), Agent: q.Agent, RequestID: q.ID, Details: details})
}
