package portal

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/remotegpu/gatehouse/broker/web"
)

// ticketRequest asks for an address to frame a console with. A page's own
// request carries its origin; a server says which page will frame.
type ticketRequest struct {
	Origin string `json:"origin,omitempty"`
	Path   string `json:"path,omitempty"` // where in the console; default /
}

type ticketView struct {
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// ticketLife is how long a ticket is good, as its maker keeps it.
const ticketLife = time.Minute

func (p *Portal) apiTicket(ctx context.Context, c *caller, r *http.Request) (any, error) {
	var req ticketRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	if c.keyed || c.service != "" {
		return nil, forbidden("ticket.session", "a ticket takes a person's session along; a key has none")
	}
	origin := r.Header.Get("Origin")
	if origin == "" || origin == p.origin {
		origin = strings.TrimSuffix(req.Origin, "/")
	}
	if !p.mayFrame(origin) {
		return nil, unprocessable("ticket.origin", "no route lets pages of this origin frame its consoles: frame_ancestors")
	}
	u, err := p.frame(ctx, c.sess, chi.URLParam(r, "id"), origin, req.Path)
	if err != nil {
		return nil, err
	}
	view := ticketView{URL: u, Expires: p.now().Add(ticketLife).UTC()}
	return stream(func(w http.ResponseWriter, r *http.Request, _ func() error) error {
		p.letFrame(w, r)
		return p.edge.JSON(w, http.StatusOK, view)
	}), nil
}

// letFrame lets a page of an origin that may frame consoles read the answer, by
// its bearer token alone: no cookie is let along (docs/security.md ISS-17).
func (p *Portal) letFrame(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	h.Add("Vary", "Origin")
	h.Set("Cache-Control", "no-store")
	origin := r.Header.Get("Origin")
	if origin == "" || !p.mayFrame(origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	return true
}

// TicketPreflight answers what a browser asks before a page's POST.
func (p *Portal) TicketPreflight(w http.ResponseWriter, r *http.Request) error {
	if !p.letFrame(w, r) {
		return web.Fail(http.StatusForbidden, "request.cross_origin", "error.cross_origin", nil)
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", "POST")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return nil
}
