package issuer

import (
	"crypto/rand"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/token"
)

// clientCredentials is the client_credentials grant (RFC 6749 section 4.4): no
// refresh token, no ID token, sub is the client itself (RFC 9068 section 2.2).
func (is *Issuer) clientCredentials(t tokenRequest) (tokenResponse, error) {
	if t.client.Public() {
		return tokenResponse{}, oauth(errUnauthorizedClient, "client_credentials is for confidential clients.", nil)
	}
	aud, err := is.cfg.Clients.Audience(t.client, t.form["resource"])
	if err != nil {
		return tokenResponse{}, err
	}
	allowed := t.client.Scopes()
	asked := scopesOf(t.form.Get("scope"))
	var scopes []string
	for _, s := range asked {
		switch {
		case s == "openid" || s == "offline_access" || s == "profile" || s == "email" || s == "groups":
			// These speak of a person, and there is none.
		case slices.Contains(allowed, s):
			scopes = append(scopes, s)
		default:
			return tokenResponse{}, oauth(errInvalidScope, "A scope is not allowed for this client.", nil)
		}
	}
	if len(asked) > 0 && len(scopes) == 0 { // an answer without scope would say: as asked
		return tokenResponse{}, oauth(errInvalidScope, "Only scopes that speak of a person were asked for, and there is none.", nil)
	}
	if err := is.cfg.Reachable(t.r.Context()); err != nil {
		return tokenResponse{}, err
	}
	now := is.cfg.Now()
	c := token.Claims{
		"sub": t.client.ClientID, "aud": aud, "iat": now.Unix(), "exp": now.Add(is.cfg.Tokens.AccessTTL).Unix(), "jti": rand.Text(),
		"client_id": t.client.ClientID, "gatehouse:kind": "service",
	}
	if len(scopes) > 0 {
		c["scope"] = strings.Join(scopes, " ")
	}
	access, err := is.cfg.Keys.Sign(t.r.Context(), token.ES256, token.TypeAccess, c)
	if err != nil {
		return tokenResponse{}, err
	}
	return tokenResponse{AccessToken: access, TokenType: "Bearer", ExpiresIn: seconds(is.cfg.Tokens.AccessTTL), Scope: strings.Join(scopes, " ")}, nil
}
