package store

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Trace returns s with start told of every operation that a request makes, and of
// its end; done gets nil for what is an answer like another, that there is nothing
// for example. kind is the kind of the item or the log's topic, never an id.
func Trace(s Store, start func(ctx context.Context, op, kind string) (_ context.Context, done func(error))) Store {
	return &traced{Store: s, start: start}
}

type traced struct {
	Store
	start func(ctx context.Context, op, kind string) (context.Context, func(error))
}

// fault is err if something went wrong, and not only otherwise.
func fault(err error) error {
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrConflict) || errors.Is(err, ErrLeaseHeld) {
		return nil
	}
	return err
}

// Get is the driver's.
func (t *traced) Get(ctx context.Context, k Key) (Item, error) {
	ctx, done := t.start(ctx, "get", k.Kind)
	it, err := t.Store.Get(ctx, k)
	done(fault(err))
	return it, err
}

// Put is the driver's.
func (t *traced) Put(ctx context.Context, it Item) (uint64, error) {
	ctx, done := t.start(ctx, "put", it.Kind)
	v, err := t.Store.Put(ctx, it)
	done(fault(err))
	return v, err
}

// Delete is the driver's.
func (t *traced) Delete(ctx context.Context, k Key) error {
	ctx, done := t.start(ctx, "delete", k.Kind)
	err := t.Store.Delete(ctx, k)
	done(fault(err))
	return err
}

// List is the driver's.
func (t *traced) List(ctx context.Context, kind, index, value, after string, limit int) ([]Item, error) {
	ctx, done := t.start(ctx, "list", kind)
	out, err := t.Store.List(ctx, kind, index, value, after, limit)
	done(fault(err))
	return out, err
}

// Append is the driver's.
func (t *traced) Append(ctx context.Context, topic string, entry []byte) (uint64, error) {
	ctx, done := t.start(ctx, "append", topic)
	pos, err := t.Store.Append(ctx, topic, entry)
	done(fault(err))
	return pos, err
}

// Read is the driver's; what the caller does with the entries is not counted.
func (t *traced) Read(ctx context.Context, topic string, after uint64, limit int) (iter.Seq2[uint64, []byte], error) {
	ctx, done := t.start(ctx, "read", topic)
	out, err := t.Store.Read(ctx, topic, after, limit)
	done(fault(err))
	return out, err
}

// Publish is the driver's.
func (t *traced) Publish(ctx context.Context, topic string, msg []byte) error {
	ctx, done := t.start(ctx, "publish", topic)
	err := t.Store.Publish(ctx, topic, msg)
	done(fault(err))
	return err
}

// Lease is the driver's. What is held outlives the operation, so its context is
// the caller's.
func (t *traced) Lease(ctx context.Context, name string, ttl time.Duration) (context.Context, func(), error) {
	_, done := t.start(ctx, "lease", "")
	held, release, err := t.Store.Lease(ctx, name, ttl)
	done(fault(err))
	return held, release, err
}
