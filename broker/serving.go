package broker

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/remotegpu/gatehouse/broker/event/archive"
	"github.com/remotegpu/gatehouse/broker/gateway"
	"github.com/remotegpu/gatehouse/broker/geo"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/issuer"
	"github.com/remotegpu/gatehouse/broker/notify"
	"github.com/remotegpu/gatehouse/broker/objectstore"
	"github.com/remotegpu/gatehouse/broker/portal"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/signin"
	"github.com/remotegpu/gatehouse/broker/uptimekuma"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/broker/workload"
	"github.com/remotegpu/gatehouse/config"
	"github.com/remotegpu/gatehouse/static"
	"github.com/remotegpu/gatehouse/templates"
)

// serving is all that one configuration makes. It never changes: a reload makes
// another, and a request keeps to the end the one that it came to.
type serving struct {
	*Broker
	cfg     *config.Config
	edge    *web.Edge
	clients *grant.Clients
	// clientKeys are of the clients that sign their authentication.
	clientKeys clientKeys
	finder     *geo.Finder // nil without geoip_file
	methods    []signin.Method
	door       *signin.Door
	issuer     *issuer.Issuer
	gateway    *gateway.Gateway
	portal     *portal.Portal
	kuma       *uptimekuma.Pusher // nil without uptime_kuma.push_url
	tells      *notify.Plan
	trust      *workload.Plan
	public     http.Handler
	private    http.Handler
	// networks are consoles.networks.
	networks []netip.Prefix
	archives []*archive.Archive // of audit.archive
}

// build makes what a configuration says, beside what serves now, and changes
// nothing. before is nil at the start.
func (b *Broker) build(cfg *config.Config, before *serving) (*serving, error) {
	s := &serving{Broker: b, cfg: cfg}
	var err error
	if s.networks, err = cfg.Consoles.Prefixes(); err != nil {
		return nil, err
	}
	if err := s.openArchives(); err != nil {
		return nil, err
	}
	if err := s.doors(before); err != nil {
		return nil, err
	}
	if s.trust, err = s.trustPlan(before); err != nil {
		return nil, err
	}
	if s.kuma, err = s.openKuma(); err != nil {
		return nil, err
	}
	if s.tells, err = s.notifications(); err != nil {
		return nil, err
	}
	if s.public, err = s.publicHandler(); err != nil {
		return nil, err
	}
	if s.private, err = s.privateHandler(); err != nil {
		return nil, err
	}
	return s, nil
}

// use puts a configuration to use. Nothing here can fail. Who is let in by
// something comes before those who are: limits, accounts and networks, then the
// doors, then what is open is decided again.
func (b *Broker) use(s *serving) {
	tokens := s.cfg.Tokens.WithDefaults()
	b.keys.SetLives(longestToken(tokens), tokens.RefreshMaxTTL)
	b.ledger.SetTokens(tokens)
	b.ledger.SetDeviceRequests(s.cfg.RateLimits.WithDefaults().StoredAttempts)
	b.sessions.SetLimits(s.cfg.Sessions, tokens.RefreshIdleTTL, tokens.RefreshMaxTTL)
	b.accounts.SetFixed(s.cfg.ServiceAccounts, s.cfg.TrustedAccounts()...)
	b.workloads.Use(s.trust)
	b.apiKeys.SetPerOwner(s.cfg.APIKeys.PerOwner)
	b.consoles.SetNetworks(s.networks)
	odd := s.cfg.Detection.WithDefaults().Moved
	b.sessions.SetMoves(odd.Times, odd.Window, odd.Known())
	b.notifier.Use(s.tells)
	if b.opts.Level != nil {
		b.opts.Level.Set(level(s.cfg.Log))
	}
	var ids, routes []string
	for _, m := range s.methods {
		ids = append(ids, m.ID)
	}
	for _, r := range s.cfg.Routes {
		routes = append(routes, r.Name)
	}
	b.metrics.expect(ids, routes)
	b.current.Store(s)
	s.gateway.Use()
}

