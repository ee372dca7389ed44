package portal

import (
	"context"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/user"
)

func (p *Portal) apiMyIdentities(ctx context.Context, c *caller, _ *http.Request) (any, error) {
	u, err := p.users.Get(ctx, c.sess.UserID)
	if err != nil {
		return nil, err
	}
	return page[identityView]{Items: viewUser(u).Identities}, nil
}

func (p *Portal) apiUnlinkMine(ctx context.Context, c *caller, r *http.Request) (any, error) {
	return nil, p.unlink(ctx, c, chi.URLParam(r, "id"), r)
}

// leadsIn reports whether somebody can sign in by an identity: its connector is
// there, served, and not for linking alone.
func (p *Portal) leadsIn(l user.Link) bool {
	for _, c := range p.connectors() {
		if c.ID == l.Connector {
			return c.Served && !c.LinkOnly
		}
	}
	return false
}

// unlink takes an identity from the caller's account and ends what it opened,
// sessions of every kind: its groups must not live on (docs/security.md UP-11).
func (p *Portal) unlink(ctx context.Context, c *caller, id string, r *http.Request) error {
	l, err := p.users.Unlink(ctx, c.sess.UserID, id, p.leadsIn, func(ctx context.Context, u user.User, _ user.Change) error {
		connector := ""
		for _, l := range u.Identities {
			if l.ID() == id {
				connector = l.Connector
			}
		}
		return p.record(ctx, r, event.Event{Name: event.IdentityUnlinked, Actor: c.actor(), Target: u.ID, Connector: connector, Details: map[string]string{"identity": id}})
	})
	if err != nil {
		return err
	}
	ss, err := p.sessions.ByUser(ctx, c.sess.UserID)
	if err != nil {
		return err
	}
	for _, s := range ss {
		if s.Connector == l.Connector && s.Subject == l.Subject {
			if err := p.end(ctx, c, s, r); err != nil {
				return err
			}
		}
	}
	return nil
}

type mergeRequest struct {
	From string `json:"from"` // the user whose identities move
}

// apiMerge makes one account of two. What the old one could do by itself is over:
// its sessions, tokens and its sub; what people allowed to clients goes along.
func (p *Portal) apiMerge(ctx context.Context, c *caller, r *http.Request) (any, error) {
	var req mergeRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	into := chi.URLParam(r, "id")
	if !plainID.MatchString(req.From) || req.From == into {
		return nil, badRequest("from must be the id of another user")
	}
	if own := c.sess.UserID; own != "" && own == req.From {
		return nil, badRequest("you cannot merge yourself away; ask another admin")
	}
	u, err := p.users.Merge(ctx, into, req.From, func(ctx context.Context, to, from user.User) error {
		if err := p.record(ctx, r, event.Event{Name: event.AdminChanged, Actor: c.actor(), Target: to.ID, Details: map[string]string{"change": "merge", "from": from.ID}}); err != nil {
			return err
		}
		for _, l := range from.Identities {
			for _, e := range []event.Event{
				{Name: event.IdentityUnlinked, Target: from.ID},
				{Name: event.IdentityLinked, Target: to.ID},
			} {
				e.Actor, e.Connector, e.Details = c.actor(), l.Connector, map[string]string{"identity": l.ID(), "how": "merged"}
				if err := p.record(ctx, r, e); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := p.ledger.MoveConsents(ctx, req.From, into); err != nil {
		return nil, err
	}
	return viewUser(u), nil
}
