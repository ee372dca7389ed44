package issuer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

// Types of tokens (RFC 8693 section 3).
const (
	typeOfAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	typeOfIDToken     = "urn:ietf:params:oauth:token-type:id_token"
	typeOfJWT         = "urn:ietf:params:oauth:token-type:jwt"
)

// maxActors is how long the chain of an act claim may be.
const maxActors = 4

// exchange is the token-exchange grant for access tokens of ours (RFC 8693): one
// of fewer scopes, for another audience of the client's, or with somebody who
// acts. It ends with the grant and the session of the one that was presented
// (docs/security.md CI-7).
func (is *Issuer) exchange(t tokenRequest) (tokenResponse, error) {
	ctx := t.r.Context()
	issued, err := issuedType(t)
	if err != nil {
		return tokenResponse{}, err
	}
	subject, err := is.present(ctx, t, "subject_token")
	if err != nil {
		return tokenResponse{}, err
	}
	var actor *presented
	if t.form.Has("actor_token") || t.form.Has("actor_token_type") {
		if actor, err = is.present(ctx, t, "actor_token"); err != nil {
			return tokenResponse{}, err
		}
	}
	if subject.session.ID == "" {
		return tokenResponse{}, oauth(errInvalidRequest, "A program's own token is not exchanged; ask for another one.", nil)
	}
	act, err := actClaim(subject, actor)
	if err != nil {
		return tokenResponse{}, err
	}
	aud, err := is.target(t, subject)
	if err != nil {
		return tokenResponse{}, err
	}
	scopes, err := is.narrowed(ctx, t, subject)
	if err != nil {
		return tokenResponse{}, err
	}
	if err := is.mayExchange(t, subject, actor, aud, scopes); err != nil {
		return tokenResponse{}, err
	}
	until := subject.claims.Time("exp")
	if actor != nil && actor.claims.Time("exp").Before(until) {
		until = actor.claims.Time("exp")
	}
	g := subject.grant
	g.Audience = aud
	resp, err := is.issue(ctx, issuance{client: t.client, grant: g, session: subject.session, scopes: scopes, until: until, act: act})
	resp.IssuedTokenType = issued
	return resp, err
}

// issuedType is what is asked for: an access token, which is a JWT as well.
func issuedType(t tokenRequest) (string, error) {
	switch asked := t.form.Get("requested_token_type"); asked {
	case "", typeOfAccessToken:
		return typeOfAccessToken, nil
	case typeOfJWT:
		return typeOfJWT, nil
	}
	return "", oauth(errInvalidRequest, "requested_token_type can be access_token or jwt.", nil)
}

// presented is an access token of ours that is presented for exchange, and what
// it lives by.
type presented struct {
	claims token.Claims
	living
	own bool // issued to the client that presents it
}

// present reads and judges subject_token or actor_token: an access token that
// lives, issued to this client or for a resource that the client serves. All
// that is wrong with one reads the same (RFC 8693 section 2.2.2, CI-9).
func (is *Issuer) present(ctx context.Context, t tokenRequest, name string) (*presented, error) {
	raw, typ := strings.TrimSpace(t.form.Get(name)), t.form.Get(name+"_type")
	switch {
	case raw == "" || typ == "":
		return nil, oauth(errInvalidRequest, name+" or "+name+"_type is missing.", nil)
	case typ != typeOfAccessToken && typ != typeOfJWT:
		return nil, oauth(errInvalidRequest, name+" must be an access token.", nil)
	}
	refuse := func(err error) error {
		return oauth(errInvalidRequest, "The "+name+" is not valid, has expired or was revoked, or is not for this client.", err)
	}
	c, err := is.cfg.Keys.Verify(ctx, token.TypeAccess, raw)
	if err != nil {
		return nil, refuse(err)
	}
	p := &presented{claims: c, own: c.String("client_id") == t.client.ClientID}
	aud := c.Strings("aud")
	if !p.own && (len(aud) != 1 || !is.cfg.Clients.Serves(t.client, aud[0])) {
		return nil, refuse(errors.New("issued to another client, and for no resource of this one"))
	}
	if p.living, err = is.lives(ctx, c); err == nil && p.session.ID != "" {
		err = is.vouches(ctx, t.client, p)
	}
	switch {
	case err == nil:
		return p, nil
	case dead(err):
		return nil, refuse(err)
	}
	return nil, err
}