func longestToken(t grant.TokensConfig) time.Duration {
	return max(t.AccessTTL, t.IDTTL, objectstore.TokenLife, workload.MaxTTL)
}

// renewer asks the connectors of the configuration that serves.
type renewer struct{ b *Broker }

// Renew asks the connector again.
func (r renewer) Renew(ctx context.Context, n session.Renewal) (session.Renewal, error) {
	return r.b.current.Load().door.Renew(ctx, n)
}

// doors makes what answers HTTP.
func (b *serving) doors(before *serving) (err error) {
	cfg, tokens := b.cfg, b.cfg.Tokens.WithDefaults()
	iss := cfg.IssuerURL()
	if b.clients, err = grant.NewClients(cfg.Clients, cfg.Resources, cfg.Issuer); err != nil {
		return err
	}
	var proxies []netip.Prefix
	for _, s := range cfg.TrustedProxies {
		p, err := config.ParsePrefix(s)
		if err != nil {
			return err
		}
		proxies = append(proxies, p)
	}
	zone := time.UTC
	if cfg.TimeZone != "" {
		if zone, err = time.LoadLocation(cfg.TimeZone); err != nil {
			return fmt.Errorf("time_zone: %w", err)
		}
	}
	if cfg.GeoIPFile != "" {
		if b.finder, err = geo.Open(cfg.GeoIPFile, b.now, b.log); err != nil {
			return fmt.Errorf("geoip_file: %w", err)
		}
	}
	if b.edge, err = web.New(web.Config{
		Issuer: iss, TrustedProxies: proxies, PlaceHeaders: web.PlaceHeaders(cfg.GeoIPHeaders), DefaultLocale: cfg.DefaultLocale, Brand: cfg.Brand, Support: cfg.Support, TimeZone: zone,
		Sheds: signin.AttemptCookie, Templates: templates.FS, Static: static.FS, Sealer: b.sealer, Log: b.log, Now: b.now, Observe: b.metrics.request, Access: cfg.Log.AccessFieldsOrDefault(), Tracer: b.tracer, Shown: b.errorPages,
	}); err != nil {
		return err
	}
	if b.methods, err = b.openConnectors(before); err != nil {
		return err
	}
	var door *signin.Door
	if before != nil {
		door = before.door
	}
	if b.door, err = signin.New(signin.Config{
		Before: door,
		Edge:   b.edge, Issuer: cfg.Issuer, Methods: b.methods, Sessions: b.sessions, Users: b.users, KV: b.store, Bus: b.store, Sealer: b.sealer,
		Events: b.events, Limits: cfg.RateLimits, Now: b.now, Log: b.log, Observe: b.metrics.signin, Reserved: b.disabled(), Place: b.placeOf,
		Staff: func(ctx context.Context, s session.Session, u user.User) (bool, error) {
			return b.portal.Staff(ctx, s, u)
		},
	}); err != nil {
		return err
	}
	if b.clientKeys, err = b.openClientKeys(before); err != nil {
		return err
	}
	if b.issuer, err = issuer.New(issuer.Config{
		Edge: b.edge, Issuer: cfg.Issuer, Clients: b.clients, Ledger: b.ledger, Keys: b.keys, Sessions: b.sessions, Users: b.users,
		SignIn: authorizeDoor{b.door}, Sealer: b.sealer, Events: b.events, Tokens: tokens, Reachable: b.reachable, Accounts: b.accounts, APIKeys: b.apiKeys, Workloads: b.workloads, Signatures: b.clientKeys, Now: b.now, Log: b.log, Observe: b.metrics.token,
		Grantable: func(ctx context.Context, s session.Session, scopes []string) ([]string, error) {
			return b.portal.GrantableScopes(ctx, s, scopes)
		},
		Place: b.placeOf, PlaceFor: b.placeFor,
	}); err != nil {
		return err
	}
	routes := make([]gateway.Route, len(cfg.Routes))
	copy(routes, cfg.Routes)
	for i := range routes {
		if routes[i].Upstream == config.DemoUpstream && b.demo != nil {
			routes[i].Upstream = "http://" + b.demo.Addr().String()
		}
	}
	made := gateway.New
	if before != nil {
		made = before.gateway.Next
	}
	if b.gateway, err = made(gateway.Config{
		Edge: b.edge, Issuer: iss, Routes: routes, Consoles: cfg.Consoles, Sessions: b.sessions, Signer: b.keys, Users: b.users, Grants: b.ledger, Clients: b.clients, Keys: keysOfAccounts{b.apiKeys, b.accounts},
		SignIn: b.door, Leases: b.consoles, Events: b.events, Now: b.now, Log: b.log, Observe: b.metrics.gatewayRequest,
	}); err != nil {
		return err
	}
	storage, err := b.storageOffers()
	if err != nil {
		return err
	}
	b.portal, err = portal.New(portal.Config{
		Edge: b.edge, Issuer: cfg.Issuer, Sessions: b.sessions, Users: b.users, Ledger: b.ledger, Clients: b.clients, Keys: b.keys, Events: b.events, ErrorPages: b.errorPages,
		Consoles: b.consoles, APIKeys: b.apiKeys, Accounts: b.accounts, Trust: b.workloads, ConsoleURL: b.gateway.ConsoleURL, Access: b.access, Frame: b.gateway.Frame, MayFrame: b.gateway.MayFrame, SignIn: b.door, Place: b.placeFor, Roles: cfg.Roles, AdminToken: b.operator.Reveal(), Now: b.now, Log: b.log, Preview: b.issuer.Preview,
		Apps: func(r *http.Request, s session.Session, _ user.User) ([]portal.App, error) {
			apps, err := b.gateway.Apps(r.Context(), s, web.RequestOf(r).IP.String())
			if err != nil {
				return nil, err
			}
			out := make([]portal.App, len(apps))
			for i, a := range apps {
				out[i] = portal.App(a)
			}
			return out, nil
		},
		OwnsDomain: b.ownsDomain, Reload: b.reload, Index: b.index, Audit: b.auditSource(), Restore: b.restore, Notify: b.notifier, Storage: storage,
		Connectors: func() []portal.ConnectorState {
			var out []portal.ConnectorState
			for _, s := range b.door.States() {
				out = append(out, portal.ConnectorState{ID: s.ID, Name: s.Name, Type: s.Type, Served: s.Served, LinkOnly: s.LinkOnly, Hidden: s.Hidden, Up: s.Up, Since: s.Since.UTC()})
			}
			return out
		},
	})
	return err
}

// access asks the gateway for the portal.
func (b *serving) access(ctx context.Context, q portal.AccessQuestion, s session.Session) (portal.Access, error) {
	v, err := b.gateway.Explain(ctx, gateway.Question(q), s)
	return portal.Access{Decision: v.Decision, Route: v.Route, Lease: v.Lease, Rule: v.Rule, Reason: v.Reason, Contact: v.Contact, Because: v.Because, MaxAge: int(v.MaxAge / time.Second)}, err
}

// authorizeDoor lets the issuer start a sign-in without knowing who does it.
type authorizeDoor struct{ *signin.Door }

// StartWith begins a sign-in for an authorization request.
func (d authorizeDoor) StartWith(w http.ResponseWriter, r *http.Request, s issuer.SignInRequest) error {
	return d.Door.StartWith(w, r, signin.Start(s2s(s)))
}

func s2s(s issuer.SignInRequest) signin.Start {
	return signin.Start{ReturnTo: s.ReturnTo, LoginHint: s.LoginHint, Connector: s.Connector, DomainHint: s.DomainHint, Force: s.Force, App: s.App, UILocales: s.UILocales}
}
