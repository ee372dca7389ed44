package session

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/remotegpu/gatehouse/broker/store"
)

// epochs is the part of the user directory that sessions need.
type epochs interface {
	Epoch(ctx context.Context, userID string) (uint64, error)
}

// Renewer asks a connector to vouch again. An error that wraps
// connectors.ErrNotAllowed ends the sessions; any other is an outage.
type Renewer interface {
	Renew(ctx context.Context, r Renewal) (Renewal, error)
}

// Config is what New needs.
type Config struct {
	KV     store.KV
	Bus    store.Bus
	Leaser store.Leaser
	Sealer *store.Sealer
	Epochs epochs
	Limits SessionsConfig
	// RefreshIdle and RefreshMax bound offline and device sessions.
	RefreshIdle, RefreshMax time.Duration
	Now                     func() time.Time
	Log                     *slog.Logger
	// Ended is told of a session that the Manager itself ended before its time:
	// its connector refused, or somebody else signed in over it. Who calls Revoke
	// has a reason and tells of it. May be nil.
	Ended func(ctx context.Context, s Session, reason string)
	// Moved is told of a session whose uses go to and fro between networks
	// (SetMoves); may be nil.
	Moved func(ctx context.Context, s Session, m Move)
}

// Manager keeps the sessions. It is safe for concurrent use.
type Manager struct {
	cfg      Config
	sessions *store.Collection[Session]
	firm     *store.Collection[Session]
	handles  *store.Collection[handle]
	tickets  *store.Collection[ticket]
	renewals *store.Collection[Renewal]
	renewer  Renewer
	serves   func(connector string) bool
	limits   atomic.Pointer[limits]
	moves    atomic.Pointer[moveLimits]
	cache    *cache
	heard    atomic.Int64 // when the bus was last heard, in nanoseconds since 1970
	flight   singleflight.Group
	renewing singleflight.Group // by renewal
	recheck  chan asking
	silent   atomic.Int64 // when the store last failed to answer, in Unix nanoseconds; 0 after an answer
}

// handle names the session of a cookie, and the host it is good for: "" is the
// broker's own.
type handle struct {
	Session string    `json:"session"`
	Host    string    `json:"host,omitempty"`
	Expires time.Time `json:"expires"`
}

// New returns a Manager. Set the renewer, then call Run.
func New(cfg Config) (*Manager, error) {
	if cfg.KV == nil || cfg.Bus == nil || cfg.Leaser == nil || cfg.Sealer == nil || cfg.Epochs == nil || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("session: the configuration is incomplete")
	}
	if cfg.RefreshIdle <= 0 || cfg.RefreshMax <= 0 {
		return nil, errors.New("session: the limits of offline sessions are needed")
	}
	if cfg.Ended == nil {
		cfg.Ended = func(context.Context, Session, string) {}
	}
	m := &Manager{cfg: cfg, cache: newCache(), recheck: make(chan asking, 64)}
	m.SetMoves(6, 10*time.Minute, nil)
	m.SetLimits(cfg.Limits, cfg.RefreshIdle, cfg.RefreshMax)
	sc := store.CollectionConfig[Session]{Kind: "session", Sealer: cfg.Sealer, Now: cfg.Now, Expires: m.storedUntil,
		Index: func(s Session) map[string]string {
			ix := map[string]string{"user": s.UserID}
			if s.Renewal != "" {
				ix["renewal"] = s.Renewal
			}
			if key := cmp.Or(s.UpstreamKey, s.Upstream); key != "" && s.Kind == Browser {
				ix["upstream"] = upstreamIndex(s.Connector, key)
			}
			return ix
		}}
	m.sessions = store.NewCollection(cfg.KV, sc)
	sc.Firm, sc.Tell = true, func(s Session) store.Message { return message{Session: s.ID, Ended: !s.Ended.IsZero()}.tell() }
	m.firm = store.NewCollection(cfg.KV, sc)
	m.handles = store.NewCollection(cfg.KV, store.CollectionConfig[handle]{Kind: "handle", Sealer: cfg.Sealer, Now: cfg.Now, Expires: func(h handle) time.Time { return h.Expires }})
	m.tickets = store.NewCollection(cfg.KV, store.CollectionConfig[ticket]{Kind: "ticket", Sealer: cfg.Sealer, Now: cfg.Now, Expires: func(t ticket) time.Time { return t.Expires }})
	m.renewals = store.NewCollection(cfg.KV, store.CollectionConfig[Renewal]{Kind: "renewal", Sealer: cfg.Sealer, Now: cfg.Now, Expires: func(r Renewal) time.Time { return r.Expires }})
	return m, nil
}

