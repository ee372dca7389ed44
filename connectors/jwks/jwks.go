// Package jwks keeps the public keys of those whose tokens we verify, with limits
// that the libraries leave to their caller (docs/security.md CI-8): how large a
// set is, how often it is asked for whoever sends what, which keys count.
package jwks

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/remotegpu/gatehouse/connectors"
)

const (
	// MaxBody bounds the document, in bytes.
	MaxBody = 256 << 10
	maxKeys = 64
	// Fresh is how long keys are used without a question, Stale how long when the
	// question has no answer.
	Fresh = time.Hour
	Stale = 24 * time.Hour
	// RefetchEvery bounds how often an unknown kid or a bad signature makes us
	// ask: anybody can send either.
	RefetchEvery = time.Minute
)

// Config is what New needs.
type Config struct {
	// Name stands before errors: whose keys these are.
	Name string
	// Fetch reads the document at an address, up to MaxBody. No answer is
	// connectors.ErrUnavailable.
	Fetch func(ctx context.Context, address string) ([]byte, error)
	// Retry is how long after a question that came to nothing there is no other
	// while there are no keys at all; 0 asks every time.
	Retry time.Duration
	Now   func() time.Time
	Log   *slog.Logger
}

// Keys are the public keys at an address. They are asked for when they are
// needed, and of many who need them at once one asks.
type Keys struct {
	cfg     Config
	turn    chan struct{} // holds one: who asks
	mu      sync.Mutex
	address string
	set     []jose.JSONWebKey
	at      time.Time // when it was read
	tried   time.Time // when it was last asked for because of a token
	failed  time.Time // when the last question came to nothing
	err     error     // and why
}

// New returns Keys that have asked nobody yet.
func New(cfg Config) *Keys { return &Keys{cfg: cfg, turn: make(chan struct{}, 1)} }

// known returns the keys that are there, and whether they must not be asked for
// now: they are fresh, or the last question failed not long ago.
func (k *Keys) known(address string) (set []jose.JSONWebKey, settled bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.cfg.Now()
	age := now.Sub(k.at)
	if k.address != address || k.set == nil || age >= Stale {
		return nil, false
	}
	return k.set, age < Fresh || now.Sub(k.failed) < RefetchEvery
}

// lately returns why there are no keys, as long as it is too early to ask again.
func (k *Keys) lately(address string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil && k.address == address && k.cfg.Now().Sub(k.failed) < k.cfg.Retry {
		return k.err
	}
	return nil
}

// Get returns the keys. Who has old ones does not wait for somebody else's
// question.
func (k *Keys) Get(ctx context.Context, address string) ([]jose.JSONWebKey, error) {
	set, settled := k.known(address)
	if settled {
		return set, nil
	}
	select {
	case k.turn <- struct{}{}:
	default:
		if set != nil {
			return set, nil
		}
		select {
		case k.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: waited for the keys: %w: %w", k.cfg.Name, ctx.Err(), connectors.ErrUnavailable)
		}
	}
	defer func() { <-k.turn }()
	if set, settled = k.known(address); settled { // somebody has asked meanwhile
		return set, nil
	}
	if set == nil {
		if err := k.lately(address); err != nil {
			return nil, err
		}
	}
	return k.ask(ctx, address)
}

// ask reads the keys; the caller has the turn.
func (k *Keys) ask(ctx context.Context, address string) ([]jose.JSONWebKey, error) {
	body, err := k.cfg.Fetch(ctx, address)
	var fresh []jose.JSONWebKey
	if err == nil {
		fresh, err = Parse(body)
	}
	old, _ := k.known(address)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.address, k.set, k.at, k.failed, k.err = address, fresh, k.cfg.Now(), time.Time{}, nil
		return fresh, nil
	}
	err = fmt.Errorf("%s: keys: %w", k.cfg.Name, err)
	if !errors.Is(ctx.Err(), context.Canceled) {
		k.failed, k.err = k.cfg.Now(), err
		if old == nil {
			k.address, k.set = address, nil
		}
	}
	if old != nil {
		k.cfg.Log.WarnContext(ctx, k.cfg.Name+": the provider's keys were not renewed; the last ones are used", "err", err)
		return old, nil
	}
	return nil, err
}

