package issuer

import (
	"errors"
	"slices"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/web"
)

// refresh is the refresh_token grant (RFC 6749 section 6, RFC 9700 section 4.14).
func (is *Issuer) refresh(t tokenRequest) (tokenResponse, error) {
	ctx := t.r.Context()
	raw := t.form.Get("refresh_token")
	if raw == "" {
		return tokenResponse{}, oauth(errInvalidRequest, "refresh_token is missing.", nil)
	}
	g, next, err := is.cfg.Ledger.Rotate(ctx, t.client.ClientID, raw)
	if errors.Is(err, grant.ErrRefreshReused) {
		q := web.RequestOf(t.r)
		if e := is.cfg.Events.Record(ctx, event.Event{Name: event.TokenRefreshReused, Actor: g.UserID, Target: g.ID, Client: g.ClientID, IP: q.IP.String(), Agent: q.Agent, RequestID: q.ID}); e != nil {
			is.cfg.Log.Error("an event was not recorded", "err", e)
		}
		if g.SessionID != g.SID { // a session of the grant's own ends with it
			if e := is.cfg.Sessions.Revoke(ctx, g.SessionID, "refresh token used twice"); e != nil {
				return tokenResponse{}, e
			}
		}
	}
	if err != nil {
		return tokenResponse{}, err
	}
	// The grant's own session must live, under the same epoch, and its
	// connector must have vouched lately: the token carries the new groups.
	s, err := is.cfg.Sessions.Recheck(ctx, g.SessionID)
	if err != nil {
		return tokenResponse{}, err
	}
	if s.UserEpoch != g.UserEpoch || s.UserID != g.UserID {
		return tokenResponse{}, session.ErrEnded
	}
	if ac := t.client.AllowedConnectors; len(ac) > 0 && !slices.Contains(ac, g.Connector) { // UP-8
		return tokenResponse{}, session.ErrEnded
	}
	scopes := g.Scopes
	if asked := t.form.Get("scope"); asked != "" {
		scopes = scopesOf(asked)
		for _, sc := range scopes {
			if !slices.Contains(g.Scopes, sc) {
				return tokenResponse{}, oauth(errInvalidScope, "A refresh can only ask for what was given (RFC 6749 section 6).", nil)
			}
		}
	}
	// A role that was lost since takes its scopes along.
	if scopes, err = is.cfg.Grantable(ctx, s, scopes); err != nil {
		return tokenResponse{}, err
	}
	if asked := t.form["resource"]; len(asked) > 0 {
		if g.Audience, err = is.cfg.Clients.Audience(t.client, asked); err != nil {
			return tokenResponse{}, err
		}
	}
	return is.issue(ctx, issuance{client: t.client, grant: g, session: s, scopes: scopes, refresh: next, idToken: slices.Contains(scopes, "openid")})
}
