package gateway

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/problem"
)

// DenyRule refuses everybody for whom its condition holds, whatever `allow` says.
type DenyRule struct {
	// Name is shown to who is refused.
	Name string `yaml:"name"`
	// When is CEL. An error in it refuses.
	When string `yaml:"when"`
	// Reason is shown to who is refused, by language: {en: …, zh-CN: …}.
	Reason map[string]string `yaml:"reason"`
	// Contact is whom to ask, instead of the route's.
	Contact string `yaml:"contact"`
}

// StepUpConfig demands a sign-in that is not older than MaxAge of whoever When
// holds for; without When, of everybody.
type StepUpConfig struct {
	MaxAge time.Duration `yaml:"max_age"`
	When   *string       `yaml:"when"`
}

// minStepUp is the least that max_age can be: a sign-in takes time.
const minStepUp = time.Minute

func (r Route) place() policy.Place {
	if r.Lease {
		return policy.AtLease
	}
	return policy.AtRoute
}

func (r Route) ruleProblems() (ps []problem.Problem) {
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	expr := func(field, key, source string) {
		e, err := policy.Compile(r.place(), policy.Bool, source)
		switch {
		case err != nil:
			add(field, key, err.Error(), "")
		case r.raw() && e.ReadsPath():
			add(field, "route.raw_path", "A rule cannot judge request.path where raw_path lets ambiguous paths through.", "raw_path: false")
		}
	}
	if r.Allow != nil {
		expr("Allow", "route.allow", *r.Allow)
	}
	names := map[string]bool{}
	for i, d := range r.Deny {
		at := fmt.Sprintf("Deny[%d]", i)
		if d.Name == "" || names[d.Name] {
			add(at, "route.deny", "A deny rule needs a name of its own: who is refused is told it.", "name: outside-office-hours")
		}
		names[d.Name] = true
		expr(at+".When", "route.deny", d.When)
	}
	if s := r.StepUp; s != nil {
		if s.MaxAge < minStepUp {
			add("StepUp.MaxAge", "route.step_up", fmt.Sprintf("max_age must be %s or more.", minStepUp), "max_age: 15m")
		}
		if s.When != nil {
			expr("StepUp.When", "route.step_up", *s.When)
		}
	}
	return ps
}

// rules are those of a route, made ready.
type rules struct {
	allow  *policy.Expr // nil: everybody who is signed in, on a lease route whom the lease admits
	deny   []*policy.Expr
	maxAge time.Duration // of a sign-in; 0: any
	when   *policy.Expr  // whom maxAge is for; nil: everybody
}

func (r Route) compileRules() (c rules, err error) {
	compile := func(source string) (*policy.Expr, error) { return policy.Compile(r.place(), policy.Bool, source) }
	if r.Allow != nil {
		if c.allow, err = compile(*r.Allow); err != nil {
			return c, err
		}
	}
	for _, d := range r.Deny {
		e, err := compile(d.When)
		if err != nil {
			return c, err
		}
		c.deny = append(c.deny, e)
	}
	if s := r.StepUp; s != nil {
		c.maxAge = s.MaxAge
		if s.When != nil {
			if c.when, err = compile(*s.When); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

// all calls f for each expression that decides here.
func (c *rules) all(l *console.Lease, f func(*policy.Expr) bool) bool {
	for _, e := range c.deny {
		if !f(e) {
			return false
		}
	}
	for _, e := range []*policy.Expr{c.allow, c.when} {
		if e != nil && !f(e) {
			return false
		}
	}
	return l == nil || l.Rule() == nil || f(l.Rule())
}

// keepable reports whether a decision holds for the next request: no rule looks
// at the request or the clock. What max_age makes of the clock is in the
// decision's own end.
func (c *rules) keepable(l *console.Lease) bool {
	return c.all(l, func(e *policy.Expr) bool { return e.Keepable() })
}

// readsRequest reports whether a rule looks at the request.
func (c *rules) readsRequest(l *console.Lease) bool {
	return !c.all(l, func(e *policy.Expr) bool { return !e.ReadsRequest() })
}

// refusal is why somebody is not let in, as far as they may know.
type refusal struct {
	rule    string // the name of a deny rule; "" for allow
	reason  map[string]string
	contact string
	log     string // for operators
}

// judge decides by the rules of the route and the lease. An error of a rule is a
// refusal (docs/security.md AD-10).
func (g *Gateway) judge(ctx context.Context, rt *route, c caller, l *console.Lease, in policy.Input, now time.Time) (why *refusal, stepUp bool, until time.Time) {
	says := func(e *policy.Expr) (bool, error) {
		d, err := e.Decide(ctx, in)
		if err != nil {
			g.cfg.Log.InfoContext(ctx, "a rule failed, which refuses", "route", rt.Name, "rule", e.Source(), "err", err)
		}
		return d.Allowed, err
	}
	admits := true
	if l != nil {
		admits = g.admits(ctx, l, c, in)
		in.Lease = l.Vars(admits)
	}
	for i, e := range rt.rules.deny {
		if hit, err := says(e); hit || err != nil {
			d := rt.Deny[i]
			return &refusal{rule: d.Name, reason: d.Reason, contact: cmp.Or(d.Contact, rt.Contact), log: "deny: " + d.Name}, false, until
		}
	}
	ok, log := admits, "not owner, not invited"
	if e := rt.rules.allow; e != nil {
		ok, _ = says(e)
		log = "allow: " + e.Source()
	}
	if !ok {
		return &refusal{reason: rt.Reason, contact: rt.Contact, log: log}, false, until
	}
	if rt.rules.maxAge == 0 {
		return nil, false, until
	}
	if e := rt.rules.when; e != nil {
		if hit, err := says(e); err == nil && !hit {
			return nil, false, until
		}
	}
	if c.session.ID == "" { // a service cannot sign in again
		return &refusal{rule: "step_up", reason: rt.Reason, contact: rt.Contact, log: "step_up: no sign-in"}, false, until
	}
	until = c.session.AuthTime.Add(rt.rules.maxAge)
	return nil, !now.Before(until), until
}
