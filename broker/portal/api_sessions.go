package portal

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

type sessionView struct {
	ID        string       `json:"id"`
	User      string       `json:"user"`
	Kind      session.Kind `json:"kind"`
	Parent    string       `json:"parent,omitempty"`
	Connector string       `json:"connector"`
	IP        string       `json:"ip,omitempty"`
	Country   string       `json:"country,omitempty"`
	Place     string       `json:"place,omitempty"`
	Agent     string       `json:"agent,omitempty"`
	Name      string       `json:"name,omitempty"` // what a device says that it is called
	AuthTime  time.Time    `json:"auth_time"`
	Created   time.Time    `json:"created"`
	Seen      time.Time    `json:"last_seen"`
	Expires   time.Time    `json:"expires"`
	IdleUntil time.Time    `json:"idle_until"` // when it ends if it is not used again
	Current   bool         `json:"current"`
}

func viewSession(s session.Session, current string) sessionView {
	return sessionView{ID: s.ID, User: s.UserID, Kind: s.Kind, Parent: s.Parent, Connector: s.Connector, IP: s.IP, Country: s.Country, Place: s.Place, Agent: s.Agent, Name: s.Name,
		AuthTime: s.AuthTime.UTC(), Created: s.Created.UTC(), Seen: s.Seen.UTC(), Expires: s.Expires.UTC(), Current: s.ID == current}
}

func (p *Portal) listSessions(ctx context.Context, userID, current string) (page[sessionView], error) {
	ss, err := p.sessions.ByUser(ctx, userID)
	if errors.Is(err, user.ErrSuspended) { // whoever is suspended has none
		return page[sessionView]{Items: []sessionView{}}, nil
	}
	if err != nil {
		return page[sessionView]{}, err
	}
	out := page[sessionView]{Items: make([]sessionView, 0, len(ss))}
	for _, s := range ss {
		v := viewSession(s, current)
		v.IdleUntil = p.sessions.IdleUntil(s).UTC()
		out.Items = append(out.Items, v)
	}
	return out, nil
}

func (p *Portal) apiMySessions(ctx context.Context, c *caller, _ *http.Request) (any, error) {
	return p.listSessions(ctx, c.sess.UserID, c.sess.ID)
}

func (p *Portal) apiSessions(ctx context.Context, c *caller, r *http.Request) (any, error) {
	id := r.URL.Query().Get("user")
	if id == "" {
		return nil, badRequest("say whose: ?user=ID")
	}
	if _, err := p.users.Get(ctx, id); err != nil {
		return nil, err
	}
	return p.listSessions(ctx, id, c.sess.ID)
}

func (p *Portal) apiEndMySession(ctx context.Context, c *caller, r *http.Request) (any, error) {
	return nil, p.endOwn(ctx, c, chi.URLParam(r, "id"), r)
}

// endOwn ends a session of the caller's own; another's does not exist for them
// (AD-1: 404 for foreign objects).
func (p *Portal) endOwn(ctx context.Context, c *caller, id string, r *http.Request) error {
	s, err := p.sessions.Get(ctx, id)
	if err != nil {
		return err
	}
	if s.UserID != c.sess.UserID {
		return store.ErrNotFound
	}
	return p.end(ctx, c, s, r)
}

func (p *Portal) apiEndSession(ctx context.Context, c *caller, r *http.Request) (any, error) {
	s, err := p.sessions.Get(ctx, chi.URLParam(r, "id"))
	if err != nil {
		return nil, err
	}
	return nil, p.end(ctx, c, s, r)
}

func (p *Portal) end(ctx context.Context, c *caller, s session.Session, r *http.Request) error {
	if err := p.record(ctx, r, event.Event{Name: event.SessionRevoked, Actor: c.actor(), Target: s.UserID, Connector: s.Connector,
		Details: map[string]string{"session": s.ID, "kind": string(s.Kind)}}); err != nil {
		return err
	}
	return p.sessions.Revoke(ctx, s.ID, "revoked by "+c.actor())
}

func (p *Portal) apiEndMyOthers(ctx context.Context, c *caller, r *http.Request) (any, error) {
	n, err := p.endOthers(ctx, c, r)
	if err != nil {
		return nil, err
	}
	return endedView{n}, nil
}

// endedView says how many sessions were ended.
type endedView struct {
	Ended int `json:"ended"`
}

func (p *Portal) endOthers(ctx context.Context, c *caller, r *http.Request) (int, error) {
	if err := p.record(ctx, r, event.Event{Name: event.SessionRevoked, Actor: c.actor(), Target: c.sess.UserID,
		Details: map[string]string{"others": "true", "kept": c.sess.ID}}); err != nil {
		return 0, err
	}
	return p.sessions.RevokeOthers(ctx, c.sess.UserID, c.sess.ID, "signed out everywhere else")
}

// record fills in what the request knows and writes the event; what it
// announces happens only if it is written (docs/architecture.md).
func (p *Portal) record(ctx context.Context, r *http.Request, e event.Event) error {
	q := web.RequestOf(r)
	e.IP, e.Agent, e.RequestID = q.IP.String(), q.Agent, q.ID
	return p.events.Record(ctx, e)
}
