package issuer

import (
	"errors"
	"net/http"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/web"
)

// Revoke is POST /oauth2/revoke (RFC 7009). Another client's token and one that
// is unknown change nothing and are answered alike.
func (is *Issuer) Revoke(w http.ResponseWriter, r *http.Request) error {
	return is.endpoint(is.revoke)(w, r)
}

func (is *Issuer) revoke(w http.ResponseWriter, r *http.Request) error {
	client, form, err := is.posted(w, r)
	if err != nil {
		return err
	}
	raw := form.Get("token")
	if raw == "" {
		return oauth(errInvalidRequest, "token is missing.", nil)
	}
	id, refresh := is.cfg.Ledger.Family(raw)
	if !refresh {
		c, err := is.cfg.Keys.Verify(r.Context(), token.TypeAccess, raw)
		if err != nil || c.String("client_id") != client.ClientID {
			return revoked(w)
		}
		if id = grant.OfToken(c.String("jti")); id == "" {
			return oauth(errUnsupportedTokenType, "A token of client_credentials cannot be revoked; it expires soon.", nil)
		}
	}
	g, err := is.cfg.Ledger.Grant(r.Context(), id)
	if errors.Is(err, grant.ErrInvalidGrant) || err == nil && g.ClientID != client.ClientID {
		return revoked(w)
	}
	if err != nil {
		return err
	}
	if _, err := is.cfg.Ledger.Revoke(r.Context(), id, "revoked by the client"); err != nil {
		return err
	}
	if err := is.endOwn(r, g, "client"); err != nil {
		return err
	}
	return revoked(w)
}

// endOwn ends the session that an ended grant has of its own, and tells of it.
func (is *Issuer) endOwn(r *http.Request, g grant.Grant, reason string) error {
	own := g.OwnSession()
	if own == "" {
		return nil
	}
	q := web.RequestOf(r)
	if err := is.cfg.Events.Record(r.Context(), event.Event{Name: event.SessionRevoked, Target: g.UserID, Client: g.ClientID, IP: q.IP.String(), Agent: q.Agent, RequestID: q.ID,
		Details: map[string]string{"session": own, "reason": reason}}); err != nil {
		return err
	}
	return is.cfg.Sessions.Revoke(r.Context(), own, reason)
}

func revoked(w http.ResponseWriter) error {
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return nil
}
