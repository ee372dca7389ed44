package issuer

import (
	"errors"
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
	id := grant.NewGrantID()
	cr, err := is.cfg.Ledger.Redeem(ctx, grant.RedeemRequest{ClientID: t.client.ClientID, Code: code, RedirectURI: uri, Verifier: t.form.Get("code_verifier"), GrantID: id})
	if err != nil {
		if errors.Is(err, grant.ErrCodeReused) {
			is.cfg.Log.Warn("an authorization code was used twice; its grant is revoked", "client", t.client.ClientID)
		}
		return tokenResponse{}, err
	}
	if asked := t.form["resource"]; len(asked) > 0 { // may only name the same one (RFC 8707 section 2.2)
		if aud, err := is.cfg.Clients.Audience(t.client, asked); err != nil || aud != cr.Audience {
			return tokenResponse{}, grant.ErrInvalidTarget
		}
	}
	s, err := is.cfg.Sessions.Get(ctx, cr.SessionID)
	if err != nil {
		return tokenResponse{}, err
	}
	if s.UserID != cr.UserID || s.UserEpoch != cr.UserEpoch {
		return tokenResponse{}, session.ErrEnded
	}
	g := grant.Grant{
		ID: id, UserID: cr.UserID, UserEpoch: cr.UserEpoch, SessionID: s.ID, SID: cr.SID, ClientID: t.client.ClientID, Connector: cr.Connector,
		Scopes: cr.Scopes, Audience: cr.Audience, AuthTime: cr.AuthTime, ACR: cr.ACR, AMR: cr.AMR, Refresh: t.client.HasGrant(grant.RefreshToken),
	}
	if slices.Contains(cr.Scopes, "offline_access") {
		// Lives on when the browser signs out (surface: session kinds).
		if s, err = is.cfg.Sessions.StartChild(ctx, s, session.Offline); err != nil {
			return tokenResponse{}, err
		}
		g.SessionID = s.ID
	}
	refresh, err := is.cfg.Ledger.CreateGrant(ctx, g)
	if err != nil {
		return tokenResponse{}, err
	}
	return is.issue(ctx, issuance{client: t.client, grant: g, session: s, scopes: cr.Scopes, refresh: refresh, nonce: cr.Nonce, idToken: slices.Contains(cr.Scopes, "openid")})
}