// vouches checks what a refresh would: the clients' connectors (UP-8), and that
// the person still agrees with the client that they gave the grant to.
func (is *Issuer) vouches(ctx context.Context, asks *grant.Client, p *presented) error {
	given, ok := is.cfg.Clients.Get(p.grant.ClientID)
	if !ok {
		return errors.Join(errors.New("the client of the grant is gone"), grant.ErrInvalidGrant)
	}
	for _, c := range []*grant.Client{asks, given} {
		if ac := c.AllowedConnectors; len(ac) > 0 && !slices.Contains(ac, p.grant.Connector) {
			return session.ErrEnded
		}
	}
	return is.agreed(ctx, given, p.grant.UserID, p.grant.Scopes)
}

// living is what an access token lives by: a grant and its session, or the
// account or client that a program's token speaks for.
type living struct {
	grant   grant.Grant
	session session.Session // ID "" for a program
}

var errDead = errors.New("what the token lives by is not there any more")

// dead tells a token that has ended from a store that cannot be asked.
func dead(err error) bool {
	return errors.Is(err, errDead) || errors.Is(err, grant.ErrInvalidGrant) || errors.Is(err, session.ErrEnded) || errors.Is(err, session.ErrNoSession) || errors.Is(err, user.ErrNotFound)
}

// lives finds what a verified access token lives by, or an error that is dead. As
// for a refresh, the session's connector must have vouched lately.
func (is *Issuer) lives(ctx context.Context, c token.Claims) (living, error) {
	sid := c.String("sid")
	if sid == "" {
		return living{}, is.serves(ctx, c)
	}
	g, err := is.cfg.Ledger.Grant(ctx, grant.OfToken(c.String("jti")))
	if err != nil {
		return living{}, err
	}
	s, err := is.cfg.Sessions.Recheck(ctx, sid)
	if err != nil {
		return living{}, err
	}
	if s.UserID != c.String("sub") || s.UserID != g.UserID || s.UserEpoch != g.UserEpoch || g.SessionID != s.ID {
		return living{}, session.ErrEnded
	}
	return living{g, s}, nil
}

// serves looks whether the account or the client is there whose own token it is.
func (is *Issuer) serves(ctx context.Context, c token.Claims) error {
	sub := c.String("sub")
	if c.String("gatehouse:kind") != "service" || c.Has(viaClaim) {
		return errDead
	}
	if c.Has(workloadClaim) {
		_, err := is.cfg.Accounts.Get(ctx, sub)
		return err
	}
	if _, there := is.cfg.Clients.Get(sub); !there || c.String("client_id") != sub {
		return errDead
	}
	return nil
}

// target is the audience: of what was asked for, by name or URI, the only one,
// of the client's `audiences`. A client's own token keeps its audience.
func (is *Issuer) target(t tokenRequest, subject *presented) (string, error) {
	had := ""
	if aud := subject.claims.Strings("aud"); len(aud) == 1 {
		had = aud[0]
	}
	asked := is.targets(t)
	if len(asked) == 0 && subject.own {
		asked = []string{had}
	}
	aud, err := is.cfg.Clients.Audience(t.client, asked)
	if err != nil {
		return "", err
	}
	// Whoever was shown a public client's token could present it just as well: a
	// service would make itself a token for its neighbour.
	if t.client.Public() && aud != had && had != is.cfg.Issuer {
		return "", oauth(errInvalidTarget, "A public client's token for a resource cannot be made one for another; exchange one for the issuer.", nil)
	}
	return aud, nil
}

