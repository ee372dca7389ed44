package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/connectors"
)

// denial is why a token was refused, for the operator.
type denial struct {
	reason string // one of the texts of docs/workload-identity.md
	rule   *Rule  // the nearest one; nil where none was looked at
	diff   Difference
	// claims are the token's, once its signature was good.
	claims map[string]any
	answer error
}

// Exchange judges a job's ID token in the order of docs/security.md CI-1: issuer,
// signature, audience, times, once, claims. Its own refusals are recorded.
func (s *Service) Exchange(ctx context.Context, raw string, want Want) (Grant, error) {
	iss := IssuerOf(raw)
	v, err := s.view(ctx)
	if err != nil {
		return Grant{}, fmt.Errorf("workload: rules: %w", err)
	}
	of, known := v.issuers[iss]
	if !known {
		return s.refuse(ctx, iss, want, denial{reason: "issuer", diff: Difference{Claim: "iss", Want: "an issuer that a rule names", Got: show(iss)}})
	}
	verifier, err := v.plan.connector(of.source)
	if err != nil {
		return Grant{}, fmt.Errorf("workload: %w", err)
	}
	claims, err := verifier.VerifyToken(ctx, raw)
	switch {
	case errors.Is(err, connectors.ErrUnavailable):
		s.cfg.Log.ErrorContext(ctx, "the keys of an issuer of workloads cannot be read", "issuer", iss, "err", err)
		return Grant{}, fmt.Errorf("workload: %w", err)
	case err != nil:
		s.cfg.Log.DebugContext(ctx, "a workload's token does not verify", "issuer", iss, "err", err)
		return s.refuse(ctx, iss, want, denial{reason: "signature", diff: Difference{Claim: "signature"}})
	}
	rules, no := timelyRules(of.rules, claims, v.plan.setting.Issuer, s.cfg.Now())
	if no != nil {
		return s.refuse(ctx, iss, want, *no)
	}
	t, _ := timely(claims, s.cfg.Now())
	// Once, whatever comes of it: a token that was seen is spent.
	until := t.expires
	if last := t.issued.Add(maxAge); last.Before(until) {
		until = last
	}
	switch err := s.used.Create(ctx, onceID(iss, raw, claims), used{Until: until.Add(2 * skew)}); {
	case errors.Is(err, store.ErrConflict):
		return s.refuse(ctx, iss, want, denial{reason: "used already", rule: &rules[0], claims: claims, diff: Difference{Claim: "jti", Want: "a token that was not used yet"}})
	case err != nil:
		return Grant{}, fmt.Errorf("workload: %w", err)
	}
	r, no := choose(rules, claims)
	if no != nil {
		return s.refuse(ctx, iss, want, *no)
	}
	return s.grant(ctx, v.plan, r, claims, t, want)
}

// timelyRules are those of an issuer's rules that take a token's audience and age.
func timelyRules(rules []Rule, claims map[string]any, ours string, now time.Time) ([]Rule, *denial) {
	aud, ok := audience(claims)
	fit := slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool { return !ok || cmp.Or(r.Audience, ours) != aud })
	if len(fit) == 0 {
		nearest := rules[0]
		return nil, &denial{reason: "audience", rule: &nearest, claims: claims, diff: Difference{Claim: "aud", Want: cmp.Or(nearest.Audience, ours), Got: show(claims["aud"]), Missing: claims["aud"] == nil}}
	}
	t, wrong := timely(claims, now)
	if wrong != "" {
		reason := map[string]string{"exp": "expired", "iat": "issued in the future", "nbf": "not valid yet"}[wrong]
		if claims[wrong] == nil {
			reason = "without " + wrong
		}
		return nil, &denial{reason: reason, rule: &fit[0], claims: claims, diff: Difference{Claim: wrong, Want: "a time around " + now.UTC().Format(time.RFC3339), Got: shownTime(claims, wrong), Missing: claims[wrong] == nil}}
	}
	young := slices.DeleteFunc(slices.Clone(fit), func(r Rule) bool { return now.Sub(t.issued) > r.maxAge() })
	if len(young) == 0 {
		return nil, &denial{reason: "too old", rule: &fit[0], claims: claims, diff: Difference{Claim: "iat", Want: "at most " + fit[0].maxAge().String() + " ago", Got: t.issued.UTC().Format(time.RFC3339)}}
	}
	return young, nil
}

func shownTime(claims map[string]any, name string) string {
	if t, there, ok := moment(claims, name); there && ok {
		return t.UTC().Format(time.RFC3339)
	}
	return show(claims[name])
}

// choose returns the first rule that a token matches, or why the nearest one does
// not: that from which the fewest claims differ.
func choose(rules []Rule, claims map[string]any) (Rule, *denial) {
	var nearest *denial
	fewest := 0
	for _, r := range rules {
		ds := r.differences(claims)
		if len(ds) == 0 {
			return r, nil
		}
		if nearest == nil || len(ds) < fewest {
			nearest, fewest = &denial{reason: "claim " + ds[0].Claim, rule: &r, diff: ds[0], claims: claims}, len(ds)
		}
	}
	return Rule{}, nearest
}

