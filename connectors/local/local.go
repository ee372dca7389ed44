// Package local signs in the users that stand in the configuration: the way in
// when everything else is broken, and the demo's.
package local

import (
	"context"
	"fmt"
	"hash/maphash"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors"
)

// Config is the `local` section.
type Config struct {
	Users []User `yaml:"users"`
}

// User is one local user.
type User struct {
	Username     string        `yaml:"username"`
	Email        string        `yaml:"email"`
	Name         string        `yaml:"name"`
	PasswordHash redact.String `yaml:"password_hash"` // from `gatehouse hash-password`
	Groups       []string      `yaml:"groups"`
	CIDRs        []string      `yaml:"cidrs,some"` // networks from which this user may sign in; empty: all
}

// Problems complains about users who could not sign in.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	seen := map[string]int{}
	for i, u := range c.Users {
		at := fmt.Sprintf("Users[%d].", i)
		if u.Username == "" || strings.TrimSpace(u.Username) != u.Username {
			ps = append(ps, problem.Problem{Field: at + "Username", Rule: "local.username", Text: "A local user needs a user name without spaces around it.", Fix: "username: alice"})
		}
		if j, dup := seen[strings.ToLower(u.Username)]; dup && u.Username != "" {
			ps = append(ps, problem.Problem{Field: at + "Username", Rule: "local.duplicate", Text: fmt.Sprintf("User %q is there twice: also as users[%d].", u.Username, j), Fix: "remove one of them"})
		}
		seen[strings.ToLower(u.Username)] = i
		if _, err := parseHash(u.PasswordHash.Reveal()); err != nil {
			ps = append(ps, problem.Problem{Field: at + "PasswordHash", Rule: "local.hash", Text: "This is " + err.Error() + ".", Fix: "the output of: gatehouse hash-password"})
		}
		for k, c := range u.CIDRs {
			if _, err := netip.ParsePrefix(c); err != nil {
				ps = append(ps, problem.Problem{Field: fmt.Sprintf("%sCIDRs[%d]", at, k), Rule: "local.cidr", Text: fmt.Sprintf("%q is not a network.", c), Fix: "for example 10.0.0.0/8 or 192.0.2.7/32"})
			}
		}
	}
	return ps
}

type entry struct {
	User
	hash  hash
	cidrs []netip.Prefix
}

// Connector checks passwords of local users.
type Connector struct {
	id    string
	users map[string]*entry // by user name, lower case
	// dummies are checked for unknown users, so that they cost the same: one for
	// each user, at that user's cost. Which one a name gets is fixed by seed.
	dummies []hash
	seed    maphash.Seed
	slots   chan struct{} // bounds memory: a hash takes 19 MiB
	now     func() time.Time
}

// Open makes the connector.
func Open(env connectors.Env, cfg Config) (connectors.Connector, error) {
	for _, p := range cfg.Problems() {
		if !p.Warning {
			return nil, p
		}
	}
	c := &Connector{id: env.ID, users: map[string]*entry{}, slots: make(chan struct{}, max(2, runtime.NumCPU())), seed: maphash.MakeSeed(), now: env.Now}
	for _, u := range cfg.Users {
		h, err := parseHash(u.PasswordHash.Reveal())
		if err != nil {
			return nil, err
		}
		e := &entry{User: u, hash: h}
		for _, s := range u.CIDRs {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return nil, err
			}
			e.cidrs = append(e.cidrs, p)
		}
		c.users[strings.ToLower(u.Username)] = e
		c.dummies = append(c.dummies, hash{memory: h.memory, time: h.time, lanes: h.lanes, salt: make([]byte, len(h.salt)), key: make([]byte, len(h.key))})
	}
	if len(c.dummies) == 0 {
		c.dummies = []hash{{memory: memoryKiB, time: passes, lanes: lanes, salt: make([]byte, saltLen), key: make([]byte, keyLen)}}
	}
	return c, nil
}

// Check always succeeds: there is nothing outside to reach.
func (c *Connector) Check(context.Context) error { return nil }

// Authenticate checks a password. An unknown user, a wrong password and a
// network that is not the user's are one answer after one hash.
func (c *Connector) Authenticate(ctx context.Context, username, password string) (connectors.Identity, error) {
	if !validPassword(password) || len(username) > 256 {
		return connectors.Identity{}, connectors.ErrBadCredentials
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return connectors.Identity{}, fmt.Errorf("local: too many passwords at once: %w", connectors.ErrBusy)
	}
	name := strings.ToLower(username)
	u, known := c.users[name]
	if known && !connectors.MayTry(ctx, u.subject()) {
		return connectors.Identity{}, connectors.ErrThrottled
	}
	h := c.dummy(name)
	if known {
		h = u.hash
	}
	match := h.matches(password)
	if !known || !match || !u.allows(connectors.ClientIP(ctx)) {
		return connectors.Identity{}, connectors.ErrBadCredentials
	}
	return c.identity(u), nil
}

func (c *Connector) dummy(name string) hash {
	return c.dummies[maphash.String(c.seed, name)%uint64(len(c.dummies))]
}

func (e *entry) subject() string { return strings.ToLower(e.Username) }

func (e *entry) allows(ip netip.Addr) bool {
	return len(e.cidrs) == 0 || slices.ContainsFunc(e.cidrs, func(p netip.Prefix) bool { return p.Contains(ip.Unmap()) })
}

func (c *Connector) identity(u *entry) connectors.Identity {
	name := u.Name
	if name == "" {
		name = u.Username
	}
	return connectors.Identity{
		Connector: c.id, Subject: u.subject(), Username: u.Username, Name: name, Email: u.Email,
		EmailVerified: u.Email != "", // the operator wrote it down
		Groups:        slices.Clone(u.Groups), AuthTime: c.now(), AMR: []string{"pwd"},
		Claims:  map[string]any{"username": u.Username, "email": u.Email},
		Renewal: []byte("1"), // any: the configuration itself vouches
	}
}

// Renew vouches again while the user stands in the configuration.
func (c *Connector) Renew(_ context.Context, id connectors.Identity) (connectors.Identity, error) {
	u, known := c.users[id.Subject]
	if !known {
		return connectors.Identity{}, fmt.Errorf("local: %q is no longer configured: %w", id.Subject, connectors.ErrNotAllowed)
	}
	return c.identity(u), nil
}
