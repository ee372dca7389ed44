package gateway

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/token"
)

// jwtTTL is the life of the JWT that an upstream gets; it is made again after
// four fifths of it.
const jwtTTL = 5 * time.Minute

// pass is what a caller may and is on a route: the decision, the headers and
// the JWT, kept until session, lease or token is another.
type pass struct {
	allowed  bool
	refusal  *refusal      // why not, where it is not for want of a fresh sign-in
	stepUp   time.Duration // how old the sign-in may be, where it is older
	identity identity
	target   *url.URL // of a lease's upstream
	bearer   []string // "Bearer <JWT>" as a header's values, or nil
	until    time.Time
}

type passKey struct {
	route   *route
	session string
	version uint64
	token   string
	lease   string
	leased  uint64
}

type passes struct {
	mu sync.RWMutex
	m  map[passKey]*pass
}

const passesMax = 20_000

// pass decides, or remembers. A decision that depends on the request or the
// clock is made each time.
func (g *Gateway) pass(ctx context.Context, rt *route, c caller, l *console.Lease, req *policy.Request) (*pass, error) {
	key := passKey{route: rt, session: c.session.ID, version: c.session.Version, token: c.tokenID}
	if l != nil {
		key.lease, key.leased = l.ID, l.Version()
	}
	now := g.cfg.Now()
	g.passes.mu.RLock()
	p := g.passes.m[key]
	g.passes.mu.RUnlock()
	if p != nil && now.Before(p.until) && rt.rules.keepable(l) {
		return p, nil
	}
	fresh, err := g.decide(ctx, rt, c, l, req, now)
	if err != nil {
		return nil, err
	}
	if p != nil && now.Before(p.until) && fresh.allowed && p.allowed {
		return p, nil // the same JWT goes on; a refusal has its own reason each time
	}
	if fresh.allowed {
		if err := g.equip(ctx, fresh, rt, c, l, now); err != nil {
			return nil, err
		}
	}
	g.passes.mu.Lock()
	if len(g.passes.m) >= passesMax {
		for k, old := range g.passes.m {
			if !now.Before(old.until) {
				delete(g.passes.m, k)
			}
		}
		if len(g.passes.m) >= passesMax {
			clear(g.passes.m)
		}
	}
	g.passes.m[key] = fresh
	g.passes.mu.Unlock()
	return fresh, nil
}

func (g *Gateway) decide(ctx context.Context, rt *route, c caller, l *console.Lease, req *policy.Request, now time.Time) (*pass, error) {
	p := &pass{until: now.Add(jwtTTL * 4 / 5)}
	if !c.expires.IsZero() && c.expires.Before(p.until) {
		p.until = c.expires
	}
	if rt.plain() && (l == nil || l.Rule() == nil) {
		if p.allowed = l == nil || l.Names(c.userID, c.groups); !p.allowed {
			p.refusal = &refusal{reason: rt.Reason, contact: rt.Contact, log: "not owner, not invited"}
		}
		return p, nil
	}
	in := policy.Input{
		User: &policy.User{ID: c.userID, Groups: c.groups, Kind: "service"}, Request: req, Route: &policy.Route{Name: rt.Name, Host: rt.Host},
		Session: &policy.Session{ID: c.session.ID, Kind: c.kind, Connector: c.session.Connector, ACR: c.session.ACR, AMR: c.session.AMR, Scope: c.scope, AuthTime: c.session.AuthTime},
	}
	if !c.service {
		u, err := g.cfg.Users.Profile(ctx, c.userID)
		if err != nil {
			return nil, err
		}
		in.User.Email, in.User.Name, in.User.Username, in.User.Kind = u.Email, u.Name, u.Username, u.Kind
	}
	if c.session.ID != "" {
		in.Session.Device = session.DeviceName(c.session.Agent)
		in.Session.Age = now.Sub(c.session.AuthTime)
		in.Identity = &policy.Identity{Connector: c.session.Connector, Org: c.session.Org}
	}
	if c.clientID != "" {
		in.Client = &policy.Client{ID: c.clientID, Name: g.cfg.Clients.Name(c.clientID)}
	}
	why, again, until := g.judge(ctx, rt, c, l, in, now)
	switch {
	case why != nil:
		p.refusal = why
	case again:
		p.stepUp = rt.rules.maxAge
	default:
		p.allowed = true
		if !until.IsZero() && until.Before(p.until) {
			p.until = until
		}
	}
	return p, nil
}

// plain reports whether a route has no rule of its own.
func (rt *route) plain() bool {
	return rt.rules.allow == nil && len(rt.rules.deny) == 0 && rt.rules.maxAge == 0
}

// viaClaim marks a JWT of the gateway's and says by what its caller came. It is
// for services and introspection; wherever a caller shows a token it is refused.
const viaClaim = "gatehouse:via"

// via is session, grant:ID, key:ID or service.
func (c caller) via() string {
	switch {
	case c.keyID != "":
		return "key:" + c.keyID
	case c.session.ID == "":
		return "service"
	case c.tokenID != "":
		return "grant:" + grant.OfToken(c.tokenID)
	}
	return "session"
}

// equip gives an allowed pass its headers and JWT.
func (g *Gateway) equip(ctx context.Context, p *pass, rt *route, c caller, l *console.Lease, now time.Time) error {
	email, name, kind := "", "", "service"
	if !c.service {
		u, err := g.cfg.Users.Profile(ctx, c.userID)
		if err != nil {
			return err
		}
		email, name, kind = u.Email, u.Name, u.Kind
	}
	p.identity = newIdentity(c.userID, email, name, c.groups)
	if l != nil {
		var err error
		if p.target, err = console.ParseUpstream(l.Upstream); err != nil {
			return fmt.Errorf("lease %q: %w", l.ID, err)
		}
	}
	typ, aud := token.TypeAccess, rt.Audience
	if rt.Lease {
		if rt.Identity != "jwt" {
			return nil
		}
		typ, aud = token.TypeGateway, rt.Name+"/"+l.ID
	}
	if aud == "" {
		return nil
	}
	exp := now.Add(jwtTTL)
	claims := token.Claims{"sub": c.userID, "aud": aud, "iat": now.Unix(), "exp": exp.Unix(), "jti": rand.Text(), "client_id": "gatehouse-gateway", "gatehouse:kind": kind, viaClaim: c.via()}
	if c.clientID != "" {
		claims["client_id"] = c.clientID
	}
	put := func(k, v string) {
		if v != "" {
			claims[k] = v
		}
	}
	put("email", email)
	put("name", name)
	if c.session.ID != "" {
		claims["sid"], claims["auth_time"] = c.session.ID, c.session.AuthTime.Unix()
		put("gatehouse:connector", c.session.Connector)
		put("gatehouse:org", c.session.Org)
	}
	if c.session.ID != "" || len(c.groups) > 0 {
		groups := c.groups
		if groups == nil {
			groups = []string{}
		}
		if !p.identity.truncated {
			claims["groups"] = groups
		}
	}
	if c.act != nil {
		claims["act"] = c.act
	}
	if len(c.scope) > 0 {
		claims["scope"] = strings.Join(c.scope, " ")
	}
	raw, err := g.cfg.Signer.Sign(ctx, token.ES256, typ, claims)
	if err != nil {
		return err
	}
	p.bearer = []string{"Bearer " + raw}
	return nil
}
