package user

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// Change is what happens to an account.
type Change int

// The changes that are announced.
const (
	Created Change = iota + 1
	Updated
	Linked
	Unlinked
)

// Announce is told of a change before it is made; if it fails, nothing is done.
type Announce func(ctx context.Context, u User, what Change) error

// Admission says who may get an account through a connector.
type Admission struct {
	// Signup is "open", "domains" or "invite"; empty is open.
	Signup string
	// Domains are those for which the connector may speak, lower case and in
	// IDNA's A-form.
	Domains []string
	// Invite is the invitation that the person brought; may be empty.
	Invite string
	// Speaks reports whether the operator trusts a connector's word about the
	// addresses of a domain (trust_email, and the domain is bound to it). Nil
	// trusts nobody.
	Speaks func(connector, domain string) bool
	// ByHand reports whether an account is linked by hand alone: those of admins
	// and break-glass ones. Nil means that none is.
	ByHand func(ctx context.Context, u User) (bool, error)
	// Apart says that the person asked for an account of their own although
	// another one has the address.
	Apart bool
	// Announce may be nil.
	Announce Announce
}

func (a Announce) tell(ctx context.Context, u User, what Change) error {
	if a == nil {
		return nil
	}
	return a(ctx, u, what)
}

func identityID(connector, subject string) string { return store.HashID(connector + "\x00" + subject) }

// Admit finds the user of an upstream identity, or makes one, or links the
// identity to one. The key is (connector, subject), never an e-mail address
// (docs/security.md UP-4); when an address may link is said at match (UP-5).
func (d *Directory) Admit(ctx context.Context, id connectors.Identity, a Admission) (u User, created bool, err error) {
	if id.Connector == "" || id.Subject == "" {
		return User{}, false, errors.New("admit: the identity has no connector or no subject")
	}
	link, err := d.owner(ctx, id.Connector, id.Subject)
	if errors.Is(err, ErrNotFound) {
		return d.newcomer(ctx, id, a)
	}
	if err != nil {
		return User{}, false, fmt.Errorf("admit: %w", err)
	}
	return d.known(ctx, link, id, a)
}

// owner returns the record of an identity that belongs to somebody.
func (d *Directory) owner(ctx context.Context, connector, subject string) (identity, error) {
	key := identityID(connector, subject)
	link, err := d.identities.Get(ctx, key)
	if err != nil {
		return identity{}, found(err)
	}
	// The record under the hash must be this identity's (G4).
	if link.Connector != connector || link.Subject != subject {
		return identity{}, errors.New("the stored identity is another one")
	}
	if link.Leaving { // did the process end between the two writes of Unlink?
		if u, err := d.users.Get(ctx, link.User); err == nil && !u.has(connector, subject) {
			if link, err = d.release(ctx, link); err != nil {
				return identity{}, err
			}
		}
	}
	if link.User == "" {
		return identity{}, ErrNotFound
	}
	return link, nil
}

// claim gives an identity that is nobody's to a user and returns whose it is
// afterwards. Of any number of callers one wins.
func (d *Directory) claim(ctx context.Context, id connectors.Identity, userID string) (link identity, won bool, err error) {
	key := identityID(id.Connector, id.Subject)
	link = identity{Connector: id.Connector, Subject: id.Subject, User: userID}
	err = d.identities.Create(ctx, key, link)
	if err == nil {
		return link, true, nil
	}
	if !errors.Is(err, store.ErrConflict) {
		return identity{}, false, err
	}
	link, err = d.identities.Update(ctx, key, func(v *identity) error {
		won = v.User == ""
		if won {
			v.User = userID
		}
		return nil
	})
	return link, won, err
}

// release makes an identity nobody's, if it still is of the user named.
func (d *Directory) release(ctx context.Context, was identity) (identity, error) {
	return d.identities.Update(ctx, identityID(was.Connector, was.Subject), func(v *identity) error {
		if v.User == was.User {
			v.User, v.Leaving = "", false
		}
		return nil
	})
}

