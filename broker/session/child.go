package session

import (
	"context"
	"fmt"
	"time"
)

// StartChild begins an offline or device session out of a browser session.
func (m *Manager) StartChild(ctx context.Context, parent Session, kind Kind) (Session, error) {
	if kind != Offline && kind != Device {
		return Session{}, fmt.Errorf("start session: a child cannot be of kind %q", kind)
	}
	return m.startChild(ctx, m.child(parent, kind))
}

// DeviceInfo is what is known of a device that gets a session: where it is and
// what it says of itself.
type DeviceInfo struct {
	Name, Agent, IP, Country, Place string
	// Operator lets the session carry its person's roles (docs/security.md DF-3).
	Operator bool
	// Until ends the session before its kind's limits do; zero does not.
	Until time.Time
}

// StartDevice begins the session of a device that the person of a browser
// session let in (RFC 8628).
func (m *Manager) StartDevice(ctx context.Context, parent Session, d DeviceInfo) (Session, error) {
	s := m.child(parent, Device)
	s.Name, s.Agent, s.IP, s.Country, s.Place, s.Operator, s.Expires = d.Name, d.Agent, d.IP, d.Country, d.Place, d.Operator, d.Until
	return m.startChild(ctx, s)
}

// Longest is how long a child of a session may live if it starts now.
func (m *Manager) Longest(parent Session, kind Kind) time.Duration {
	now := m.cfg.Now()
	return m.lifetime(m.child(parent, kind), now).Sub(now)
}

// child is a session like its parent, and of another kind.
func (m *Manager) child(parent Session, kind Kind) Session {
	s := parent
	s.ID, s.Kind, s.Parent, s.Version = newID(), kind, parent.BrowserID(), 1
	s.Expires, s.Uses = time.Time{}, Uses{}
	return s
}

func (m *Manager) startChild(ctx context.Context, s Session) (Session, error) {
	now := m.cfg.Now()
	s.Created, s.Seen = now, now
	s.Expires = m.lifetime(s, now)
	if err := m.sessions.Create(ctx, s.ID, s); err != nil {
		return Session{}, fmt.Errorf("start %s session: %w", s.Kind, err)
	}
	return s, nil
}
