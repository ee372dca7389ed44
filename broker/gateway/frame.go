package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/web"
)

// FrameCookie names the cookie of a console that another site frames. It is good
// for that host's console alone (docs/security.md GW-16).
const FrameCookie = "gatehouse-frame"

// ErrFrame means that a console cannot be framed as it is wanted.
var ErrFrame = errors.New("no route lets pages of this origin frame its consoles: frame_ancestors")

// framed reports whether a request is for the document of a frame.
func framed(r *http.Request) bool {
	d := r.Header.Get("Sec-Fetch-Dest")
	return d == "iframe" || d == "frame" || d == "embed" || d == "object"
}

// ancestors are who may frame what the route answers: those that it names, else
// itself.
func (rt *route) ancestors() []string {
	if len(rt.FrameAncestors) > 0 {
		return rt.FrameAncestors
	}
	return []string{"'self'"}
}

// MayFrame reports whether some route lets pages of an origin frame its consoles.
func (g *Gateway) MayFrame(origin string) bool { return g.framing(origin) != nil }

func (g *Gateway) framing(origin string) *route {
	for _, rt := range g.all {
		if rt.Lease && rt.session && slices.Contains(rt.FrameAncestors, origin) {
			return rt
		}
	}
	return nil
}

// frameNonce binds a ticket to the origin of the page that frames.
func frameNonce(origin string) string { return "frame " + origin }

// Frame makes an address with which a page of origin frames a console for who a
// session is: good once, within a minute, for that origin alone. It decides
// first, so that who may not is told so and not in a frame.
func (g *Gateway) Frame(ctx context.Context, s session.Session, id, origin, path string) (string, error) {
	rt := g.framing(origin)
	if rt == nil {
		return "", ErrFrame
	}
	l, err := g.cfg.Leases.Get(ctx, id)
	if err != nil {
		return "", err
	}
	host := id + rt.suffix
	req := &policy.Request{Method: http.MethodGet, Path: rt.Path, Host: host, IP: web.RequestFrom(ctx).IP.String(), Time: g.cfg.Now()}
	if ok, err := g.mayOpen(ctx, rt, bySession(s), l, req); err != nil {
		return "", err
	} else if !ok {
		return "", console.ErrNoLease // what is not lent to somebody is not there for them
	}
	ticket, err := g.cfg.Sessions.NewTicket(ctx, s.ID, host, frameNonce(origin))
	if err != nil {
		return "", err
	}
	if !web.OwnPath(path) {
		path = rt.Path
	}
	return g.url(host, "/.gatehouse/callback") + "?" + url.Values{"ticket": {ticket}, "rd": {path}}.Encode(), nil
}

// enterFrame takes a ticket in a frame of the page that it was made for. The
// page's origin is what the browser names as the referrer: one that it keeps to
// itself cannot be told from any other.
func (g *Gateway) enterFrame(w http.ResponseWriter, r *http.Request, ticket, rd string) error {
	q := web.RequestOf(r)
	routes, _ := g.routes.host(q.Host)
	rt := pick(routes, r.URL.Path)
	if rt == nil {
		return web.Fail(http.StatusMisdirectedRequest, "route.host", "error.not_found", nil)
	}
	from, err := url.Parse(r.Header.Get("Referer"))
	if err != nil || from.Host == "" {
		return g.unframed(w, r, rt)
	}
	origin := from.Scheme + "://" + strings.ToLower(from.Host)
	if !slices.Contains(rt.FrameAncestors, origin) {
		return g.unframed(w, r, rt)
	}
	h, err := g.arrive(r, ticket, frameNonce(origin), rd)
	if errors.Is(err, errNobody) {
		return g.unframed(w, r, rt)
	}
	if err != nil {
		return err
	}
	g.cfg.Edge.SetFrameCookie(w, FrameCookie, string(h))
	g.cfg.Edge.Redirect(w, r, rd)
	return nil
}

type unframedPage struct{ URL string }

// unframed is all that a frame without a session shows: one link. Sign-in never
// begins in a frame.
func (g *Gateway) unframed(w http.ResponseWriter, r *http.Request, rt *route) error {
	web.RequestOf(r).Ancestors = rt.ancestors()
	w.Header().Set("Www-Authenticate", `Bearer realm="gatehouse"`)
	return g.cfg.Edge.Page(w, r, http.StatusUnauthorized, "framed", unframedPage{g.origin(r) + "/"})
}