// newcomer admits an identity that is nobody's yet.
func (d *Directory) newcomer(ctx context.Context, id connectors.Identity, a Admission) (User, bool, error) {
	to, err := d.match(ctx, id, a)
	if err != nil {
		return User{}, false, err
	}
	if to != "" {
		u, err := d.Link(ctx, to, id, a.Announce)
		if !errors.Is(err, ErrTaken) {
			return u, false, err
		}
		// Somebody was faster: theirs is the account.
		link, err := d.owner(ctx, id.Connector, id.Subject)
		if err != nil {
			return User{}, false, fmt.Errorf("admit: %w", err)
		}
		return d.known(ctx, link, id, a)
	}
	if err := d.maySignUp(ctx, id, a); err != nil {
		return User{}, false, err
	}
	link, _, err := d.claim(ctx, id, newID())
	if err != nil {
		return User{}, false, fmt.Errorf("admit: %w", err)
	}
	return d.known(ctx, link, id, a)
}

// known admits an identity that belongs to a user, who may not be made yet.
func (d *Directory) known(ctx context.Context, link identity, id connectors.Identity, a Admission) (User, bool, error) {
	u, err := d.users.Get(ctx, link.User)
	if errors.Is(err, store.ErrNotFound) || err == nil && !u.Pending.IsZero() {
		return d.make(ctx, link, id, a)
	}
	if err != nil {
		return User{}, false, fmt.Errorf("admit: %w", err)
	}
	u, err = d.welcome(ctx, u, id, a)
	return u, false, err
}

// How long one caller may be at making an account before another takes over, and
// how long and how often the others look whether it is done.
const (
	makingTime = 5 * time.Second
	makingWait = 10 * time.Second
	makingStep = 20 * time.Millisecond
)

var errOvertaken = errors.New("somebody else is making this account")

// make makes the account of a claimed identity. Of sixty-four first sign-ins at
// once one announces it, and nobody is in before that is written; the others
// wait. If whoever began is gone, another goes on.
func (d *Directory) make(ctx context.Context, link identity, id connectors.Identity, a Admission) (User, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, makingWait)
	defer cancel()
	for {
		now := d.cfg.Now()
		u := User{ID: link.User, Kind: "user", Created: now, Epoch: 1, Pending: now}
		refresh(&u, id, now)
		err := d.users.Create(ctx, u.ID, u)
		if err == nil {
			return d.announced(ctx, u, a)
		}
		if !errors.Is(err, store.ErrConflict) {
			return User{}, false, fmt.Errorf("admit: %w", err)
		}
		u, err = d.users.Get(ctx, link.User)
		if err != nil {
			return User{}, false, fmt.Errorf("admit: %w", err)
		}
		if u.Pending.IsZero() {
			u, err = d.welcome(ctx, u, id, a)
			return u, false, err
		}
		if began := u.Pending; now.Sub(began) > makingTime {
			u, err = d.users.Update(ctx, u.ID, func(v *User) error {
				if !v.Pending.Equal(began) {
					return errOvertaken
				}
				v.Pending = now
				return nil
			})
			if err == nil {
				return d.announced(ctx, u, a)
			}
			if !errors.Is(err, errOvertaken) {
				return User{}, false, fmt.Errorf("admit: %w", err)
			}
		}
		wait := time.NewTimer(makingStep)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return User{}, false, fmt.Errorf("admit: the account is being made by another: %w: %w", ctx.Err(), store.ErrUnavailable)
		}
	}
}

// announced tells of an account in the making and opens it; if that cannot be
// told, it stays shut, and whoever comes next tries again.
func (d *Directory) announced(ctx context.Context, u User, a Admission) (User, bool, error) {
	began, next := u.Pending, time.Time{}
	failed := a.Announce.tell(ctx, u, Created)
	if failed != nil {
		next = time.Unix(1, 0)
	}
	u, err := d.users.Update(context.WithoutCancel(ctx), u.ID, func(v *User) error {
		if v.Pending.Equal(began) { // else somebody has taken over
			v.Pending = next
		}
		return nil
	})
	if failed != nil {
		return User{}, false, errors.Join(failed, err)
	}
	if err != nil {
		return User{}, false, fmt.Errorf("admit: %w", err)
	}
	return u, true, nil
}

