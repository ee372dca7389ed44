package apikey

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/store"
)

// Key is an API key without its secret, of which only a hash is kept.
type Key struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Owner is a user id, or the name of a service account.
	Owner   string   `json:"owner"`
	Service bool     `json:"service,omitempty"`
	Hash    [32]byte `json:"hash"` // SHA-256: right for a secret of 256 random bits
	Scopes  []string `json:"scopes,omitempty"`
	// CIDRs are the networks that it may be used from; none: any.
	CIDRs   []netip.Prefix `json:"cidrs,omitempty"`
	Created time.Time      `json:"created"`
	Expires time.Time      `json:"expires"`
	Revoked time.Time      `json:"revoked,omitzero"`
	// Successor is the id of the key that rotation made of it.
	Successor string `json:"successor,omitempty"`
}

// Usable reports whether the key opens anything at a time.
func (k Key) Usable(now time.Time) bool { return k.Revoked.IsZero() && now.Before(k.Expires) }

// Use is when and from where a key was last used, to within a minute.
type Use struct {
	At time.Time `json:"at"`
	IP string    `json:"ip,omitempty"`
}

// Errors of Verify. What a stranger is told does not depend on which it is, the
// network apart.
var (
	ErrUnknown = errors.New("the API key is unknown, revoked or has expired")
	ErrOwner   = errors.New("the owner of the API key may not use the platform")
	ErrNetwork = errors.New("the API key may not be used from this address")
)

// Errors of what keys may be.
var (
	ErrTooMany = errors.New("there are too many keys of this owner; revoke one first")
	ErrInvalid = errors.New("the key cannot be")
)

// Limits.
const (
	MaxLife    = 366 * 24 * time.Hour
	MaxOverlap = 30 * 24 * time.Hour
	maxName    = 100
	maxCIDRs   = 50
	kept       = 30 * 24 * time.Hour // that a dead key is still listed
	heldKeys   = 50_000
	topic      = "apikey"
)

// KeysConfig is the configuration's section `api_keys`.
type KeysConfig struct {
	// PerOwner is how many usable keys an owner may have; 0 is 50.
	PerOwner int `yaml:"per_owner"`
}

// Problems complains about a limit that is none.
func (c KeysConfig) Problems() []problem.Problem {
	if c.PerOwner < 0 || c.PerOwner > 10_000 {
		return []problem.Problem{{Field: "PerOwner", Rule: "api_keys.per_owner", Text: "per_owner must be 1 to 10000.", Fix: "per_owner: 50"}}
	}
	return nil
}

// Config is what New needs.
type Config struct {
	KV     store.KV
	Bus    store.Bus
	Sealer *store.Sealer
	// Alive says whether an owner may use the platform: ErrOwner if not. It is
	// asked at each use and must answer from memory.
	Alive func(ctx context.Context, owner string, service bool) error
	// PerOwner is how many usable keys an owner may have; 0 is 50.
	PerOwner int
	// Grace is sessions.outage_grace.
	Grace  time.Duration
	Now    func() time.Time
	Random io.Reader // default crypto/rand
	Log    *slog.Logger
}

// Registry makes, checks and revokes keys.
type Registry struct {
	cfg   Config
	most  atomic.Int64 // usable keys of an owner
	keys  *store.Collection[Key]
	cache *store.Cache[Key]
	used  *store.Collection[Use]
	begun *store.Collection[begun]
	mu    sync.Mutex
	fresh map[string]Use // uses that are not written yet
}

