// Package broker puts the parts together: it opens what the configuration
// names, routes every URL, and runs the jobs. There is no request logic here.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/apikey"
	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/demo"
	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/gateway"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/issuer"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/portal"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/signin"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/config"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/static"
	"github.com/remotegpu/gatehouse/templates"
)

// Options are what New needs beside the configuration.
type Options struct {
	Version string
	Log     *slog.Logger
	Now     func() time.Time // default time.Now
	// SecretKeys is the text of GATEHOUSE_SECRET_KEY; empty means the file.
	SecretKeys string
	// Store, if set, stands between the broker and the store that the
	// configuration names: for tests of what happens when it fails.
	Store func(store.Store) store.Store
}

// Broker is one replica.
type Broker struct {
	cfg      *config.Config
	opts     Options
	log      *slog.Logger
	now      func() time.Time
	store    store.Store
	edge     *web.Edge
	events   *event.Recorder
	keys     *token.Keyring
	pairs    *token.Pairs
	users    *user.Directory
	sessions *session.Manager
	clients  *grant.Clients
	ledger   *grant.Ledger
	consoles *console.Registry
	accounts *user.ServiceAccounts
	apiKeys  *apikey.Registry
	door     *signin.Door
	issuer   *issuer.Issuer
	gateway  *gateway.Gateway
	portal   *portal.Portal
	metrics  *metrics
	methods  []signin.Method
	demo     net.Listener // of the demo upstream; nil without --dev

	// Notes are what a start should say: a key that was made, for example.
	Notes []string
}

