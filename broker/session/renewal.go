package session

import (
	"context"
	"errors"
	"fmt"

	"github.com/remotegpu/gatehouse/broker/store"
)

// RenewalOf returns how a session's connector vouches again; without one it is
// the zero value.
func (m *Manager) RenewalOf(ctx context.Context, s Session) (Renewal, error) {
	if s.Renewal == "" {
		return Renewal{}, nil
	}
	r, err := m.renewals.Get(ctx, s.Renewal)
	if errors.Is(err, store.ErrNotFound) {
		return Renewal{}, nil
	}
	if err != nil {
		return Renewal{}, fmt.Errorf("renewal of a session: %w", err)
	}
	return r, nil
}
