// Package store keeps small versioned items and knows nothing of their meaning.
//
// It is a contract for drivers (SQLite, Redis) and, with Collection, what the
// domain packages use: JSON, sealing, expiry by our own clock, and updates by
// compare-and-set. There are no transactions across keys and there is no
// "read and delete": a one-time value moves to a tombstone, so that a replay is
// recognised (docs/security.md G3).
package store

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Errors that every driver returns, wrapped with context.
var (
	// ErrNotFound means that there is no item under the key.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that the item's version is another than the caller's.
	ErrConflict = errors.New("changed by somebody else")
	// ErrUnavailable means that the backend could not be asked, or did not
	// confirm what it was told. Nothing may be granted on it.
	ErrUnavailable = errors.New("store unavailable")
	// ErrLeaseHeld means that another replica holds the lease.
	ErrLeaseHeld = errors.New("lease held by another replica")
)

// Key names an item. Kinds are typed name spaces: an item of one kind can never
// be read as another (docs/security.md G4). The ID of anything that a client holds is
// the SHA-256 of the handle, never the handle.
type Key struct{ Kind, ID string }

// Item is one stored value with the version that it has.
type Item struct {
	Key
	// Value is opaque to the store. Nobody changes its bytes afterwards: drivers
	// may keep them.
	Value []byte
	// Version counts the writes; 0 is "does not exist".
	Version uint64
	// Expires is when the backend may drop the item; zero means never. Whether
	// an item still counts is judged by Collection with our clock.
	Expires time.Time
	// Index lists the item under name=value for List. An index entry is a hint,
	// the item is the truth.
	Index map[string]string
	// Firm items (revocations, epochs, keys, admin changes) are acknowledged
	// only when they outlive a power cut.
	Firm bool
	// Tell is published as soon as the item is written, before a firm one is
	// confirmed: a revocation holds from then on, whatever the disk takes. It is
	// not stored. Its zero value tells nobody.
	Tell Message
}

// Message is what Bus carries.
type Message struct {
	Topic string
	Data  []byte
}

// KV reads and writes items, one key at a time.
type KV interface {
	// Get returns the item or ErrNotFound. An item whose Expires is past may
	// still be returned.
	Get(ctx context.Context, k Key) (Item, error)
	// Put writes the item. With Version 0 it creates, else it replaces exactly
	// that version; otherwise ErrConflict. It returns the new version.
	Put(ctx context.Context, it Item) (version uint64, err error)
	// Delete removes the item; a missing one is no error.
	Delete(ctx context.Context, k Key) error
	// List returns up to limit items of a kind in order of ID, those with ID >
	// after. With index "" it lists the whole kind, else the items indexed
	// under index=value.
	List(ctx context.Context, kind, index, value, after string, limit int) ([]Item, error)
}

// Log keeps ordered entries under a topic.
type Log interface {
	// Append adds an entry and returns its position, once it is durable.
	// Positions of a topic only grow; they may have gaps.
	Append(ctx context.Context, topic string, entry []byte) (pos uint64, err error)
	// Read returns up to limit entries with position > after, oldest first.
	Read(ctx context.Context, topic string, after uint64, limit int) (iter.Seq2[uint64, []byte], error)
	// Trim removes the entries with position < before. What is appended
	// afterwards still gets positions that nothing had before; nothing to remove
	// is no error. It may be called again after a failure in the middle.
	Trim(ctx context.Context, topic string, before uint64) error
}

// Bus tells other replicas something at once. It promises no delivery: who
// needs certainty asks the store.
type Bus interface {
	// Publish sends msg to every subscriber of the topic, our own included.
	Publish(ctx context.Context, topic string, msg []byte) error
	// Subscribe returns the messages until ctx ends. The channel is closed when
	// messages may have been lost (a broken connection, a full buffer); the
	// subscriber then forgets what it cached and subscribes again.
	Subscribe(ctx context.Context, topic string) (<-chan []byte, error)
	// Stale reports whether this replica may be missing messages right now: no
	// heartbeat of its own has been acknowledged and heard for a second. An
	// embedded store is never stale.
	Stale() bool
}

// Leaser lets one replica at a time do a job.
type Leaser interface {
	// Lease takes the named lease or returns ErrLeaseHeld. held ends when the
	// lease is lost or released; release gives it up early. The lease is
	// renewed in the background until then.
	Lease(ctx context.Context, name string, ttl time.Duration) (held context.Context, release func(), err error)
}

// Store is a whole driver. Only the broker and the drivers see all of it.
type Store interface {
	KV
	Log
	Bus
	Leaser
	// Check asks the backend whether it can serve, and warns of settings that
	// lose data.
	Check(ctx context.Context) (warnings []string, err error)
	// Sweep removes what has expired, where the backend does not do so itself.
	Sweep(ctx context.Context, now time.Time) error
	// Close ends the driver's own goroutines and connections.
	Close() error
}