// limits are how long sessions live.
type limits struct {
	SessionsConfig
	refreshIdle, refreshMax time.Duration
}

// SetLimits sets how long sessions live, those that there are too: their idle time
// at once, their end with the next renewal. refreshIdle and refreshMax bound
// offline and device sessions.
func (m *Manager) SetLimits(c SessionsConfig, refreshIdle, refreshMax time.Duration) {
	m.limits.Store(&limits{c.WithDefaults(), refreshIdle, refreshMax})
}

// SetRenewer sets who asks the connectors; call it before Run.
func (m *Manager) SetRenewer(r Renewer) { m.renewer = r }

// SetServes sets which connectors may open sessions; call it before Run. A
// session of any other has ended, of whatever kind it is and whoever asks
// (docs/security.md UP-8).
func (m *Manager) SetServes(f func(connector string) bool) { m.serves = f }

// idle is how long a session of this kind may be unused.
func (m *Manager) idle(k Kind) time.Duration {
	if k == Browser {
		return m.limits.Load().IdleTTL
	}
	return m.limits.Load().refreshIdle
}

// until is when the session ends if it is not used again.
func (m *Manager) until(s Session) time.Time {
	at := s.Seen.Add(m.idle(s.Kind))
	if s.Expires.Before(at) {
		return s.Expires
	}
	return at
}

// IdleUntil is when a session ends if it is not used again; never after Expires.
func (m *Manager) IdleUntil(s Session) time.Time { return m.until(s) }

// storedUntil keeps the record a little longer than the session, so that a use
// whose Seen has not been written yet still finds it; an ended one is kept as a
// tombstone until nobody's cache can hold it.
func (m *Manager) storedUntil(s Session) time.Time {
	return m.until(s).Add(2 * seenEvery)
}

// seenEvery is how often the last use is written.
const seenEvery = time.Minute

// lifetime returns the absolute end of a session that starts now.
func (m *Manager) lifetime(s Session, now time.Time) time.Time {
	max, unrenewable := m.limits.Load().MaxTTL, unrenewableBrowser
	if s.Kind != Browser {
		max, unrenewable = m.limits.Load().refreshMax, unrenewableOffline
	}
	if s.Renewal == "" && max > unrenewable {
		max = unrenewable
	}
	end := now.Add(max)
	if !s.Expires.IsZero() && s.Expires.Before(end) { // the upstream's own limit
		end = s.Expires
	}
	return end
}

func newID() string { return rand.Text() }

// NewHandle returns 256 random bits as text.
func newHandle() Handle { return Handle(rand.Text() + rand.Text()) }

// Start begins a browser session, or goes on in the one that this browser has:
// the same user by the same connector keeps id, grants and sockets under a new
// handle, with the new proof's groups and times; anybody else's session of this
// browser ends first (docs/security.md SE-1). s.Expires may carry the
// upstream's own limit.
func (m *Manager) Start(ctx context.Context, s Session, previous Handle) (Session, Handle, error) {
	now := m.cfg.Now()
	if previous != "" {
		old, err := m.Lookup(ctx, previous)
		switch {
		case err == nil && old.UserID == s.UserID && old.Connector == s.Connector && old.Subject == s.Subject && old.UserEpoch == s.UserEpoch:
			kept, err := m.proveAgain(ctx, old, s, now)
			if err == nil {
				h, err := m.giveHandle(ctx, kept, "")
				if err != nil {
					return Session{}, "", err
				}
				if err := m.dropHandle(ctx, previous); err != nil {
					return Session{}, "", err
				}
				return kept, h, nil
			}
			if !errors.Is(err, ErrEnded) && !errors.Is(err, store.ErrNotFound) {
				return Session{}, "", err
			}
		case err == nil:
			if err := m.end(ctx, old.ID, "another_signin"); err != nil {
				return Session{}, "", err
			}
		case errors.Is(err, ErrNoSession) || errors.Is(err, ErrEnded):
		default:
			return Session{}, "", err
		}
	}
	s.ID, s.Kind, s.Version, s.Parent = newID(), Browser, 1, ""
	s.Created, s.Seen = now, now
	s.Expires = m.lifetime(s, now)
	if err := m.sessions.Create(ctx, s.ID, s); err != nil {
		return Session{}, "", fmt.Errorf("start session: %w", err)
	}
	h, err := m.giveHandle(ctx, s, "")
	if err != nil {
		return Session{}, "", err
	}
	return s, h, nil
}

