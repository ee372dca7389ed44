package grant

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// Consent is what a person allowed a client.
type Consent struct {
	UserID   string    `json:"user"`
	ClientID string    `json:"client"`
	Scopes   []string  `json:"scopes"`
	Given    time.Time `json:"given"`
}

func consentID(userID, clientID string) string { return store.HashID(userID + "\x00" + clientID) }

// Consent returns what a person allowed a client; false when nothing.
func (l *Ledger) Consent(ctx context.Context, userID, clientID string) (Consent, bool, error) {
	c, err := l.consents.Get(ctx, consentID(userID, clientID))
	if errors.Is(err, store.ErrNotFound) {
		return Consent{}, false, nil
	}
	if err != nil {
		return Consent{}, false, err
	}
	return c, c.UserID == userID && c.ClientID == clientID, nil
}

// GiveConsent adds scopes to what a person allows a client.
func (l *Ledger) GiveConsent(ctx context.Context, userID, clientID string, scopes []string) error {
	old, _, err := l.Consent(ctx, userID, clientID)
	if err != nil {
		return err
	}
	all := slices.Clone(old.Scopes)
	for _, s := range scopes {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return l.consents.Put(ctx, consentID(userID, clientID), Consent{UserID: userID, ClientID: clientID, Scopes: all, Given: l.cfg.Now()})
}

// RevokeConsent takes a consent back, ends the grants that it allowed and
// returns them, so that the sessions that some have of their own can end too.
func (l *Ledger) RevokeConsent(ctx context.Context, userID, clientID string) ([]Grant, error) {
	if err := l.consents.Delete(ctx, consentID(userID, clientID)); err != nil {
		return nil, err
	}
	gs, err := l.ByUser(ctx, userID)
	if err != nil {
		return nil, err
	}
	var ended []Grant
	for _, g := range gs {
		if g.ClientID != clientID {
			continue
		}
		if g, err = l.Revoke(ctx, g.ID, "consent taken back"); err != nil {
			return ended, err
		}
		ended = append(ended, g)
	}
	return ended, nil
}

// Consents returns what a person allowed whom.
func (l *Ledger) Consents(ctx context.Context, userID string) ([]Consent, error) {
	cs, _, err := l.consents.List(ctx, "user", userID, "", 200)
	return cs, err
}

// MoveConsents gives what one user allowed to another, whose own stay: for two
// accounts that are made one. Grants do not move, they end with the old account.
func (l *Ledger) MoveConsents(ctx context.Context, from, to string) error {
	for {
		cs, err := l.Consents(ctx, from)
		if err != nil || len(cs) == 0 {
			return err
		}
		for _, c := range cs {
			if err := l.GiveConsent(ctx, to, c.ClientID, c.Scopes); err != nil {
				return err
			}
			if err := l.consents.Delete(ctx, consentID(from, c.ClientID)); err != nil {
				return err
			}
		}
	}
}

// Pending is an authorization request that waits for a person's consent.
type Pending struct {
	UserID    string    `json:"user"`
	SessionID string    `json:"session"`
	ClientID  string    `json:"client"`
	Query     string    `json:"query"` // of the authorization request, as it goes on
	Scopes    []string  `json:"scopes"`
	Audience  string    `json:"aud"`
	State     string    `json:"state"`    // "", "allowed" or "denied": moved once
	Consumed  bool      `json:"consumed"` // the allowed one let the request through
	Created   time.Time `json:"created"`
	// Began is when the request first came: a sign-in since then is fresh
	// enough for it (prompt=login, max_age), however long the page is read.
	Began time.Time `json:"began"`
}

const pendingTTL = 10 * time.Minute

// ErrNoPending means that a pending request is unknown, too old, answered, or
// another person's.
var ErrNoPending = errors.New("no such pending request")

// NewPending stores a request and returns its id.
func (l *Ledger) NewPending(ctx context.Context, p Pending) (string, error) {
	id := rand.Text()
	p.Created = l.cfg.Now()
	if err := l.pending.Create(ctx, store.HashID(id), p); err != nil {
		return "", fmt.Errorf("new pending request: %w", err)
	}
	return id, nil
}

// GetPending returns a request that waits for this session's person.
func (l *Ledger) GetPending(ctx context.Context, id, userID, sessionID string) (Pending, error) {
	p, err := l.pending.Get(ctx, store.HashID(id))
	if errors.Is(err, store.ErrNotFound) || err == nil && (p.UserID != userID || p.SessionID != sessionID) {
		return Pending{}, ErrNoPending
	}
	return p, err
}

// Answer moves a pending request to allowed or denied, once.
func (l *Ledger) Answer(ctx context.Context, id, userID, sessionID, state string) (Pending, error) {
	p, err := l.pending.Update(ctx, store.HashID(id), func(p *Pending) error {
		if p.UserID != userID || p.SessionID != sessionID || p.State != "" {
			return ErrNoPending
		}
		p.State = state
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return Pending{}, ErrNoPending
	}
	return p, err
}

// Approved takes an allowed request, once: the authorization request that it
// let through has the same client, person and scopes.
func (l *Ledger) Approved(ctx context.Context, id, userID, sessionID, clientID string) (Pending, error) {
	p, err := l.pending.Update(ctx, store.HashID(id), func(p *Pending) error {
		if p.UserID != userID || p.SessionID != sessionID || p.ClientID != clientID || p.State != "allowed" || p.Consumed {
			return ErrNoPending
		}
		p.Consumed = true
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return Pending{}, ErrNoPending
	}
	return p, err
}