// New opens and wires everything. Nothing listens yet but the demo upstream.
func New(ctx context.Context, cfg *config.Config, opts Options) (_ *Broker, err error) {
	if opts.Log == nil {
		return nil, errors.New("broker: a logger is needed")
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	b := &Broker{cfg: cfg, opts: opts, log: opts.Log, now: opts.Now, metrics: newMetrics(opts.Version)}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	sealer, err := b.sealer()
	if err != nil {
		return nil, err
	}
	adminToken, err := b.adminToken()
	if err != nil {
		return nil, err
	}
	if b.store, err = openStore(ctx, cfg.Store.Reveal(), b.now, b.log); err != nil {
		return nil, err
	}
	if opts.Store != nil {
		b.store = opts.Store(b.store)
	}
	b.store = store.Instrument(b.store, b.metrics.storeOperation)
	if cfg.Dev {
		if err := b.startDemo(); err != nil {
			return nil, err
		}
	}
	if b.events, err = event.New(event.Config{Log: b.store, Now: b.now, Logger: b.log, Observe: b.metrics.event}); err != nil {
		return nil, err
	}
	tokens := cfg.Tokens.WithDefaults()
	b.keys, err = token.Open(ctx, token.Config{
		Store: b.store, Sealer: sealer, Issuer: cfg.Issuer, Keys: cfg.Keys, MaxTokenTTL: max(tokens.AccessTTL, tokens.IDTTL), MACRetire: tokens.RefreshMaxTTL, Now: b.now, Log: b.log,
		Rotated: func(ctx context.Context, action, kid string) error {
			name := event.KeyRotated
			if action == "revoked" {
				name = event.KeyRevoked
			}
			return b.events.Record(ctx, event.Event{Name: name, Target: kid})
		},
	})
	if err != nil {
		return nil, err
	}
	if b.pairs, err = token.NewPairs(token.PairsConfig{KV: b.store, Sealer: sealer, Name: hostOnly(cfg.Issuer), Now: b.now}); err != nil {
		return nil, err
	}
	if err := b.domain(sealer, tokens); err != nil {
		return nil, err
	}
	if err := b.doors(ctx, sealer, tokens, adminToken); err != nil {
		return nil, err
	}
	b.metrics.registry.MustRegister(newStates(b))
	if cfg.Dev {
		if err := b.seedDemo(ctx); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// domain makes users, sessions, clients and grants.
func (b *Broker) domain(sealer *store.Sealer, tokens grant.TokensConfig) (err error) {
	cfg := b.cfg
	if b.users, err = user.New(user.Config{KV: b.store, Bus: b.store, Sealer: sealer, Now: b.now, Log: b.log}); err != nil {
		return err
	}
	if b.sessions, err = session.New(session.Config{
		KV: b.store, Bus: b.store, Leaser: b.store, Sealer: sealer, Epochs: b.users, Limits: cfg.Sessions,
		RefreshIdle: tokens.RefreshIdleTTL, RefreshMax: tokens.RefreshMaxTTL, Now: b.now, Log: b.log, Ended: b.sessionEnded,
	}); err != nil {
		return err
	}
	b.users.OnChange(b.sessions.EndUser)
	if b.clients, err = grant.NewClients(cfg.Clients, cfg.Resources, cfg.Issuer); err != nil {
		return err
	}
	if b.ledger, err = grant.New(grant.Config{KV: b.store, Sealer: sealer, MAC: b.keys, Tokens: tokens, OutageGrace: *cfg.Sessions.WithDefaults().OutageGrace, Now: b.now}); err != nil {
		return err
	}
	if b.consoles, err = console.New(console.Config{KV: b.store, Bus: b.store, Leaser: b.store, Sealer: sealer, Now: b.now, Log: b.log, RanOut: b.leaseRanOut}); err != nil {
		return err
	}
	grace := *cfg.Sessions.WithDefaults().OutageGrace
	b.accounts = user.NewServiceAccounts(user.Config{KV: b.store, Bus: b.store, Sealer: sealer, Now: b.now, Log: b.log}, cfg.ServiceAccounts, grace)
	if b.apiKeys, err = apikey.New(apikey.Config{KV: b.store, Bus: b.store, Sealer: sealer, Alive: b.ownerAlive, PerOwner: cfg.APIKeys.PerOwner, Grace: grace, Now: b.now, Log: b.log}); err != nil {
		return err
	}
	networks, err := cfg.Consoles.Prefixes()
	if err != nil {
		return err
	}
	b.consoles.SetNetworks(networks)
	return nil
}

// doors makes what answers HTTP.
func (b *Broker) doors(ctx context.Context, sealer *store.Sealer, tokens grant.TokensConfig, adminToken string) (err error) {
	cfg := b.cfg
	iss := cfg.IssuerURL()
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
	if b.edge, err = web.New(web.Config{
		Issuer: iss, TrustedProxies: proxies, DefaultLocale: cfg.DefaultLocale, Brand: cfg.Brand, Support: cfg.Support, TimeZone: zone,
		Templates: templates.FS, Static: static.FS, Sealer: sealer, Log: b.log, Now: b.now, Observe: b.metrics.request,
	}); err != nil {
		return err
	}
	if b.methods, err = b.openConnectors(); err != nil {
		return err
	}
	if b.door, err = signin.New(signin.Config{
		Edge: b.edge, Issuer: cfg.Issuer, Methods: b.methods, Sessions: b.sessions, Users: b.users, KV: b.store, Bus: b.store, Sealer: sealer,
		Events: b.events, Limits: cfg.RateLimits, Now: b.now, Log: b.log, Observe: b.metrics.signin, Reserved: b.disabled(),
		Staff: func(ctx context.Context, s session.Session, u user.User) (bool, error) {
			return b.portal.Staff(ctx, s, u)
		},
	}); err != nil {
		return err
	}
	b.sessions.SetRenewer(b.door)
	b.sessions.SetServes(b.door.Serves)
	if b.issuer, err = issuer.New(issuer.Config{
		Edge: b.edge, Issuer: cfg.Issuer, Clients: b.clients, Ledger: b.ledger, Keys: b.keys, Sessions: b.sessions, Users: b.users,
		SignIn: authorizeDoor{b.door}, Sealer: sealer, Events: b.events, Tokens: tokens, Reachable: b.reachable, Now: b.now, Log: b.log, Observe: b.metrics.token,
		Grantable: func(ctx context.Context, s session.Session, scopes []string) ([]string, error) {
			return b.portal.GrantableScopes(ctx, s, scopes)
		},
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
	if b.gateway, err = gateway.New(gateway.Config{
		Edge: b.edge, Issuer: iss, Routes: routes, Consoles: cfg.Consoles, Sessions: b.sessions, Signer: b.keys, Users: b.users, Grants: b.ledger, Keys: keysOfAccounts{b.apiKeys, b.accounts},
		SignIn: b.door, Leases: b.consoles, Events: b.events, Now: b.now, Log: b.log, Observe: b.metrics.gatewayRequest,
	}); err != nil {
		return err
	}
	b.portal, err = portal.New(portal.Config{
		Edge: b.edge, Issuer: cfg.Issuer, Sessions: b.sessions, Users: b.users, Ledger: b.ledger, Clients: b.clients, Keys: b.keys, Events: b.events,
		Consoles: b.consoles, APIKeys: b.apiKeys, Accounts: b.accounts, ConsoleURL: b.gateway.ConsoleURL, Access: b.access, Frame: b.gateway.Frame, MayFrame: b.gateway.MayFrame, SignIn: b.door, Roles: cfg.Roles, AdminToken: adminToken, Now: b.now, Log: b.log, Preview: b.issuer.Preview,
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
		OwnsDomain: b.ownsDomain,
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

// reachable reports that the store is, for what is issued without writing to it:
// while it is not, nothing new is issued (docs/security.md SE-3).
func (b *Broker) reachable(ctx context.Context) error {
	if !b.store.Stale() {
		return nil
	}
	_, err := b.store.Get(ctx, store.Key{Kind: "reachable", ID: "nothing"})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// sessionEnded records what nobody asked for: the end itself cannot wait for the log.
func (b *Broker) sessionEnded(ctx context.Context, s session.Session, reason string) {
	if err := b.events.Record(context.WithoutCancel(ctx), event.Event{Name: event.SessionRevoked, Target: s.UserID, Connector: s.Connector,
		Details: map[string]string{"session": s.ID, "kind": string(s.Kind), "reason": reason}}); err != nil {
		b.log.Error("an event was not recorded", "event", event.SessionRevoked, "err", err)
	}
}

// access asks the gateway for the portal.
func (b *Broker) access(ctx context.Context, q portal.AccessQuestion, s session.Session) (portal.Access, error) {
	v, err := b.gateway.Explain(ctx, gateway.Question(q), s)
	return portal.Access{Decision: v.Decision, Route: v.Route, Lease: v.Lease, Rule: v.Rule, Reason: v.Reason, Contact: v.Contact, Because: v.Because, MaxAge: int(v.MaxAge / time.Second)}, err
}

// leaseRanOut records what nobody asked for.
func (b *Broker) leaseRanOut(ctx context.Context, l *console.Lease) {
	if err := b.events.Record(context.WithoutCancel(ctx), event.Event{Name: event.ConsoleReleased, Target: l.ID,
		Details: map[string]string{"owner": l.Owner, "node": l.Node, "reason": "expired"}}); err != nil {
		b.log.Error("an event was not recorded", "event", event.ConsoleReleased, "err", err)
	}
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

// openConnectors makes a method of every configured connector. Opening reaches
// no network: a connector that is down does not stop the start.
func (b *Broker) openConnectors() ([]signin.Method, error) {
	types := map[string]connectors.Type{}
	for _, t := range Types() {
		types[t.Name] = t
	}
	var out []signin.Method
	for _, k := range b.cfg.Connectors {
		if k.Disabled { // refused at every entry: it is not there (UP-8)
			continue
		}
		m := signin.Method{ID: k.ID, Type: k.Type, Name: k.Name, Org: k.Org, Domains: k.Domains, TrustEmail: k.TrustEmail, Enforce: k.Enforce, LinkOnly: k.LinkOnly,
			Hidden: k.Hidden, Signup: k.Signup, GroupsMap: k.GroupsMap, GroupsPrefix: k.GroupsPrefix}
		if k.Allow != nil {
			e, err := policy.Compile(policy.AtConnector, policy.Bool, *k.Allow)
			if err != nil {
				return nil, fmt.Errorf("connector %s: allow: %w", k.ID, err)
			}
			m.Allow = e
		}
		if k.Served {
			c, err := types[k.Type].Open(b.env(k.ID), func(into any) error { return assign(into, k.Settings) })
			if err != nil {
				return nil, fmt.Errorf("connector %s: %w", k.ID, err)
			}
			m.Connector = c
		}
		out = append(out, m)
	}
	return out, nil
}

// mapping compiles an expression over an upstream's claims, for a plug-in that
// sees no policy.
func mapping(source string) (connectors.Mapping, error) {
	e, err := policy.Compile(policy.AtMapping, policy.Any, source)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, claims map[string]any) (any, error) {
		return e.Value(ctx, policy.Input{Claims: claims})
	}, nil
}

// startDemo listens for the demo upstream, unless it runs elsewhere.
func (b *Broker) startDemo() error {
	for _, r := range b.cfg.Routes {
		if r.Upstream != config.DemoUpstream {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("demo upstream: %w", err)
		}
		b.demo = l
		return nil
	}
	return nil
}

// seedDemo lends the demo console to the demo's groups.
func (b *Broker) seedDemo(ctx context.Context) error {
	upstream := ""
	if b.demo != nil {
		upstream = "http://" + b.demo.Addr().String()
	}
	for _, r := range b.cfg.Routes {
		if r.Name == "demo-api" && upstream == "" {
			upstream = r.Upstream
		}
	}
	if upstream == "" {
		return nil
	}
	_, err := b.consoles.Put(ctx, console.Lease{ID: "demo", Node: "demo-node", Upstream: upstream, Kind: "terminal", Owner: "demo-owner",
		Groups: []string{"gpu-users", "platform-admins"}, Expires: b.now().Add(365 * 24 * time.Hour)})
	return err
}

func demoServer() *http.Server {
	return &http.Server{Handler: demo.Handler(), ReadHeaderTimeout: 5 * time.Second}
}

// Close gives back what New opened.
func (b *Broker) Close() {
	if b.demo != nil {
		b.demo.Close()
	}
	if b.store != nil {
		b.store.Close()
	}
}

func hostOnly(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}
