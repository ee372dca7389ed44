package portal

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/event/index"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

// eventView is an event as the API shows it. Ref is what the person was shown
// where the request failed.
type eventView struct {
	Position  uint64            `json:"position"`
	ID        string            `json:"id"`
	Time      time.Time         `json:"time"`
	Name      event.Name        `json:"name"`
	Severity  event.Severity    `json:"severity"`
	Actor     string            `json:"actor,omitempty"`
	Target    string            `json:"target,omitempty"`
	Connector string            `json:"connector,omitempty"`
	Client    string            `json:"client,omitempty"`
	IP        string            `json:"ip,omitempty"`
	Agent     string            `json:"agent,omitempty"`
	RequestID string            `json:"request_id,omitempty"`
	Ref       string            `json:"ref,omitempty"`
	Details   map[string]string `json:"details,omitempty"`
	// ActorName and TargetName are the display names of users that exist now; no
	// event holds one.
	ActorName  string `json:"actor_name,omitempty"`
	TargetName string `json:"target_name,omitempty"`
}

// eventsPage is a page of the audit log. It may be empty and have a Next: then
// the bound of one search was reached before anything was found.
type eventsPage struct {
	Items []eventView `json:"items"`
	Next  string      `json:"next,omitempty"`
	// Behind says that the index is still being filled: events may be missing.
	Behind bool `json:"behind,omitempty"`
}

func viewEvent(e event.Entry) eventView {
	v := e.Event
	out := eventView{Position: e.Position, ID: v.ID, Time: v.Time, Name: v.Name, Severity: v.Severity, Actor: v.Actor, Target: v.Target,
		Connector: v.Connector, Client: v.Client, IP: v.IP, Agent: v.Agent, RequestID: v.RequestID, Details: v.Details}
	if out.Severity == "" {
		out.Severity = v.Name.Severity()
	}
	if v.RequestID != "" {
		out.Ref = web.RequestRef(v.RequestID)
	}
	return out
}

// maxText bounds what is searched for, in bytes.
const maxText = 256

func (p *Portal) apiEvents(ctx context.Context, _ *caller, r *http.Request) (any, error) {
	q := r.URL.Query()
	f, err := p.filter(ctx, r)
	if err != nil {
		return nil, err
	}
	names := q.Get("names") == "true"
	if v := q.Get("names"); v != "" && v != "true" && v != "false" {
		return nil, badRequest("names must be true or false")
	}
	if p.index == nil {
		return nil, noIndex()
	}
	switch format := q.Get("format"); format {
	case "":
	case "jsonl", "csv":
		most := 0
		if q.Get("limit") != "" {
			if most, err = strconv.Atoi(q.Get("limit")); err != nil || most < 1 {
				return nil, badRequest("limit must be a number from 1 on")
			}
		}
		return stream(exporter{p: p, filter: f, names: names, csv: format == "csv", most: most}.serve), nil
	default:
		return nil, badRequest("format must be jsonl or csv; without it the answer is a page of JSON")
	}
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	return p.eventsOf(ctx, f, q.Get("cursor"), limit, names)
}

// eventsOf is one page.
func (p *Portal) eventsOf(ctx context.Context, f index.Filter, cursor string, limit int, names bool) (eventsPage, error) {
	found, err := p.index.Search(ctx, f, cursor, limit)
	if err != nil {
		return eventsPage{}, searchError(err)
	}
	out := eventsPage{Items: make([]eventView, 0, len(found.Entries)), Next: found.Next, Behind: found.Behind}
	called := map[string]string{}
	for _, e := range found.Entries {
		v := viewEvent(e)
		if names {
			if v.ActorName, err = p.nameOf(ctx, called, v.Actor); err != nil {
				return eventsPage{}, err
			}
			if v.TargetName, err = p.nameOf(ctx, called, v.Target); err != nil {
				return eventsPage{}, err
			}
		}
		out.Items = append(out.Items, v)
	}
	return out, nil
}

