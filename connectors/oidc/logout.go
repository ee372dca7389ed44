package oidc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
)

// logoutAge bounds the age of a logout token (docs/security.md NO-6).
const logoutAge = 5 * time.Minute

// BeginLogout sends the browser to the provider's own sign-out (OpenID Connect
// RP-Initiated Logout 1.0). Where a refresh token is kept, so is the ID token,
// and the provider need not ask which session is meant.
func (c *Connector) BeginLogout(ctx context.Context, id connectors.Identity, callbackURL string) (connectors.Departure, error) {
	p, err := c.lazy.get(ctx, c)
	if err != nil {
		return connectors.Departure{}, err
	}
	if p.EndSession == "" {
		return connectors.Departure{}, nil
	}
	u, err := url.Parse(p.EndSession)
	if err != nil {
		return connectors.Departure{}, fmt.Errorf("oidc: end_session_endpoint: %w", err)
	}
	q := u.Query()
	q.Set("client_id", c.cfg.ClientID)
	if callbackURL != "" {
		q.Set("post_logout_redirect_uri", callbackURL)
	}
	var kept renewal
	if json.Unmarshal(id.Renewal, &kept) == nil && kept.IDToken != "" {
		// A token in an address is cut by servers that take only short ones.
		if len(kept.IDToken) <= 4096 {
			q.Set("id_token_hint", kept.IDToken)
		}
	}
	u.RawQuery = q.Encode()
	return connectors.Departure{URL: u.String()}, nil
}

// FinishLogout takes what came back: the provider's answer proves nothing, and
// our session had ended before.
func (c *Connector) FinishLogout(context.Context, connectors.Return) (connectors.Logout, error) {
	return connectors.Logout{}, nil
}

// VerifyLogout checks a logout token (OpenID Connect Back-Channel Logout 1.0
// section 2.6). That it comes once is for the caller to see to.
func (c *Connector) VerifyLogout(ctx context.Context, raw string) (connectors.LogoutNotice, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if !jwtShape(raw) {
		return connectors.LogoutNotice{}, errors.New("oidc: logout token: a strange shape")
	}
	// Its typ, where it has one: another kind of JWT of the provider's may have
	// the same claims (RFC 8725 section 3.11).
	if typ := headerType(raw); typ != "" && !strings.EqualFold(strings.TrimPrefix(strings.ToLower(typ), "application/"), "logout+jwt") && !strings.EqualFold(typ, "JWT") {
		return connectors.LogoutNotice{}, errors.New("oidc: logout token: the typ is another one's")
	}
	p, err := c.lazy.get(ctx, c)
	if err != nil {
		return connectors.LogoutNotice{}, err
	}
	lib, keys := c.library(p)
	t, err := lib.VerifyLogout(ctx, raw)
	if err != nil {
		if keys.Asked != nil {
			return connectors.LogoutNotice{}, keys.Asked
		}
		return connectors.LogoutNotice{}, fmt.Errorf("oidc: logout token: %w", err)
	}
	now := c.now()
	switch {
	case t.IssuedAt.IsZero() || t.IssuedAt.After(now.Add(skew)) || t.IssuedAt.Before(now.Add(-logoutAge)):
		return connectors.LogoutNotice{}, errors.New("oidc: logout token: iat is missing, in the future or too old")
	case t.Expiry.After(now.Add(24 * time.Hour)):
		return connectors.LogoutNotice{}, errors.New("oidc: logout token: it is good for longer than a day")
	case len(t.TokenID) > maxText || len(t.SessionID) > 1024 || t.Subject != "" && !goodSubject(t.Subject):
		return connectors.LogoutNotice{}, errors.New("oidc: logout token: a claim that is too long")
	}
	return connectors.LogoutNotice{ID: t.TokenID, Subject: t.Subject, Session: t.SessionID, Expires: t.Expiry.Add(skew)}, nil
}

// headerType returns the typ of a JWT's header, which nothing vouches for yet.
func headerType(raw string) string {
	head, _, _ := strings.Cut(raw, ".")
	js, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return ""
	}
	var h struct {
		Typ string `json:"typ"`
	}
	if json.Unmarshal(js, &h) != nil {
		return ""
	}
	return h.Typ
}
