package audittest

import (
	"context"
	"iter"

	"github.com/remotegpu/gatehouse/broker/store"
)

// elsewhere is a store within a store: other topics and other kinds.
type elsewhere struct{ store.Store }

func there(k store.Key) store.Key { return store.Key{Kind: "forged-" + k.Kind, ID: k.ID} }

// Get is the store's.
func (e *elsewhere) Get(ctx context.Context, k store.Key) (store.Item, error) {
	it, err := e.Store.Get(ctx, there(k))
	it.Key = k
	return it, err
}

// Put is the store's.
func (e *elsewhere) Put(ctx context.Context, it store.Item) (uint64, error) {
	it.Key = there(it.Key)
	return e.Store.Put(ctx, it)
}

// Append is the store's.
func (e *elsewhere) Append(ctx context.Context, topic string, entry []byte) (uint64, error) {
	return e.Store.Append(ctx, "forged-"+topic, entry)
}

// Read is the store's.
func (e *elsewhere) Read(ctx context.Context, topic string, after uint64, limit int) (iter.Seq2[uint64, []byte], error) {
	return e.Store.Read(ctx, "forged-"+topic, after, limit)
}