// welcome takes over what the upstream says of somebody who has an account.
func (d *Directory) welcome(ctx context.Context, u User, id connectors.Identity, a Admission) (User, error) {
	if u.Suspended {
		return u, ErrSuspended
	}
	now := d.cfg.Now()
	probe := u
	if !refresh(&probe, id, now) {
		return u, nil
	}
	switch {
	case !u.has(id.Connector, id.Subject): // the process ended between the two writes of Link
		if err := a.Announce.tell(ctx, probe, Linked); err != nil {
			return User{}, err
		}
	case !probe.Updated.Equal(u.Updated): // more than the time of use
		if err := a.Announce.tell(ctx, probe, Updated); err != nil {
			return User{}, err
		}
	}
	out, err := d.users.Update(ctx, u.ID, func(v *User) error {
		if v.Suspended {
			return ErrSuspended
		}
		if u.has(id.Connector, id.Subject) && !v.has(id.Connector, id.Subject) {
			return ErrNotFound // unlinked meanwhile
		}
		refresh(v, id, now)
		return nil
	})
	if errors.Is(err, ErrSuspended) {
		return u, err
	}
	if err != nil {
		return User{}, fmt.Errorf("admit: %w", err)
	}
	d.forget(u.ID)
	d.tell(ctx, u.ID)
	return out, nil
}

// maySignUp says whether somebody without an account gets one.
func (d *Directory) maySignUp(ctx context.Context, id connectors.Identity, a Admission) error {
	switch a.Signup {
	case "", "open":
		return nil
	case "domains":
		if _, domain, ok := web.ValidEmail(id.Email); ok && id.EmailVerified && slices.Contains(a.Domains, domain) {
			return nil
		}
	}
	if a.Invite == "" {
		return ErrSignupClosed
	}
	return d.redeem(ctx, a.Invite, id)
}

// usedStep is how old the time of last use may be before it is written again.
const usedStep = time.Hour

// refresh brings what the upstream says into the account and reports whether
// that changed anything worth a write. The first identity gives the profile.
func refresh(u *User, id connectors.Identity, now time.Time) (changed bool) {
	at := slices.IndexFunc(u.Identities, func(l Link) bool { return l.Connector == id.Connector && l.Subject == id.Subject })
	fresh := Link{Connector: id.Connector, Subject: id.Subject, Username: id.Username, Email: id.Email, EmailVerified: id.EmailVerified, Linked: now, Used: now}
	if at < 0 {
		u.Identities = append(slices.Clip(u.Identities), fresh)
		at, changed = len(u.Identities)-1, true
	} else {
		old := u.Identities[at]
		fresh.Linked = old.Linked
		if now.Sub(old.Used) < usedStep {
			fresh.Used = old.Used
		}
		if old != fresh {
			ids := slices.Clone(u.Identities) // never into an array that a caller may share
			ids[at] = fresh
			u.Identities, changed = ids, true
		}
	}
	if at == 0 {
		for _, f := range []struct {
			to   *string
			from string
		}{{&u.Email, id.Email}, {&u.Name, id.Name}, {&u.Username, id.Username}, {&u.Picture, id.Picture}, {&u.Locale, id.Locale}} {
			if f.from != "" && *f.to != f.from {
				*f.to, changed = f.from, true
				u.Updated = now
			}
		}
		if u.EmailVerified != (id.EmailVerified && id.Email != "") {
			u.EmailVerified, changed = id.EmailVerified && id.Email != "", true
			u.Updated = now
		}
	}
	if u.Updated.IsZero() {
		u.Updated, changed = now, true
	}
	return changed
}
