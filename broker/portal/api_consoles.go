package portal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/web"
)

// How long a lease lives without a heartbeat.
const (
	leaseTTL    = 15 * time.Minute
	minLeaseTTL = 10 * time.Second
	maxLeaseTTL = 720 * time.Hour
)

// maxBulk is how many leases one request may put.
const maxBulk = 1000

type leaseView struct {
	ID       string      `json:"id"`
	Node     string      `json:"node,omitempty"`
	Upstream string      `json:"upstream"`
	TLS      console.TLS `json:"tls,omitzero"`
	Kind     string      `json:"kind,omitempty"`
	Title    string      `json:"title,omitempty"`
	Owner    string      `json:"owner,omitempty"`
	Users    []string    `json:"users"`
	Groups   []string    `json:"groups"`
	Allow    string      `json:"allow,omitempty"`
	ReadOnly bool        `json:"read_only"`
	Expires  time.Time   `json:"expires"`
	URL      string      `json:"url,omitempty"`
}

func (p *Portal) viewLease(l *console.Lease) leaseView {
	v := leaseView{ID: l.ID, Node: l.Node, Upstream: l.Upstream, TLS: l.TLS, Kind: l.Kind, Title: l.Title, Owner: l.Owner, Users: l.Users, Groups: l.Groups,
		Allow: l.Allow, ReadOnly: l.ReadOnly, Expires: l.Expires.UTC(), URL: p.consoleURL(l.ID)}
	if v.Users == nil {
		v.Users = []string{}
	}
	if v.Groups == nil {
		v.Groups = []string{}
	}
	return v
}

// leaseRequest says who may enter a console, and where it is. People are named
// by user id, or by an e-mail address or user name that only one has.
type leaseRequest struct {
	Node     string      `json:"node,omitempty"`
	Upstream string      `json:"upstream"`
	TLS      console.TLS `json:"tls,omitzero"`
	Kind     string      `json:"kind,omitempty"`
	Title    string      `json:"title,omitempty"`
	Owner    string      `json:"owner,omitempty"`
	Users    []string    `json:"users,omitempty"`
	Groups   []string    `json:"groups,omitempty"`
	Allow    string      `json:"allow,omitempty"`
	ReadOnly bool        `json:"read_only,omitempty"`
	TTL      string      `json:"ttl,omitempty"` // a Go duration; default 15m
}

// lease checks a request and names its people by their ids.
func (p *Portal) lease(ctx context.Context, id string, q leaseRequest) (console.Lease, error) {
	ttl := leaseTTL
	if q.TTL != "" {
		var err error
		if ttl, err = time.ParseDuration(q.TTL); err != nil || ttl < minLeaseTTL || ttl > maxLeaseTTL {
			return console.Lease{}, badRequest(fmt.Sprintf("ttl must be a duration from %s to %s, for example 15m", minLeaseTTL, maxLeaseTTL))
		}
	}
	l := console.Lease{ID: id, Node: q.Node, Upstream: q.Upstream, TLS: q.TLS, Kind: q.Kind, Title: q.Title, Allow: q.Allow, ReadOnly: q.ReadOnly, Expires: p.now().Add(ttl)}
	if q.Owner != "" {
		owner, err := p.userCalled(ctx, "owner", q.Owner)
		if err != nil {
			return console.Lease{}, err
		}
		l.Owner = owner
	}
	for _, u := range q.Users {
		one, err := p.userCalled(ctx, "users", u)
		if err != nil {
			return console.Lease{}, err
		}
		l.Users = append(l.Users, one)
	}
	// In an order of ours: the same people named otherwise are the same lease.
	l.Groups = slices.Clone(q.Groups)
	slices.Sort(l.Users)
	slices.Sort(l.Groups)
	l.Users, l.Groups = slices.Compact(l.Users), slices.Compact(l.Groups)
	return l, nil
}

