package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"time"
)

// CollectionConfig says how a Collection of T is kept.
type CollectionConfig[T any] struct {
	// Kind is the items' kind; it is part of every key.
	Kind string
	// Sealer seals the values, with kind and ID as associated data. Only a kind
	// that grants nothing may leave it nil.
	Sealer *Sealer
	// Now is our clock; it judges expiry.
	Now func() time.Time
	// Expires says when a value ends; nil or a zero time means never.
	Expires func(T) time.Time
	// Index gives the entries under which List finds a value; nil means none.
	Index func(T) map[string]string
	// Firm makes every write outlive a power cut.
	Firm bool
}

// Collection keeps values of one type as JSON. Members of the JSON that T does
// not know (a newer version wrote them) survive Update.
type Collection[T any] struct {
	kv  KV
	cfg CollectionConfig[T]
}

// NewCollection returns a Collection on kv.
func NewCollection[T any](kv KV, cfg CollectionConfig[T]) *Collection[T] {
	return &Collection[T]{kv: kv, cfg: cfg}
}

// HashID returns the store ID for a handle that a client holds: base64url of
// its SHA-256.
func HashID(handle string) string {
	sum := sha256.Sum256([]byte(handle))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// The methods below are written by the store's owner; their signatures are fixed:
//
//	func (c *Collection[T]) Get(ctx context.Context, id string) (T, error)                       // ErrNotFound when absent or expired
//	func (c *Collection[T]) GetVersion(ctx context.Context, id string) (T, uint64, error)
//	func (c *Collection[T]) Create(ctx context.Context, id string, v T) error                    // ErrConflict when a live one exists; an expired one is replaced
//	func (c *Collection[T]) Update(ctx context.Context, id string, change func(*T) error) (T, error)   // load, change, compare-and-set, retry on conflict; an error of change stops it and is returned as it is
//	func (c *Collection[T]) Put(ctx context.Context, id string, v T) error                       // creates or replaces
//	func (c *Collection[T]) Delete(ctx context.Context, id string) error
//	func (c *Collection[T]) List(ctx context.Context, index, value, after string, limit int) (vs []T, next string, err error) // live ones only; next "" at the end
var _ = context.Background
