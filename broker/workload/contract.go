// Package workload decides which jobs of a CI system may act as which service
// account.
package workload

import (
	"errors"
	"time"
)

// Want is what a caller asks to narrow to; Audience "" is the rule's.
type Want struct {
	Scopes   []string
	Audience string
	// Client is the OAuth client that asks, if one does.
	Client               string
	IP, Agent, RequestID string
}

// Grant is what a rule gives a job.
type Grant struct {
	Rule, ServiceAccount string
	Groups, Scopes       []string
	Audience             string // "" is the issuer
	TTL                  time.Duration
	// Provenance says where the job is from: claims for the token and the event.
	Provenance map[string]string
}

var (
	// ErrRefused means that no rule takes the token.
	ErrRefused = errors.New("no trust rule takes this token")
	// ErrAudience means that the rule gives no token for that audience.
	ErrAudience = errors.New("the trust rule gives no token for this audience")
	// ErrScope means that the rule does not give one of the scopes.
	ErrScope = errors.New("the trust rule does not give this scope")
)
