package gateway

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/web"
)

// denied says 403: to whom, by which rule, and whom to ask. Consoles are
// audited.
func (g *Gateway) denied(r *http.Request, a *activity, label string, why *refusal) error {
	rt, c := a.route, a.caller
	q := web.RequestOf(r)
	g.cfg.Log.InfoContext(r.Context(), "denied", "route", rt.Name, "user", c.userID, "reason", why.log)
	if rt.Lease {
		if err := g.cfg.Events.Record(r.Context(), event.Event{Name: event.ConsoleDenied, Actor: c.userID, Target: label, Connector: c.session.Connector, IP: q.IP.String(), Agent: q.Agent, RequestID: q.ID}); err != nil {
			return err
		}
	}
	e := web.Fail(http.StatusForbidden, "policy.denied", "error.denied", nil)
	e.Args = map[string]any{"name": rt.Name}
	if rt.Lease {
		e.Text, e.Args = "error.denied_console", map[string]any{"name": label}
	}
	if why.rule == "read_only" {
		e.Text = "error.read_only"
	}
	e.Rule, e.Ask = why.rule, why.contact
	e.Reason = cmp.Or(why.reason[q.Locale], why.reason["en"], why.reason["zh-CN"])
	if c.cookie {
		if u, err := g.cfg.Users.Profile(r.Context(), c.userID); err == nil {
			e.Who = cmp.Or(u.Email, u.Username, u.Name)
		}
	}
	e.Actions = []web.Action{{Text: "error.to_portal", URL: g.cfg.Issuer.String() + "/"}, {Text: "error.other_account", URL: g.cfg.Issuer.String() + "/signout"}}
	return e
}

// stepUp asks for a fresh sign-in: a navigation goes to it and comes back,
// anything else is told (RFC 9470 section 3).
func (g *Gateway) stepUp(w http.ResponseWriter, r *http.Request, maxAge time.Duration) error {
	if begins(r) {
		return g.startHandoff(w, r, maxAge)
	}
	seconds := int(maxAge / time.Second)
	text := fmt.Sprintf("This needs a sign-in of the last %s.", maxAge)
	e := web.Fail(http.StatusUnauthorized, "policy.stepup", "error.step_up", nil)
	e.Header = http.Header{"Www-Authenticate": {fmt.Sprintf(`Bearer realm="gatehouse", error="insufficient_user_authentication", error_description="%s", max_age="%d"`, text, seconds)}}
	e.Actions = []web.Action{{Text: "error.sign_in_action", URL: g.origin(r) + "/"}}
	if !web.Navigates(r) {
		e.JSON = map[string]any{"error": "insufficient_user_authentication", "code": "policy.stepup", "message": text, "max_age": seconds,
			"login_url": g.cfg.Issuer.String() + "/gateway/start?rd=" + url.QueryEscape(g.origin(r)+"/") + fmt.Sprintf("&max_age=%d", seconds), "ref": web.RequestOf(r).Ref()}
	}
	return e
}

// begins reports whether a request is a navigation that may go to the sign-in
// page and come back.
func begins(r *http.Request) bool {
	dest := r.Header.Get("Sec-Fetch-Dest")
	return r.Method == http.MethodGet && web.Navigates(r) && (dest == "" || dest == "document") && !isUpgrade(r)
}
