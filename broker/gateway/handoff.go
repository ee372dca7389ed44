package gateway

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/web"
)

// handoffCookie holds what proves that the browser that comes back with a
// ticket is the one that left.
const handoffCookie = "gatehouse-handoff"

const handoffTTL = 10 * time.Minute

// startHandoff sends a navigation to the broker, which comes back with a
// one-time ticket for this host and this browser. With maxAge the sign-in there
// may not be older.
func (g *Gateway) startHandoff(w http.ResponseWriter, r *http.Request, maxAge time.Duration) error {
	return g.handOff(w, r, g.origin(r)+r.URL.RequestURI(), maxAge)
}

func (g *Gateway) handOff(w http.ResponseWriter, r *http.Request, rd string, maxAge time.Duration) error {
	nonce, ok := g.cfg.Edge.Cookie(r, handoffCookie)
	if !ok || len(nonce) != 52 {
		nonce = rand.Text() + rand.Text()
	}
	g.cfg.Edge.SetCookie(w, handoffCookie, nonce, handoffTTL)
	if len(rd) > 2000 {
		rd = g.origin(r) + "/"
	}
	params := url.Values{"rd": {rd}, "browser": {store.HashID(nonce)}}
	if maxAge > 0 {
		params.Set("max_age", strconv.Itoa(int(maxAge/time.Second)))
	}
	g.cfg.Edge.Redirect(w, r, g.cfg.Issuer.String()+"/gateway/start?"+params.Encode())
	return nil
}

// Start is GET /gateway/start?rd= on the issuer's host: whoever is signed in is
// sent on to the gateway host with a ticket, anybody else signs in first.
func (g *Gateway) Start(w http.ResponseWriter, r *http.Request) error {
	raw, rest := returnParam(r.URL.RawQuery)
	params, err := web.ParseValues(rest)
	if err != nil {
		return err
	}
	rd, ok := web.SafeReturn(raw, g.Owns, g.cfg.Issuer)
	u, err := url.Parse(rd)
	if !ok || err != nil || u.Host == "" {
		return web.Fail(http.StatusBadRequest, "request.return", "error.bad_return", nil)
	}
	s, in, err := g.cfg.SignIn.Current(r)
	if err != nil {
		return err
	}
	// The route asks again when they are back, so that who shortens this gains nothing.
	old := false
	if age, err := strconv.ParseUint(params.Get("max_age"), 10, 31); in && err == nil && age >= uint64(minStepUp/time.Second) {
		old = g.cfg.Now().Sub(s.AuthTime) >= time.Duration(age)*time.Second
	}
	if !in || old {
		app := ""
		if rs, _ := g.routes.host(web.HostName(u.Host)); len(rs) > 0 {
			app = rs[0].Name // the operator's word, not the address's
			if rt := pick(rs, u.Path); rt != nil {
				app = rt.Name
			}
		}
		return g.cfg.SignIn.StartFor(w, r, "/gateway/start?"+r.URL.RawQuery, app, old)
	}
	browser := params.Get("browser")
	if browser == "" { // a link from elsewhere: the host itself begins the hand-off, that of another proxy by our path there
		back := url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/.gatehouse/callback", RawQuery: url.Values{"rd": {u.RequestURI()}}.Encode()}
		g.cfg.Edge.Redirect(w, r, back.String())
		return nil
	}
	ticket, err := g.cfg.Sessions.NewTicket(r.Context(), s.ID, web.HostName(u.Host), browser)
	if err != nil {
		return err
	}
	back := url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/.gatehouse/callback"}
	back.RawQuery = url.Values{"ticket": {ticket}, "rd": {u.RequestURI()}}.Encode()
	g.cfg.Edge.Redirect(w, r, back.String())
	return nil
}

