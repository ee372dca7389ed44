package portal

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/apikey"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

// authenticate finds out who calls: the operator's token (private listener
// only), a bearer access token, or the portal's own session cookie from its own
// origin (docs/security.md AD-3, AD-11).
func (p *Portal) authenticate(r *http.Request, admin bool) (*caller, error) {
	if h := r.Header.Values("Authorization"); len(h) > 0 {
		if len(h) > 1 {
			return nil, badRequest("there is more than one Authorization header")
		}
		scheme, raw, _ := strings.Cut(h[0], " ")
		raw = strings.TrimSpace(raw)
		if !strings.EqualFold(scheme, "Bearer") || raw == "" {
			return nil, unauthorized("", "the Authorization header must be: Bearer TOKEN")
		}
		if admin && p.adminToken.matches(raw) {
			return &caller{operator: true}, nil
		}
		if apikey.Looks(raw) {
			return p.byKey(r, raw)
		}
		return p.bearer(r.Context(), raw)
	}
	if admin {
		return nil, unauthorized("", "send the content of data/admin.token as a bearer token")
	}
	s, ok, err := p.signIn.Current(r)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, unauthorized("", "sign in, or send an access token for this issuer")
	}
	// A page of another site can make a browser send the cookie; it cannot make
	// it claim to be us.
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
	case "":
		if o := r.Header.Get("Origin"); o != "" && o != p.origin {
			return nil, web.Fail(http.StatusForbidden, "api.cross_origin", "error.cross_origin", nil)
		}
		if r.Header.Get("Origin") == "" && r.Method != http.MethodGet && r.Method != http.MethodHead {
			return nil, web.Fail(http.StatusForbidden, "api.cross_origin", "error.cross_origin", nil)
		}
	default:
		return nil, web.Fail(http.StatusForbidden, "api.cross_origin", "error.cross_origin", nil)
	}
	roles, err := p.rolesOf(r.Context(), s)
	return &caller{sess: s, roles: roles, cookie: true}, err
}

func (p *Portal) bearer(ctx context.Context, raw string) (*caller, error) {
	claims, err := p.keys.Verify(ctx, token.TypeAccess, raw)
	if err != nil {
		return nil, unauthorized("invalid_token", "the access token is not valid here")
	}
	if claims.Has("gatehouse:via") { // the gateway's, for a service behind it
		return nil, unauthorized("invalid_token", "the access token is not valid here")
	}
	if aud := claims.Strings("aud"); len(aud) != 1 || aud[0] != p.issuer {
		return nil, unauthorized("invalid_token", "the access token is for another audience; ask for resource="+p.issuer)
	}
	scopes := strings.Fields(claims.String("scope"))
	if claims.String("gatehouse:kind") == "service" {
		return p.service(ctx, claims, scopes)
	}
	// The grant first: a token can be revoked while its session goes on (RFC 7009).
	err = p.ledger.Alive(ctx, grant.OfToken(claims.String("jti")))
	if errors.Is(err, grant.ErrInvalidGrant) {
		return nil, unauthorized("invalid_token", "the access token was revoked")
	}
	if err != nil {
		return nil, err
	}
	s, err := p.sessions.Get(ctx, claims.String("sid"))
	if errors.Is(err, session.ErrNoSession) || errors.Is(err, session.ErrEnded) || err == nil && s.UserID != claims.String("sub") {
		return nil, unauthorized("invalid_token", "the session of this token has ended")
	}
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(scopes, func(s string) bool { return strings.HasPrefix(s, "gatehouse:") }) {
		return nil, insufficient("the access token has no scope gatehouse:…", ScopeAccount)
	}
	roles, err := p.rolesOf(ctx, s)
	return &caller{sess: s, client: claims.String("client_id"), roles: roles, scopes: scopes, bearer: true}, err
}

// byKey takes an API key. A user's has no role, whatever the user has; a service
// account's may do what its scopes say, since an admin gave them to it.
func (p *Portal) byKey(r *http.Request, raw string) (*caller, error) {
	k, err := p.apiKeys.Verify(r.Context(), raw, web.RequestOf(r).IP)
	switch {
	case errors.Is(err, apikey.ErrMalformed), errors.Is(err, apikey.ErrUnknown), errors.Is(err, apikey.ErrOwner):
		return nil, unauthorized("invalid_token", "the API key is not valid or has expired")
	case errors.Is(err, apikey.ErrNetwork):
		return nil, forbidden("apikey.network", "the API key may not be used from this address")
	case err != nil:
		return nil, err
	}
	c := &caller{scopes: k.Scopes, bearer: true, keyed: true}
	if k.Service {
		c.service = k.Owner
	} else {
		c.sess = session.Session{UserID: k.Owner}
	}
	return c, nil
}

// service takes the token of a client or a service account that is still there.
// A CI job may do what a key of its account might: the trust rule's scopes.
func (p *Portal) service(ctx context.Context, claims token.Claims, scopes []string) (*caller, error) {
	id := claims.String("sub")
	if claims.Has("gatehouse:workload") {
		if _, err := p.accounts.Get(ctx, id); errors.Is(err, user.ErrNotFound) {
			return nil, unauthorized("invalid_token", "the service account of this token is not there any more")
		} else if err != nil {
			return nil, err
		}
		return &caller{service: id, client: claims.String("client_id"), scopes: scopes, bearer: true, keyed: true}, nil
	}
	if _, there := p.clients.Get(id); !there || claims.String("client_id") != id {
		return nil, unauthorized("invalid_token", "the service account of this token is not there any more")
	}
	return &caller{service: id, client: claims.String("client_id"), scopes: scopes, bearer: true}, nil
}

func (p *Portal) permit(need permission, c *caller) error {
	if c.operator {
		if need.self {
			return forbidden("operator", "data/admin.token is nobody's account; call this as a user")
		}
		return nil
	}
	if c.service != "" && !need.service && (!c.keyed || need.self) {
		return insufficient("service accounts may not call this", "")
	}
	if c.bearer && !slices.Contains(c.scopes, ScopeAdmin) && !slices.ContainsFunc(need.scopes, func(s string) bool { return slices.Contains(c.scopes, s) }) {
		return insufficient("the access token needs the scope "+need.scopes[0], need.scopes[0])
	}
	if c.service != "" {
		return nil
	}
	if !need.self && !slices.ContainsFunc(need.roles, c.has) {
		return forbidden("policy.role_missing", "this needs the role "+string(need.roles[0]))
	}
	if need.fresh > 0 && c.sess.Kind == session.Device && !c.sess.Operator {
		// Whoever typed the code was fresh; whoever holds the device may be somebody
		// else, and must not get what outlives it (docs/security.md DF-3).
		return forbidden("policy.stepup", "this needs a fresh sign-in in a browser, which a device is not")
	}
	if need.fresh > 0 && p.now().Sub(c.sess.AuthTime) > need.fresh {
		return forbidden("policy.stepup", fmt.Sprintf("this needs a sign-in within the last %s; sign in again (prompt=login)", need.fresh))
	}
	return nil
}
