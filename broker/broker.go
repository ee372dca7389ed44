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
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/remotegpu/gatehouse/broker/apikey"
	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/demo"
	"github.com/remotegpu/gatehouse/broker/detect"
	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/event/index"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/logging"
	"github.com/remotegpu/gatehouse/broker/notify"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/sentry"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/tracing"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/broker/workload"
	"github.com/remotegpu/gatehouse/config"
)

// Options are what New needs beside the configuration.
type Options struct {
	Version string
	Log     *slog.Logger
	Now     func() time.Time // default time.Now
	// SecretKeys is the text of GATEHOUSE_SECRET_KEY; empty means the file.
	SecretKeys redact.String
	// Store, if set, stands between the broker and the store that the
	// configuration names: for tests of what happens when it fails.
	Store func(store.Store) store.Store
	// Send lets Check send what a receiver shows to people: a test message, a beat.
	Send bool
	// Load reads the configuration again, for Reload. Without it there is none.
	Load func() (*config.Config, config.Findings, error)
	// Level, if set, is what Log's level follows.
	Level *slog.LevelVar
}

// Broker is one replica: what lasts as long as the process. What is made of the
// configuration alone is in serving.
type Broker struct {
	cfg      *config.Config // of the start, for what lasts until the end
	opts     *Options       // it holds the secret keys
	log      *slog.Logger
	now      func() time.Time
	store    store.Store
	sealer   *store.Sealer
	events   *event.Recorder
	auditKey *event.AuditKey
	chain    *event.Sealer
	sinks    []event.Sink // readers of the event log: sinks.go
	notifier *notify.Notifier
	// certificates are those of the listeners with TLS.
	certificates []*certificate
	detection    detection
	index        *index.Index // nil where the data folder cannot be written: audit.go
	keys         *token.Keyring
	pairs        *token.Pairs
	users        *user.Directory
	sessions     *session.Manager
	ledger       *grant.Ledger
	consoles     *console.Registry
	accounts     *user.ServiceAccounts
	apiKeys      *apikey.Registry
	errorPages   *web.ErrorPages
	workloads    *workload.Service
	metrics      *metrics
	sentry       *sentry.Client  // nil without sentry.dsn
	tracer       *tracing.Tracer // nil where nothing is traced
	current      atomic.Pointer[serving]
	reloads      reloads
	operator     redact.Box[string] // data/admin.token
	demo         net.Listener       // of the demo upstream; nil without --dev

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
	b := &Broker{cfg: cfg, opts: &opts, log: slog.New(logging.WithRequest(opts.Log.Handler())), now: opts.Now, metrics: newMetrics(opts.Version), reloads: reloads{swapped: make(chan struct{}, 1)},
		detection: detection{clocks: detect.NewClocks(), operations: &detect.Operations{}}}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if err := b.openTelemetry(); err != nil {
		return nil, err
	}
	if b.sealer, err = b.openSealer(); err != nil {
		return nil, err
	}
	operator, err := b.adminToken()
	if err != nil {
		return nil, err
	}
	b.operator = redact.Hide(operator)
	if b.store, err = openStore(ctx, cfg.Store.Reveal(), b.now, b.log); err != nil {
		return nil, err
	}
	if opts.Store != nil {
		b.store = opts.Store(b.store)
	}
	b.detection.storeClock = store.BackendClock(b.store)
	b.store = b.traced(store.Instrument(b.store, func(op string, took time.Duration) {
		b.metrics.storeOperation(op, took)
		b.detection.operations.Observe(op, took)
	}))
	if cfg.Dev {
		if err := b.startDemo(); err != nil {
			return nil, err
		}
	}
	if b.events, err = event.New(event.Config{Log: b.store, Now: b.now, Logger: b.log, Place: b.placeOf, Observe: b.metrics.event}); err != nil {
		return nil, err
	}
	tokens := cfg.Tokens.WithDefaults()
	b.keys, err = token.Open(ctx, token.Config{
		Store: b.store, Sealer: b.sealer, Issuer: cfg.Issuer, Keys: cfg.Keys, MaxTokenTTL: longestToken(tokens), MACRetire: tokens.RefreshMaxTTL, Now: b.now, Log: b.log,
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
	if err := b.openSinks(ctx); err != nil {
		return nil, err
	}
	b.openAudit(ctx)
	if b.pairs, err = token.NewPairs(token.PairsConfig{KV: b.store, Sealer: b.sealer, Name: hostOnly(cfg.Issuer), Now: b.now}); err != nil {
		return nil, err
	}
	if err := b.domain(tokens); err != nil {
		return nil, err
	}
	first, err := b.build(cfg, nil)
	if err != nil {
		return nil, err
	}
	b.use(first)
	b.sessions.SetRenewer(renewer{b})
	b.sessions.SetServes(func(connector string) bool { return b.current.Load().door.Serves(connector) })
	b.metrics.registry.MustRegister(newStates(b))
	if cfg.Dev {
		if err := b.seedDemo(ctx); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// domain makes users, sessions, clients and grants.
func (b *Broker) domain(tokens grant.TokensConfig) (err error) {
	cfg := b.cfg
	if b.users, err = user.New(user.Config{KV: b.store, Bus: b.store, Sealer: b.sealer, Now: b.now, Log: b.log}); err != nil {
		return err
	}
	if b.sessions, err = session.New(session.Config{
		KV: b.store, Bus: b.store, Leaser: b.store, Sealer: b.sealer, Epochs: b.users, Limits: cfg.Sessions,
		RefreshIdle: tokens.RefreshIdleTTL, RefreshMax: tokens.RefreshMaxTTL, Now: b.now, Log: b.log, Ended: b.sessionEnded, Moved: b.sessionMoved,
	}); err != nil {
		return err
	}
	b.users.OnChange(b.sessions.EndUser)
	if b.ledger, err = grant.New(grant.Config{KV: b.store, Bus: b.store, Sealer: b.sealer, MAC: b.keys, Tokens: tokens, OutageGrace: *cfg.Sessions.WithDefaults().OutageGrace, Now: b.now}); err != nil {
		return err
	}
	if b.consoles, err = console.New(console.Config{KV: b.store, Bus: b.store, Leaser: b.store, Sealer: b.sealer, Now: b.now, Log: b.log, RanOut: b.leaseRanOut}); err != nil {
		return err
	}
	grace := *cfg.Sessions.WithDefaults().OutageGrace
	b.accounts = user.NewServiceAccounts(user.Config{KV: b.store, Bus: b.store, Sealer: b.sealer, Now: b.now, Log: b.log}, cfg.ServiceAccounts, grace)
	if b.errorPages, err = web.NewErrorPages(web.ErrorPagesConfig{KV: b.store, Sealer: b.sealer, Now: b.now, Log: b.log}); err != nil {
		return err
	}
	if b.apiKeys, err = apikey.New(apikey.Config{KV: b.store, Bus: b.store, Sealer: b.sealer, Alive: b.ownerAlive, PerOwner: cfg.APIKeys.PerOwner, Grace: grace, Now: b.now, Log: b.log}); err != nil {
		return err
	}
	b.workloads, err = workload.New(workload.Config{KV: b.store, Bus: b.store, Sealer: b.sealer, Events: b.events, Account: b.account, Grace: grace, Now: b.now, Log: b.log})
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
		b.log.ErrorContext(ctx, "an event was not recorded", "event", event.SessionRevoked, "err", err)
	}
}

// leaseRanOut records what nobody asked for.
func (b *Broker) leaseRanOut(ctx context.Context, l *console.Lease) {
	if err := b.events.Record(context.WithoutCancel(ctx), event.Event{Name: event.ConsoleReleased, Target: l.ID,
		Details: map[string]string{"owner": l.Owner, "node": l.Node, "reason": "expired"}}); err != nil {
		b.log.ErrorContext(ctx, "an event was not recorded", "event", event.ConsoleReleased, "err", err)
	}
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
	return store.Patiently(ctx, func() error {
		_, err := b.consoles.Put(ctx, console.Lease{ID: "demo", Node: "demo-node", Upstream: upstream, Kind: "terminal", Owner: "demo-owner",
			Groups: []string{"gpu-users", "platform-admins"}, Expires: b.now().Add(365 * 24 * time.Hour)})
		return err
	})
}

func demoServer() *http.Server {
	return &http.Server{Handler: demo.Handler(), ReadHeaderTimeout: 5 * time.Second}
}

// Close gives back what New opened.
func (b *Broker) Close() {
	if b.demo != nil {
		b.demo.Close()
	}
	if b.index != nil {
		b.index.Close()
	}
	if b.store != nil {
		b.store.Close()
	}
	b.closeTelemetry()
}

func hostOnly(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}
