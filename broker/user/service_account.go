package user

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/store"
)

// ServiceAccount is an account of programs. The operator's file or an admin
// makes it; its groups are what they give it.
type ServiceAccount struct {
	Name   string   `yaml:"name" json:"name"`
	Groups []string `yaml:"groups" json:"groups,omitempty"`
	// Created is zero for one of the file.
	Created time.Time `yaml:"-" json:"created,omitzero"`
}

var accountName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Problems complains about a name that could not be one.
func (a ServiceAccount) Problems() []problem.Problem {
	if !accountName.MatchString(a.Name) {
		return []problem.Problem{{Field: "Name", Rule: "service_account.name", Text: "A service account needs a name of a-z, 0-9, '.', '_' and '-'.", Fix: "name: acme-deployer"}}
	}
	return nil
}

// ErrFixed means that a service account stands in the operator's file and is
// changed there.
var ErrFixed = errors.New("this service account stands in the configuration; change it there")

// ErrExists means that the name is taken.
var ErrExists = errors.New("there is a service account or a user of that name")

// ErrBadAccount means that an account cannot be as it is wanted.
var ErrBadAccount = errors.New("the service account cannot be")

const accountTopic = "service-account"

// ServiceAccounts are those of the file and those that admins made.
type ServiceAccounts struct {
	fixed  atomic.Pointer[fixedAccounts]
	stored *store.Collection[ServiceAccount]
	cache  *store.Cache[ServiceAccount]
	now    func() time.Time
}

// NewServiceAccounts knows the accounts of the file and those in the store.
func NewServiceAccounts(cfg Config, fixed []ServiceAccount, grace time.Duration) *ServiceAccounts {
	a := &ServiceAccounts{now: cfg.Now}
	a.SetFixed(fixed)
	a.stored = store.NewCollection(cfg.KV, store.CollectionConfig[ServiceAccount]{
		Kind: "service-account", Sealer: cfg.Sealer, Now: cfg.Now, Firm: true,
		Tell: func(s ServiceAccount) store.Message { return store.Changed(accountTopic, s.Name) },
	})
	a.cache = store.NewCache(a.stored, store.CacheConfig{Bus: cfg.Bus, Topic: accountTopic, Max: 10_000, Now: cfg.Now, Grace: grace})
	return a
}

// fixedAccounts are those of the operator's file.
type fixedAccounts struct {
	listed map[string]ServiceAccount
	// named exist because something in the file names them: without groups, unless
	// they are listed there or stored.
	named map[string]bool
}

// SetFixed sets which accounts stand in the operator's file, and which exist
// because it names them. One that is no more there is nobody's, and its keys are
// dead.
func (a *ServiceAccounts) SetFixed(fixed []ServiceAccount, named ...string) {
	m := fixedAccounts{make(map[string]ServiceAccount, len(fixed)), make(map[string]bool, len(named))}
	for _, f := range fixed {
		m.listed[f.Name] = f
	}
	for _, n := range named {
		m.named[n] = true
	}
	a.fixed.Store(&m)
}

// Run hears of other replicas until ctx ends.
func (a *ServiceAccounts) Run(ctx context.Context) error { return a.cache.Run(ctx) }

// Get returns an account, from memory while other replicas are heard, or
// ErrNotFound.
func (a *ServiceAccounts) Get(ctx context.Context, name string) (ServiceAccount, error) {
	fixed := a.fixed.Load()
	if f, ok := fixed.listed[name]; ok {
		return f, nil
	}
	s, err := a.cache.Get(ctx, name)
	if errors.Is(err, store.ErrNotFound) || err == nil && s.Created.IsZero() { // without Created: the mark of one that was deleted
		if fixed.named[name] {
			return ServiceAccount{Name: name}, nil
		}
		return ServiceAccount{}, ErrNotFound
	}
	return s, err
}

// List returns all of them in order of name.
func (a *ServiceAccounts) List(ctx context.Context) ([]ServiceAccount, error) {
	out, _, err := a.stored.List(ctx, "", "", "", 10_000)
	if err != nil {
		return nil, err
	}
	fixed := a.fixed.Load()
	out = slices.DeleteFunc(out, func(s ServiceAccount) bool { _, there := fixed.listed[s.Name]; return there || s.Created.IsZero() })
	for _, f := range fixed.listed {
		out = append(out, f)
	}
	for n := range fixed.named {
		if !slices.ContainsFunc(out, func(s ServiceAccount) bool { return s.Name == n }) {
			out = append(out, ServiceAccount{Name: n})
		}
	}
	slices.SortFunc(out, func(x, y ServiceAccount) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

// Create makes an account.
func (a *ServiceAccounts) Create(ctx context.Context, s ServiceAccount) (ServiceAccount, error) {
	if ps := s.Problems(); len(ps) > 0 {
		return s, fmt.Errorf("%w: %s", ErrBadAccount, ps[0].Text)
	}
	if len(s.Groups) > 200 || slices.ContainsFunc(s.Groups, func(g string) bool { return g == "" || len(g) > 256 }) {
		return s, fmt.Errorf("%w: at most 200 groups of at most 256 bytes", ErrBadAccount)
	}
	if _, err := a.Get(ctx, s.Name); err == nil {
		return s, ErrExists
	} else if !errors.Is(err, ErrNotFound) {
		return s, err
	}
	s.Created = a.now()
	err := a.stored.Put(ctx, s.Name, s)
	a.cache.Forget(s.Name)
	return s, err
}

// Fixed reports whether an account exists by the operator's file.
func (a *ServiceAccounts) Fixed(name string) bool {
	fixed := a.fixed.Load()
	_, listed := fixed.listed[name]
	return listed || fixed.named[name]
}

// Delete takes an account away; its keys are dead from then on.
func (a *ServiceAccounts) Delete(ctx context.Context, name string) error {
	if a.Fixed(name) {
		return ErrFixed
	}
	if _, err := a.Get(ctx, name); err != nil {
		return err
	}
	// Not removed but marked, since a mark is told and outlives a power cut.
	_, err := a.stored.Update(ctx, name, func(s *ServiceAccount) error { s.Groups, s.Created = nil, time.Time{}; return nil })
	a.cache.Forget(name)
	return err
}
