package portal

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/workload"
)

// trustView is a rule with its defaults filled in.
type trustView struct {
	Name           string            `json:"name"`
	Provider       string            `json:"provider"`
	Issuer         string            `json:"issuer"`
	JWKSURI        string            `json:"jwks_uri,omitempty"`
	JWKSFile       string            `json:"jwks_file,omitempty"`
	Audience       string            `json:"audience"`
	Match          map[string]string `json:"match"`
	ServiceAccount string            `json:"service_account"`
	Scope          string            `json:"scope"`
	TokenAudience  string            `json:"token_audience"`
	TTL            string            `json:"ttl"`
	MaxAge         string            `json:"max_age"`
	Fixed          bool              `json:"fixed"` // it stands in the configuration
	// Warnings say where it trusts more than it may be meant to.
	Warnings []string `json:"warnings"`
}

func (p *Portal) viewTrust(l workload.Listed) trustView {
	r := l.WithDefaults(p.issuer)
	return trustView{Name: r.Name, Provider: r.Provider, Issuer: r.Issuer, JWKSURI: r.JWKSURI, JWKSFile: r.JWKSFile, Audience: r.Audience, Match: r.Match,
		ServiceAccount: r.ServiceAccount, Scope: r.Scope, TokenAudience: r.TokenAudience, TTL: r.TTL.String(), MaxAge: r.MaxAge.String(), Fixed: l.Fixed, Warnings: warnings(l.Problems())}
}

func warnings(ps []problem.Problem) []string {
	out := []string{}
	for _, p := range ps {
		if p.Warning {
			out = append(out, p.Error())
		}
	}
	return out
}

type trustRequest struct {
	Provider       string            `json:"provider"`
	Issuer         string            `json:"issuer,omitempty"`
	JWKSURI        string            `json:"jwks_uri,omitempty"`
	Audience       string            `json:"audience,omitempty"`
	Match          map[string]string `json:"match"`
	ServiceAccount string            `json:"service_account"`
	Scope          string            `json:"scope,omitempty"`
	TokenAudience  string            `json:"token_audience,omitempty"`
	TTL            string            `json:"ttl,omitempty"`     // a Go duration; default 15m
	MaxAge         string            `json:"max_age,omitempty"` // a Go duration; default 1h
}

func (p *Portal) apiTrust(ctx context.Context, _ *caller, _ *http.Request) (any, error) {
	all, err := p.trust.List(ctx)
	if err != nil {
		return nil, err
	}
	out := page[trustView]{Items: []trustView{}}
	for _, l := range all {
		out.Items = append(out.Items, p.viewTrust(l))
	}
	return out, nil
}

func (p *Portal) apiTrustRule(ctx context.Context, _ *caller, r *http.Request) (any, error) {
	l, err := p.trust.Get(ctx, chi.URLParam(r, "name"))
	if err != nil {
		return nil, err
	}
	return p.viewTrust(l), nil
}

// changeable refuses what stands in the configuration, before anything is
// recorded.
func (p *Portal) changeable(ctx context.Context, name string) error {
	l, err := p.trust.Get(ctx, name)
	if err == nil && l.Fixed {
		return workload.ErrFixed
	}
	return err
}

func (p *Portal) apiPutTrust(ctx context.Context, c *caller, r *http.Request) (any, error) {
	var q trustRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	rule := workload.Rule{Name: chi.URLParam(r, "name"), Provider: q.Provider, Issuer: q.Issuer, JWKSURI: q.JWKSURI, Audience: q.Audience, Match: q.Match,
		ServiceAccount: q.ServiceAccount, Scope: q.Scope, TokenAudience: q.TokenAudience}
	for _, d := range []struct {
		name, text string
		to         *time.Duration
	}{{"ttl", q.TTL, &rule.TTL}, {"max_age", q.MaxAge, &rule.MaxAge}} {
		var err error
		if *d.to, err = duration(d.name, d.text, 0); err != nil {
			return nil, err
		}
	}
	if err := p.changeable(ctx, rule.Name); err != nil && !errors.Is(err, workload.ErrNoRule) {
		return nil, err
	}
	if err := p.trust.Judge(ctx, rule); err != nil {
		return nil, err
	}
	if err := p.record(ctx, r, event.Event{Name: event.AdminChanged, Actor: c.actor(), Target: rule.Name,
		Details: map[string]string{"change": "trust_rule", "service_account": rule.ServiceAccount}}); err != nil {
		return nil, err
	}
	if err := p.trust.Put(ctx, rule); err != nil {
		return nil, err
	}
	return p.viewTrust(workload.Listed{Rule: rule}), nil
}

func (p *Portal) apiDeleteTrust(ctx context.Context, c *caller, r *http.Request) (any, error) {
	name := chi.URLParam(r, "name")
	if err := p.changeable(ctx, name); err != nil {
		return nil, err
	}
	if err := p.record(ctx, r, event.Event{Name: event.AdminChanged, Actor: c.actor(), Target: name, Details: map[string]string{"change": "trust_rule_deleted"}}); err != nil {
		return nil, err
	}
	return nil, p.trust.Delete(ctx, name)
}

// explainRequest holds one of the two: a job's token, or the claims of one.
type explainRequest struct {
	Token  string                     `json:"token,omitempty"`
	Claims map[string]json.RawMessage `json:"claims,omitempty"`
}

// apiExplainTrust says what a token would come to. The token is neither kept nor
// logged nor used up.
func (p *Portal) apiExplainTrust(ctx context.Context, _ *caller, r *http.Request) (any, error) {
	var q explainRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if (q.Token == "") == (q.Claims == nil) {
		return nil, badRequest("either token, or claims: those of a job's ID token as a JSON object")
	}
	var claims map[string]any
	if q.Claims != nil {
		js, err := json.Marshal(q.Claims)
		if err != nil {
			return nil, err
		}
		if claims, err = workload.DecodeClaims(js); err != nil {
			return nil, err
		}
	}
	out, err := p.trust.Explain(ctx, q.Token, claims)
	if errors.Is(err, workload.ErrNoClaims) {
		return nil, badRequest("token: " + err.Error())
	}
	return out, err
}

// trustError gives the errors of trust rules their status; nil for any other.
func trustError(err error) error {
	var bad workload.Invalid
	switch {
	case errors.As(err, &bad):
		return unprocessable("trust.invalid", bad.Error())
	case errors.Is(err, workload.ErrNoRule):
		return notFound(err)
	case errors.Is(err, workload.ErrFixed), errors.Is(err, workload.ErrTooMany):
		return conflict("trust.conflict", err)
	}
	return nil
}