// Ask reads the keys now, whatever is there.
func (k *Keys) Ask(ctx context.Context, address string) ([]jose.JSONWebKey, error) {
	select {
	case k.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: waited for the keys: %w: %w", k.cfg.Name, ctx.Err(), connectors.ErrUnavailable)
	}
	defer func() { <-k.turn }()
	return k.ask(ctx, address)
}

// renewed asks again because a token did not verify, at most once a minute.
func (k *Keys) renewed(ctx context.Context, address string) ([]jose.JSONWebKey, error) {
	now := k.cfg.Now()
	k.mu.Lock()
	if age := now.Sub(k.tried); age >= 0 && age < RefetchEvery {
		set := k.set
		k.mu.Unlock()
		return set, nil
	}
	k.tried = now
	k.mu.Unlock()
	return k.Ask(ctx, address)
}

// Parse reads a set. Keys that we would not verify with are left out, a set
// that is not to be believed is an error.
func Parse(body []byte) ([]jose.JSONWebKey, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(body, &raw) != nil || raw.Keys == nil {
		return nil, errors.New("the answer is no key set")
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("the key set has more than %d keys", maxKeys)
	}
	out := []jose.JSONWebKey{}
	for _, r := range raw.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(r, &key) != nil || !usable(key) {
			continue
		}
		out = append(out, key)
	}
	if len(out) == 0 {
		return nil, errors.New("the key set has no key that an ID token could be verified with")
	}
	return out, nil
}

func usable(key jose.JSONWebKey) bool {
	if !key.Valid() || key.Use != "" && key.Use != "sig" {
		return false
	}
	switch pub := key.Key.(type) {
	case *rsa.PublicKey:
		n := pub.N.BitLen()
		return n >= 2048 && n <= 8192 && pub.E > 1 && int64(pub.E) <= 1<<32
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false // symmetric, or somebody's private key
}

// Verifier verifies one token with the keys at an address, as go-oidc's KeySet.
type Verifier struct {
	Keys    *Keys
	Address string
	// Algs are the algorithms that may have been used.
	Algs []jose.SignatureAlgorithm
	// Asked is the error of a question for the keys, which go-oidc flattens to
	// text: nothing was verified then.
	Asked error
}

// VerifySignature returns the payload if one of the provider's keys signed it.
func (v *Verifier) VerifySignature(ctx context.Context, raw string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(raw, v.Algs)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, errors.New("malformed token")
	}
	set, err := v.Keys.Get(ctx, v.Address)
	if err != nil {
		v.Asked = err
		return nil, err
	}
	payload, err := Verify(jws, set)
	if err == nil {
		return payload, nil
	}
	// A new key, or a provider that keeps the kid of an old one.
	if set, v.Asked = v.Keys.renewed(ctx, v.Address); v.Asked != nil {
		return nil, v.Asked
	}
	return Verify(jws, set)
}

// Verify returns the payload if the key that the token names signed it. A token
// that names none is verified only where there is but one key to choose (RFC 8725
// section 3.1: the key says which algorithm is its own).
func Verify(jws *jose.JSONWebSignature, set []jose.JSONWebKey) ([]byte, error) {
	h := jws.Signatures[0].Header
	var fit []jose.JSONWebKey
	for _, key := range set {
		if (h.KeyID == "" || key.KeyID == h.KeyID) && (key.Algorithm == "" || key.Algorithm == h.Algorithm) && family(key, h.Algorithm) {
			fit = append(fit, key)
		}
	}
	switch {
	case len(fit) == 0:
		return nil, errors.New("no key of the provider's fits the token")
	case len(fit) > 1:
		return nil, errors.New("several keys of the provider's fit the token, which names none")
	}
	return jws.Verify(fit[0].Key)
}

func family(key jose.JSONWebKey, alg string) bool {
	switch key.Key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		return strings.HasPrefix(alg, "ES")
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}
