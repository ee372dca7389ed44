package console

import (
	"fmt"
	"sync"

	"github.com/remotegpu/gatehouse/broker/policy"
)

// maxRules is how many compiled expressions are kept.
const maxRules = 1000

// rules compiles each distinct text once: a hundred thousand leases have a
// handful of them.
type rules struct {
	mu sync.Mutex
	m  map[string]*policy.Expr
}

func (r *rules) compile(source string) (*policy.Expr, error) {
	if source == "" {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.m[source]; ok {
		return e, nil
	}
	e, err := policy.Compile(policy.AtLease, policy.Bool, source)
	if err != nil {
		return nil, fmt.Errorf("%w: allow: %w", ErrInvalid, err)
	}
	if e.ReadsPath() { // consoles take raw paths, of which nobody knows what an upstream makes (docs/security.md GW-4)
		return nil, fmt.Errorf("%w: allow: a lease's rule cannot judge request.path", ErrInvalid)
	}
	if r.m == nil || len(r.m) >= maxRules {
		r.m = map[string]*policy.Expr{} // leases that are held keep theirs
	}
	r.m[source] = e
	return e, nil
}