// New makes a registry. It hears of other replicas once Run runs.
func New(cfg Config) (*Registry, error) {
	if cfg.KV == nil || cfg.Bus == nil || cfg.Sealer == nil || cfg.Alive == nil || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("apikey: the configuration is incomplete")
	}
	r := &Registry{cfg: cfg, fresh: map[string]Use{}}
	r.SetPerOwner(cfg.PerOwner)
	r.keys = store.NewCollection(cfg.KV, store.CollectionConfig[Key]{
		Kind: "apikey", Sealer: cfg.Sealer, Now: cfg.Now, Firm: true, Expires: func(k Key) time.Time { return k.Expires.Add(kept) },
		Index: func(k Key) map[string]string { return map[string]string{"owner": k.Owner} },
		Tell:  func(k Key) store.Message { return store.Changed(topic, k.ID) },
	})
	r.cache = store.NewCache(r.keys, store.CacheConfig{Bus: cfg.Bus, Topic: topic, Max: heldKeys, Now: cfg.Now, Grace: cfg.Grace})
	r.begun = store.NewCollection(cfg.KV, store.CollectionConfig[begun]{Kind: "apikey-begun", Now: cfg.Now, Expires: func(b begun) time.Time { return b.Until }})
	// When a key was used grants nothing, and is written by the minute.
	r.used = store.NewCollection(cfg.KV, store.CollectionConfig[Use]{Kind: "apikey-use", Now: cfg.Now, Expires: func(u Use) time.Time { return u.At.Add(MaxLife + kept) }})
	return r, nil
}

// SetPerOwner sets how many usable keys an owner may have; 0 is 50. More than
// that stay good, and no other is made.
func (r *Registry) SetPerOwner(n int) { r.most.Store(int64(cmp.Or(n, 50))) }

// Verify finds the key that a program sent. A known key costs no look into the
// store while other replicas are heard.
func (r *Registry) Verify(ctx context.Context, raw string, from netip.Addr) (Key, error) {
	id, secret, err := parse(raw)
	if err != nil {
		return Key{}, err
	}
	k, err := r.cache.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return Key{}, ErrUnknown
	}
	if err != nil {
		return Key{}, err
	}
	sum := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(sum[:], k.Hash[:]) != 1 {
		return Key{}, ErrUnknown
	}
	return k, r.check(ctx, k, from)
}

// Check tells whether a key that was verified may still be used.
func (r *Registry) Check(ctx context.Context, id string, from netip.Addr) error {
	k, err := r.cache.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return ErrUnknown
	}
	if err != nil {
		return err
	}
	return r.check(ctx, k, from)
}

// Alive tells whether a key is still good, wherever it is used from: ErrUnknown
// or ErrOwner where it is not.
func (r *Registry) Alive(ctx context.Context, id string) error {
	k, err := r.cache.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return ErrUnknown
	}
	if err != nil {
		return err
	}
	return r.alive(ctx, k)
}

func (r *Registry) alive(ctx context.Context, k Key) error {
	if !k.Usable(r.cfg.Now()) {
		return ErrUnknown
	}
	return r.cfg.Alive(ctx, k.Owner, k.Service)
}

func (r *Registry) check(ctx context.Context, k Key, from netip.Addr) error {
	if err := r.alive(ctx, k); err != nil {
		return err
	}
	if len(k.CIDRs) > 0 && !slices.ContainsFunc(k.CIDRs, func(p netip.Prefix) bool { return p.Contains(from.Unmap()) }) {
		return ErrNetwork
	}
	r.note(k.ID, r.cfg.Now(), from)
	return nil
}

// Draft is what a new key shall be.
type Draft struct {
	Name, Owner string
	Service     bool
	Scopes      []string
	CIDRs       []netip.Prefix
	Life        time.Duration
}

// Create makes a key. The secret is in the text that is returned, and nowhere
// else.
func (r *Registry) Create(ctx context.Context, d Draft) (Key, string, error) {
	d.Name = strings.TrimSpace(d.Name)
	switch {
	case d.Name == "" || len(d.Name) > maxName:
		return Key{}, "", fmt.Errorf("%w: a key needs a name of at most %d bytes", ErrInvalid, maxName)
	case d.Life < time.Minute || d.Life > MaxLife:
		return Key{}, "", fmt.Errorf("%w: it may live from a minute to %d days", ErrInvalid, int(MaxLife.Hours()/24))
	case len(d.CIDRs) > maxCIDRs:
		return Key{}, "", fmt.Errorf("%w: more than %d networks", ErrInvalid, maxCIDRs)
	}
	now := r.cfg.Now()
	return r.make(ctx, Key{Name: d.Name, Owner: d.Owner, Service: d.Service, Scopes: d.Scopes, CIDRs: d.CIDRs, Created: now, Expires: now.Add(d.Life)}, int(r.most.Load()))
}

