package ldap

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/remotegpu/gatehouse/connectors"
)

// Connector checks passwords against one directory.
type Connector struct {
	id     string
	cfg    *Config
	user   template
	names  adNames // instead of user, where the preset's are not replaced
	groups template
	// dnsDomain is the domain of base_dn.
	dnsDomain string
	pool      *pool
	dial      *dialer
	binds     chan struct{} // bounds the binds of people at one time
	page      atomic.Int32  // the index in pageSizes that the directory allows
	log       *slog.Logger
	now       func() time.Time
}

// Open makes the connector. The directory is asked for the first time by Check
// or the first sign-in.
func Open(env connectors.Env, cfg Config) (connectors.Connector, error) {
	for _, p := range cfg.Problems() {
		if !p.Warning {
			return nil, p
		}
	}
	cfg = cfg.withDefaults()
	c := &Connector{id: env.ID, cfg: &cfg, log: env.Log, now: env.Now, binds: make(chan struct{}, maxBinds)}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	var err error
	if cfg.UserFilter == "" {
		c.names, err = newADNames()
	} else {
		c.user, err = parseTemplate(cfg.UserFilter, "%s")
	}
	if err != nil {
		return nil, err
	}
	c.dnsDomain = dnsDomain(cfg.BaseDN)
	if c.groups, err = parseTemplate(cfg.groupFilter(), "%s", "%u"); err != nil {
		return nil, err
	}
	if c.dial, err = newDialer(c.cfg, c.id, c.log); err != nil {
		return nil, err
	}
	c.pool = newPool(c.dial, c.cfg)
	return c, nil
}

// Close closes the connections of the service account.
func (c *Connector) Close() error {
	c.pool.close()
	return nil
}

// ResetURL returns the page where people mend a forgotten password, or "".
func (c *Connector) ResetURL() string { return c.cfg.ResetURL }

// Check connects as the service account and looks at the places where people
// and groups are searched for, and at every server of several.
func (c *Connector) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, totalLimit)
	defer cancel()
	c.dial.look(ctx)
	return c.pool.do(ctx, func(cn *conn) error {
		for _, place := range []struct{ key, dn string }{{"base_dn", c.cfg.BaseDN}, {"groups.base_dn", c.cfg.Groups.BaseDN}} {
			if place.dn == "" {
				continue
			}
			res, err := cn.search(ctx, place.dn, goldap.ScopeBaseObject, 1, "(objectClass=*)", []string{"1.1"})
			switch {
			case goldap.IsErrorWithCode(err, goldap.LDAPResultNoSuchObject), err == nil && len(res.Entries) == 0:
				return unavailable(place.key+" does not exist, or bind_dn may not read it", err)
			case err != nil:
				return unavailable("look at "+place.key, err)
			}
		}
		return nil
	})
}

// errNobody: not exactly one entry goes by the name.
var errNobody = errors.New("no entry, or several")

// Authenticate finds the one entry that goes by the name and binds as it. What
// was typed is never used again: the name is the directory's from then on.
//
// An unknown name costs what a wrong password costs: a search and a bind on a
// connection of its own.
func (c *Connector) Authenticate(ctx context.Context, username, password string) (connectors.Identity, error) {
	var none connectors.Identity
	if !validName(username) || !validPassword(password) {
		return none, connectors.ErrBadCredentials
	}
	ctx, cancel := context.WithTimeout(ctx, totalLimit)
	defer cancel()
	e, err := c.find(ctx, username)
	if errors.Is(err, errNobody) {
		return none, c.pretend(ctx)
	}
	if err != nil {
		return none, err
	}
	if !connectors.MayTry(ctx, e.subject) {
		return none, connectors.ErrThrottled
	}
	policy, err := c.prove(ctx, e, password)
	if err != nil {
		return none, err
	}
	if e.fault != nil {
		return none, e.fault
	}
	if code := e.state(c.now()); code != "" {
		return none, c.refuse(code, errors.New("the entry says "+code))
	}
	id, err := c.identity(ctx, e)
	if err != nil {
		return none, err
	}
	id.AuthTime, id.AMR = c.now(), []string{"pwd"}
	id.PasswordEnds, id.GraceLogins = c.passwordEnds(e, policy)
	return id, nil
}

// find returns the one entry that goes by the name, or errNobody.
func (c *Connector) find(ctx context.Context, username string) (*entry, error) {
	filter, err := c.userFilter(username)
	if err != nil {
		return nil, errNobody
	}
	return c.one(ctx, filter)
}

// one returns the one entry that a filter finds, or errNobody.
func (c *Connector) one(ctx context.Context, filter string) (e *entry, err error) {
	err = c.pool.do(ctx, func(cn *conn) error {
		res, err := cn.search(ctx, c.cfg.BaseDN, goldap.ScopeWholeSubtree, 2, filter, c.attributes())
		switch {
		case goldap.IsErrorWithCode(err, goldap.LDAPResultSizeLimitExceeded), errors.Is(err, goldap.ErrSizeLimitExceeded):
			// The latter of a directory that goes on beyond what was asked for.
			c.log.WarnContext(ctx, "ldap: a search for one person finds several entries; nobody can sign in with that name", "connector", c.id)
			return errNobody
		case err != nil:
			// Also noSuchObject: the place to search is gone, not the person.
			return unavailable("search", err)
		case len(res.Entries) == 0:
			return errNobody
		case len(res.Entries) > 1:
			c.log.WarnContext(ctx, "ldap: a search for one person finds several entries; nobody can sign in with that name", "connector", c.id)
			return errNobody
		}
		e = c.entry(res.Entries[0])
		return nil
	})
	if err == nil && !bindable(e.dn) {
		c.log.WarnContext(ctx, "ldap: an entry has a name that cannot be bound as", "connector", c.id)
		return nil, errNobody
	}
	return e, err
}

