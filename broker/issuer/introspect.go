package issuer

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"strings"

	"github.com/remotegpu/gatehouse/broker/apikey"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/token"
)

// inactive is all that is said of a token that is none, has ended, or is not the
// client's to ask about (RFC 7662 section 2.2).
var inactive = map[string]any{"active": false}

// Introspect is POST /oauth2/introspect (RFC 7662). It answers the client that
// a token was issued to, and the resource servers of its audience; access and
// refresh tokens (docs/security.md ISS-14).
func (is *Issuer) Introspect(w http.ResponseWriter, r *http.Request) error {
	return is.endpoint(is.introspect)(w, r)
}

func (is *Issuer) introspect(w http.ResponseWriter, r *http.Request) error {
	client, form, err := is.posted(w, r)
	if err != nil {
		return err
	}
	if client.Public() { // anybody could be it (RFC 7662 section 2.1)
		return oauth(errInvalidClient, "Introspection is for clients that authenticate.", nil)
	}
	raw := strings.TrimSpace(form.Get("token"))
	if raw == "" {
		return oauth(errInvalidRequest, "token is missing.", nil)
	}
	about := is.aboutAccess
	if strings.HasPrefix(raw, grant.RefreshPrefix) {
		about = is.aboutRefresh
	}
	says, err := about(r.Context(), client, raw)
	if dead(err) {
		return writeJSON(w, inactive)
	}
	if err != nil {
		return err
	}
	return writeJSON(w, says)
}

// aboutAccess says what an access token holds, while what it lives by does.
func (is *Issuer) aboutAccess(ctx context.Context, client *grant.Client, raw string) (map[string]any, error) {
	c, err := is.cfg.Keys.Verify(ctx, token.TypeAccess, raw)
	if err != nil {
		return inactive, nil
	}
	aud := c.Strings("aud")
	if c.String("client_id") != client.ClientID && (len(aud) != 1 || !is.cfg.Clients.Serves(client, aud[0])) {
		return inactive, nil
	}
	if err := is.goesOn(ctx, c); err != nil {
		return nil, err
	}
	says := map[string]any{}
	maps.Copy(says, c) // what the cache keeps is not ours to change
	says["active"], says["token_type"] = true, "Bearer"
	if name := c.String("preferred_username"); name != "" {
		says["username"] = name
	}
	return says, nil
}

// viaClaim says by what a caller came whom the gateway tells a service of.
const viaClaim = "gatehouse:via"

// goesOn is lives for a path that services take with every request of theirs,
// also with the JWT that the gateway made for them.
func (is *Issuer) goesOn(ctx context.Context, c token.Claims) error {
	via, id, _ := strings.Cut(c.String(viaClaim), ":")
	switch via {
	case "":
		id = grant.OfToken(c.String("jti"))
	case "key":
		err := is.cfg.APIKeys.Alive(ctx, id)
		if errors.Is(err, apikey.ErrUnknown) || errors.Is(err, apikey.ErrOwner) {
			return errDead
		}
		return err
	case "service":
		if _, there := is.cfg.Clients.Get(c.String("sub")); there {
			return nil
		}
		_, err := is.cfg.Accounts.Get(ctx, c.String("sub"))
		return err
	}
	sid := c.String("sid")
	if sid == "" {
		return is.serves(ctx, c)
	}
	if via != "session" {
		if err := is.cfg.Ledger.Alive(ctx, id); err != nil {
			return err
		}
	}
	s, err := is.cfg.Sessions.Get(ctx, sid)
	if err == nil && s.UserID != c.String("sub") {
		return errDead
	}
	return err
}

// aboutRefresh says what a refresh token would give to its client; nobody else
// has anything to do with one.
func (is *Issuer) aboutRefresh(ctx context.Context, client *grant.Client, raw string) (map[string]any, error) {
	g, err := is.cfg.Ledger.Usable(ctx, raw)
	if err != nil {
		return nil, err
	}
	if g.ClientID != client.ClientID {
		return inactive, nil
	}
	s, err := is.cfg.Sessions.Get(ctx, g.SessionID)
	if err != nil {
		return nil, err
	}
	if s.UserID != g.UserID || s.UserEpoch != g.UserEpoch {
		return inactive, nil
	}
	return map[string]any{
		"active": true, "iss": is.cfg.Issuer, "sub": g.UserID, "client_id": g.ClientID, "scope": strings.Join(g.Scopes, " "), "aud": g.Audience,
		"iat": g.Rotated.Unix(), "exp": g.Expires.Unix(),
	}, nil
}
