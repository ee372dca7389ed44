package broker

import (
	"context"
	"errors"

	"github.com/remotegpu/gatehouse/broker/apikey"
	"github.com/remotegpu/gatehouse/broker/user"
)

// keysOfAccounts are API keys with the groups of service accounts.
type keysOfAccounts struct {
	*apikey.Registry
	accounts *user.ServiceAccounts
}

// Groups are those that the operator gave a service account.
func (k keysOfAccounts) Groups(ctx context.Context, account string) ([]string, error) {
	a, err := k.accounts.Get(ctx, account)
	return a.Groups, err
}

// ownerAlive says whether the owner of an API key may use the platform.
func (b *Broker) ownerAlive(ctx context.Context, owner string, service bool) error {
	if service {
		_, err := b.accounts.Get(ctx, owner)
		if errors.Is(err, user.ErrNotFound) {
			return apikey.ErrOwner
		}
		return err
	}
	u, err := b.users.Profile(ctx, owner)
	if errors.Is(err, user.ErrNotFound) || err == nil && (u.Suspended || u.Merged != "") {
		return apikey.ErrOwner
	}
	return err
}