// make writes a key if its owner has fewer than most that are usable.
func (r *Registry) make(ctx context.Context, k Key, most int) (Key, string, error) {
	text, id, secret, err := generate(r.cfg.Random)
	if err != nil {
		return Key{}, "", err
	}
	k.ID, k.Hash = id, sha256.Sum256([]byte(secret))
	if err := r.claim(ctx, k.Owner, id, most); err != nil {
		return Key{}, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, claimed/2) // after that its place may be another's
	defer cancel()
	if err := r.keys.Create(ctx, id, k); err != nil {
		return Key{}, "", err
	}
	return k, text, nil
}

// Get returns a key that is listed, dead ones too; ErrUnknown otherwise.
func (r *Registry) Get(ctx context.Context, id string) (Key, error) {
	k, err := r.keys.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return Key{}, ErrUnknown
	}
	return k, err
}

// Of lists an owner's keys, the newest first, dead ones of the last days too.
func (r *Registry) Of(ctx context.Context, owner string) ([]Key, error) {
	ks, _, err := r.keys.List(ctx, "owner", owner, "", 10_000)
	slices.SortFunc(ks, func(a, b Key) int { return b.Created.Compare(a.Created) })
	return ks, err
}

// All lists keys of all owners in order of id.
func (r *Registry) All(ctx context.Context, after string, limit int) ([]Key, string, error) {
	return r.keys.List(ctx, "", "", after, limit)
}

// Revoke ends a key on every replica. One that is dead stays as it is.
func (r *Registry) Revoke(ctx context.Context, id string) (Key, error) {
	k, err := r.keys.Update(ctx, id, func(k *Key) error {
		if k.Revoked.IsZero() {
			k.Revoked = r.cfg.Now()
		}
		return nil
	})
	r.cache.Forget(id)
	if errors.Is(err, store.ErrNotFound) {
		return Key{}, ErrUnknown
	}
	return k, err
}

// Rotate makes a key that may do the same for as long again; the old one goes on
// for overlap, so that programs can be told.
func (r *Registry) Rotate(ctx context.Context, id string, overlap time.Duration) (Key, string, error) {
	if overlap < 0 || overlap > MaxOverlap {
		return Key{}, "", fmt.Errorf("%w: both may be good for at most %d days", ErrInvalid, int(MaxOverlap.Hours()/24))
	}
	old, err := r.Get(ctx, id)
	if err != nil {
		return Key{}, "", err
	}
	now := r.cfg.Now()
	if !old.Usable(now) || old.Successor != "" {
		return Key{}, "", fmt.Errorf("%w: it is not usable any more, or was rotated already", ErrInvalid)
	}
	next, text, err := r.make(ctx, Key{Name: old.Name, Owner: old.Owner, Service: old.Service, Scopes: old.Scopes, CIDRs: old.CIDRs,
		Created: now, Expires: now.Add(old.Expires.Sub(old.Created))}, 2*int(r.most.Load())) // all may be rotated at once, not without end
	if err != nil {
		return Key{}, "", err
	}
	_, err = r.keys.Update(ctx, id, func(k *Key) error {
		if k.Successor != "" || !k.Revoked.IsZero() {
			return fmt.Errorf("%w: somebody else rotated or revoked it", ErrInvalid)
		}
		k.Successor = next.ID
		if end := now.Add(overlap); end.Before(k.Expires) {
			k.Expires = end
		}
		return nil
	})
	r.cache.Forget(id)
	if err != nil { // of two at once one wins; the other's key must not live
		_, undo := r.Revoke(ctx, next.ID)
		return Key{}, "", errors.Join(err, undo)
	}
	return next, text, nil
}

// RevokeAll ends every key of an owner.
func (r *Registry) RevokeAll(ctx context.Context, owner string) error {
	ks, err := r.Of(ctx, owner)
	if err != nil {
		return err
	}
	for _, k := range ks {
		if k.Revoked.IsZero() {
			if _, err := r.Revoke(ctx, k.ID); err != nil {
				return err
			}
		}
	}
	return nil
}
