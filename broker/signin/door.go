// Package signin is the conversation with a person from "who are you" to a
// session, and the renewal of what was proved then. It knows no tokens and no
// clients: who starts a sign-in gives the path to come back to.
package signin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// Method is one way to sign in: a connector and what the operator says of it.
type Method struct {
	ID, Type, Name, Org string
	// Domains are those for which the connector may speak, in IDNA's A-form. That
	// they stand in the operator's file is their proof (docs/security.md AD-7).
	Domains []string
	// TrustEmail says that its word about addresses of its Domains counts.
	TrustEmail bool
	// Enforce says that everyone of its Domains must come by it.
	Enforce bool
	// LinkOnly says that it can be linked to an account and leads into none.
	LinkOnly bool
	Hidden   bool
	// Allow refuses identities; nil means everyone whom the upstream vouches for.
	Allow  *policy.Expr
	Signup string
	// GroupsMap gives upstream groups a name of ours; GroupsPrefix, when set,
	// replaces "<id>:" in front of the others (docs/security.md UP-11).
	GroupsMap    map[string]string
	GroupsPrefix *string
	// Connector is nil for a type that this version does not serve yet.
	Connector connectors.Connector
}

// LimitsConfig is the `rate_limits` section: failures and unfinished attempts
// count, successes do not (docs/security.md G10).
type LimitsConfig struct {
	AccountFailures int           `yaml:"account_failures"` // wrong passwords for one account; default 5
	AccountWindow   time.Duration `yaml:"account_window"`   // in this time; default 15m
	AddressFailures int           `yaml:"address_failures"` // wrong passwords from one address a minute; default 30
	NetworkFailures int           `yaml:"network_failures"` // and from its /24 or /48; default 300
	Attempts        int           `yaml:"attempts"`         // unfinished attempts from one address a minute; default 1000
	StoredAttempts  int           `yaml:"stored_attempts"`  // those too long for a cookie; default 60
}

// WithDefaults fills in what is missing.
func (c LimitsConfig) WithDefaults() LimitsConfig {
	for _, d := range []struct {
		v   *int
		def int
	}{{&c.AccountFailures, 5}, {&c.AddressFailures, 30}, {&c.NetworkFailures, 300}, {&c.Attempts, 1000}, {&c.StoredAttempts, 60}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if c.AccountWindow == 0 {
		c.AccountWindow = 15 * time.Minute
	}
	return c
}

// Problems complains about limits that are none.
func (c LimitsConfig) Problems() []problem.Problem {
	var ps []problem.Problem
	for _, f := range []struct {
		name string
		n    int
	}{{"AccountFailures", c.AccountFailures}, {"AddressFailures", c.AddressFailures}, {"NetworkFailures", c.NetworkFailures}, {"Attempts", c.Attempts}, {"StoredAttempts", c.StoredAttempts}, {"AccountWindow", int(c.AccountWindow)}} {
		if f.n < 0 {
			ps = append(ps, problem.Problem{Field: f.name, Rule: "rate_limits.negative", Text: "A limit cannot be negative.", Fix: "leave it out for the default"})
		}
	}
	return ps
}

// Config is what New needs.
type Config struct {
	Edge     *web.Edge
	Issuer   string
	Methods  []Method
	Sessions *session.Manager
	Users    *user.Directory
	KV       store.KV
	Bus      store.Bus
	Sealer   *store.Sealer
	Events   *event.Recorder
	Limits   LimitsConfig
	Now      func() time.Time
	Log      *slog.Logger
	// Observe is told how long a connector took to decide; may be nil.
	Observe func(connector string, took time.Duration)
	// Place says where an address is, in English; "" is not known. May be nil.
	Place func(ctx context.Context, ip string) (country, place string)
	// Reserved are ids of connectors that are configured and not among Methods:
	// their groups' names are nobody else's all the same (UP-11).
	Reserved []string
	// Before is the Door of the configuration before this one: its counters of
	// failures go on unless Limits are others, and what it knows of connectors that
	// are the same.
	Before *Door
	// Staff reports whether somebody has a role here, by the session that a proof
	// would open or by an identity of the account: those are never linked
	// automatically (UP-5). Nil means that nobody has.
	Staff func(ctx context.Context, s session.Session, u user.User) (bool, error)
}

// Door is where people sign in and out. Its handlers are safe for concurrent use.
type Door struct {
	cfg          Config
	methods      map[string]*Method
	seal         *store.Sealer
	parked       *store.Collection[attempt]
	answers      *store.Collection[parkedAnswer]
	logouts      *store.Collection[askedLogout]
	certificates *store.Collection[seenCertificates]
	devices      *store.Collection[knownDevices]
	limits       *limits
	health       health
	known        map[string]bool // connector ids, and the names reserved for roles
}

// New returns a Door.
func New(cfg Config) (*Door, error) {
	if cfg.Edge == nil || cfg.Issuer == "" || cfg.Sessions == nil || cfg.Users == nil || cfg.KV == nil || cfg.Bus == nil || cfg.Sealer == nil || cfg.Events == nil || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("signin: the configuration is incomplete")
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, time.Duration) {}
	}
	if cfg.Place == nil {
		cfg.Place = func(context.Context, string) (string, string) { return "", "" }
	}
	if cfg.Staff == nil {
		cfg.Staff = func(context.Context, session.Session, user.User) (bool, error) { return false, nil }
	}
	seal, err := cfg.Sealer.For("attempt")
	if err != nil {
		return nil, err
	}
	d := &Door{cfg: cfg, methods: map[string]*Method{}, seal: seal, known: map[string]bool{"local": true, "group": true, "email": true}}
	for i := range cfg.Methods {
		m := &cfg.Methods[i]
		if d.methods[m.ID] != nil {
			return nil, fmt.Errorf("signin: connector %q is there twice", m.ID)
		}
		d.methods[m.ID], d.known[m.ID] = m, true
	}
	for _, id := range cfg.Reserved {
		d.known[id] = true
	}
	d.parked = store.NewCollection(cfg.KV, store.CollectionConfig[attempt]{Kind: "attempt", Sealer: cfg.Sealer, Now: cfg.Now, Expires: func(a attempt) time.Time { return a.At.Add(attemptTTL) }})
	d.answers, d.logouts, d.devices = d.newParking(), d.newLogouts(), d.newDevices()
	d.certificates = store.NewCollection(cfg.KV, store.CollectionConfig[seenCertificates]{Kind: "certificates", Sealer: cfg.Sealer, Now: cfg.Now})
	var counted *limits
	if cfg.Before != nil {
		counted = cfg.Before.limits
	}
	d.limits = newLimits(cfg.Limits.WithDefaults(), cfg.Now, counted)
	d.health.init(d)
	d.cfg.Before = nil // or no Door would ever be forgotten
	return d, nil
}

