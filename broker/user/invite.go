package user

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/connectors"
)

// Invite lets one person with one e-mail address make an account where sign-up
// is by invitation. Its store ID is the hash of the token in its link, which
// nobody keeps (docs/security.md ST-2).
type Invite struct {
	ID        string    `json:"id"`
	Email     string    `json:"email"`
	Connector string    `json:"connector,omitempty"` // the only one that it is good for; "" = any
	By        string    `json:"by"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
	Withdrawn bool      `json:"withdrawn,omitempty"`
	Used      time.Time `json:"used,omitzero"`
	Identity  string    `json:"identity,omitempty"` // who used it
}

// InviteTTL is how long an invitation is good.
const InviteTTL = 7 * 24 * time.Hour

// Open reports whether the invitation can still be used.
func (i Invite) Open() bool { return !i.Withdrawn && i.Used.IsZero() }

// Invite makes an invitation and returns it with the token for its link. An
// address that is none is ErrInvite.
func (d *Directory) Invite(ctx context.Context, email, connector, by string) (Invite, string, error) {
	addr, ok := address(email)
	if !ok {
		return Invite{}, "", ErrInvite
	}
	token, now := rand.Text()+rand.Text(), d.cfg.Now()
	i := Invite{ID: store.HashID(token), Email: addr, Connector: connector, By: by, Created: now, Expires: now.Add(InviteTTL)}
	return i, token, d.invites.Create(ctx, i.ID, i)
}

// Invites lists the invitations that are not too old, used ones included.
func (d *Directory) Invites(ctx context.Context, after string, limit int) ([]Invite, string, error) {
	return d.invites.List(ctx, "", "", after, limit)
}

// InviteByToken returns the open invitation of a link, or ErrInvite. It uses
// nothing up: programs that scan mail follow links.
func (d *Directory) InviteByToken(ctx context.Context, token string) (Invite, error) {
	i, err := d.invites.Get(ctx, store.HashID(token))
	if errors.Is(err, store.ErrNotFound) || err == nil && !i.Open() {
		return Invite{}, ErrInvite
	}
	return i, err
}

// InviteByID returns an invitation, or ErrNotFound.
func (d *Directory) InviteByID(ctx context.Context, id string) (Invite, error) {
	i, err := d.invites.Get(ctx, id)
	return i, found(err)
}

// Withdraw ends an invitation that was not used.
func (d *Directory) Withdraw(ctx context.Context, id string) error {
	_, err := d.invites.Update(ctx, id, func(i *Invite) error {
		i.Withdrawn = true
		return nil
	})
	return found(err)
}

// redeem is the one transition of an invitation (G3). It is bound to the
// identity that used it, so that a sign-in that failed after it can be repeated.
func (d *Directory) redeem(ctx context.Context, token string, id connectors.Identity) error {
	who := identityID(id.Connector, id.Subject)
	addr, ok := address(id.Email)
	if !ok || !id.EmailVerified {
		return ErrInvite
	}
	_, err := d.invites.Update(ctx, store.HashID(token), func(i *Invite) error {
		switch {
		case i.Withdrawn, i.Email != addr, i.Connector != "" && i.Connector != id.Connector, !i.Used.IsZero() && i.Identity != who:
			return ErrInvite
		case i.Used.IsZero():
			i.Used, i.Identity = d.cfg.Now(), who
		}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return ErrInvite
	}
	return err
}
