// Package workload decides what a CI job, or another program that has an ID token
// of an issuer that a rule names, gets for it: an access token of a service
// account, for a while. It judges and records; it issues nothing and verifies no
// signature itself.
package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// Want is what a caller asks for.
type Want struct {
	// Scopes narrow the rule's; none: all of them. Audience must be the rule's, by
	// name or URI; "" is that.
	Scopes   []string
	Audience string
	// Client is the OAuth client that asks, or "". The rest is for the event.
	Client, IP, Agent, RequestID string
}

// Grant is what a token may be issued for.
type Grant struct {
	Rule           string
	ServiceAccount string
	// Groups are those of the account.
	Groups   []string
	Scopes   []string
	Audience string
	TTL      time.Duration
	// Provenance says whose token it was: provider, issuer, subject and claims such
	// as repository_id and run_id, for the token and the log.
	Provenance map[string]string
}

// Exchanger turns a job's ID token into a Grant.
type Exchanger interface {
	// Exchange returns ErrRefused, ErrAudience or ErrScope for a request that is
	// refused; any other error is a fault, ours or of an issuer that does not
	// answer, and the same token may be brought again.
	Exchange(ctx context.Context, raw string, want Want) (Grant, error)
	// Knows reports whether a rule names this iss.
	Knows(issuer string) bool
}

// Errors of Exchange. What it was stands in the log and the event, and is not told
// to the caller (docs/security.md CI-9).
var (
	// ErrRefused is invalid_grant (RFC 6749 section 5.2).
	ErrRefused = errors.New("the workload's token was refused")
	// ErrAudience is invalid_target (RFC 8693 section 2.2.2).
	ErrAudience = errors.New("the audience is not the one that the workload may have")
	// ErrScope is invalid_scope.
	ErrScope = errors.New("a scope is more than the workload may have")
)

// Config is what New needs.
type Config struct {
	KV     store.KV
	Bus    store.Bus
	Sealer *store.Sealer
	Events *event.Recorder
	// Account returns the groups of a service account, and whether there is one.
	Account func(ctx context.Context, name string) (groups []string, there bool, err error)
	// Grace is sessions.outage_grace.
	Grace time.Duration
	Now   func() time.Time
	Log   *slog.Logger
}

// Service knows the rules of the file and those of the store. It is safe for
// concurrent use.
type Service struct {
	cfg    Config
	plan   atomic.Pointer[Plan]
	stored *store.Collection[book]
	cache  *store.Cache[book]
	used   *store.Collection[used]
	// noise bounds the events of what anybody can send, by address.
	noise *web.Limiter

	mu   sync.Mutex
	seen *view // of the last plan and book
}

var _ Exchanger = (*Service)(nil)

// New returns a Service without rules of a file; it hears of other replicas once
// Run runs.
func New(cfg Config) (*Service, error) {
	if cfg.KV == nil || cfg.Bus == nil || cfg.Sealer == nil || cfg.Events == nil || cfg.Account == nil || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("workload: the configuration is incomplete")
	}
	s := &Service{cfg: cfg, noise: web.NewLimiter(web.LimiterConfig{Max: 60, Window: time.Minute, Size: 10_000, Now: cfg.Now})}
	s.plan.Store(&Plan{setting: Setting{Resource: func(string) (string, bool) { return "", false },
		Open: func(Source) (connectors.TokenConnector, error) { return nil, errors.New("workload: not in use yet") }}})
	s.stored = store.NewCollection(cfg.KV, store.CollectionConfig[book]{Kind: "trust", Sealer: cfg.Sealer, Now: cfg.Now, Firm: true,
		Tell: func(book) store.Message { return store.Changed(topic, bookID) }})
	s.cache = store.NewCache(s.stored, store.CacheConfig{Bus: cfg.Bus, Topic: topic, Max: 1, Now: cfg.Now, Grace: cfg.Grace})
	// That a token was used grants nothing, and must outlive a power cut.
	s.used = store.NewCollection(cfg.KV, store.CollectionConfig[used]{Kind: "workload-token", Now: cfg.Now, Firm: true, Expires: func(u used) time.Time { return u.Until }})
	return s, nil
}

// used is the tombstone of a token (docs/security.md G3).
type used struct {
	Until time.Time `json:"until"`
}

// Run hears of other replicas until ctx ends.
func (s *Service) Run(ctx context.Context) error { return s.cache.Run(ctx) }

// Setting is what a configuration says.
type Setting struct {
	Rules []Rule
	// Issuer is our own: the audience of a rule that names none, and of its tokens.
	Issuer string
	// Resource returns the name of a resource that is known by name or URI.
	Resource func(nameOrURI string) (name string, ok bool)
	// Open makes what verifies the tokens of an issuer. It calls nobody.
	Open func(Source) (connectors.TokenConnector, error)
	// Keep says that Open does what it did in the setting before, so that keys
	// which were read need not be read again.
	Keep bool
}

// Plan is a Setting that can be used.
type Plan struct {
	setting Setting
	mu      sync.Mutex
	open    map[Source]connectors.TokenConnector
}

