package session

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// ticketTTL is how long a hand-off to a gateway host may take.
const ticketTTL = time.Minute

// ticket hands a session to a gateway host, once.
type ticket struct {
	Session string    `json:"session"`
	Host    string    `json:"host"`
	Nonce   string    `json:"nonce"` // hash of what the browser that asked holds
	Used    bool      `json:"used,omitempty"`
	Expires time.Time `json:"expires"`
}

// NewTicket makes a one-time ticket with which the browser that holds nonce may
// take the session to host.
func (m *Manager) NewTicket(ctx context.Context, sessionID, host, nonce string) (string, error) {
	if host == "" || nonce == "" {
		return "", errors.New("new ticket: host and nonce are needed")
	}
	t := string(newHandle())
	err := m.tickets.Create(ctx, store.HashID(t), ticket{Session: sessionID, Host: host, Nonce: store.HashID(nonce), Expires: m.cfg.Now().Add(ticketTTL)})
	if err != nil {
		return "", fmt.Errorf("new ticket: %w", err)
	}
	return t, nil
}

// RedeemTicket takes a ticket on the host that it is for, in the browser that
// asked for it, once, and gives that host a handle of its own. A wrong host or
// browser does not use it up.
func (m *Manager) RedeemTicket(ctx context.Context, t, host, nonce string) (Session, Handle, error) {
	rec, err := m.tickets.Update(ctx, store.HashID(t), func(v *ticket) error {
		if v.Used || v.Host != host || subtle.ConstantTimeCompare([]byte(v.Nonce), []byte(store.HashID(nonce))) != 1 {
			return ErrTicket
		}
		v.Used = true
		return nil
	})
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, ErrTicket) {
		return Session{}, "", ErrTicket
	}
	if err != nil {
		return Session{}, "", fmt.Errorf("redeem ticket: %w", err)
	}
	s, err := m.Get(ctx, rec.Session)
	if err != nil {
		return Session{}, "", err
	}
	h, err := m.giveHandle(ctx, s, host)
	return s, h, err
}