// userCalled finds the one user whom a text names.
func (p *Portal) userCalled(ctx context.Context, field, q string) (string, error) {
	found, err := p.users.Find(ctx, q, 2)
	if err != nil {
		return "", err
	}
	switch len(found) {
	case 0:
		return "", unprocessable("lease.person", fmt.Sprintf("%s: nobody has the id, e-mail address or user name %q; a person is known from the first sign-in on", field, q))
	case 1:
		return found[0].ID, nil
	}
	return "", unprocessable("lease.person", fmt.Sprintf("%s: more than one user is called %q; use the id", field, q))
}

func unprocessable(code, message string) error {
	e := web.Fail(http.StatusUnprocessableEntity, code, "error.api_bad_request", errors.New(message))
	e.Args = map[string]any{"detail": message}
	return e
}

// put lends a console and records what is more than a heartbeat.
func (p *Portal) put(ctx context.Context, c *caller, r *http.Request, id string, q leaseRequest) (leaseView, error) {
	l, err := p.lease(ctx, id, q)
	if err != nil {
		return leaseView{}, err
	}
	if err := p.consoles.Check(l); err != nil {
		return leaseView{}, err
	}
	was, err := p.consoles.Get(ctx, id)
	if err != nil && !errors.Is(err, console.ErrNoLease) {
		return leaseView{}, err
	}
	if err != nil || !was.Equal(&l) {
		if err := p.record(ctx, r, event.Event{Name: event.ConsoleLeased, Actor: c.actor(), Target: id,
			Details: map[string]string{"owner": l.Owner, "node": l.Node, "kind": l.Kind}}); err != nil {
			return leaseView{}, err
		}
	}
	if _, err := p.consoles.Put(ctx, l); err != nil {
		return leaseView{}, err
	}
	return p.viewLease(&l), nil
}

func (p *Portal) apiPutConsole(ctx context.Context, c *caller, r *http.Request) (any, error) {
	var q leaseRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	return p.put(ctx, c, r, chi.URLParam(r, "id"), q)
}

// bulkRequest puts many leases; each stands or falls by itself.
type bulkRequest struct {
	Items []bulkItem `json:"items"`
}

type bulkItem struct {
	ID string `json:"id"`
	leaseRequest
}

type bulkResult struct {
	ID     string `json:"id"`
	Status int    `json:"status"`
	Code   string `json:"code,omitempty"`
	Error  string `json:"error,omitempty"`
}

type bulkView struct {
	Items  []bulkResult `json:"items"`
	Failed int          `json:"failed"`
}

func (p *Portal) apiPutConsoles(ctx context.Context, c *caller, r *http.Request) (any, error) {
	var q bulkRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if len(q.Items) == 0 || len(q.Items) > maxBulk {
		return nil, badRequest(fmt.Sprintf("items must hold 1 to %d leases", maxBulk))
	}
	out := bulkView{Items: []bulkResult{}}
	for _, item := range q.Items {
		res := bulkResult{ID: item.ID, Status: http.StatusOK}
		if _, err := p.put(ctx, c, r, item.ID, item.leaseRequest); err != nil {
			known, ok := errors.AsType[*web.Error](apiError(err))
			if !ok || known.Status >= http.StatusInternalServerError {
				return nil, err // the rest would fare no better; what was put may be put again
			}
			detail, _ := known.Args["detail"].(string)
			res.Status, res.Code, res.Error = known.Status, known.Code, detail
			out.Failed++
		}
		out.Items = append(out.Items, res)
	}
	return out, nil
}

func (p *Portal) apiConsole(ctx context.Context, _ *caller, r *http.Request) (any, error) {
	l, err := p.consoles.Get(ctx, chi.URLParam(r, "id"))
	if err != nil {
		return nil, err
	}
	return p.viewLease(l), nil
}

