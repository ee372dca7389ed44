package oidc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/remotegpu/gatehouse/connectors"
)

// renewal is what is kept to vouch again. Without a refresh token there is none.
type renewal struct {
	Refresh string `json:"r"`
	Nonce   string `json:"n"`
	// IDToken is the last one: what it said, where a renewal brings none, and
	// the hint of a sign-out.
	IDToken string `json:"i"`
}

// renewal returns what to keep after a sign-in or renewal. A provider that
// rotates has ended the old refresh token; one that does not sends none.
func (c *Connector) renewal(_ *provider, t tokens, it idToken, old *renewal, nonce string) ([]byte, error) {
	keep := renewal{Refresh: t.refresh, Nonce: nonce, IDToken: it.raw}
	if keep.Refresh == "" && old != nil {
		keep.Refresh = old.Refresh
	}
	if keep.Refresh == "" {
		return nil, nil
	}
	js, err := json.Marshal(keep)
	if err != nil {
		return nil, fmt.Errorf("oidc: renewal: %w", err)
	}
	return js, nil
}

// Renew redeems the refresh token, which a provider refuses for who is gone or
// was locked out, and reads groups and address again. The new refresh token
// comes back with an error too: a provider that rotates ends everything when it
// sees the old one a second time (docs/security.md UP-9).
func (c *Connector) Renew(ctx context.Context, id connectors.Identity) (connectors.Identity, error) {
	var old renewal
	if json.Unmarshal(id.Renewal, &old) != nil || !opaque(old.Refresh) {
		return connectors.Identity{}, fmt.Errorf("oidc: there is no refresh token to renew %s with: %w", id.Subject, connectors.ErrNotAllowed)
	}
	last, err := unverified(old.IDToken)
	if err != nil || last.subject != id.Subject {
		return connectors.Identity{}, fmt.Errorf("oidc: the renewal is not that of %s: %w", id.Subject, connectors.ErrNotAllowed)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p, err := c.lazy.get(ctx, c)
	if err != nil {
		return connectors.Identity{}, unsure(err)
	}
	t, err := c.refresh(ctx, p, old.Refresh)
	if errors.Is(err, errInvalidGrant) {
		return connectors.Identity{}, fmt.Errorf("%w: %w", err, connectors.ErrNotAllowed)
	}
	if err != nil {
		return connectors.Identity{}, unsure(err)
	}
	keep, err := c.renewal(p, t, last, &old, old.Nonce)
	if err != nil {
		return connectors.Identity{}, err
	}
	fresh, err := c.renewed(ctx, p, t, last, &old, id.Subject)
	if err != nil {
		return connectors.Identity{Renewal: keep}, unsure(err)
	}
	fresh.AuthTime, fresh.ACR, fresh.AMR = id.AuthTime, id.ACR, id.AMR
	fresh.Session, fresh.SessionEnds = id.Session, id.SessionEnds
	return fresh, nil
}

func (c *Connector) renewed(ctx context.Context, p *provider, t tokens, last idToken, old *renewal, subject string) (connectors.Identity, error) {
	it := last
	if t.idToken != "" {
		var err error
		if it, err = c.verify(ctx, p, t.idToken, expect{nonce: old.Nonce, access: t.access, subject: subject}); err != nil {
			return connectors.Identity{}, err
		}
	}
	fresh, err := c.identify(ctx, p, t, it, old, old.Nonce)
	if err != nil && Refused(err) {
		// The token is a minute old at most: it is the person who is refused.
		return connectors.Identity{}, fmt.Errorf("%w: %w", err, connectors.ErrNotAllowed)
	}
	return fresh, err
}

// unsure makes ErrUnavailable of what is neither a yes nor a no: a renewal that
// fails by a fault keeps the sessions for a while (docs/security.md SE-11).
func unsure(err error) error {
	if errors.Is(err, connectors.ErrNotAllowed) || errors.Is(err, connectors.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", err, connectors.ErrUnavailable)
}

// unverified reads an ID token that was verified when it came and has been kept
// sealed since.
func unverified(raw string) (idToken, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return idToken{}, errors.New("oidc: the kept ID token cannot be read")
	}
	js, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return idToken{}, errors.New("oidc: the kept ID token cannot be read")
	}
	claims := map[string]any{}
	if json.Unmarshal(js, &claims) != nil {
		return idToken{}, errors.New("oidc: the kept ID token cannot be read")
	}
	it := idToken{raw: raw, claims: claims}
	it.subject, _ = claims["sub"].(string)
	it.session, _ = claims["sid"].(string)
	return it, nil
}