// Prepare opens what a configuration needs and changes nothing. A rule of the file
// with the name of a stored one, and an issuer with two sets of keys, are errors.
func (s *Service) Prepare(ctx context.Context, set Setting) (*Plan, error) {
	p := &Plan{setting: set, open: map[Source]connectors.TokenConnector{}}
	b, err := s.book(ctx)
	if err != nil {
		return nil, fmt.Errorf("trust: %w", err)
	}
	v, misfits, err := newView(p, b)
	if err = errors.Join(err, errors.Join(misfits...)); err != nil {
		return nil, err
	}
	for _, of := range v.issuers {
		if set.Keep {
			p.keep(s.plan.Load(), of.source)
		}
		if !of.source.Listed { // opened when it is needed: nothing of a stored rule stops a start
			continue
		}
		if _, err := p.connector(of.source); err != nil {
			return nil, fmt.Errorf("trust %s: %w", of.rules[0].Name, err)
		}
	}
	return p, nil
}

// keep takes over what a plan before had opened for a source.
func (p *Plan) keep(before *Plan, src Source) {
	before.mu.Lock()
	defer before.mu.Unlock()
	if c, there := before.open[src]; there {
		p.open[src] = c
	}
}

// Use puts a plan to use.
func (s *Service) Use(p *Plan) { s.plan.Store(p) }

// connector returns what verifies the tokens of a source.
func (p *Plan) connector(src Source) (connectors.TokenConnector, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, there := p.open[src]; there {
		return c, nil
	}
	c, err := p.setting.Open(src)
	if err != nil {
		return nil, err
	}
	p.open[src] = c
	return c, nil
}

// view are the rules that hold, by issuer.
type view struct {
	plan     *Plan
	revision uint64
	issuers  map[string]issuerRules
	all      []Rule
	fixed    int // of all, those of the file, which stand first
}

type issuerRules struct {
	source Source
	rules  []Rule // those of the file first, then the stored ones by name
}

// newView puts the rules of file and store together. Of an issuer that the file
// names, the file says where the keys are. A rule that does not go with those
// before it is a misfit and does not hold.
func newView(p *Plan, b book) (v *view, misfits []error, err error) {
	stored, err := b.rules()
	if err != nil {
		return nil, nil, err
	}
	v = &view{plan: p, revision: b.Revision, issuers: map[string]issuerRules{}, fixed: len(p.setting.Rules)}
	for i, r := range slices.Concat(p.setting.Rules, stored) {
		src := r.source(i < v.fixed)
		have, there := v.issuers[src.Issuer]
		if there {
			if err := fits(have.source, src); err != nil {
				misfits = append(misfits, fmt.Errorf("trust %s: %w", r.Name, err))
				continue
			}
			src = have.source
		}
		if i >= v.fixed && fixed(p, r.Name) {
			misfits = append(misfits, fmt.Errorf("trust %s: a rule of that name was made by the API too; delete it there, or name this one otherwise", r.Name))
			continue
		}
		v.issuers[src.Issuer] = issuerRules{src, append(slices.Clip(have.rules), r)}
		v.all = append(v.all, r)
	}
	return v, misfits, nil
}

// fits reports whether a rule can be another one of an issuer's: an issuer has one
// provider and one set of keys, or a token could be judged by the wrong ones.
func fits(have, src Source) error {
	switch {
	case have.Provider != src.Provider:
		return fmt.Errorf("issuer %s is %s in another rule: an issuer is of one provider", src.Issuer, have.Provider)
	case have.Listed && !src.Listed && src.JWKSURI == "": // the file says where the keys are
		return nil
	case have.JWKSURI != src.JWKSURI || have.JWKSFile != src.JWKSFile || have.Proxy != src.Proxy || have.CAFile != src.CAFile:
		return fmt.Errorf("the keys of issuer %s come from elsewhere in another rule: jwks_uri, jwks_file, proxy and ca_file must be the same", src.Issuer)
	}
	return nil
}

// view returns the rules that hold now.
func (s *Service) view(ctx context.Context) (*view, error) {
	p := s.plan.Load()
	b, err := s.book(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen != nil && s.seen.plan == p && s.seen.revision == b.Revision {
		return s.seen, nil
	}
	v, misfits, err := newView(p, b)
	if err != nil {
		return nil, err
	}
	for _, m := range misfits { // another replica has another configuration
		s.cfg.Log.ErrorContext(ctx, "a stored trust rule does not hold here", "err", m)
	}
	s.seen = v
	return v, nil
}

// Knows reports whether a rule names this iss: then a token with it is a
// workload's. While the store is away, the rules of the file are known.
func (s *Service) Knows(issuer string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	v, err := s.view(ctx)
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "stored trust rules cannot be read; those of the configuration hold", "err", err)
		return slices.ContainsFunc(s.plan.Load().setting.Rules, func(r Rule) bool { return r.issuer() == issuer })
	}
	_, ok := v.issuers[issuer]
	return ok
}
