// Package token holds our keys and makes and verifies our JWTs. It is the only
// package that knows the JOSE library. What a token means is the issuer's and
// the gateway's business.
package token

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/store"
)

// ErrWrongSecretKey means that the stored signing keys were wrapped with a
// secret key that we were not given.
var ErrWrongSecretKey = errors.New("the secret key does not open the signing keys in the store: give the secret_key_file (or GATEHOUSE_SECRET_KEY) that this store was made with; a new key would void every token and session")

// ErrUnknownKey means that no key has that id.
var ErrUnknownKey = errors.New("no such key")

// KeysConfig is the schedule of signing keys (surface.md 4, `keys`).
type KeysConfig struct {
	RotateEvery  time.Duration `yaml:"rotate_every"`  // a key is used this long; default 720h
	PublishAhead time.Duration `yaml:"publish_ahead"` // it is in the JWKS this long before; default 48h
	RetireAfter  time.Duration `yaml:"retire_after"`  // and this long after its last use; default 24h
}

// WithDefaults returns the schedule with what is missing filled in.
func (c KeysConfig) WithDefaults() KeysConfig {
	if c.RotateEvery == 0 {
		c.RotateEvery = 720 * time.Hour
	}
	if c.PublishAhead == 0 {
		c.PublishAhead = 48 * time.Hour
	}
	if c.RetireAfter == 0 {
		c.RetireAfter = 24 * time.Hour
	}
	return c
}

// Problems complains about a schedule under which clients could not follow.
func (c KeysConfig) Problems() []problem.Problem {
	var ps []problem.Problem
	d := c.WithDefaults()
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"RotateEvery", d.RotateEvery}, {"PublishAhead", d.PublishAhead}, {"RetireAfter", d.RetireAfter}} {
		if f.d < 0 {
			ps = append(ps, problem.Problem{Field: f.name, Rule: "keys.negative", Text: "A time of the key schedule cannot be negative.", Fix: "a duration such as 48h"})
		}
	}
	if d.PublishAhead >= d.RotateEvery {
		ps = append(ps, problem.Problem{Field: "PublishAhead", Rule: "keys.publish_ahead",
			Text: "The next key would have to be published before the present one is made.", Fix: "a publish_ahead shorter than rotate_every"})
	}
	return ps
}

// State is where a key is in its life.
type State string

// The states of a key. Next, current and retired keys are in the JWKS.
const (
	Next    State = "next"
	Current State = "current"
	Retired State = "retired"
)

// KeyInfo describes a key without its private part.
type KeyInfo struct {
	KID     string
	Alg     Alg
	State   State
	Created time.Time
	From    time.Time // when it becomes or became current
	Until   time.Time // when it leaves the JWKS; zero while that is not known
}

// ringRecord names the keys of an algorithm; it decides which one is current,
// so that replicas that start together agree by one compare-and-set.
type ringRecord struct {
	Current string   `json:"current"`
	Next    string   `json:"next,omitempty"`
	Old     []string `json:"old,omitempty"`
}

// ring is what all requests share; it is replaced as a whole.
type ring struct {
	byID    map[string]*key
	current map[Alg]*key
	infos   []KeyInfo
	jwks    []byte
	etag    string
	maxAge  time.Duration
}

// keyStore is the part of the store that the keyring uses.
type keyStore interface {
	store.KV
	store.Leaser
	store.Bus
}

// Config is what Open needs.
type Config struct {
	Store  keyStore
	Sealer *store.Sealer
	Issuer string
	Keys   KeysConfig
	// MaxTokenTTL is the longest life of a token that we sign; a retired key
	// stays at least as long.
	MaxTokenTTL time.Duration
	// MACRetire is how long a retired refresh key stays: refresh_max_ttl.
	MACRetire time.Duration
	Now       func() time.Time
	Log       *slog.Logger
	// Rotated is told of each key that comes into use or is withdrawn; may be nil.
	Rotated func(ctx context.Context, action, kid string) error
}

// Keyring signs and verifies with the current keys. It is safe for concurrent use.
type Keyring struct {
	cfg   Config
	keys  *store.Collection[record]
	rings *store.Collection[ringRecord]
	ring  atomic.Pointer[ring]
	mu    sync.Mutex // one load at a time
	cache *verified
	// In nanoseconds, as of Config.
	maxTokenTTL, macRetire atomic.Int64
}

const busTopic = "keys"

