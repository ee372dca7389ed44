package workload

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/remotegpu/gatehouse/connectors"
)

// Verdict says how a rule and a token's claims stand to each other.
type Verdict struct {
	Rule    string `json:"rule"`
	Matches bool   `json:"matches"`
	// Differences are all that differ, issuer and audience first.
	Differences []Difference `json:"differences"`
}

// Explain says for each rule what of a token's claims is not what it wants. The
// times are left out: a sample is older than a job's token. ours is our issuer.
func Explain(rules []Rule, claims map[string]any, ours string) []Verdict {
	out := make([]Verdict, 0, len(rules))
	for _, r := range rules {
		v := Verdict{Rule: r.Name, Differences: []Difference{}}
		if iss := claims["iss"]; iss != r.issuer() {
			v.Differences = append(v.Differences, Difference{Claim: "iss", Want: r.issuer(), Got: show(iss), Missing: iss == nil})
		}
		want := cmp.Or(r.Audience, ours)
		if aud, ok := audience(claims); !ok || aud != want {
			d := Difference{Claim: "aud", Want: want, Got: show(claims["aud"]), Missing: claims["aud"] == nil}
			if list, several := claims["aud"].([]any); several && len(list) > 1 {
				d.Why = "a token must be for nobody else"
			}
			v.Differences = append(v.Differences, d)
		}
		v.Differences = append(v.Differences, r.differences(claims)...)
		v.Matches = len(v.Differences) == 0
		out = append(out, v)
	}
	return out
}

// Explanation is what a token, or claims without one, would come to.
type Explanation struct {
	// Rule is the one that would be taken; "" is none.
	Rule string `json:"rule"`
	// Signature is "valid", "not valid", "unavailable" (the issuer does not answer)
	// or "not checked": there was no token, or no rule names its issuer.
	Signature string `json:"signature"`
	// Time is "" or the claim that makes the token unfit now: exp, iat or nbf.
	Time string `json:"time,omitempty"`
	// Used says that the token was brought before, and so is spent.
	Used bool `json:"used"`
	// Rules are all of them, in order of how little differs.
	Rules []Verdict `json:"rules"`
}

// ErrNoClaims means that a text is no token whose claims could be read.
var ErrNoClaims = errors.New("this is no JWT: three parts of base64url with dots between them, the middle one a JSON object")

// Explain says which rule takes a token, or claims where raw is "", and what
// differs from the others. Nothing is issued and the token is not used up.
func (s *Service) Explain(ctx context.Context, raw string, claims map[string]any) (Explanation, error) {
	v, err := s.view(ctx)
	if err != nil {
		return Explanation{}, err
	}
	out := Explanation{Signature: "not checked"}
	if raw != "" {
		if claims = peek(raw); claims == nil {
			return out, ErrNoClaims
		}
		if err := s.explainToken(ctx, v, raw, claims, &out); err != nil {
			return out, err
		}
	}
	out.Rules = Explain(v.all, claims, v.plan.setting.Issuer)
	for _, r := range out.Rules {
		if r.Matches && out.Rule == "" {
			out.Rule = r.Rule
		}
	}
	slices.SortStableFunc(out.Rules, func(a, b Verdict) int { return cmp.Compare(len(a.Differences), len(b.Differences)) })
	return out, nil
}

func (s *Service) explainToken(ctx context.Context, v *view, raw string, claims map[string]any, out *Explanation) error {
	iss, _ := claims["iss"].(string)
	of, known := v.issuers[iss]
	if !known {
		return nil
	}
	c, err := v.plan.connector(of.source)
	if err != nil {
		return err
	}
	switch _, err = c.VerifyToken(ctx, raw); {
	case err == nil:
		out.Signature = "valid"
	case errors.Is(err, connectors.ErrUnavailable):
		out.Signature = "unavailable"
	default:
		out.Signature = "not valid"
	}
	_, out.Time = timely(claims, s.cfg.Now())
	_, err = s.used.Get(ctx, onceID(iss, raw, claims))
	out.Used = err == nil
	return nil
}
