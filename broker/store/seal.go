package store

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/remotegpu/gatehouse/broker/redact"
)

// ErrSealed means that no secret key of ours opens the value: it was sealed
// with another key, altered, or moved from another place.
var ErrSealed = errors.New("the value cannot be opened with the secret keys given")

// Sealer encrypts and authenticates values with the deployment's secret keys
// (docs/security.md ST-1): AES-256-GCM with a random nonce and the key's id in front.
// The first key seals, all open. A Sealer is safe for concurrent use.
type Sealer struct {
	keys []sealKey
}

type sealKey struct {
	id   [4]byte
	root redact.Box[[]byte]
	aead cipher.AEAD
}

const sealNonce = 12

// ParseSecretKeys reads the text of a secret key file: one base64 key of 32
// bytes a line, blank lines and lines that begin with # left out.
func ParseSecretKeys(text string) ([][]byte, error) {
	var keys [][]byte
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(k) != 32 {
			return nil, fmt.Errorf("line %d of the secret key is not base64 of 32 bytes; make one with: openssl rand -base64 32", i+1)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no secret key; make one with: openssl rand -base64 32")
	}
	return keys, nil
}

// NewSealer returns a Sealer over keys of 32 bytes each, of which there must be
// at least one.
func NewSealer(keys [][]byte) (*Sealer, error) {
	if len(keys) == 0 {
		return nil, errors.New("a sealer needs at least one key")
	}
	s := &Sealer{}
	for _, k := range keys {
		if len(k) != 32 {
			return nil, errors.New("a secret key must have 32 bytes")
		}
		sk, err := newSealKey(k, "gatehouse seal v1")
		if err != nil {
			return nil, err
		}
		s.keys = append(s.keys, sk)
	}
	return s, nil
}

func newSealKey(root []byte, purpose string) (sealKey, error) {
	derived, err := hkdf.Key(sha256.New, root, nil, purpose, 32)
	if err != nil {
		return sealKey{}, fmt.Errorf("derive sealing key: %w", err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return sealKey{}, fmt.Errorf("sealing key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return sealKey{}, fmt.Errorf("sealing key: %w", err)
	}
	sk := sealKey{root: redact.Hide(bytes.Clone(root)), aead: aead}
	sum := sha256.Sum256(derived)
	copy(sk.id[:], sum[:])
	return sk, nil
}

// Seal encrypts plain. aad is the place that it belongs to (a store key, a
// cookie's name and id): Open with another aad fails.
func (s *Sealer) Seal(aad string, plain []byte) []byte {
	k := s.keys[0]
	out := make([]byte, len(k.id)+sealNonce, len(k.id)+sealNonce+len(plain)+k.aead.Overhead())
	copy(out, k.id[:])
	nonce := out[len(k.id) : len(k.id)+sealNonce]
	rand.Read(nonce) // never fails (crypto/rand, Go 1.24)
	return k.aead.Seal(out, nonce, plain, []byte(aad))
}

// Open decrypts what Seal made, or returns ErrSealed.
func (s *Sealer) Open(aad string, sealed []byte) ([]byte, error) {
	if len(sealed) < 4+sealNonce {
		return nil, ErrSealed
	}
	for _, k := range s.keys {
		if !bytes.Equal(k.id[:], sealed[:4]) {
			continue
		}
		plain, err := k.aead.Open(nil, sealed[4:4+sealNonce], sealed[4+sealNonce:], []byte(aad))
		if err == nil {
			return plain, nil
		}
	}
	return nil, ErrSealed
}

// For returns a Sealer whose keys are derived for one purpose, so that what is
// sealed for one can never be opened as another.
func (s *Sealer) For(purpose string) (*Sealer, error) {
	out := &Sealer{}
	for _, k := range s.keys {
		root, err := hkdf.Key(sha256.New, k.root.Reveal(), nil, "gatehouse purpose "+purpose, 32)
		if err != nil {
			return nil, fmt.Errorf("derive key for %s: %w", purpose, err)
		}
		sk, err := newSealKey(root, "gatehouse seal v1")
		if err != nil {
			return nil, err
		}
		out.keys = append(out.keys, sk)
	}
	return out, nil
}

// MAC returns HMAC-SHA-256 of data under the first key, for tokens in forms and
// keyed hashes in logs. label separates uses.
func (s *Sealer) MAC(label string, data []byte) []byte {
	return macWith(s.keys[0], label, data)
}

// CheckMAC reports whether mac was made by MAC under any of the keys.
func (s *Sealer) CheckMAC(label string, data, mac []byte) bool {
	ok := false
	for _, k := range s.keys {
		if hmac.Equal(macWith(k, label, data), mac) {
			ok = true
		}
	}
	return ok
}

func macWith(k sealKey, label string, data []byte) []byte {
	h := hmac.New(sha256.New, k.root.Reveal())
	h.Write([]byte("gatehouse mac v1\x00" + label + "\x00"))
	h.Write(data)
	return h.Sum(nil)
}