// targets are the resources and audiences asked for, each once.
func (is *Issuer) targets(t tokenRequest) []string {
	var out []string
	for _, a := range append(slices.Clip(t.form["resource"]), t.form["audience"]...) {
		if a = is.cfg.Clients.Canonical(a); !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// narrowed are the scopes of the new token: those asked for, else all, that the
// presented token has and the client may have, less those that a lost role took
// along. offline_access would promise a refresh token, and there is none.
func (is *Issuer) narrowed(ctx context.Context, t tokenRequest, subject *presented) ([]string, error) {
	had, may := scopesOf(subject.claims.String("scope")), t.client.Scopes()
	asked := scopesOf(t.form.Get("scope"))
	if !subset(asked, had) || !subset(asked, may) {
		return nil, oauth(errInvalidScope, "An exchange can only narrow: a scope is not the token's, or not the client's.", nil)
	}
	want := asked
	if len(asked) == 0 {
		want = had
	}
	scopes := []string{}
	for _, s := range want {
		if s != "offline_access" && slices.Contains(may, s) {
			scopes = append(scopes, s)
		}
	}
	scopes, err := is.cfg.Grantable(ctx, subject.session, scopes)
	if err != nil {
		return nil, err
	}
	if len(asked) > 0 && len(scopes) == 0 { // an answer without scope would say: as asked
		return nil, oauth(errInvalidScope, "No scope is left of those that were asked for.", nil)
	}
	return scopes, nil
}

// mayExchange asks the client's rule. Without one a client narrows its own
// tokens, and nobody acts for anybody.
func (is *Issuer) mayExchange(t tokenRequest, subject, actor *presented, aud string, scopes []string) error {
	rule := is.exchanges[t.client.ClientID]
	if rule == nil {
		if !subject.own || actor != nil {
			return oauth(errInvalidRequest, "This client may exchange its own tokens only, and with no actor.", nil)
		}
		return nil
	}
	ctx := t.r.Context()
	u, err := is.cfg.Users.Profile(ctx, subject.grant.UserID)
	if err != nil {
		return err
	}
	in := is.policyInput(issuance{client: t.client, grant: subject.grant, session: subject.session, scopes: scopesOf(subject.claims.String("scope"))}, u, is.cfg.Now())
	q := web.RequestOf(t.r)
	in.Request = &policy.Request{IP: q.IP.String(), Time: is.cfg.Now()}
	in.Target = &policy.Target{Audience: aud, Scopes: scopes}
	in.Subject = &policy.Subject{Client: subject.claims.String("client_id"), Audience: strings.Join(subject.claims.Strings("aud"), " ")}
	in.Actor = &policy.Actor{}
	if actor != nil {
		in.Actor = &policy.Actor{ID: actor.claims.String("sub"), Client: actor.claims.String("client_id"), Kind: actor.claims.String("gatehouse:kind")}
	}
	d, err := rule.Decide(ctx, in)
	if err != nil {
		is.cfg.Log.WarnContext(ctx, "a client's exchange rule could not be decided: the exchange is refused", "client", t.client.ClientID, "err", err)
	}
	if err != nil || !d.Allowed {
		return oauth(errInvalidRequest, "The rule of this client does not allow this exchange.", err)
	}
	return nil
}

// actClaim says who acts for the person: the actor, and below it who did before
// (RFC 8693 section 4.1).
func actClaim(subject, actor *presented) (map[string]any, error) {
	before, _ := subject.claims["act"].(map[string]any)
	if actor == nil {
		return before, nil
	}
	if actor.claims.Has("act") {
		return nil, oauth(errInvalidRequest, "The actor_token is itself one with which somebody acts for another.", nil)
	}
	if may, there := subject.claims["may_act"]; there { // section 4.4
		m, _ := may.(map[string]any)
		if sub, _ := m["sub"].(string); sub == "" || sub != actor.claims.String("sub") {
			return nil, oauth(errInvalidRequest, "The subject_token names another actor in may_act.", nil)
		}
	}
	act := map[string]any{"sub": actor.claims.String("sub"), "client_id": actor.claims.String("client_id")}
	if before == nil {
		return act, nil
	}
	act["act"] = before
	n := 0
	for at := act; at != nil; at, _ = at["act"].(map[string]any) {
		if n++; n > maxActors {
			return nil, oauth(errInvalidRequest, "Too many have acted already.", nil)
		}
	}
	return act, nil
}

// earlier is the first of two times; a zero until is none.
func earlier(t, until time.Time) time.Time {
	if !until.IsZero() && until.Before(t) {
		return until
	}
	return t
}
