package session

import (
	"context"
	"fmt"

	"github.com/remotegpu/gatehouse/broker/store"
)

// upstreamIndex is where sessions are found by the upstream's own name for them.
func upstreamIndex(connector, key string) string { return store.HashID(connector + "\x00" + key) }

// maxUpstream bounds the sessions that one message of an upstream ends.
const maxUpstream = 1000

// ByUpstream returns the live browser sessions that an upstream knows under one
// name: its UpstreamKey, or Upstream where there is none.
func (m *Manager) ByUpstream(ctx context.Context, connector, key string) ([]Session, error) {
	if key == "" {
		return nil, nil
	}
	var out []Session
	after := ""
	for len(out) < maxUpstream {
		page, next, err := m.sessions.List(ctx, "upstream", upstreamIndex(connector, key), after, 100)
		if err != nil {
			return nil, fmt.Errorf("sessions of an upstream: %w", err)
		}
		for _, s := range page {
			if s.Connector == connector && m.alive(s) == nil {
				out = append(out, s)
			}
		}
		if next == "" {
			break
		}
		after = next
	}
	return out, nil
}
