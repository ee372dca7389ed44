// Package session keeps sessions of every kind: that this browser, offline
// client or device is that user until then. It writes no HTML and no tokens.
package session

import (
	"errors"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
)

// Kind tells the kinds of sessions apart.
type Kind string

// The kinds of sessions (docs/architecture.md).
const (
	Browser Kind = "browser"
	Offline Kind = "offline" // a grant with offline_access
	Device  Kind = "device"  // a device or the CLI
)

// Session says that somebody is a user until Expires.
type Session struct {
	ID        string `json:"id"`
	UserID    string `json:"user"`
	Parent    string `json:"parent,omitempty"`  // the browser session it came from: the sid of ID tokens
	Renewal   string `json:"renewal,omitempty"` // how its connector vouches again; "" = it cannot
	Kind      Kind   `json:"kind"`
	UserEpoch uint64 `json:"epoch"`
	Version   uint64 `json:"version"` // grows when what it says changes
	Connector string `json:"connector"`
	Org       string `json:"org,omitempty"`
	Subject   string `json:"subject"`
	Username  string `json:"username,omitempty"`
	Upstream  string `json:"upstream,omitempty"` // the upstream's own session
	// UpstreamKey is the name under which the upstream ends it; "" = Upstream.
	UpstreamKey string    `json:"upstream_key,omitempty"`
	Groups      []string  `json:"groups,omitempty"` // as our policies name them
	Proved      time.Time `json:"proved"`           // when the connector last vouched
	AuthTime    time.Time `json:"auth_time"`
	ACR         string    `json:"acr,omitempty"`
	AMR         []string  `json:"amr,omitempty"`
	Created     time.Time `json:"created"`
	Seen        time.Time `json:"seen"`    // written at most once a minute
	Expires     time.Time `json:"expires"` // the absolute end
	IP          string    `json:"ip,omitempty"`
	Agent       string    `json:"agent,omitempty"`
	Name        string    `json:"name,omitempty"`     // what a device says that it is called
	Operator    bool      `json:"operator,omitempty"` // a device's that may carry roles
	Country     string    `json:"country,omitempty"`  // where IP was, as far as that was known then
	Place       string    `json:"place,omitempty"`
	Ended       time.Time `json:"ended,omitzero"`
	Reason      string    `json:"reason,omitempty"` // why it ended
	Uses        Uses      `json:"uses,omitzero"`    // from where it is used
}

// BrowserID is the sid of ID and logout tokens: the browser session's.
func (s Session) BrowserID() string {
	if s.Parent != "" {
		return s.Parent
	}
	return s.ID
}

// Renewal is how a connector vouches again for one upstream sign-in; all
// sessions that came of it name it.
type Renewal struct {
	ID        string    `json:"id"`
	Connector string    `json:"connector"`
	Subject   string    `json:"subject"`
	State     []byte    `json:"state"` // the connector's own, opaque to us
	Groups    []string  `json:"groups,omitempty"`
	Proved    time.Time `json:"proved"`
	Expires   time.Time `json:"expires"`
}

// Handle is a cookie's secret: 256 bits, of which the store has only the hash.
type Handle string

// Errors of the manager.
var (
	// ErrNoSession means that the handle or id names no session.
	ErrNoSession = errors.New("no such session")
	// ErrEnded means that the session was there and is over.
	ErrEnded = errors.New("the session has ended")
	// ErrTicket means that a hand-off ticket is unknown, used, too old, or of
	// another host or browser.
	ErrTicket = errors.New("the hand-off ticket is not valid")
)

// SessionsConfig bounds the life of sessions (the `sessions` section).
type SessionsConfig struct {
	IdleTTL      time.Duration `yaml:"idle_ttl"`      // a browser session unused this long ends; default 12h
	MaxTTL       time.Duration `yaml:"max_ttl"`       // and this long after its start; default 168h
	Recheck      time.Duration `yaml:"recheck"`       // how old a connector's word may be; default 15m
	RecheckGrace time.Duration `yaml:"recheck_grace"` // how long an unreachable upstream is excused; default 4h
	// OutageGrace is how long verified sessions go on while the store cannot
	// be asked; default 10s, 0 in the file closes at once.
	OutageGrace *time.Duration `yaml:"outage_grace"`
}

// WithDefaults fills in what is missing.
func (c SessionsConfig) WithDefaults() SessionsConfig {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.IdleTTL, 12*time.Hour)
	def(&c.MaxTTL, 168*time.Hour)
	def(&c.Recheck, 15*time.Minute)
	def(&c.RecheckGrace, 4*time.Hour)
	if c.OutageGrace == nil {
		c.OutageGrace = new(10 * time.Second)
	}
	return c
}

// Problems complains about limits that contradict each other.
func (c SessionsConfig) Problems() []problem.Problem {
	var ps []problem.Problem
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"IdleTTL", c.IdleTTL}, {"MaxTTL", c.MaxTTL}, {"Recheck", c.Recheck}, {"RecheckGrace", c.RecheckGrace}} {
		if f.d < 0 {
			ps = append(ps, problem.Problem{Field: f.name, Rule: "sessions.negative", Text: "A session limit cannot be negative.", Fix: "a duration such as 12h"})
		}
	}
	if c.OutageGrace != nil && *c.OutageGrace < 0 {
		ps = append(ps, problem.Problem{Field: "OutageGrace", Rule: "sessions.negative", Text: "A session limit cannot be negative.", Fix: "a duration such as 10s, or 0 to refuse at once"})
	}
	if d := c.WithDefaults(); d.IdleTTL > d.MaxTTL {
		ps = append(ps, problem.Problem{Field: "IdleTTL", Rule: "sessions.idle", Text: "idle_ttl is longer than max_ttl, so that it can never end a session.", Fix: "an idle_ttl of at most max_ttl"})
	}
	return ps
}

// Lives of sessions whose proof cannot be renewed.
const (
	unrenewableBrowser = 12 * time.Hour
	unrenewableOffline = 168 * time.Hour
)
