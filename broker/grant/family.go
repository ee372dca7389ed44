package grant

import (
	"context"
	"crypto/hmac"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// Grant says that a client may act for a session in some scopes. With Refresh
// it is also a family of refresh tokens, one generation after the other.
type Grant struct {
	ID         string    `json:"id"`
	UserID     string    `json:"user"`
	UserEpoch  uint64    `json:"epoch"`
	SessionID  string    `json:"session"`
	SID        string    `json:"sid"`
	ClientID   string    `json:"client"`
	Connector  string    `json:"connector"`
	Key        string    `json:"key,omitempty"` // the HMAC key of its refresh tokens
	Scopes     []string  `json:"scopes"`
	Audience   string    `json:"aud"`
	AuthTime   time.Time `json:"auth_time"`
	ACR        string    `json:"acr,omitempty"`
	AMR        []string  `json:"amr,omitempty"`
	Refresh    bool      `json:"refresh,omitempty"`
	Generation uint32    `json:"generation,omitempty"`
	Created    time.Time `json:"created"`
	Rotated    time.Time `json:"rotated,omitzero"`
	Expires    time.Time `json:"expires"`
	Revoked    time.Time `json:"revoked,omitzero"`
	Reason     string    `json:"reason,omitempty"`
}

// ErrRefreshReused means that a refresh token was presented after its successor
// had been: the family has ended (RFC 9700 section 4.14).
var ErrRefreshReused = fmt.Errorf("the refresh token was used before: %w", ErrInvalidGrant)

// RefreshPrefix begins every refresh token, so that leaks can be searched for.
const RefreshPrefix = "ghr_"

const (
	keyIDLen   = 9
	macLen     = 32
	refreshLen = keyIDLen + grantIDLen + 4 + macLen
)

// refresh is a refresh token taken apart.
type refresh struct {
	key, grant string
	generation uint32
	mac        []byte
	signed     []byte
}

// parseRefresh reads a token's text without believing any of it.
func parseRefresh(s string) (refresh, bool) {
	text, ok := strings.CutPrefix(s, RefreshPrefix)
	if !ok || len(text) != base64.RawURLEncoding.EncodedLen(refreshLen) {
		return refresh{}, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != refreshLen {
		return refresh{}, false
	}
	r := refresh{
		key: base64.RawURLEncoding.EncodeToString(b[:keyIDLen]), grant: base64.RawURLEncoding.EncodeToString(b[keyIDLen : keyIDLen+grantIDLen]),
		generation: binary.BigEndian.Uint32(b[keyIDLen+grantIDLen:]), mac: b[refreshLen-macLen:], signed: b[:refreshLen-macLen],
	}
	return r, r.generation > 0
}

// derive makes the text of a generation: the same bytes each time.
func (l *Ledger) derive(g Grant, generation uint32) (string, error) {
	b := make([]byte, 0, refreshLen)
	for _, part := range []string{g.Key, g.ID} {
		raw, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			return "", fmt.Errorf("derive refresh token: %w", err)
		}
		b = append(b, raw...)
	}
	b = binary.BigEndian.AppendUint32(b, generation)
	mac, err := l.cfg.MAC.MAC(g.Key, b)
	if err != nil {
		return "", fmt.Errorf("derive refresh token: %w", err)
	}
	return RefreshPrefix + base64.RawURLEncoding.EncodeToString(append(b, mac...)), nil
}

// verify takes a token apart and checks its HMAC; the store is not asked.
func (l *Ledger) verify(s string) (refresh, error) {
	r, ok := parseRefresh(s)
	if !ok {
		return r, fmt.Errorf("not a refresh token: %w", ErrInvalidGrant)
	}
	mac, err := l.cfg.MAC.MAC(r.key, r.signed)
	if err != nil || !hmac.Equal(mac, r.mac) {
		return r, fmt.Errorf("not a refresh token of ours: %w", ErrInvalidGrant)
	}
	return r, nil
}

// CreateGrant stores a grant and, where g.Refresh is set, returns its first
// refresh token. It fails if the grant was revoked before it was made (a code
// that was seen twice at once).
func (l *Ledger) CreateGrant(ctx context.Context, g Grant) (string, error) {
	now := l.cfg.Now()
	g.Created = now
	if g.Refresh {
		g.Generation, g.Key, g.Rotated = 1, l.cfg.MAC.CurrentMACKey(), now
		g.Expires = l.expires(g, now)
	} else {
		g.Expires = now.Add(l.tokens.Load().AccessTTL + time.Minute)
	}
	if err := l.grants.Create(ctx, g.ID, g); err != nil {
		if errors.Is(err, store.ErrConflict) {
			return "", ErrCodeReused
		}
		return "", fmt.Errorf("create grant: %w", err)
	}
	if !g.Refresh {
		return "", nil
	}
	return l.derive(g, 1)
}

func (l *Ledger) expires(g Grant, now time.Time) time.Time {
	idle, most := now.Add(l.tokens.Load().RefreshIdleTTL), g.Created.Add(l.tokens.Load().RefreshMaxTTL)
	if idle.Before(most) {
		return idle
	}
	return most
}

// errSame leaves the record as it is.
var errSame = errors.New("nothing to write")

// Rotate uses a refresh token and returns the grant and the successor
// (docs/security.md ISS-5). Of any number at once one makes the new generation;
// the others, within the grace, get that same one. Later, or with an older one,
// the family ends: ErrRefreshReused. Another client's try changes nothing.
//
// check decides before the generation moves whether the grant may be used at
// all: what it refuses has used nothing up, and the client may ask better with
// the same token. It may be called more than once.
func (l *Ledger) Rotate(ctx context.Context, clientID, token string, check func(Grant) error) (Grant, string, error) {
	r, err := l.verify(token)
	if err != nil {
		return Grant{}, "", err
	}
	var seen Grant
	g, err := l.grants.Update(ctx, r.grant, func(g *Grant) error {
		now := l.cfg.Now()
		seen = *g
		switch {
		case g.ClientID != clientID || !g.Refresh || g.Key != r.key:
			return fmt.Errorf("the refresh token is another client's: %w", ErrInvalidGrant)
		case !g.Revoked.IsZero():
			return fmt.Errorf("the grant has ended (%s): %w", g.Reason, ErrInvalidGrant)
		case r.generation == g.Generation:
		case r.generation > g.Generation: // the store lost a write: ours was right
		case r.generation == g.Generation-1 && now.Sub(g.Rotated) < *l.tokens.Load().RefreshGrace:
			if err := check(*g); err != nil {
				return err
			}
			return errSame
		default:
			return ErrRefreshReused
		}
		if err := check(*g); err != nil {
			return err
		}
		g.Generation, g.Rotated = r.generation+1, now
		g.Expires = l.expires(*g, now)
		return nil
	})
	switch {
	case errors.Is(err, errSame):
		g = seen
	case errors.Is(err, ErrRefreshReused):
		if _, err := l.Revoke(ctx, r.grant, "refresh token used twice"); err != nil {
			return Grant{}, "", err
		}
		return seen, "", ErrRefreshReused
	case errors.Is(err, store.ErrNotFound):
		return Grant{}, "", fmt.Errorf("no such grant: %w", ErrInvalidGrant)
	case err != nil:
		return Grant{}, "", err
	}
	next, err := l.derive(g, g.Generation)
	return g, next, err
}

// Usable returns the grant of a refresh token that would be taken now, and
// ErrInvalidGrant for any other. Nothing moves.
func (l *Ledger) Usable(ctx context.Context, token string) (Grant, error) {
	r, err := l.verify(token)
	if err != nil {
		return Grant{}, err
	}
	g, err := l.Grant(ctx, r.grant)
	if err != nil {
		return Grant{}, err
	}
	late := r.generation == g.Generation-1 && l.cfg.Now().Sub(g.Rotated) < *l.tokens.Load().RefreshGrace
	if !g.Refresh || g.Key != r.key || r.generation < g.Generation && !late {
		return Grant{}, fmt.Errorf("the refresh token has a successor: %w", ErrInvalidGrant)
	}
	return g, nil
}

// Grant returns a grant that has not ended, or ErrInvalidGrant.
func (l *Ledger) Grant(ctx context.Context, id string) (Grant, error) {
	g, err := l.grants.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return Grant{}, fmt.Errorf("no such grant: %w", ErrInvalidGrant)
	}
	if err != nil {
		return Grant{}, err
	}
	if !g.Revoked.IsZero() {
		return Grant{}, fmt.Errorf("the grant has ended (%s): %w", g.Reason, ErrInvalidGrant)
	}
	return g, nil
}