// Run checks the connectors and hears other replicas' failures until ctx ends.
func (d *Door) Run(ctx context.Context) error {
	var others sync.WaitGroup
	others.Go(func() { d.limits.listen(ctx, d.cfg.Bus) })
	others.Go(func() { d.watchCertificates(ctx) })
	d.health.run(ctx)
	others.Wait()
	return nil
}

// SessionCookie is the name of the cookie of the broker's own session.
const SessionCookie = "gatehouse"

const lastCookie = "gatehouse-last"

// Current returns the session of this browser, if it has one that lives.
func (d *Door) Current(r *http.Request) (session.Session, bool, error) {
	h, ok := d.cfg.Edge.Cookie(r, SessionCookie)
	if !ok {
		return session.Session{}, false, nil
	}
	s, err := d.cfg.Sessions.Lookup(r.Context(), session.Handle(h))
	if errors.Is(err, session.ErrNoSession) || errors.Is(err, session.ErrEnded) {
		return session.Session{}, false, nil
	}
	if err != nil {
		return session.Session{}, false, err
	}
	if !d.Serves(s.Connector) { // it was removed since (UP-8)
		return session.Session{}, false, nil
	}
	q := web.RequestOf(r)
	q.User, q.Session = s.UserID, s.ID
	return s, true, nil
}

// Serves reports whether a connector may open sessions, and those that it opened
// go on: it is configured, not disabled, and not for linking alone (UP-8).
func (d *Door) Serves(connector string) bool {
	m := d.methods[connector]
	return m != nil && !m.LinkOnly
}

// opens reports whether the method can be used to sign in now.
func (m *Method) opens() bool { return m.Connector != nil && !m.LinkOnly }

// record fills in who asked and writes the event.
func (d *Door) record(r *http.Request, e event.Event) error {
	q := web.RequestOf(r)
	e.IP, e.Agent, e.RequestID = q.IP.String(), q.Agent, q.ID
	return d.cfg.Events.Record(r.Context(), e)
}

// note logs an event whose failure must not stop what happened already.
func (d *Door) note(r *http.Request, e event.Event) {
	if err := d.record(r, e); err != nil {
		d.cfg.Log.ErrorContext(r.Context(), "an event was not recorded", "event", e.Name, "err", err)
	}
}

func (d *Door) callbackURL(connector string) string {
	return d.cfg.Issuer + "/auth/" + connector + "/callback"
}

// groups names an identity's groups as our policies know them (UP-11).
func (d *Door) groups(ctx context.Context, m *Method, upstream []string) []string {
	out := make([]string, 0, len(upstream))
	for _, g := range upstream {
		switch mapped, ok := m.GroupsMap[g]; {
		case ok:
			out = append(out, mapped)
			continue
		case m.Type == "local":
		case m.GroupsPrefix != nil:
			g = *m.GroupsPrefix + g
		default:
			out = append(out, m.ID+":"+g)
			continue
		}
		// A bare name that looks like another connector's word is dropped.
		if prefix, _, ok := strings.Cut(g, ":"); ok && d.known[prefix] && (m.GroupsPrefix == nil || *m.GroupsPrefix != m.ID+":") {
			d.cfg.Log.WarnContext(ctx, "a group that is named like another connector's was dropped", "connector", m.ID)
			continue
		}
		out = append(out, g)
	}
	return out
}
