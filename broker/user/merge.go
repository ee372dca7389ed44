package user

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	// First nobody acts as the old account any more.
	old, err = d.firm.Update(ctx, from, func(u *User) error {
		if u.Merged != "" && u.Merged != into {
			return ErrMerged
		}
		if u.Merged == "" {
			u.Merged, u.Suspended, u.Updated = into, true, d.cfg.Now()
			u.Epoch++
		}
		return nil
	})
	if err != nil {
		return User{}, found(err)
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
