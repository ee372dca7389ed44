package portal

import (
	"context"
	"net/http"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/event/index"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/web"
)

// ownEvent is an event as the person sees it whom it is about. What somebody
// else did to the account is told without who they were and where they sat.
type ownEvent struct {
	ID        string     `json:"id"`
	Time      time.Time  `json:"time"`
	Name      event.Name `json:"name"`
	Connector string     `json:"connector,omitempty"`
	Client    string     `json:"client,omitempty"`
	IP        string     `json:"ip,omitempty"`
	Agent     string     `json:"agent,omitempty"`
	Ref       string     `json:"ref,omitempty"`
	// By is "me", "somebody" (an admin, support, a service) or "gatehouse".
	By string `json:"by"`
	// Subject is what it was about, if it has a name: an API key's, for example.
	Subject string `json:"subject,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

type ownEventsPage struct {
	Items  []ownEvent `json:"items"`
	Next   string     `json:"next,omitempty"`
	Behind bool       `json:"behind,omitempty"`
}

func viewOwn(e event.Event, me string) ownEvent {
	v := ownEvent{ID: e.ID, Time: e.Time, Name: e.Name, Connector: e.Connector, Client: e.Client, IP: e.IP, Agent: e.Agent, By: "me", Subject: e.Details["name"], Reason: e.Details["reason"]}
	switch {
	case e.Actor == me:
	case e.Actor != "":
		v.By, v.IP, v.Agent, v.Reason = "somebody", "", "", ""
	default: // a sign-in that failed has no actor, and the address of whoever tried
		v.By = "gatehouse"
	}
	if e.RequestID != "" && v.By != "somebody" {
		v.Ref = web.RequestRef(e.RequestID)
	}
	return v
}

func (p *Portal) apiMyEvents(ctx context.Context, c *caller, r *http.Request) (any, error) {
	f := index.Filter{}
	var err error
	if f.After, f.Before, err = between(r); err != nil {
		return nil, err
	}
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	return p.ownEvents(ctx, c.sess, f, r.URL.Query().Get("cursor"), limit)
}

// ownEvents is a page of what happened to a person's account.
func (p *Portal) ownEvents(ctx context.Context, s session.Session, f index.Filter, cursor string, limit int) (ownEventsPage, error) {
	if p.index == nil {
		return ownEventsPage{}, noIndex()
	}
	f.Person = s.UserID
	found, err := p.index.Search(ctx, f, cursor, limit)
	if err != nil {
		return ownEventsPage{}, searchError(err)
	}
	out := ownEventsPage{Items: make([]ownEvent, 0, len(found.Entries)), Next: found.Next, Behind: found.Behind}
	for _, e := range found.Entries {
		out.Items = append(out.Items, viewOwn(e.Event, s.UserID))
	}
	return out, nil
}

type securityLogPage struct {
	person
	Events        []logRow
	Next          string
	Later, Behind bool // not the first page; the index is still being filled
}

type logRow struct {
	ownEvent
	Device, Method, App string
}

// logPage is how many events are on a page.
const logPage = 50

// SecurityLog is GET /account/security-log: what happened to the account.
func (p *Portal) SecurityLog(w http.ResponseWriter, r *http.Request) error {
	s, u, done, err := p.who(w, r)
	if done {
		return err
	}
	cursor := r.URL.Query().Get("cursor")
	found, err := p.ownEvents(r.Context(), s, index.Filter{}, cursor, logPage)
	if err != nil {
		return apiError(err)
	}
	page := securityLogPage{person: p.person(s, u), Next: found.Next, Later: cursor != "", Behind: found.Behind}
	for _, e := range found.Items {
		row := logRow{ownEvent: e, Device: session.DeviceName(e.Agent), App: e.Client}
		if e.Connector != "" {
			row.Method = p.connectorName(e.Connector)
		}
		if c, ok := p.clients.Get(e.Client); ok {
			row.App = c.Name()
		}
		page.Events = append(page.Events, row)
	}
	return p.edge.Page(w, r, http.StatusOK, "security-log", page)
}
