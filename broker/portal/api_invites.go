package portal

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/user"
)

type inviteView struct {
	ID        string    `json:"id"`
	Email     string    `json:"email"`
	Connector string    `json:"connector,omitempty"`
	State     string    `json:"state"` // open, used or withdrawn
	By        string    `json:"by"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
}

// newInviteView is the one answer that holds the link.
type newInviteView struct {
	inviteView
	URL string `json:"url"`
}

func viewInvite(i user.Invite) inviteView {
	v := inviteView{ID: i.ID, Email: i.Email, Connector: i.Connector, State: "open", By: i.By, Created: i.Created.UTC(), Expires: i.Expires.UTC()}
	switch {
	case i.Withdrawn:
		v.State = "withdrawn"
	case !i.Used.IsZero():
		v.State = "used"
	}
	return v
}

type inviteRequest struct {
	Email     string `json:"email"`
	Connector string `json:"connector,omitempty"` // the only one that it is good for
}

func (p *Portal) apiInvite(ctx context.Context, c *caller, r *http.Request) (any, error) {
	var req inviteRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	if !plainEmail(req.Email) {
		return nil, badRequest("email must be a plain e-mail address")
	}
	if req.Connector != "" && !p.leadsIn(user.Link{Connector: req.Connector}) {
		return nil, badRequest("there is no connector of that id by which people sign in")
	}
	if err := p.record(ctx, r, event.Event{Name: event.AdminChanged, Actor: c.actor(), Connector: req.Connector, Details: map[string]string{"change": "invite"}}); err != nil {
		return nil, err
	}
	i, token, err := p.users.Invite(ctx, req.Email, req.Connector, c.actor())
	if err != nil {
		return nil, err
	}
	return newInviteView{viewInvite(i), p.issuer + "/invite/" + token}, nil
}

func (p *Portal) apiInvites(ctx context.Context, _ *caller, r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	after := r.URL.Query().Get("after")
	if after != "" && !plainID.MatchString(after) {
		return nil, badRequest("after is not a cursor of ours")
	}
	is, next, err := p.users.Invites(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	out := page[inviteView]{Items: []inviteView{}, Next: next}
	for _, i := range is {
		out.Items = append(out.Items, viewInvite(i))
	}
	return out, nil
}

func (p *Portal) apiWithdraw(ctx context.Context, c *caller, r *http.Request) (any, error) {
	id := chi.URLParam(r, "id")
	if _, err := p.users.InviteByID(ctx, id); err != nil {
		return nil, err
	}
	if err := p.record(ctx, r, event.Event{Name: event.AdminChanged, Actor: c.actor(), Details: map[string]string{"change": "invite_withdrawn", "invite": id}}); err != nil {
		return nil, err
	}
	return nil, p.users.Withdraw(ctx, id)
}

// limitOf reads the limit of a list.
func limitOf(r *http.Request) (int, error) {
	s := r.URL.Query().Get("limit")
	if s == "" {
		return 50, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 500 {
		return 0, badRequest("limit must be a number from 1 to 500")
	}
	return n, nil
}
