package issuer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/user"
)

// issuance is what tokens are made of.
type issuance struct {
	client  *grant.Client
	grant   grant.Grant
	session session.Session
	scopes  []string
	refresh string
	nonce   string
	idToken bool
}

// issue signs the access token and, where wanted, the ID token.
func (is *Issuer) issue(ctx context.Context, i issuance) (tokenResponse, error) {
	u, err := is.cfg.Users.Profile(ctx, i.grant.UserID)
	if err != nil {
		return tokenResponse{}, err
	}
	now := is.cfg.Now()
	extra := is.extraClaims(ctx, i, u, now)
	profile := is.profile(u, i.session, i.scopes)
	access := token.Claims{
		"sub": u.ID, "aud": i.grant.Audience, "iat": now.Unix(), "exp": now.Add(is.cfg.Tokens.AccessTTL).Unix(), "jti": newJTI(i.grant.ID),
		"client_id": i.client.ClientID, "scope": strings.Join(i.scopes, " "), "auth_time": i.grant.AuthTime.Unix(), "sid": i.session.ID,
	}
	for _, c := range []token.Claims{profile, extra} {
		for k, v := range c {
			access[k] = v
		}
	}
	for _, k := range []string{"picture", "locale", "updated_at"} {
		delete(access, k) // for people's pages, not for services
	}
	proof(access, i.grant)
	raw, err := is.cfg.Keys.Sign(ctx, token.ES256, token.TypeAccess, access)
	if err != nil {
		return tokenResponse{}, err
	}
	resp := tokenResponse{AccessToken: raw, TokenType: "Bearer", ExpiresIn: seconds(is.cfg.Tokens.AccessTTL), RefreshToken: i.refresh, Scope: strings.Join(i.scopes, " ")}
	if !i.idToken {
		return resp, nil
	}
	// OpenID Connect Core section 2; at_hash: section 3.1.3.6.
	sum := sha256.Sum256([]byte(raw))
	id := token.Claims{
		"sub": u.ID, "aud": i.client.ClientID, "azp": i.client.ClientID, "iat": now.Unix(), "exp": now.Add(is.cfg.Tokens.IDTTL).Unix(),
		"auth_time": i.grant.AuthTime.Unix(), "sid": i.grant.SID, "at_hash": base64.RawURLEncoding.EncodeToString(sum[:16]),
	}
	if i.nonce != "" {
		id["nonce"] = i.nonce
	}
	for _, c := range []token.Claims{profile, extra} {
		for k, v := range c {
			id[k] = v
		}
	}
	proof(id, i.grant)
	if resp.IDToken, err = is.cfg.Keys.Sign(ctx, idTokenAlg(i.client), token.TypeID, id); err != nil {
		return tokenResponse{}, err
	}
	return resp, nil
}

func proof(c token.Claims, g grant.Grant) {
	if g.ACR != "" {
		c["acr"] = g.ACR
	}
	if len(g.AMR) > 0 {
		c["amr"] = g.AMR
	}
}

// profile are the claims of a person that the scopes allow (OpenID Connect Core
// section 5.4; `groups` is ours).
func (is *Issuer) profile(u user.User, s session.Session, scopes []string) token.Claims {
	c := token.Claims{"gatehouse:connector": s.Connector, "gatehouse:org": s.Org, "gatehouse:kind": u.Kind}
	put := func(name, v string) {
		if v != "" {
			c[name] = v
		}
	}
	for _, sc := range scopes {
		switch sc {
		case "profile":
			put("name", u.Name)
			put("preferred_username", u.Username)
			put("picture", u.Picture)
			put("locale", u.Locale)
			if !u.Updated.IsZero() {
				c["updated_at"] = u.Updated.Unix()
			}
		case "email":
			if u.Email != "" {
				c["email"], c["email_verified"] = u.Email, u.EmailVerified
			}
		case "groups":
			groups := s.Groups
			if groups == nil {
				groups = []string{}
			}
			c["groups"] = groups
		}
	}
	return c
}

// extraClaims evaluates the client's own claims. One that fails is left out and
// logged: a service that needs it then refuses, which is the safe side.
func (is *Issuer) extraClaims(ctx context.Context, i issuance, u user.User, now time.Time) token.Claims {
	exprs := is.claims[i.client.ClientID]
	if len(exprs) == 0 {
		return nil
	}
	in := policy.Input{
		User:    &policy.User{ID: u.ID, Email: u.Email, Name: u.Name, Username: u.Username, Kind: u.Kind, Groups: i.session.Groups},
		Session: &policy.Session{ID: i.session.ID, Kind: string(i.session.Kind), Connector: i.session.Connector, ACR: i.grant.ACR, AMR: i.grant.AMR, Scope: i.scopes, AuthTime: i.grant.AuthTime, Age: now.Sub(i.grant.AuthTime)},
		Client:  &policy.Client{ID: i.client.ClientID, Name: i.client.Name()},
	}
	out := token.Claims{}
	for name, e := range exprs {
		v, err := e.Value(ctx, in)
		if err != nil {
			is.cfg.Log.Warn("a client's claim could not be computed and is left out", "client", i.client.ClientID, "claim", name, "err", err)
			continue
		}
		out[name] = v
	}
	return out
}

// newJTI names a token and, in front, the grant that it belongs to, so that
// what is revoked can be recognised.
func newJTI(grantID string) string {
	var b [9]byte
	rand.Read(b[:])
	return grantID + "." + base64.RawURLEncoding.EncodeToString(b[:])
}

// grantOf is the grant in a jti; "" for a token without one.
func grantOf(jti string) string {
	id, _, ok := strings.Cut(jti, ".")
	if !ok {
		return ""
	}
	return id
}

func hasScope(c token.Claims, scope string) bool {
	return slices.Contains(strings.Fields(c.String("scope")), scope)
}

func cacheControl(d time.Duration) string {
	return "public, max-age=" + strconv.Itoa(int(d/time.Second))
}
