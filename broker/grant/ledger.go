package grant

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/store"
)

// TokensConfig is the `tokens` section: how long things live.
type TokensConfig struct {
	AccessTTL      time.Duration `yaml:"access_ttl"`       // default 10m
	IDTTL          time.Duration `yaml:"id_ttl"`           // default 1h
	RefreshIdleTTL time.Duration `yaml:"refresh_idle_ttl"` // default 336h
	RefreshMaxTTL  time.Duration `yaml:"refresh_max_ttl"`  // default 2160h
	// RefreshGrace is how long a refresh token that was just used still gives
	// the same successor; default 10s, 0 in the file turns it off.
	RefreshGrace *time.Duration `yaml:"refresh_grace"`
}

// WithDefaults fills in what is missing.
func (c TokensConfig) WithDefaults() TokensConfig {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&c.AccessTTL, 10 * time.Minute}, {&c.IDTTL, time.Hour}, {&c.RefreshIdleTTL, 336 * time.Hour}, {&c.RefreshMaxTTL, 2160 * time.Hour}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if c.RefreshGrace == nil {
		c.RefreshGrace = new(10 * time.Second)
	}
	return c
}

// Problems complains about lives that contradict each other.
func (c TokensConfig) Problems() []problem.Problem {
	var ps []problem.Problem
	d := c.WithDefaults()
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"AccessTTL", d.AccessTTL}, {"IDTTL", d.IDTTL}, {"RefreshIdleTTL", d.RefreshIdleTTL}, {"RefreshMaxTTL", d.RefreshMaxTTL}, {"RefreshGrace", *d.RefreshGrace}} {
		if f.d < 0 {
			ps = append(ps, problem.Problem{Field: f.name, Rule: "tokens.negative", Text: "A token's life cannot be negative.", Fix: "a duration such as 10m"})
		}
	}
	if d.AccessTTL > 24*time.Hour {
		ps = append(ps, problem.Problem{Field: "AccessTTL", Rule: "tokens.access_ttl", Text: "Access tokens cannot be recalled; one that lives longer than a day outlives every revocation.", Fix: "10m"})
	}
	if d.RefreshIdleTTL > d.RefreshMaxTTL {
		ps = append(ps, problem.Problem{Field: "RefreshIdleTTL", Rule: "tokens.refresh", Text: "refresh_idle_ttl is longer than refresh_max_ttl, so that it can never end anything.", Fix: "at most refresh_max_ttl"})
	}
	return ps
}

// macer derives refresh tokens; token.Keyring is one.
type macer interface {
	MAC(keyID string, data []byte) ([]byte, error)
	CurrentMACKey() string
}

// Config is what New needs.
type Config struct {
	KV     store.KV
	Bus    store.Bus
	Sealer *store.Sealer
	MAC    macer
	Tokens TokensConfig
	// OutageGrace is sessions.outage_grace: how long Alive believes what the
	// store said before it fell silent.
	OutageGrace time.Duration
	Now         func() time.Time
}

// Ledger keeps codes, grants, consents, and requests that wait for a person. It is safe for
// concurrent use.
type Ledger struct {
	cfg      Config
	tokens   atomic.Pointer[TokensConfig]
	codes    *store.Collection[codeRecord]
	grants   *store.Collection[Grant]
	firm     *store.Collection[Grant]
	consents *store.Collection[Consent]
	pending  *store.Collection[Pending]
	devices  *store.Collection[Device]
	// userCodes find devices by what people type.
	userCodes *store.Collection[userCode]
	pace      *pace
	// assertions are those that clients used to authenticate.
	assertions *store.Collection[usedAssertion]
	mu         sync.Mutex
	alive      map[string]time.Time // grants that the store called alive, and when
}

// New returns a Ledger.
func New(cfg Config) (*Ledger, error) {
	if cfg.KV == nil || cfg.Bus == nil || cfg.Sealer == nil || cfg.MAC == nil || cfg.Now == nil {
		return nil, errors.New("grant: the configuration is incomplete")
	}
	l := &Ledger{cfg: cfg, alive: map[string]time.Time{}, pace: newPace(cfg.Now)}
	l.SetTokens(cfg.Tokens)
	l.codes = store.NewCollection(cfg.KV, store.CollectionConfig[codeRecord]{Kind: "code", Sealer: cfg.Sealer, Now: cfg.Now, Expires: func(c codeRecord) time.Time { return c.Issued.Add(codeKept) }})
	gc := store.CollectionConfig[Grant]{Kind: "grant", Sealer: cfg.Sealer, Now: cfg.Now, Expires: func(g Grant) time.Time { return g.Expires },
		Index: func(g Grant) map[string]string { return map[string]string{"user": g.UserID, "session": g.SessionID} }}
	l.grants = store.NewCollection(cfg.KV, gc)
	gc.Firm = true
	l.firm = store.NewCollection(cfg.KV, gc)
	l.consents = store.NewCollection(cfg.KV, store.CollectionConfig[Consent]{Kind: "consent", Sealer: cfg.Sealer, Now: cfg.Now, Firm: true, Index: func(c Consent) map[string]string { return map[string]string{"user": c.UserID} }})
	l.pending = store.NewCollection(cfg.KV, store.CollectionConfig[Pending]{Kind: "pending", Sealer: cfg.Sealer, Now: cfg.Now, Expires: func(p Pending) time.Time { return p.Created.Add(pendingTTL) }})
	l.devices = store.NewCollection(cfg.KV, store.CollectionConfig[Device]{Kind: "device", Sealer: cfg.Sealer, Now: cfg.Now, Expires: func(d Device) time.Time { return d.Ends().Add(deviceKept) }})
	l.userCodes = store.NewCollection(cfg.KV, store.CollectionConfig[userCode]{Kind: "usercode", Sealer: cfg.Sealer, Now: cfg.Now, Expires: func(u userCode) time.Time { return u.Issued.Add(DeviceTTL) }})
	l.assertions = store.NewCollection(cfg.KV, store.CollectionConfig[usedAssertion]{Kind: "client-assertion", Now: cfg.Now, Expires: func(u usedAssertion) time.Time { return u.Until }})
	return l, nil
}

// SetTokens sets how long what is issued from now on is good for.
func (l *Ledger) SetTokens(t TokensConfig) {
	t = t.WithDefaults()
	l.tokens.Store(&t)
}

// NewGrantID returns the id of a grant that is to be made.
func NewGrantID() string {
	var b [grantIDLen]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

const grantIDLen = 16
