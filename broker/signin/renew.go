package signin

import (
	"context"
	"fmt"

	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/connectors"
)

func decide(ctx context.Context, m *Method, id connectors.Identity, req *policy.Request) error {
	dec, err := m.Allow.Decide(ctx, policy.Input{Request: req, Identity: &policy.Identity{
		Connector: m.ID, Org: m.Org, Subject: id.Subject, Username: id.Username, Name: id.Name, Email: id.Email,
		EmailVerified: id.EmailVerified, Groups: id.Groups, Claims: id.Claims,
	}})
	if err != nil {
		return fmt.Errorf("the connector's rule failed: %w: %w", err, connectors.ErrNotAllowed)
	}
	if !dec.Allowed {
		return fmt.Errorf("refused by allow: %s: %w", dec.Reason, connectors.ErrNotAllowed)
	}
	return nil
}

// Renew asks a connector to vouch again, for session.Manager. A connector that
// is gone, or can no longer vouch, refuses (docs/security.md UP-8, SE-11). A
// rule that looks at the request cannot be asked without one and is left out.
func (d *Door) Renew(ctx context.Context, r session.Renewal) (session.Renewal, error) {
	m := d.methods[r.Connector]
	if m == nil || !m.opens() {
		return r, fmt.Errorf("connector %s is gone: %w", r.Connector, connectors.ErrNotAllowed)
	}
	rn, ok := m.Connector.(connectors.Renewer)
	if !ok {
		return r, fmt.Errorf("connector %s cannot renew: %w", r.Connector, connectors.ErrNotAllowed)
	}
	ctx, span := m.span(ctx, "renew")
	defer span.End()
	id, err := rn.Renew(ctx, connectors.Identity{Connector: r.Connector, Subject: r.Subject, Renewal: r.State})
	span.Fail(err)
	if err != nil {
		if id.Renewal != nil { // the upstream takes the old one no more
			r.State = id.Renewal
		}
		return r, err
	}
	if id.Subject != r.Subject {
		return r, fmt.Errorf("connector %s renewed somebody else: %w", r.Connector, connectors.ErrNotAllowed)
	}
	if m.Allow != nil && !m.Allow.ReadsRequest() {
		if err := decide(ctx, m, id, nil); err != nil {
			return r, err
		}
	}
	r.Groups = d.groups(ctx, m, id.Groups)
	// What was signed in before its domain was told to come another way ends too.
	if by, _ := d.must(m, []string{id.Email}); by != nil {
		exempt, err := d.breakGlass(ctx, m, id, user.User{})
		if err != nil {
			return r, err
		}
		if !exempt {
			return r, fmt.Errorf("everyone of this domain comes by connector %s: %w", by[0].ID, connectors.ErrNotAllowed)
		}
	}
	if id.Renewal != nil {
		r.State = id.Renewal
	}
	return r, nil
}