// prove binds as the entry, once, on a connection that is closed afterwards, and
// returns what the password policy said.
func (c *Connector) prove(ctx context.Context, e *entry, password string) (ppolicy, error) {
	res, err := c.bindAs(ctx, e.dn, password)
	if notAsked(err) {
		return ppolicy{}, err
	}
	policy := policyOf(res)
	switch {
	case err == nil && policy.fault == policyMustChange:
		// The bind succeeds, and then allows nothing but a new password.
		return policy, c.refuse(codeMustChange, errors.New("password policy: change after reset"))
	case err == nil:
		return policy, nil
	case goldap.IsErrorAnyOf(err, refusedResults...):
		data, code := adReason(err)
		switch {
		case code != "":
		case policy.fault == policyExpired && goldap.IsErrorWithCode(err, goldap.LDAPResultInvalidCredentials):
			code = codePasswordExpired
		case policy.fault == policyLocked:
			code = codeLocked
		}
		c.log.InfoContext(ctx, "ldap: bind refused", "connector", c.id, "subject", e.subject, "data", data, "reason", code, "error", summary(err))
		return policy, c.refuse(code, err)
	}
	return policy, unavailable("bind", err)
}

// pretend does for an unknown name what prove does for a wrong password.
func (c *Connector) pretend(ctx context.Context) error {
	_, err := c.bindAs(ctx, "cn="+rand.Text()+","+c.cfg.BaseDN, rand.Text())
	if notAsked(err) {
		return err
	}
	if err == nil || goldap.IsErrorAnyOf(err, refusedResults...) {
		return c.refuse("", errNobody)
	}
	return unavailable("bind", err)
}

// bindAs binds on a connection of its own. It fails with unavailable where no
// bind was tried.
func (c *Connector) bindAs(ctx context.Context, dn, password string) (*goldap.SimpleBindResult, error) {
	leave, err := enter(ctx, c.binds)
	if err != nil {
		return nil, err
	}
	defer leave()
	cn, err := c.dial.open(ctx)
	if err != nil {
		return nil, err
	}
	defer cn.close()
	res, err := cn.bind(ctx, c.cfg, dn, password)
	if err != nil && ctx.Err() == nil {
		// The next one is asked elsewhere. This one is not tried again: the
		// directory may have counted it (docs/security.md LD-9).
		c.pool.leave(ctx, cn, err)
	}
	return res, err
}

// identity describes an entry whose password was right, or was before.
func (c *Connector) identity(ctx context.Context, e *entry) (connectors.Identity, error) {
	groups, err := c.groupsOf(ctx, e)
	if err != nil {
		return connectors.Identity{}, err
	}
	name := e.name
	if name == "" {
		name = e.username
	}
	return connectors.Identity{
		Connector: c.id, Subject: e.subject, Username: e.username, Name: name, Email: e.email,
		// People may often write their own mail attribute: nobody has proved it.
		EmailVerified: false,
		Groups:        groups,
		Claims:        map[string]any{"username": e.username, "name": name, "email": e.email, "groups": groups, "dn": e.dn},
		Renewal:       []byte(e.key + "\n" + e.dn),
	}, nil
}

// Renew vouches again while the entry exists by its unchanging id, is still
// among those whom user_filter can find, and is not disabled. Groups are read
// anew. Everything that is not the directory's own no is ErrUnavailable.
func (c *Connector) Renew(ctx context.Context, id connectors.Identity) (connectors.Identity, error) {
	var none connectors.Identity
	key, _, _ := strings.Cut(string(id.Renewal), "\n")
	byID, err := subjectFilter(key, id.Subject)
	if err != nil {
		return none, &failure{what: "renew", kind: connectors.ErrNotAllowed, cause: err}
	}
	ctx, cancel := context.WithTimeout(ctx, totalLimit)
	defer cancel()
	e, err := c.one(ctx, "(&"+byID+c.anybody()+")")
	if errors.Is(err, errNobody) {
		return none, &failure{what: "renew", kind: connectors.ErrNotAllowed, cause: err}
	}
	if err != nil {
		return none, err
	}
	if e.fault != nil {
		return none, e.fault
	}
	// A lock is left out: anybody can lock an account by guessing.
	if code := e.state(c.now()); code != "" && code != codeLocked {
		return none, &failure{what: "renew", kind: connectors.ErrNotAllowed, cause: errors.New("the entry says " + code)}
	}
	renewed, err := c.identity(ctx, e)
	if err != nil {
		return none, err
	}
	// The person was not there: how and when they proved themselves stays.
	renewed.AuthTime, renewed.AMR, renewed.ACR = id.AuthTime, id.AMR, id.ACR
	return renewed, nil
}
