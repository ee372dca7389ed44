package user

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// Merge moves the identities of one account to another and shuts the first for
// good: its sessions and grants are void at once, its id is never used again.
// Asked for again after a failure, it goes on where it stopped. Neither may be
// suspended: a merge is no way around that.
func (d *Directory) Merge(ctx context.Context, into, from string, announce func(ctx context.Context, into, from User) error) (User, error) {
	if into == from {
		return User{}, ErrMerged
	}
	to, err := d.Get(ctx, into)
	if err != nil {
		return User{}, err
	}
	old, err := d.Get(ctx, from)
	if err != nil {
		return User{}, err
	}
	switch {
	case to.Merged != "" || old.Merged != "" && old.Merged != into:
		return User{}, ErrMerged
	case to.Suspended || old.Suspended && old.Merged == "":
		return User{}, ErrSuspended
	}
	if err := announce(ctx, to, old); err != nil {
		return User{}, err
	}
	// Of two merges that meet, the other way round for example, none may shut what
	// the other goes into.
	if err := d.take(ctx, into, from); err != nil {
		return User{}, err
	}
	// Then nobody acts as the old account any more.
	old, err = d.firm.Update(ctx, from, func(u *User) error {
		if u.Merged != "" && u.Merged != into || u.Merged == "" && d.takes(u) {
			return ErrMerged
		}
		if u.Merged == "" {
			u.Merged, u.Suspended, u.Updated = into, true, d.cfg.Now()
			u.Epoch++
		}
		return nil
	})
	if err != nil {
		return User{}, errors.Join(found(err), d.let(ctx, into, from))
	}
	d.changed(from)
	for _, l := range old.Identities {
		if _, err := d.identities.Update(ctx, l.ID(), func(v *identity) error {
			if v.User == from {
				v.User, v.Leaving = into, false
			}
			return nil
		}); err != nil && !errors.Is(err, store.ErrNotFound) {
			return User{}, fmt.Errorf("merge: %w", err)
		}
	}
	to, err = d.firm.Update(ctx, into, func(u *User) error {
		if u.Merged != "" {
			return ErrMerged
		}
		ids := slices.Clone(u.Identities)
		for _, l := range old.Identities {
			if !u.has(l.Connector, l.Subject) {
				ids = append(ids, l)
			}
		}
		u.Taking = Taking{}
		u.Identities, u.Updated, u.Staff = ids, d.cfg.Now(), u.Staff || old.Staff
		return nil
	})
	if err != nil {
		return User{}, found(err)
	}
	d.changed(into)
	if _, err = d.firm.Update(ctx, from, func(u *User) error { u.Identities = nil; return nil }); err != nil {
		return User{}, found(err)
	}
	return to, nil
}

// takeFor is how long a merge that stopped half-way keeps others from its target.
const takeFor = time.Minute

// takes reports whether another account is being merged into this one.
func (d *Directory) takes(u *User) bool {
	return u.Taking.From != "" && d.cfg.Now().Sub(u.Taking.At) < takeFor
}

// take marks the target of a merge.
func (d *Directory) take(ctx context.Context, into, from string) error {
	_, err := d.firm.Update(ctx, into, func(u *User) error {
		if u.Merged != "" || d.takes(u) && u.Taking.From != from {
			return ErrMerged
		}
		u.Taking = Taking{From: from, At: d.cfg.Now()}
		return nil
	})
	return found(err)
}

// let takes the mark away again.
func (d *Directory) let(ctx context.Context, into, from string) error {
	_, err := d.firm.Update(ctx, into, func(u *User) error {
		if u.Taking.From == from {
			u.Taking = Taking{}
		}
		return nil
	})
	return found(err)
}
