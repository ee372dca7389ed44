package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/apikey"
	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

type sessions interface {
	Get(ctx context.Context, id string) (session.Session, error)
	LookupHost(ctx context.Context, h session.Handle, host string) (session.Session, error)
	Watch(id string) (ended <-chan struct{}, stop func())
	NewTicket(ctx context.Context, sessionID, host, nonce string) (string, error)
	RedeemTicket(ctx context.Context, ticket, host, nonce string) (session.Session, session.Handle, error)
}

type signer interface {
	Sign(ctx context.Context, alg token.Alg, typ token.Type, c token.Claims) (string, error)
	Verify(ctx context.Context, typ token.Type, raw string) (token.Claims, error)
}

type users interface {
	Profile(ctx context.Context, id string) (user.User, error)
}

type grants interface {
	Alive(ctx context.Context, grantID string) error
}

// clients are the names of OIDC clients, for rules.
type clients interface {
	Name(id string) string
}

// apiKeys are what the gateway asks of API keys; Groups are a service account's.
type apiKeys interface {
	Verify(ctx context.Context, raw string, from netip.Addr) (apikey.Key, error)
	Check(ctx context.Context, id string, from netip.Addr) error
	Groups(ctx context.Context, account string) ([]string, error)
}

type starter interface {
	StartFor(w http.ResponseWriter, r *http.Request, returnTo, app string, force bool) error
	Current(r *http.Request) (session.Session, bool, error)
}

// Config is what New needs.
type Config struct {
	Edge     *web.Edge
	Issuer   *url.URL
	Routes   []Route
	Consoles ConsolesConfig
	Sessions sessions
	Signer   signer
	Users    users
	Grants   grants
	Clients  clients
	Keys     apiKeys
	SignIn   starter
	Leases   leases
	Events   *event.Recorder
	Now      func() time.Time
	Log      *slog.Logger
	// Observe is told of every answer; may be nil.
	Observe func(route string, code int, took time.Duration)
}

// Gateway forwards requests of the hosts that its routes name.
type Gateway struct {
	*live
	cfg      Config
	routes   table
	all      []*route
	networks []netip.Prefix // consoles.networks
	proxy    *proxies
	passes   passes
}

// New checks and compiles the routes.
func New(cfg Config) (*Gateway, error) {
	g, err := build(cfg, newLive())
	if err != nil {
		return nil, err
	}
	cfg.Leases.OnChange(g.news.add)
	g.Use()
	return g, nil
}

// build makes all that one configuration makes.
func build(cfg Config, l *live) (*Gateway, error) {
	if cfg.Edge == nil || cfg.Issuer == nil || cfg.Sessions == nil || cfg.Signer == nil || cfg.Users == nil || cfg.Grants == nil || cfg.Clients == nil || cfg.Keys == nil || cfg.SignIn == nil || cfg.Leases == nil || cfg.Events == nil || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("gateway: the configuration is incomplete")
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, int, time.Duration) {}
	}
	g := &Gateway{cfg: cfg, live: l, passes: passes{m: map[passKey]*pass{}}}
	for _, r := range cfg.Routes {
		c, err := compile(r)
		if err != nil {
			return nil, err
		}
		g.all = append(g.all, c)
	}
	g.routes = newTable(g.all)
	var err error
	if g.networks, err = cfg.Consoles.Prefixes(); err != nil {
		return nil, err
	}
	if g.proxy, err = newProxies(g, g.networks, cfg.Consoles.CAFile); err != nil {
		return nil, err
	}
	if before := l.current.Load(); before != nil {
		g.keep(before)
	}
	return g, nil
}

// Owns reports whether requests of this host are the gateway's.
func (g *Gateway) Owns(host string) bool {
	rs, _ := g.routes.host(host)
	return rs != nil
}

// Hosts lists the hosts of the routes as they are written.
func (g *Gateway) Hosts() []string {
	var out []string
	for _, r := range g.all {
		if !slices.Contains(out, r.Host) {
			out = append(out, r.Host)
		}
	}
	return out
}