// Open loads the keys, or makes them at the very first start: RS256, ES256 and
// the HMAC key of refresh tokens, in parallel.
func Open(ctx context.Context, cfg Config) (*Keyring, error) {
	if cfg.Store == nil || cfg.Sealer == nil || cfg.Issuer == "" || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("keyring: the configuration is incomplete")
	}
	cfg.Keys = cfg.Keys.WithDefaults()
	k := &Keyring{cfg: cfg, cache: newVerified()}
	k.SetLives(cfg.MaxTokenTTL, cfg.MACRetire)
	// Keys expire by their own rules, not by the store's: forgetting one too
	// early would void tokens.
	k.keys = store.NewCollection(cfg.Store, store.CollectionConfig[record]{Kind: "signing_key", Sealer: cfg.Sealer, Now: cfg.Now, Firm: true})
	k.rings = store.NewCollection(cfg.Store, store.CollectionConfig[ringRecord]{Kind: "key_ring", Sealer: cfg.Sealer, Now: cfg.Now, Firm: true})
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i, alg := range []Alg{RS256, ES256, algHMAC} {
		wg.Go(func() { errs[i] = k.ensure(ctx, alg) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		if errors.Is(err, store.ErrSealed) {
			return nil, ErrWrongSecretKey
		}
		return nil, fmt.Errorf("keyring: %w", err)
	}
	if err := k.load(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

// SetLives sets Config.MaxTokenTTL and Config.MACRetire for keys that retire from
// now on.
func (k *Keyring) SetLives(maxTokenTTL, macRetire time.Duration) {
	k.maxTokenTTL.Store(int64(maxTokenTTL))
	k.macRetire.Store(int64(macRetire))
}

// ensure makes the first key of an algorithm if there is none. Of several
// replicas that find none, one wins the ring record; the others use its key.
func (k *Keyring) ensure(ctx context.Context, alg Alg) error {
	_, err := k.rings.Get(ctx, string(alg))
	if err == nil || !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return store.Patiently(ctx, func() error { return k.create(ctx, alg) })
}

func (k *Keyring) create(ctx context.Context, alg Alg) error {
	rec, err := generate(alg, k.cfg.Now(), k.cfg.Now())
	if err != nil {
		return err
	}
	if err := k.keys.Create(ctx, rec.KID, rec); err != nil {
		return err
	}
	err = k.rings.Create(ctx, string(alg), ringRecord{Current: rec.KID})
	if errors.Is(err, store.ErrConflict) {
		return k.keys.Delete(ctx, rec.KID) // never published, signed nothing
	}
	return err
}

// load reads all rings and keys and puts them to use.
func (k *Keyring) load(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := &ring{byID: map[string]*key{}, current: map[Alg]*key{}}
	set := jwk.NewSet()
	now := k.cfg.Now()
	for _, alg := range []Alg{RS256, ES256, algHMAC} {
		rr, err := k.rings.Get(ctx, string(alg))
		if err != nil {
			return fmt.Errorf("load keys: %w", err)
		}
		for _, kid := range append([]string{rr.Current, rr.Next}, rr.Old...) {
			if kid == "" {
				continue
			}
			rec, err := k.keys.Get(ctx, kid)
			if errors.Is(err, store.ErrNotFound) && kid != rr.Current {
				continue
			}
			if err != nil {
				return fmt.Errorf("load key %s: %w", kid, err)
			}
			// What the ring calls current is in use, also when a rotation was cut
			// off after it had said until when the key would stay.
			if rec.Revoked || kid != rr.Current && !rec.Until.IsZero() && !now.Before(rec.Until) {
				continue
			}
			kk, err := open(rec)
			if err != nil {
				return fmt.Errorf("load key %s: %w", kid, err)
			}
			r.byID[kid] = kk
			info := KeyInfo{KID: kid, Alg: alg, Created: rec.Created, From: rec.From, Until: rec.Until, State: Retired}
			switch kid {
			case rr.Current:
				info.State, info.Until = Current, time.Time{}
				r.current[alg] = kk
			case rr.Next:
				info.State = Next
			}
			if alg == algHMAC {
				continue // never published, never listed
			}
			r.infos = append(r.infos, info)
			if err := set.AddKey(kk.public); err != nil {
				return fmt.Errorf("load key %s: %w", kid, err)
			}
		}
		if r.current[alg] == nil {
			return fmt.Errorf("load keys: the current %s key is gone from the store", alg)
		}
	}
	body, err := json.Marshal(set)
	if err != nil {
		return fmt.Errorf("encode JWKS: %w", err)
	}
	sum := sha256.Sum256(body)
	r.jwks, r.etag = body, `"`+base64.RawURLEncoding.EncodeToString(sum[:12])+`"`
	// A client that caches for this long has the next key well before its
	// first use; five minutes is also the most that a withdrawn key may live on.
	r.maxAge = min(5*time.Minute, k.cfg.Keys.PublishAhead/4).Truncate(time.Second)
	old := k.ring.Swap(r)
	if old != nil {
		for kid := range old.byID {
			if r.byID[kid] == nil {
				k.cache.forget() // tokens of a key that is gone must not verify from memory
				break
			}
		}
	}
	return nil
}

// JWKS returns the public keys (RFC 7517 section 5) with an entity tag and how
// long clients may keep them.
func (k *Keyring) JWKS(context.Context) (body []byte, etag string, maxAge time.Duration, err error) {
	r := k.ring.Load()
	return r.jwks, r.etag, r.maxAge, nil
}

// Keys lists the signing keys.
func (k *Keyring) Keys(context.Context) ([]KeyInfo, error) {
	return slices.Clone(k.ring.Load().infos), nil
}

// CurrentMACKey names the key with which refresh tokens are derived.
func (k *Keyring) CurrentMACKey() string { return k.ring.Load().current[algHMAC].KID }

// MAC returns HMAC-SHA-256 of data under the named refresh key, or ErrUnknownKey.
func (k *Keyring) MAC(keyID string, data []byte) ([]byte, error) {
	kk := k.ring.Load().byID[keyID]
	if kk == nil || kk.mac == nil {
		return nil, ErrUnknownKey
	}
	h := hmac.New(sha256.New, kk.mac)
	h.Write(data)
	return h.Sum(nil), nil
}
