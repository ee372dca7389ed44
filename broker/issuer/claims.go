package issuer

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"maps"
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
	until   time.Time      // no token of it outlives this; zero for the usual life
	act     map[string]any // who acts for the person (RFC 8693 section 4.1)
}

// issue signs the access token and, where wanted, the ID token.
func (is *Issuer) issue(ctx context.Context, i issuance) (tokenResponse, error) {
	u, err := is.cfg.Users.Profile(ctx, i.grant.UserID)
	if err != nil {
		return tokenResponse{}, err
	}
	access, id := is.compose(ctx, i, u)
	life := access.Time("exp").Sub(access.Time("iat"))
	raw, err := is.cfg.Keys.Sign(ctx, token.ES256, token.TypeAccess, access)
	if err != nil {
		return tokenResponse{}, err
	}
	resp := tokenResponse{AccessToken: raw, TokenType: "Bearer", ExpiresIn: seconds(life), RefreshToken: i.refresh, Scope: strings.Join(i.scopes, " ")}
	if !i.idToken {
		return resp, nil
	}
	sum := sha256.Sum256([]byte(raw)) // OpenID Connect Core section 3.1.3.6
	id["at_hash"] = base64.RawURLEncoding.EncodeToString(sum[:16])
	if resp.IDToken, err = is.cfg.Keys.Sign(ctx, idTokenAlg(i.client), token.TypeID, id); err != nil {
		return tokenResponse{}, err
	}
	return resp, nil
}

// compose makes the claims of the access token (RFC 9068 section 2.2) and of the
// ID token (OpenID Connect Core section 2).
func (is *Issuer) compose(ctx context.Context, i issuance, u user.User) (access, id token.Claims) {
	now := is.cfg.Now()
	extra := is.extraClaims(ctx, i, u, now)
	profile := is.profile(u, i.session, i.scopes)
	access = token.Claims{
		"sub": u.ID, "aud": i.grant.Audience, "iat": now.Unix(), "exp": earlier(now.Add(is.cfg.Tokens.AccessTTL), i.until).Unix(), "jti": grant.NewTokenID(i.grant.ID),
		"client_id": i.client.ClientID, "scope": strings.Join(i.scopes, " "), "auth_time": i.grant.AuthTime.Unix(), "sid": i.session.ID,
	}
	maps.Copy(access, profile)
	maps.Copy(access, extra)
	for _, k := range []string{"picture", "locale", "updated_at"} {
		delete(access, k) // for people's pages, not for services
	}
	if i.act != nil {
		access["act"] = i.act
	}
	proof(access, i.grant)
	if !i.idToken {
		return access, nil
	}
	id = token.Claims{
		"sub": u.ID, "aud": i.client.ClientID, "azp": i.client.ClientID, "iat": now.Unix(), "exp": now.Add(is.cfg.Tokens.IDTTL).Unix(),
		"auth_time": i.grant.AuthTime.Unix(), "sid": i.grant.SID,
	}
	if i.nonce != "" {
		id["nonce"] = i.nonce
	}
	maps.Copy(id, profile)
	maps.Copy(id, extra)
	proof(id, i.grant)
	return access, id
}

// Preview returns the claims that the tokens of our own command line would
// carry for this session, unsigned: for people to look at.
func (is *Issuer) Preview(ctx context.Context, s session.Session) (access, id token.Claims, err error) {
	c, ok := is.cfg.Clients.Get(grant.CLI)
	if !ok {
		return nil, nil, nil
	}
	u, err := is.cfg.Users.Profile(ctx, s.UserID)
	if err != nil {
		return nil, nil, err
	}
	aud, err := is.cfg.Clients.Audience(c, nil)
	if err != nil {
		return nil, nil, err
	}
	g := grant.Grant{ID: "preview", UserID: s.UserID, SessionID: s.ID, SID: s.BrowserID(), ClientID: c.ClientID, Audience: aud, AuthTime: s.AuthTime, ACR: s.ACR, AMR: s.AMR}
	access, id = is.compose(ctx, issuance{client: c, grant: g, session: s, scopes: []string{"openid", "profile", "email", "groups"}, idToken: true}, u)
	access["iss"], id["iss"] = is.cfg.Issuer, is.cfg.Issuer
	return access, id, nil
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
	in := is.policyInput(i, u, now)
	out := token.Claims{}
	for name, e := range exprs {
		v, err := e.Value(ctx, in)
		if err != nil {
			is.cfg.Log.WarnContext(ctx, "a client's claim could not be computed and is left out", "client", i.client.ClientID, "claim", name, "err", err)
			continue
		}
		out[name] = v
	}
	return out
}

// policyInput is what expressions about a client's tokens see of person, session
// and client.
func (is *Issuer) policyInput(i issuance, u user.User, now time.Time) policy.Input {
	return policy.Input{
		User:    &policy.User{ID: u.ID, Email: u.Email, Name: u.Name, Username: u.Username, Kind: u.Kind, Groups: i.session.Groups},
		Session: &policy.Session{ID: i.session.ID, Kind: string(i.session.Kind), Connector: i.session.Connector, ACR: i.grant.ACR, AMR: i.grant.AMR, Scope: i.scopes, AuthTime: i.grant.AuthTime, Device: session.DeviceName(i.session.Agent), Age: now.Sub(i.grant.AuthTime)},
		Client:  &policy.Client{ID: i.client.ClientID, Name: i.client.Name()},
	}
}

func hasScope(c token.Claims, scope string) bool {
	return slices.Contains(strings.Fields(c.String("scope")), scope)
}

func cacheControl(d time.Duration) string {
	return "public, max-age=" + strconv.Itoa(int(d/time.Second))
}
