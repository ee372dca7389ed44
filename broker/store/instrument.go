package store

import (
	"context"
	"iter"
	"time"
)

// Instrument returns s with observe told of every operation and how long it
// took. The names are few and fixed: they are labels of a metric.
func Instrument(s Store, observe func(op string, took time.Duration)) Store {
	return &instrumented{Store: s, observe: observe}
}

type instrumented struct {
	Store
	observe func(op string, took time.Duration)
}

func (i *instrumented) since(op string, start time.Time) { i.observe(op, time.Since(start)) }

// Get is the driver's.
func (i *instrumented) Get(ctx context.Context, k Key) (Item, error) {
	defer i.since("get", time.Now())
	return i.Store.Get(ctx, k)
}

// Put is the driver's.
func (i *instrumented) Put(ctx context.Context, it Item) (uint64, error) {
	defer i.since("put", time.Now())
	return i.Store.Put(ctx, it)
}

// Delete is the driver's.
func (i *instrumented) Delete(ctx context.Context, k Key) error {
	defer i.since("delete", time.Now())
	return i.Store.Delete(ctx, k)
}

// List is the driver's.
func (i *instrumented) List(ctx context.Context, kind, index, value, after string, limit int) ([]Item, error) {
	defer i.since("list", time.Now())
	return i.Store.List(ctx, kind, index, value, after, limit)
}

// Append is the driver's.
func (i *instrumented) Append(ctx context.Context, topic string, entry []byte) (uint64, error) {
	defer i.since("append", time.Now())
	return i.Store.Append(ctx, topic, entry)
}

// Read is the driver's; what the caller does with the entries is not counted.
func (i *instrumented) Read(ctx context.Context, topic string, after uint64, limit int) (iter.Seq2[uint64, []byte], error) {
	defer i.since("read", time.Now())
	return i.Store.Read(ctx, topic, after, limit)
}

// Trim is the driver's.
func (i *instrumented) Trim(ctx context.Context, topic string, before uint64) error {
	defer i.since("trim", time.Now())
	return i.Store.Trim(ctx, topic, before)
}

// Publish is the driver's.
func (i *instrumented) Publish(ctx context.Context, topic string, msg []byte) error {
	defer i.since("publish", time.Now())
	return i.Store.Publish(ctx, topic, msg)
}

// Lease is the driver's.
func (i *instrumented) Lease(ctx context.Context, name string, ttl time.Duration) (context.Context, func(), error) {
	defer i.since("lease", time.Now())
	return i.Store.Lease(ctx, name, ttl)
}
