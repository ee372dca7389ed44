package issuer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/session"
)

// redeemCode is the authorization_code grant (RFC 6749 section 4.1.3).
func (is *Issuer) redeemCode(t tokenRequest) (tokenResponse, error) {
	ctx := t.r.Context()
	code, uri := t.form.Get("code"), t.form.Get("redirect_uri")
	if code == "" || uri == "" {
		return tokenResponse{}, oauth(errInvalidRequest, "code or redirect_uri is missing.", nil)
	}
	rr := grant.RedeemRequest{ClientID: t.client.ClientID, Code: code, RedirectURI: uri, Verifier: t.form.Get("code_verifier"), GrantID: grant.NewGrantID()}
	if asked := t.form["resource"]; len(asked) > 0 { // may only name the same one (RFC 8707 section 2.2)
		aud, err := is.cfg.Clients.Audience(t.client, asked)
		if err != nil {
			return tokenResponse{}, err
		}
		rr.Audience = aud
	}
	cr, gave, err := is.cfg.Ledger.Redeem(ctx, rr)
	if errors.Is(err, grant.ErrCodeReused) {
		is.cfg.Log.WarnContext(ctx, "an authorization code was used twice; its grant is revoked", "client", t.client.ClientID)
		if e := is.endOwn(t.r, gave, "code_reused"); e != nil {
			return tokenResponse{}, e
		}
	}
	if err != nil {
		return tokenResponse{}, err
	}
	s, err := is.cfg.Sessions.Get(ctx, cr.SessionID)
	if err != nil {
		return tokenResponse{}, err
	}
	if s.UserID != cr.UserID || s.UserEpoch != cr.UserEpoch {
		return tokenResponse{}, session.ErrEnded
	}
	if err := is.agreed(ctx, t.client, cr.UserID, cr.Scopes); err != nil {
		return tokenResponse{}, err
	}
	g := grant.Grant{
		ID: rr.GrantID, UserID: cr.UserID, UserEpoch: cr.UserEpoch, SessionID: s.ID, SID: cr.SID, ClientID: t.client.ClientID, Connector: cr.Connector,
		Scopes: cr.Scopes, Audience: cr.Audience, AuthTime: cr.AuthTime, ACR: cr.ACR, AMR: cr.AMR, Refresh: t.client.HasGrant(grant.RefreshToken),
	}
	if hasOwn(t.client, cr.Scopes) {
		if s, err = is.cfg.Sessions.StartChild(ctx, s, session.Offline); err != nil {
			return tokenResponse{}, err
		}
		g.SessionID = s.ID
	}
	refresh, err := is.cfg.Ledger.CreateGrant(ctx, g)
	if err != nil { // a second sight of the code came in between
		return tokenResponse{}, errors.Join(err, is.endOwn(t.r, g, "code_reused"))
	}
	return is.issue(ctx, issuance{client: t.client, grant: g, session: s, scopes: cr.Scopes, refresh: refresh, nonce: cr.Nonce, idToken: slices.Contains(cr.Scopes, "openid")})
}

// hasOwn reports whether the grant has a session of its own, which lives on when
// the browser signs out: with offline_access, and always for our own command line
// (docs/security.md SE-10). The kind device is the device flow's, whose tokens
// carry no role: operators sign in this way.
func hasOwn(c *grant.Client, scopes []string) bool {
	return c.ClientID == grant.CLI || slices.Contains(scopes, "offline_access")
}

// agreed checks that a third-party client's consent still covers the scopes: it
// may have been taken back since (docs/security.md ISS-5).
func (is *Issuer) agreed(ctx context.Context, c *grant.Client, userID string, scopes []string) error {
	if c.Trusted {
		return nil
	}
	given, ok, err := is.cfg.Ledger.Consent(ctx, userID, c.ClientID)
	if err != nil {
		return err
	}
	if !ok || !subset(scopes, given.Scopes) {
		return fmt.Errorf("the consent does not cover it any more: %w", grant.ErrInvalidGrant)
	}
	return nil
}

func subset(some, of []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(of, s) })
}
