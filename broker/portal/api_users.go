package portal

import (
	"context"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/user"
)

type identityView struct {
	ID        string    `json:"id"`
	Connector string    `json:"connector"`
	Subject   string    `json:"subject"`
	Username  string    `json:"username,omitempty"`
	Email     string    `json:"email,omitempty"`
	Verified  bool      `json:"email_verified"`
	Linked    time.Time `json:"linked"`
	Used      time.Time `json:"last_used"`
}

type userView struct {
	ID            string         `json:"id"`
	Name          string         `json:"name,omitempty"`
	Username      string         `json:"username,omitempty"`
	Email         string         `json:"email,omitempty"`
	EmailVerified bool           `json:"email_verified"`
	Kind          string         `json:"kind"`
	Suspended     bool           `json:"suspended"`
	Merged        string         `json:"merged_into,omitempty"`
	Created       time.Time      `json:"created"`
	Updated       time.Time      `json:"updated"`
	Identities    []identityView `json:"identities"`
}

func viewIdentity(l user.Link) identityView {
	return identityView{ID: l.ID(), Connector: l.Connector, Subject: l.Subject, Username: l.Username, Email: l.Email, Verified: l.EmailVerified, Linked: l.Linked.UTC(), Used: l.Used.UTC()}
}

func viewUser(u user.User) userView {
	v := userView{ID: u.ID, Name: u.Name, Username: u.Username, Email: u.Email, EmailVerified: u.EmailVerified, Kind: u.Kind,
		Suspended: u.Suspended, Merged: u.Merged, Created: u.Created.UTC(), Updated: u.Updated.UTC(), Identities: []identityView{}}
	for _, l := range u.Identities {
		v.Identities = append(v.Identities, viewIdentity(l))
	}
	return v
}

func (p *Portal) apiMe(ctx context.Context, c *caller, _ *http.Request) (any, error) {
	u, err := p.users.Get(ctx, c.sess.UserID)
	if err != nil {
		return nil, err
	}
	groups, roles := c.sess.Groups, c.roles
	if groups == nil {
		groups = []string{}
	}
	if roles == nil {
		roles = []Role{}
	}
	return meView{viewUser(u), c.sess.ID, c.sess.Connector, groups, roles}, nil
}

// meView is a person's own view: the account, and what this session is.
type meView struct {
	userView
	Session   string   `json:"session"`
	Connector string   `json:"connector"`
	Groups    []string `json:"groups"`
	Roles     []Role   `json:"roles"`
}

func (p *Portal) apiUsers(ctx context.Context, _ *caller, r *http.Request) (any, error) {
	q := r.URL.Query()
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	out := page[userView]{Items: []userView{}}
	if s := q.Get("q"); s != "" {
		if len(s) > 256 {
			return nil, badRequest("q has 256 bytes at most")
		}
		found, err := p.users.Find(ctx, s, limit)
		if err != nil {
			return nil, err
		}
		for _, u := range found {
			out.Items = append(out.Items, viewUser(u))
		}
		return out, nil
	}
	after := q.Get("after")
	if after != "" && !plainID.MatchString(after) {
		return nil, badRequest("after is not a cursor of ours")
	}
	us, next, err := p.users.List(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	for _, u := range us {
		out.Items = append(out.Items, viewUser(u))
	}
	out.Next = next
	return out, nil
}

func (p *Portal) apiUser(ctx context.Context, _ *caller, r *http.Request) (any, error) {
	u, err := p.users.Get(ctx, chi.URLParam(r, "id"))
	if err != nil {
		return nil, err
	}
	return viewUser(u), nil
}

func (p *Portal) apiSuspend(ctx context.Context, c *caller, r *http.Request) (any, error) {
	id := chi.URLParam(r, "id")
	if id == c.sess.UserID && id != "" {
		return nil, badRequest("you cannot suspend yourself; ask another admin")
	}
	if !c.has(RoleAdmin) {
		// Support looks after users, not over those who hold a role (AD-2).
		u, err := p.users.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		if holds, err := p.holdsRole(ctx, u); err != nil {
			return nil, err
		} else if holds {
			return nil, forbidden("policy.role_missing", "only an admin may suspend somebody who has a role here")
		}
	}
	return p.change(ctx, c, r, event.UserSuspended, p.users.Suspend)
}

func (p *Portal) apiResume(ctx context.Context, c *caller, r *http.Request) (any, error) {
	return p.change(ctx, c, r, event.UserResumed, p.users.Resume)
}

func (p *Portal) change(ctx context.Context, c *caller, r *http.Request, name event.Name, do func(context.Context, string) error) (any, error) {
	id := chi.URLParam(r, "id")
	if _, err := p.users.Get(ctx, id); err != nil {
		return nil, err
	}
	if err := p.record(ctx, r, event.Event{Name: name, Actor: c.actor(), Target: id}); err != nil {
		return nil, err
	}
	if err := do(ctx, id); err != nil {
		return nil, err
	}
	u, err := p.users.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return viewUser(u), nil
}
