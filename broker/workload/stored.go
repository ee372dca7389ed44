package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/store"
)

const (
	topic  = "trust"
	bookID = "rules"
	// maxStored bounds the rules that the API makes.
	maxStored = 500
)

// book are all stored rules. They are one record, since every token is held against
// all of its issuer's: half of a change is never seen.
type book struct {
	Revision uint64 `json:"revision"`
	// Rules are as they were written, by name: what a newer version put into one
	// stays when another is changed here.
	Rules map[string]json.RawMessage `json:"rules"`
}

// rules are in order of name.
func (b book) rules() ([]Rule, error) {
	var out []Rule
	for _, name := range slices.Sorted(maps.Keys(b.Rules)) {
		var r Rule
		if err := json.Unmarshal(b.Rules[name], &r); err != nil {
			return nil, fmt.Errorf("trust %s: stored rule: %w", name, err)
		}
		r.Name = name
		out = append(out, r)
	}
	return out, nil
}

func (s *Service) book(ctx context.Context) (book, error) {
	b, err := s.cache.Get(ctx, bookID)
	if errors.Is(err, store.ErrNotFound) {
		return book{}, nil
	}
	return b, err
}

// Listed is a rule, and whether it stands in the operator's file.
type Listed struct {
	Rule
	Fixed bool
}

// Errors of stored rules.
var (
	// ErrNoRule: there is no rule of that name.
	ErrNoRule = errors.New("there is no trust rule of that name")
	// ErrFixed: the rule is changed in the configuration.
	ErrFixed = errors.New("this trust rule stands in the configuration; change it there")
	// ErrTooMany: there are as many as may be.
	ErrTooMany = fmt.Errorf("there are %d trust rules already; delete one first", maxStored)
)

// Invalid is a rule that would trust too much, or nobody.
type Invalid []problem.Problem

// Error lists what is wrong.
func (e Invalid) Error() string {
	var lines []string
	for _, p := range e {
		lines = append(lines, p.Error())
	}
	return strings.Join(lines, " ")
}

// List returns all rules in the order in which they are tried.
func (s *Service) List(ctx context.Context) ([]Listed, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Listed, len(v.all))
	for i, r := range v.all {
		out[i] = Listed{r, i < v.fixed}
	}
	return out, nil
}

// Get returns a rule, or ErrNoRule.
func (s *Service) Get(ctx context.Context, name string) (Listed, error) {
	all, err := s.List(ctx)
	if err != nil {
		return Listed{}, err
	}
	for _, r := range all {
		if r.Name == name {
			return r, nil
		}
	}
	return Listed{}, ErrNoRule
}

// Judge returns Invalid for a rule that cannot be stored: for what Problems says
// of it, and for what it names and there is not.
func (s *Service) Judge(ctx context.Context, r Rule) error {
	bad := Invalid{}
	add := func(field, rule, text, fix string) {
		bad = append(bad, problem.Problem{Field: field, Rule: "trust." + rule, Text: text, Fix: fix})
	}
	for _, p := range r.Problems() {
		if !p.Warning {
			bad = append(bad, p)
		}
	}
	set := s.plan.Load().setting
	// A path or a proxy of this machine is for whoever has its files.
	if r.JWKSFile != "" || r.Proxy != "" || r.CAFile != "" {
		add("JWKSFile", "stored", "jwks_file, ca_file and proxy stand in the configuration's rules alone.", "leave them out")
	}
	if r.issuer() == set.Issuer {
		add("Issuer", "issuer", "This issuer's own tokens are exchanged without a rule.", "")
	}
	if r.TokenAudience != "" && r.TokenAudience != set.Issuer {
		if _, ok := set.Resource(r.TokenAudience); !ok {
			add("TokenAudience", "audience", fmt.Sprintf("%q is neither a resource nor the issuer.", r.TokenAudience), "a resource of the configuration")
		}
	}
	if r.ServiceAccount != "" {
		_, there, err := s.cfg.Account(ctx, r.ServiceAccount)
		if err != nil {
			return err
		}
		if !there {
			add("ServiceAccount", "service_account", fmt.Sprintf("There is no service account %q.", r.ServiceAccount), "make it first")
		}
	}
	if len(bad) > 0 {
		return bad
	}
	return nil
}

// Put makes a rule or replaces it, on every replica within a second.
func (s *Service) Put(ctx context.Context, r Rule) error {
	if err := s.Judge(ctx, r); err != nil {
		return err
	}
	js, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("trust %s: %w", r.Name, err)
	}
	return s.change(ctx, func(p *Plan, b *book) error {
		if fixed(p, r.Name) {
			return ErrFixed
		}
		if _, there := b.Rules[r.Name]; !there && len(b.Rules) >= maxStored {
			return ErrTooMany
		}
		if b.Rules == nil {
			b.Rules = map[string]json.RawMessage{}
		}
		b.Rules[r.Name] = js
		_, misfits, err := newView(p, *b)
		if err == nil && len(misfits) > 0 {
			return Invalid{{Field: "Issuer", Rule: "trust.issuer", Text: misfits[0].Error() + "."}}
		}
		return err
	})
}

// Delete takes a rule away; ErrNoRule if there is none.
func (s *Service) Delete(ctx context.Context, name string) error {
	return s.change(ctx, func(p *Plan, b *book) error {
		if fixed(p, name) {
			return ErrFixed
		}
		if _, there := b.Rules[name]; !there {
			return ErrNoRule
		}
		delete(b.Rules, name)
		return nil
	})
}

func fixed(p *Plan, name string) bool {
	return slices.ContainsFunc(p.setting.Rules, func(r Rule) bool { return r.Name == name })
}

// change alters the book as it is in the store, whatever is remembered of it here.
func (s *Service) change(ctx context.Context, f func(*Plan, *book) error) error {
	defer s.cache.Forget(bookID)
	p := s.plan.Load()
	if err := s.stored.Create(ctx, bookID, book{}); err != nil && !errors.Is(err, store.ErrConflict) {
		return err
	}
	_, err := s.stored.Update(ctx, bookID, func(b *book) error {
		b.Revision++
		return f(p, b)
	})
	return err
}