// grant gives what a rule allows, narrowed to what was asked for.
func (s *Service) grant(ctx context.Context, p *Plan, r Rule, claims map[string]any, t times, want Want) (Grant, error) {
	iss := r.issuer()
	groups, there, err := s.cfg.Account(ctx, r.ServiceAccount)
	if err != nil {
		return Grant{}, fmt.Errorf("workload: service account: %w", err)
	}
	if !there {
		return s.refuse(ctx, iss, want, denial{reason: "service account", rule: &r, claims: claims, diff: Difference{Claim: "service_account", Want: "an account that is there"}})
	}
	name := func(a string) string {
		if n, ok := p.setting.Resource(a); ok {
			return n
		}
		return a
	}
	g := Grant{Rule: r.Name, ServiceAccount: r.ServiceAccount, Groups: groups, Scopes: r.Scopes(), Audience: name(cmp.Or(r.TokenAudience, p.setting.Issuer)), Provenance: r.provenance(claims)}
	if want.Audience != "" && name(want.Audience) != g.Audience {
		return s.refuse(ctx, iss, want, denial{reason: "target", rule: &r, claims: claims, answer: ErrAudience, diff: Difference{Claim: "audience of the request", Want: g.Audience, Got: show(want.Audience)}})
	}
	if len(want.Scopes) > 0 {
		for _, sc := range want.Scopes {
			if !slices.Contains(g.Scopes, sc) {
				return s.refuse(ctx, iss, want, denial{reason: "scope", rule: &r, claims: claims, answer: ErrScope, diff: Difference{Claim: "scope of the request", Want: r.Scope, Got: show(sc)}})
			}
		}
		g.Scopes = slices.DeleteFunc(g.Scopes, func(sc string) bool { return !slices.Contains(want.Scopes, sc) })
	}
	if g.TTL = min(r.ttl(), t.expires.Sub(s.cfg.Now())).Truncate(time.Second); g.TTL <= 0 {
		return s.refuse(ctx, iss, want, denial{reason: "expired", rule: &r, claims: claims, diff: Difference{Claim: "exp", Want: "a second of life at least"}})
	}
	details := map[string]string{"rule": r.Name}
	maps.Copy(details, g.Provenance)
	err = s.cfg.Events.Record(ctx, event.Event{Name: event.WorkloadExchanged, Actor: r.ServiceAccount, Target: r.ServiceAccount, Client: want.Client,
		IP: want.IP, Agent: want.Agent, RequestID: want.RequestID, Details: details})
	if err != nil {
		return Grant{}, fmt.Errorf("workload: %w", err)
	}
	return g, nil
}

// provenance says whose token it was.
func (r Rule) provenance(claims map[string]any) map[string]string {
	out := map[string]string{"provider": r.Provider, "issuer": r.issuer()}
	add := func(name, claim string) {
		switch claims[claim].(type) {
		case string, fmt.Stringer: // a json.Number is one
			if v := show(claims[claim]); v != "" {
				out[name] = v
			}
		}
	}
	add("subject", "sub")
	for _, c := range providers()[r.Provider].provenance {
		add(c, c)
	}
	if r.Provider == "oidc" {
		for c := range r.Match {
			if idClaim.MatchString(c) {
				add(c, c)
			}
		}
	}
	return out
}

// personal are claims that name people. An event holds ids (docs/security.md ST-5).
var personal = []string{"actor", "user_email", "user_login", "email", "name", "preferred_username"}

// refuse records a denial and returns what the caller may know of it.
func (s *Service) refuse(ctx context.Context, iss string, want Want, d denial) (Grant, error) {
	details := map[string]string{"reason": d.reason}
	e := event.Event{Name: event.WorkloadDenied, Client: want.Client, IP: want.IP, Agent: want.Agent, RequestID: want.RequestID, Details: details}
	if d.rule != nil {
		e.Target, details["rule"] = d.rule.ServiceAccount, d.rule.Name
	}
	if d.claims != nil && d.rule != nil {
		maps.Copy(details, d.rule.provenance(d.claims))
	} else {
		details["issuer"] = show(iss)
	}
	details["claim"] = d.diff.Claim
	if d.diff.Missing {
		d.diff.Got = "nothing"
	}
	for k, v := range map[string]string{"wanted": d.diff.Want, "received": d.diff.Got} {
		if v != "" && !slices.Contains(personal, d.diff.Claim) {
			details[k] = v
		}
	}
	attrs := []any{"reason", d.reason, "rule", details["rule"], "issuer", details["issuer"], "claim", details["claim"], "wanted", details["wanted"], "received", details["received"]}
	s.cfg.Log.WarnContext(ctx, "a workload's token was refused", attrs...)
	if d.claims == nil { // what nobody signed anybody can send, as often as they like
		if few, _ := s.noise.Allow(want.IP); !few {
			return Grant{}, ErrRefused
		}
	}
	if err := s.cfg.Events.Record(context.WithoutCancel(ctx), e); err != nil {
		s.cfg.Log.ErrorContext(ctx, "an event was not recorded", "event", e.Name, "err", err)
	}
	return Grant{}, cmp.Or(d.answer, ErrRefused)
}
