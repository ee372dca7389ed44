package portal

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/user"
)

// Access is what the gateway would answer a session.
type Access struct {
	// Decision is allow, deny, step_up, no_lease, no_route, or no_session for a
	// user who is not signed in anywhere.
	Decision string            `json:"decision"`
	Route    string            `json:"route,omitempty"`
	Lease    string            `json:"lease,omitempty"`
	Rule     string            `json:"rule,omitempty"`
	Reason   map[string]string `json:"reason,omitempty"`
	Contact  string            `json:"contact,omitempty"`
	// Because is for operators: the condition that refused.
	Because string `json:"because,omitempty"`
	// MaxAge is how old the sign-in may be, in seconds, for step_up.
	MaxAge int `json:"max_age,omitempty"`
}

// AccessQuestion is a request that nobody makes.
type AccessQuestion struct {
	Method string
	URL    *url.URL
	IP     string
	Time   time.Time
}

type accessView struct {
	User      string       `json:"user"`
	Username  string       `json:"username,omitempty"`
	Session   string       `json:"session,omitempty"`
	Kind      session.Kind `json:"kind,omitempty"`
	Connector string       `json:"connector,omitempty"`
	Groups    []string     `json:"groups,omitempty"`
	Access
}

// accessRequest asks who may reach a URL, and why not: one user by each live
// session, or all users, page by page.
type accessRequest struct {
	URL    string     `json:"url"`
	Method string     `json:"method,omitempty"` // default GET
	User   string     `json:"user,omitempty"`   // id, e-mail address or user name
	IP     string     `json:"ip,omitempty"`
	At     *time.Time `json:"at,omitempty"` // default now
	After  string     `json:"after,omitempty"`
	Limit  int        `json:"limit,omitempty"`
}

func (p *Portal) apiAccess(ctx context.Context, _ *caller, r *http.Request) (any, error) {
	var req accessRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	u, err := url.Parse(req.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, badRequest("url must be the whole address, for example https://api.example.com/v1/things")
	}
	if req.Limit < 0 || req.Limit > 200 || req.After != "" && !plainID.MatchString(req.After) {
		return nil, badRequest("limit must be a number from 1 to 200, and after a cursor of ours")
	}
	if req.Limit == 0 {
		req.Limit = 50
	}
	q := AccessQuestion{Method: req.Method, URL: u, IP: req.IP, Time: p.now()}
	if req.At != nil {
		q.Time = *req.At
	}
	out := page[accessView]{Items: []accessView{}}
	var users []user.User
	if req.User != "" {
		id, err := p.userCalled(ctx, "user", req.User)
		if err != nil {
			return nil, err
		}
		one, err := p.users.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		users = []user.User{one}
	} else if users, out.Next, err = p.users.List(ctx, req.After, req.Limit); err != nil {
		return nil, err
	}
	for _, u := range users {
		of, err := p.accessOf(ctx, q, u)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, of...)
	}
	return out, nil
}

// accessOf asks for each of a user's browser sessions, since groups and the age
// of the sign-in are a session's.
func (p *Portal) accessOf(ctx context.Context, q AccessQuestion, u user.User) ([]accessView, error) {
	none := []accessView{{User: u.ID, Username: u.Username, Access: Access{Decision: "no_session", Because: "not signed in anywhere: groups are known of a session alone"}}}
	ss, err := p.sessions.ByUser(ctx, u.ID)
	if errors.Is(err, user.ErrSuspended) {
		none[0].Because = "the account is suspended"
		return none, nil
	}
	if err != nil {
		return nil, err
	}
	var out []accessView
	for _, s := range ss {
		if s.Kind != session.Browser {
			continue
		}
		a, err := p.access(ctx, q, s)
		if err != nil {
			return nil, err
		}
		out = append(out, accessView{User: u.ID, Username: u.Username, Session: s.ID, Kind: s.Kind, Connector: s.Connector, Groups: s.Groups, Access: a})
	}
	if out == nil {
		return none, nil
	}
	return out, nil
}
