package oidc

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/remotegpu/gatehouse/connectors"
)

// Limits of a provider's keys (docs/security.md CI-8).
const (
	maxJWKS   = 256 << 10
	maxKeys   = 64
	keysFresh = time.Hour
	keysStale = 24 * time.Hour
	// refetchEvery bounds how often an unknown kid or a bad signature makes us
	// ask: anybody can send either.
	refetchEvery = time.Minute
)

// keys are a provider's public keys. go-oidc's own set asks the provider for
// every token that does not verify, without a limit of size.
type keys struct {
	c       *Connector
	turn    chan struct{} // holds one: who asks
	mu      sync.Mutex
	address string
	set     []jose.JSONWebKey
	at      time.Time // when it was read
	tried   time.Time // when it was last asked for because of a token
	failed  time.Time // when the last question came to nothing
}

func (k *keys) init(c *Connector) { k.c, k.turn = c, make(chan struct{}, 1) }

// known returns the keys that are there, and whether they must not be asked for
// now: they are fresh, or the last question failed not long ago.
func (k *keys) known(address string) (set []jose.JSONWebKey, settled bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.c.now()
	age := now.Sub(k.at)
	if k.address != address || k.set == nil || age >= keysStale {
		return nil, false
	}
	return k.set, age < keysFresh || now.Sub(k.failed) < refetchEvery
}

// get returns the keys. Who has old ones does not wait for somebody else's
// question.
func (k *keys) get(ctx context.Context, address string) ([]jose.JSONWebKey, error) {
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
			return nil, fmt.Errorf("oidc: waited for the keys: %w: %w", ctx.Err(), connectors.ErrUnavailable)
		}
	}
	defer func() { <-k.turn }()
	if set, settled = k.known(address); settled { // somebody has asked meanwhile
		return set, nil
	}
	return k.ask(ctx, address)
}

// ask reads the keys; the caller has the turn.
func (k *keys) ask(ctx context.Context, address string) ([]jose.JSONWebKey, error) {
	body, err := k.c.fetch(ctx, address, "", maxJWKS)
	var fresh []jose.JSONWebKey
	if err == nil {
		fresh, err = parseKeys(body)
	}
	old, _ := k.known(address)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.address, k.set, k.at, k.failed = address, fresh, k.c.now(), time.Time{}
		return fresh, nil
	}
	if !errors.Is(ctx.Err(), context.Canceled) {
		k.failed = k.c.now()
	}
	if old != nil {
		k.c.log.WarnContext(ctx, "oidc: the provider's keys were not renewed; the last ones are used", "err", err)
		return old, nil
	}
	return nil, fmt.Errorf("oidc: keys: %w", err)
}

// renewed asks again because a token did not verify, at most once a minute.
func (k *keys) renewed(ctx context.Context, address string) ([]jose.JSONWebKey, error) {
	now := k.c.now()
	k.mu.Lock()
	if age := now.Sub(k.tried); age >= 0 && age < refetchEvery {
		set := k.set
		k.mu.Unlock()
		return set, nil
	}
	k.tried = now
	k.mu.Unlock()
	select {
	case k.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("oidc: waited for the keys: %w: %w", ctx.Err(), connectors.ErrUnavailable)
	}
	defer func() { <-k.turn }()
	return k.ask(ctx, address)
}

// parseKeys reads a set. Keys that we would not verify with are left out, a set
// that is not to be believed is an error.
func parseKeys(body []byte) ([]jose.JSONWebKey, error) {
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

// verifier verifies one token with the provider's keys, as go-oidc's KeySet. The
// error of a question to the provider is kept: the library flattens it to text.
type verifier struct {
	keys    *keys
	address string
	algs    []jose.SignatureAlgorithm
	asked   error
}

// VerifySignature returns the payload if one of the provider's keys signed it.
func (v *verifier) VerifySignature(ctx context.Context, raw string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(raw, v.algs)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, errors.New("malformed token")
	}
	set, err := v.keys.get(ctx, v.address)
	if err != nil {
		v.asked = err
		return nil, err
	}
	payload, err := verifyWith(jws, set)
	if err == nil {
		return payload, nil
	}
	// A new key, or a provider that keeps the kid of an old one.
	if set, v.asked = v.keys.renewed(ctx, v.address); v.asked != nil {
		return nil, v.asked
	}
	return verifyWith(jws, set)
}

// verifyWith takes the key that the token names. A token that names none is
// verified only where there is but one key to choose (RFC 8725 section 3.1: the
// key says which algorithm is its own).
func verifyWith(jws *jose.JSONWebSignature, set []jose.JSONWebKey) ([]byte, error) {
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