func (p *Portal) apiDeleteConsole(ctx context.Context, c *caller, r *http.Request) (any, error) {
	id := chi.URLParam(r, "id")
	l, err := p.consoles.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := p.record(ctx, r, event.Event{Name: event.ConsoleReleased, Actor: c.actor(), Target: id,
		Details: map[string]string{"owner": l.Owner, "node": l.Node, "reason": "taken back"}}); err != nil {
		return nil, err
	}
	_, err = p.consoles.Delete(ctx, id)
	return nil, err
}

func (p *Portal) apiConsoles(ctx context.Context, _ *caller, r *http.Request) (any, error) {
	q := r.URL.Query()
	if watch := q.Get("watch"); watch != "" {
		if watch != "true" || len(q) > 1 {
			return nil, badRequest("watch=true stands alone")
		}
		return stream(p.watchConsoles), nil
	}
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	by, value := "", ""
	for _, k := range []string{"owner", "node"} {
		if v := q.Get(k); v != "" {
			if by != "" {
				return nil, badRequest("ask by owner or by node")
			}
			by, value = k, v
		}
	}
	if by == "owner" {
		if value, err = p.userCalled(ctx, "owner", value); err != nil {
			return nil, err
		}
	}
	after := q.Get("after")
	if after != "" && !console.ValidID(after) {
		return nil, badRequest("after is not a cursor of ours")
	}
	ls, next, err := p.consoles.List(ctx, by, value, after, limit)
	if err != nil {
		return nil, err
	}
	out := page[leaseView]{Items: []leaseView{}, Next: next}
	for i := range ls {
		out.Items = append(out.Items, p.viewLease(&ls[i]))
	}
	return out, nil
}

// watchLine is one line of GET /consoles?watch=true.
type watchLine struct {
	Type  string     `json:"type"` // put, gone, synced or ping
	ID    string     `json:"id,omitempty"`
	Lease *leaseView `json:"lease,omitempty"`
}

const (
	// pingEvery keeps proxies between from ending a watch that says nothing.
	pingEvery = 15 * time.Second
	// stillEvery is how often it is asked whether the watcher still may.
	stillEvery = time.Second
)

// watchConsoles answers with a line of JSON for each lease and each change. It
// ends when changes may have been missed, and with the caller's token: the
// client asks again.
func (p *Portal) watchConsoles(w http.ResponseWriter, r *http.Request, still func() error) error {
	ctx, cancel := context.WithCancel(r.Context())
	lines := make(chan watchLine)
	defer func() {
		cancel()
		for range lines { // until Watch has ended
		}
	}()
	failed := make(chan error, 1)
	go func() {
		failed <- p.consoles.Watch(ctx, func(c console.Change) error {
			line := watchLine{Type: c.Type, ID: c.ID}
			if c.Lease != nil {
				v := p.viewLease(c.Lease)
				line.Lease = &v
			}
			select {
			case lines <- line:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		close(lines)
	}()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	rc, out := http.NewResponseController(w), json.NewEncoder(w)
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	check := time.NewTicker(stillEvery)
	defer check.Stop()
	for {
		var line watchLine
		var open bool
		select {
		case line, open = <-lines:
			if !open {
				if err := <-failed; !errors.Is(err, console.ErrLost) && ctx.Err() == nil {
					p.log.WarnContext(r.Context(), "a watch of consoles ended", "err", err)
				}
				return nil
			}
		case <-check.C:
			if still() != nil {
				return nil
			}
			continue
		case <-ping.C:
			line = watchLine{Type: "ping"}
		}
		// Who does not read is not waited for.
		_ = rc.SetWriteDeadline(time.Now().Add(pingEvery))
		if out.Encode(line) != nil || rc.Flush() != nil {
			return nil
		}
	}
}

func consoleError(err error) error {
	switch {
	case errors.Is(err, console.ErrNoLease):
		return notFound(err)
	case errors.Is(err, console.ErrInvalid):
		return unprocessable("lease.invalid", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return err
}