// returnParam takes rd out of a query and returns the other parameters. nginx
// cannot encode it: an address that stands there as it is goes on to the end.
func returnParam(query string) (rd, rest string) {
	at := 0
	if !strings.HasPrefix(query, "rd=") {
		if at = strings.Index(query, "&rd="); at < 0 {
			return "", query
		}
		at++
	}
	rd, rest = query[at+len("rd="):], strings.TrimSuffix(query[:at], "&")
	if scheme, _, plain := strings.Cut(rd, "://"); plain && !strings.ContainsAny(scheme, "%&=") {
		return rd, rest
	}
	rd, after, _ := strings.Cut(rd, "&")
	if rest != "" && after != "" {
		rest += "&"
	}
	decoded, err := url.QueryUnescape(rd)
	if err != nil {
		return "", rest + after
	}
	return decoded, rest + after
}

// callback is GET /.gatehouse/callback on a gateway host: it takes the ticket,
// once, and sets this host's own cookie.
func (g *Gateway) callback(w http.ResponseWriter, r *http.Request) error {
	q := web.RequestOf(r)
	if !g.Owns(q.Host) {
		return web.Fail(http.StatusMisdirectedRequest, "route.host", "error.not_found", nil)
	}
	if r.Method != http.MethodGet {
		return web.Fail(http.StatusMethodNotAllowed, "request.method", "error.method", nil)
	}
	params, err := web.ParseValues(r.URL.RawQuery)
	if err != nil {
		return err
	}
	rd, ok := web.SafeReturn(params.Get("rd"), func(string) bool { return false }, g.cfg.Issuer)
	if !ok || !strings.HasPrefix(rd, "/") {
		rd = "/"
	}
	switch {
	case framed(r): // where a sign-in never begins
		return g.enterFrame(w, r, params.Get("ticket"), rd)
	case params.Get("ticket") == "": // the beginning, where another proxy serves the host
		return g.handOff(w, r, g.origin(r)+rd, 0)
	}
	again := func(err error) error {
		e := web.Fail(http.StatusForbidden, "handoff.invalid", "error.handoff", err)
		e.Actions = []web.Action{{Text: "error.try_again", URL: rd}}
		return e
	}
	nonce, ok := g.cfg.Edge.Cookie(r, handoffCookie)
	if !ok {
		return again(errors.New("the browser did not bring the cookie of its departure"))
	}
	h, err := g.arrive(r, params.Get("ticket"), store.HashID(nonce), rd)
	if errors.Is(err, errNobody) {
		return again(err)
	}
	if err != nil {
		return err
	}
	g.cfg.Edge.SetCookie(w, ConsoleCookie, string(h), 0)
	g.cfg.Edge.Redirect(w, r, rd)
	return nil
}

// arrive takes a ticket, once, and records what it opens; errNobody if it is
// none of this host and browser, or its session has ended.
func (g *Gateway) arrive(r *http.Request, ticket, nonce, rd string) (session.Handle, error) {
	s, h, err := g.cfg.Sessions.RedeemTicket(r.Context(), ticket, web.RequestOf(r).Host, nonce)
	if errors.Is(err, session.ErrTicket) || errors.Is(err, session.ErrEnded) || errors.Is(err, session.ErrNoSession) {
		return "", fmt.Errorf("%w: %w", errNobody, err)
	}
	if err != nil {
		return "", err
	}
	return h, g.opened(r, s, rd)
}

// opened records that somebody opens a console. Who may not is refused, and
// recorded so, by the request that follows.
func (g *Gateway) opened(r *http.Request, s session.Session, rd string) error {
	q := web.RequestOf(r)
	path, _, _ := strings.Cut(rd, "?")
	routes, label := g.routes.host(q.Host)
	rt := pick(routes, path)
	if rt == nil || !rt.Lease {
		return nil
	}
	l, err := g.cfg.Leases.Get(r.Context(), label)
	if errors.Is(err, console.ErrNoLease) {
		return nil
	}
	if err != nil {
		return err
	}
	c := bySession(s)
	req := &policy.Request{Method: http.MethodGet, Path: path, Host: q.Host, IP: q.IP.String(), Time: g.cfg.Now()}
	if ok, err := g.mayOpen(r.Context(), rt, c, l, req); err != nil || !ok {
		return err
	}
	return g.cfg.Events.Record(r.Context(), event.Event{Name: event.ConsoleOpened, Actor: s.UserID, Target: label, Connector: s.Connector, IP: q.IP.String(), Agent: q.Agent, RequestID: q.ID})
}
