package user

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// ExistingAccount means that a new identity has the e-mail address of an account
// that it may not be linked to unasked: the person proves that account first, by
// signing in with it (docs/security.md UP-5).
type ExistingAccount struct {
	// Connectors are those by which people sign in to the account: shown only to
	// whoever has proved the address.
	Connectors []string
	// Apart says that the connector speaks for the domain, so that its word about
	// the address is enough for an account of one's own.
	Apart bool
	// Verified says that the upstream verified the address.
	Verified bool
}

// Error returns the text for the log.
func (*ExistingAccount) Error() string {
	return "another account has the e-mail address of this identity"
}

// address is the form in which two e-mail addresses are compared (UP-7).
func address(email string) (string, bool) {
	local, domain, ok := web.ValidEmail(email)
	return strings.ToLower(local) + "@" + domain, ok
}

func addressIndex(a string) string { return "address " + store.HashID(a) }

// maxMatches bounds the accounts of one address that are looked at; a person has
// one, rarely two.
const maxMatches = 50

// match returns the account that a new identity is linked to by its e-mail
// address, "" for none, or *ExistingAccount. Only an address that an upstream
// verified counts for the old account: whoever registered first with somebody
// else's gains nothing (pre-hijacking). It links only if both connectors are
// trusted for the domain, and never to admins and break-glass accounts, nor to
// an account that has another identity of the same connector: that address was
// given to somebody else.
func (d *Directory) match(ctx context.Context, id connectors.Identity, a Admission) (string, error) {
	addr, ok := address(id.Email)
	if !ok {
		return "", nil
	}
	_, domain, _ := web.ValidEmail(id.Email)
	speaks := func(connector string) bool { return a.Speaks != nil && a.Speaks(connector, domain) }
	entitled := id.EmailVerified && speaks(id.Connector)
	if entitled && a.Apart {
		return "", nil
	}
	us, _, err := d.users.List(ctx, addressIndex(addr), "1", "", maxMatches)
	if err != nil {
		return "", fmt.Errorf("find accounts of an address: %w", err)
	}
	var link []User
	taken := &ExistingAccount{Apart: entitled, Verified: id.EmailVerified}
	n := 0
	for _, u := range made(us) {
		verified, trusted, recycled := false, false, false
		for _, l := range u.Identities {
			recycled = recycled || l.Connector == id.Connector
			if la, ok := address(l.Email); ok && la == addr && l.EmailVerified {
				verified, trusted = true, trusted || speaks(l.Connector)
			}
		}
		if !verified || recycled {
			continue
		}
		n++
		for _, l := range u.Identities {
			if !slices.Contains(taken.Connectors, l.Connector) {
				taken.Connectors = append(taken.Connectors, l.Connector)
			}
		}
		if entitled && trusted && !u.Suspended {
			byHand := false
			if a.ByHand != nil {
				if byHand, err = a.ByHand(ctx, u); err != nil {
					return "", err
				}
			}
			if !byHand && !u.Staff {
				link = append(link, u)
			}
		}
	}
	switch {
	case n == 0:
		return "", nil
	case n == 1 && len(link) == 1:
		return link[0].ID, nil
	}
	return "", taken
}

// Link gives an identity to an account whose owner has proved both. ErrTaken
// when it is another account's; an identity that is linked already stays so.
func (d *Directory) Link(ctx context.Context, userID string, id connectors.Identity, announce Announce) (User, error) {
	u, err := d.Get(ctx, userID)
	if err != nil {
		return User{}, err
	}
	if u.Suspended {
		return u, ErrSuspended
	}
	if _, err := d.owner(ctx, id.Connector, id.Subject); err != nil && !errors.Is(err, ErrNotFound) {
		return User{}, err
	}
	link, won, err := d.claim(ctx, id, userID)
	if err != nil {
		return User{}, fmt.Errorf("link: %w", err)
	}
	if link.User != userID {
		return User{}, ErrTaken
	}
	if !won && u.has(id.Connector, id.Subject) {
		return u, nil
	}
	probe, now := u, d.cfg.Now()
	refresh(&probe, id, now)
	err = announce.tell(ctx, probe, Linked)
	if err == nil {
		u, err = d.firm.Update(ctx, userID, func(v *User) error {
			if v.Suspended {
				return ErrSuspended
			}
			refresh(v, id, now)
			return nil
		})
	}
	if err != nil {
		if won { // nothing was linked
			_, free := d.release(context.WithoutCancel(ctx), link)
			err = errors.Join(err, free)
		}
		return User{}, err
	}
	d.changed(userID)
	return u, nil
}

// Unlink takes an identity from an account, never the last one by which its
// owner can sign in: usable says which links still lead in. It returns the link
// that is gone, so that its sessions can end.
func (d *Directory) Unlink(ctx context.Context, userID, linkID string, usable func(Link) bool, announce Announce) (Link, error) {
	u, err := d.Get(ctx, userID)
	if err != nil {
		return Link{}, err
	}
	gone, _, err := without(u, linkID, usable)
	if err != nil {
		return Link{}, err
	}
	if err := announce.tell(ctx, u, Unlinked); err != nil {
		return Link{}, err
	}
	link, err := d.identities.Update(ctx, linkID, func(v *identity) error {
		if v.User != userID || v.Connector != gone.Connector || v.Subject != gone.Subject {
			return ErrNotFound
		}
		v.Leaving = true
		return nil
	})
	if err != nil {
		return Link{}, found(err)
	}
	_, err = d.firm.Update(ctx, userID, func(v *User) error {
		_, rest, err := without(*v, linkID, usable)
		if err != nil {
			return err
		}
		first := v.Identities[0]
		v.Identities, v.Updated = rest, d.cfg.Now()
		if first != rest[0] { // the profile came from what is gone
			v.Email, v.EmailVerified, v.Username = rest[0].Email, rest[0].EmailVerified && rest[0].Email != "", rest[0].Username
		}
		return nil
	})
	if err != nil {
		return Link{}, found(err)
	}
	d.changed(userID)
	_, err = d.release(ctx, link)
	return gone, err
}

// without returns the link of that id and the others.
func without(u User, linkID string, usable func(Link) bool) (gone Link, rest []Link, err error) {
	leads, there := false, false
	for _, l := range u.Identities {
		if l.ID() == linkID {
			gone, there = l, true
			continue
		}
		rest = append(rest, l)
		leads = leads || usable(l)
	}
	switch {
	case !there:
		return Link{}, nil, ErrNotFound
	case !leads:
		return Link{}, nil, ErrLastIdentity
	}
	return gone, rest, nil
}

// MarkStaff remembers that somebody with a role signed in to the account.
func (d *Directory) MarkStaff(ctx context.Context, userID string) error {
	_, err := d.users.Update(ctx, userID, func(u *User) error { u.Staff = true; return nil })
	return found(err)
}
