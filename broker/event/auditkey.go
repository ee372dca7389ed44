package event

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/store"
)

// AuditKey signs the chain. It is no key of tokens and is in no JWKS: who
// verifies the log was given its public half beforehand, from outside.
type AuditKey struct {
	// ID begins the SHA-256 of the public key, so that a key cannot be shown
	// under another's name.
	ID      string
	Public  ed25519.PublicKey
	Created time.Time
	private redact.Box[ed25519.PrivateKey]
}

// auditKeyRecord is the key as it is stored, sealed.
type auditKeyRecord struct {
	Seed    []byte    `json:"seed"`
	Created time.Time `json:"created"`
}

// KeyID names an audit key by its public half.
func KeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return "audit-" + base64.RawURLEncoding.EncodeToString(sum[:9])
}

// auditKeyName is the one record: there is one audit key, made at the first
// start and kept for as long as its log is.
const auditKeyName = "current"

// OpenAuditKey returns the audit key of the store and makes it if there is
// none. Replicas that start together agree on one.
func OpenAuditKey(ctx context.Context, kv store.KV, sealer *store.Sealer, now func() time.Time) (*AuditKey, error) {
	keys := store.NewCollection(kv, store.CollectionConfig[auditKeyRecord]{Kind: "audit-key", Sealer: sealer, Now: now, Firm: true})
	r, err := keys.Get(ctx, auditKeyName)
	if errors.Is(err, store.ErrNotFound) {
		r = auditKeyRecord{Seed: make([]byte, ed25519.SeedSize), Created: now().UTC()}
		if _, err := rand.Read(r.Seed); err != nil {
			return nil, fmt.Errorf("make the audit key: %w", err)
		}
		if err = keys.Create(ctx, auditKeyName, r); errors.Is(err, store.ErrConflict) {
			r, err = keys.Get(ctx, auditKeyName)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	if len(r.Seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("audit key: its record holds %d bytes in place of %d", len(r.Seed), ed25519.SeedSize)
	}
	private := ed25519.NewKeyFromSeed(r.Seed)
	public := private.Public().(ed25519.PublicKey) //nolint:forcetypeassert // by its documentation
	return &AuditKey{ID: KeyID(public), Public: public, Created: r.Created, private: redact.Hide(private)}, nil
}

// SignAnchor fills in the anchor's key and signature.
func (k *AuditKey) SignAnchor(a *Anchor) {
	a.Key = k.ID
	a.Signature = ed25519.Sign(k.private.Reveal(), a.signed())
}

// Sign signs data of another kind, such as an archive's manifest: domain says
// which, and keeps its signatures apart from those of blocks and anchors.
func (k *AuditKey) Sign(domain string, data []byte) []byte {
	return ed25519.Sign(k.private.Reveal(), otherDomain(domain, data))
}

// VerifyOther reports whether key made the signature that Sign gives.
func VerifyOther(key ed25519.PublicKey, domain string, data, signature []byte) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, otherDomain(domain, data), signature)
}

func otherDomain(domain string, data []byte) []byte {
	return append([]byte("gatehouse-audit-"+domain+"\x00"), data...)
}

// seal signs the block.
func (k *AuditKey) seal(b *Block) {
	b.Key = k.ID
	b.Hash = b.sum()
	b.Signature = ed25519.Sign(k.private.Reveal(), b.checkpoint())
}

// PublicPEM returns the public half as PEM (RFC 8410), for `audit verify --key`.
func (k *AuditKey) PublicPEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ParsePublicKey reads what PublicPEM wrote.
func ParsePublicKey(text []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("this is no audit public key: a PEM file that begins with -----BEGIN PUBLIC KEY----- is, as `gatehouse audit key` prints it")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("audit public key: %w", err)
	}
	public, ok := key.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("audit public key: it is %T, not Ed25519; take what `gatehouse audit key` prints", key)
	}
	return public, nil
}