// proveAgain writes a new proof into a session that goes on.
func (m *Manager) proveAgain(ctx context.Context, old, fresh Session, now time.Time) (Session, error) {
	s, err := m.sessions.Update(ctx, old.ID, func(v *Session) error {
		if !v.Ended.IsZero() {
			return ErrEnded
		}
		v.Groups, v.Proved, v.AuthTime, v.ACR, v.AMR = fresh.Groups, fresh.Proved, fresh.AuthTime, fresh.ACR, fresh.AMR
		v.Renewal, v.Upstream, v.UpstreamKey, v.Username, v.Org = fresh.Renewal, fresh.Upstream, fresh.UpstreamKey, fresh.Username, fresh.Org
		v.IP, v.Agent, v.Country, v.Place, v.Seen = fresh.IP, fresh.Agent, fresh.Country, fresh.Place, now
		next := *v
		next.Expires = fresh.Expires
		v.Expires = m.lifetime(next, now)
		v.Version++
		return nil
	})
	if err != nil {
		return Session{}, err
	}
	m.changed(ctx, s.ID)
	return s, nil
}

func (m *Manager) giveHandle(ctx context.Context, s Session, host string) (Handle, error) {
	h := newHandle()
	id := store.HashID(string(h))
	rec := handle{Session: s.ID, Host: host, Expires: s.Expires}
	gen := m.cache.generation()
	if err := m.handles.Create(ctx, id, rec); err != nil {
		return "", fmt.Errorf("give handle: %w", err)
	}
	m.cache.put(gen, s, m.cfg.Now())
	m.cache.putHandle(gen, id, rec)
	return h, nil
}

func (m *Manager) dropHandle(ctx context.Context, h Handle) error {
	id := store.HashID(string(h))
	if err := m.handles.Delete(ctx, id); err != nil {
		return fmt.Errorf("drop handle: %w", err)
	}
	m.cache.forgetHandle(id)
	return m.publish(ctx, message{Handle: id})
}

// SaveRenewal keeps how a connector vouches again, and returns the id for
// Session.Renewal. With one, the identity has a single record, which all its
// sessions name and each sign-in replaces (docs/security.md UP-9).
func (m *Manager) SaveRenewal(ctx context.Context, r Renewal, one bool) (string, error) {
	r.Expires = m.cfg.Now().Add(max(m.limits.Load().MaxTTL, m.limits.Load().refreshMax))
	var err error
	if one {
		r.ID = store.HashID(r.Connector + "\x00" + r.Subject)
		err = m.renewals.Put(ctx, r.ID, r)
	} else {
		r.ID = newID()
		err = m.renewals.Create(ctx, r.ID, r)
	}
	if err != nil {
		return "", fmt.Errorf("save renewal: %w", err)
	}
	return r.ID, nil
}

// ByUser returns the live sessions of a user, the most recently used first.
func (m *Manager) ByUser(ctx context.Context, userID string) ([]Session, error) {
	epoch, err := m.cfg.Epochs.Epoch(ctx, userID)
	if err != nil {
		return nil, err
	}
	var out []Session
	after := ""
	for {
		page, next, err := m.sessions.List(ctx, "user", userID, after, 100)
		if err != nil {
			return nil, fmt.Errorf("sessions of a user: %w", err)
		}
		for _, s := range page {
			if s.UserEpoch == epoch && m.alive(s) == nil {
				if at, ok := m.cache.seen(s.ID); ok && at.After(s.Seen) {
					s.Seen = at
				}
				out = append(out, s)
			}
		}
		if next == "" {
			break
		}
		after = next
	}
	slices.SortFunc(out, func(a, b Session) int { return b.Seen.Compare(a.Seen) })
	return out, nil
}

// alive says whether the record itself is of a living session.
func (m *Manager) alive(s Session) error {
	if !s.Ended.IsZero() {
		return ErrEnded
	}
	if m.serves != nil && !m.serves(s.Connector) {
		return ErrEnded
	}
	if !m.cfg.Now().Before(m.until(s)) {
		return ErrEnded
	}
	return nil
}