// nameOf is how the user with an id is called now; "" when there is none.
func (p *Portal) nameOf(ctx context.Context, called map[string]string, id string) (string, error) {
	if id == "" || !plainID.MatchString(id) {
		return "", nil
	}
	if name, known := called[id]; known {
		return name, nil
	}
	u, err := p.users.Profile(ctx, id)
	if err != nil && !errors.Is(err, user.ErrNotFound) {
		return "", err
	}
	called[id] = u.Name
	if u.Name == "" {
		called[id] = u.Username
	}
	return called[id], nil
}

func searchError(err error) error {
	if errors.Is(err, index.ErrCursor) {
		return badRequest("cursor must be the next of an earlier answer")
	}
	return err
}

func noIndex() error {
	return web.Fail(http.StatusServiceUnavailable, "audit.index", "error.store", errors.New("this replica has no index of the audit log; its log says why"))
}

// filter reads the parameters of a search.
func (p *Portal) filter(ctx context.Context, r *http.Request) (index.Filter, error) {
	q := r.URL.Query()
	for _, v := range q {
		if len(v[0]) > maxText {
			return index.Filter{}, badRequest("a parameter has 256 bytes at most")
		}
	}
	f := index.Filter{Connector: q.Get("connector"), Client: q.Get("client"), IP: q.Get("ip"), Ref: q.Get("ref"), Text: q.Get("text"), MinSeverity: event.Severity(q.Get("severity"))}
	var err error
	if f.After, f.Before, err = between(r); err != nil {
		return f, err
	}
	if f.Names, err = index.ParseNames(q.Get("name")); err != nil {
		return f, badRequest(err.Error())
	}
	if s := f.MinSeverity; s != "" && s != event.Info && s != event.Warning && s != event.Critical {
		return f, badRequest("severity must be info, warning or critical, and finds that and what is graver")
	}
	switch q.Get("order") {
	case "", "newest":
	case "oldest":
		f.OldestFirst = true
	default:
		return f, badRequest("order must be newest or oldest")
	}
	for name, id := range map[string]*string{"actor": &f.Actor, "target": &f.Target, "person": &f.Person} {
		if *id, err = p.idOf(ctx, q.Get(name)); err != nil {
			return f, err
		}
	}
	return f, nil
}

// between reads after and before.
func between(r *http.Request) (after, before time.Time, err error) {
	for name, at := range map[string]*time.Time{"after": &after, "before": &before} {
		if *at, err = timeOf(name, r.URL.Query().Get(name)); err != nil {
			return after, before, err
		}
	}
	return after, before, nil
}

// timeOf reads a time or a day; zero for "".
func timeOf(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at.UTC(), nil
	}
	at, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return at, badRequest(name + " must be a time such as 2026-11-26T08:00:00Z, or a day, which begins at 00:00 UTC")
	}
	return at, nil
}

// idOf is the id of the one user who is called so; whatever else it is, is an id
// itself: of somebody who was deleted, of a session, of a key.
func (p *Portal) idOf(ctx context.Context, who string) (string, error) {
	if who == "" {
		return "", nil
	}
	found, err := p.users.Find(ctx, who, 2)
	if err != nil {
		return "", err
	}
	switch len(found) {
	case 0:
		return who, nil
	case 1:
		return found[0].ID, nil
	}
	return "", badRequest("more than one user is called so; use the id")
}

// auditKeyView is what a verification needs from outside.
type auditKeyView struct {
	ID      string    `json:"id"`
	Alg     string    `json:"alg"`
	Key     string    `json:"public_key"` // PEM
	Created time.Time `json:"created"`
}

func (p *Portal) apiAuditKey(context.Context, *caller, *http.Request) (any, error) {
	text, err := p.audit.Key.PublicPEM()
	if err != nil {
		return nil, err
	}
	return auditKeyView{ID: p.audit.Key.ID, Alg: "Ed25519", Key: string(text), Created: p.audit.Key.Created}, nil
}

func (p *Portal) apiAuditBundle(context.Context, *caller, *http.Request) (any, error) {
	return stream(func(w http.ResponseWriter, r *http.Request, still func() error) error {
		w = lines(w, "application/x-ndjson", "")
		if err := event.WriteBundle(r.Context(), w, p.audit, still); err != nil {
			p.cutOff(r, "a bundle of the audit log", err)
		}
		return nil
	}), nil
}
