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
	var scopes []string
	asked := scopesOf(t.form.Get("scope"))
	audience := ""
	if res := t.form["resource"]; len(res) > 0 {
		var err error
		if audience, err = is.cfg.Clients.Audience(t.client, res); err != nil {
			return tokenResponse{}, err
		}
	}
	var s session.Session
	// All that can refuse comes before the generation moves: a client that asked
	// wrongly, or whom the upstream kept waiting, asks again with the same token.
	g, next, err := is.cfg.Ledger.Rotate(ctx, t.client.ClientID, raw, func(g grant.Grant) (err error) {
		if scopes = g.Scopes; len(asked) > 0 {
			if scopes = asked; !subset(asked, g.Scopes) {
				return oauth(errInvalidScope, "A refresh can only ask for what was given (RFC 6749 section 6).", nil)
			}
		}
		if !takes(t.client, g.Connector) { // UP-8
			return session.ErrEnded
		}
		if err := is.agreed(ctx, t.client, g.UserID, g.Scopes); err != nil {
			return err
		}
		// The grant's own session must live, under the same epoch, and its
		// connector must have vouched lately: the token carries the new groups.
		if s, err = is.cfg.Sessions.Recheck(ctx, g.SessionID); err != nil {
			return err
		}
		if s.UserEpoch != g.UserEpoch || s.UserID != g.UserID {
			return session.ErrEnded
		}
		return nil
	})
	if errors.Is(err, grant.ErrRefreshReused) {
		is.cfg.Log.WarnContext(ctx, "a refresh token was used twice; its family has ended", "client", g.ClientID)
		q := web.RequestOf(t.r)
		if e := is.cfg.Events.Record(ctx, event.Event{Name: event.TokenRefreshReused, Actor: g.UserID, Target: g.ID, Client: g.ClientID, IP: q.IP.String(), Agent: q.Agent, RequestID: q.ID}); e != nil {
			is.cfg.Log.ErrorContext(ctx, "an event was not recorded", "err", e)
		}
		if e := is.endOwn(t.r, g, "refresh_reused"); e != nil {
			return tokenResponse{}, e
		}
	}
	if err != nil {
		return tokenResponse{}, err
	}
	// A role that was lost since takes its scopes along, and so does the client's
	// leave to carry one from a device.
	s.Operator = s.Operator && t.client.DeviceAdmin
	if scopes, err = is.cfg.Grantable(ctx, s, scopes); err != nil {
		return tokenResponse{}, err
	}
	if audience != "" {
		g.Audience = audience
	}
	return is.issue(ctx, issuance{client: t.client, grant: g, session: s, scopes: scopes, refresh: next, idToken: slices.Contains(scopes, "openid")})
}