// aliveFor is how long the store's word about a grant is believed: a revocation
// holds everywhere within a second.
const (
	aliveFor = 800 * time.Millisecond
	aliveMax = 20_000
)

// Alive is Grant for hot paths: nil while the grant has not ended. What was so
// goes on for the outage grace if the store is out of reach (docs/security.md
// SE-3).
func (l *Ledger) Alive(ctx context.Context, id string) error {
	now := l.cfg.Now()
	l.mu.Lock()
	at, ok := l.alive[id]
	l.mu.Unlock()
	if ok && now.Sub(at) < aliveFor {
		return nil
	}
	if _, err := l.Grant(ctx, id); err != nil {
		if ok && errors.Is(err, store.ErrUnavailable) && now.Sub(at) < l.cfg.OutageGrace {
			return nil
		}
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.alive) >= aliveMax {
		clear(l.alive)
	}
	l.alive[id] = now
	return nil
}

// revokedKept is how long the tombstone of a grant that was never made is kept.
const revokedKept = 24 * time.Hour

// Revoke ends a grant and returns it; when there is no error the end is durable.
// One that has ended is no error; one that is not there yet can no longer be made.
func (l *Ledger) Revoke(ctx context.Context, id, reason string) (Grant, error) {
	if id == "" {
		return Grant{}, nil
	}
	now := l.cfg.Now()
	var seen Grant
	end := func(g *Grant) error {
		seen = *g
		if !g.Revoked.IsZero() {
			return errSame
		}
		g.Revoked, g.Reason = now, reason
		return nil
	}
	_, err := l.firm.Update(ctx, id, end)
	if errors.Is(err, store.ErrNotFound) {
		err = l.firm.Create(ctx, id, Grant{ID: id, Created: now, Revoked: now, Reason: reason, Expires: now.Add(revokedKept)})
		if errors.Is(err, store.ErrConflict) {
			_, err = l.firm.Update(ctx, id, end)
		}
	}
	l.mu.Lock()
	delete(l.alive, id)
	l.mu.Unlock()
	if err != nil && !errors.Is(err, errSame) {
		return Grant{}, fmt.Errorf("revoke grant: %w", err)
	}
	return seen, nil
}

// OwnSession is the session that the grant alone lives by (offline_access, a
// device): it ends with the grant. "" for one of the browser.
func (g Grant) OwnSession() string {
	if g.SessionID == g.SID {
		return ""
	}
	return g.SessionID
}

// Family returns the grant id inside a refresh token of ours, whatever became
// of it.
func (l *Ledger) Family(token string) (grantID string, ok bool) {
	r, err := l.verify(token)
	return r.grant, err == nil
}

// ByUser returns the grants of a user that have not ended.
func (l *Ledger) ByUser(ctx context.Context, userID string) ([]Grant, error) {
	return l.by(ctx, "user", userID)
}

// BySession returns the grants of a session that have not ended.
func (l *Ledger) BySession(ctx context.Context, sessionID string) ([]Grant, error) {
	return l.by(ctx, "session", sessionID)
}

func (l *Ledger) by(ctx context.Context, index, value string) ([]Grant, error) {
	var out []Grant
	after := ""
	for {
		page, next, err := l.grants.List(ctx, index, value, after, 100)
		if err != nil {
			return nil, err
		}
		for _, g := range page {
			if g.Revoked.IsZero() {
				out = append(out, g)
			}
		}
		if next == "" {
			return out, nil
		}
		after = next
	}
}