// recheckEvery is how often open requests and sockets are looked at again.
const recheckEvery = 500 * time.Millisecond

// Run ends streams whose session or right has gone, until ctx ends: at once when
// their lease or the configuration is another, and by looking at all of them now
// and then. It runs once for a Gateway and all that are made by its Next.
func (g *Gateway) Run(ctx context.Context) error {
	decide := func(a *activity) {
		if code := g.over(ctx, a); code != 0 {
			a.end(code)
		}
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	var watched *Gateway
	stop := func() {}
	watch := func() { // the health checks are those of the configuration that decides
		now := g.current.Load()
		if now == watched {
			return
		}
		stop()
		var its context.Context
		its, stop = context.WithCancel(ctx)
		watching.Go(func() { now.watchUpstreams(its) })
		watched = now
	}
	watch()
	defer func() { stop() }()
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.news.wake:
			watch()
			g.active.review(g.news.concerns(), decide)
		case <-tick.C:
			g.retired.closeIdle()
			g.active.review(func(a *activity) bool { return time.Since(a.began) >= reviewAfter }, decide)
		}
	}
}

// over decides again for something that is open: the code to end it with, or 0
// (docs/security.md GW-9).
func (g *Gateway) over(ctx context.Context, a *activity) int {
	rt, req := a.route, a.request
	if g = g.current.Load(); g != a.by {
		rt, req = g.routeOf(a)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c := a.caller
	if c.session.ID != "" {
		s, err := g.cfg.Sessions.Get(ctx, c.session.ID)
		if err != nil {
			return closeSession
		}
		c.session, c.groups = s, s.Groups
	}
	if c.keyID != "" {
		if err := g.cfg.Keys.Check(ctx, c.keyID, c.from); err != nil {
			return closeSession
		}
	}
	if c.service && (c.keyID != "" || c.workload) { // a service account's
		var err error
		if c.groups, err = g.cfg.Keys.Groups(ctx, c.userID); err != nil {
			return closeSession
		}
	}
	if c.tokenID != "" { // a bearer's ends with its token and with its grant
		if !g.cfg.Now().Before(c.expires) {
			return closeSession
		}
		// A store that cannot be asked is the session's to judge, by outage_grace.
		if c.session.ID != "" && errors.Is(g.cfg.Grants.Alive(ctx, grant.OfToken(c.tokenID)), grant.ErrInvalidGrant) {
			return closeSession
		}
	}
	if rt == nil {
		return closeForbidden
	}
	l := a.lease
	if rt.Lease {
		fresh, err := g.cfg.Leases.Get(ctx, l.ID)
		switch {
		case err == nil && fresh.Same(l) && looksOnly(fresh, c) == looksOnly(l, c):
			l = fresh
		case err == nil, errors.Is(err, console.ErrNoLease), !g.cfg.Now().Before(l.Expires):
			return closeForbidden
		}
	}
	if p, err := g.pass(ctx, rt, c, l, req); err == nil && p.refusal != nil { // a fresh sign-in is asked for at the beginning
		return closeForbidden
	}
	return 0
}

// relays counts the sockets that are open, and lets none begin at shutdown.
type relays struct {
	mu      sync.Mutex
	closing bool
	n       int
	none    chan struct{} // closed when the last one has ended after closing
}

func (r *relays) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return false
	}
	r.n++
	return true
}

func (r *relays) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n--; r.n == 0 && r.closing {
		close(r.none)
	}
}

func (r *relays) close() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closing {
		r.closing, r.none = true, make(chan struct{})
		if r.n == 0 {
			close(r.none)
		}
	}
	return r.none
}

// Shutdown sends 1001 to open sockets and waits until they are closed or ctx
// ends. Ordinary requests are the server's to wait for.
func (g *Gateway) Shutdown(ctx context.Context) {
	done := g.relays.close()
	g.stop()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
