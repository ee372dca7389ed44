package sqlite

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// cache holds items as the file has them. This process alone may write the
// file, and all writes pass one goroutine, so what is here is what a read would
// find. An item is forgotten before its write commits and kept again after it: a
// reader in between asks the file.
type cache struct {
	seed   maphash.Seed
	shards [cacheShards]shard
}

type shard struct {
	mu    sync.RWMutex
	items map[store.Key]store.Item
	bytes int
	gen   uint64 // grows at every write; a read that began before one is not kept
}

const (
	cacheShards = 64
	// cacheBytes bounds the values held, all shards together.
	cacheBytes = 4 << 20
)

func (c *cache) init() {
	c.seed = maphash.MakeSeed()
	for i := range c.shards {
		c.shards[i].items = map[store.Key]store.Item{}
	}
}

func (c *cache) shard(k store.Key) *shard {
	return &c.shards[maphash.Comparable(c.seed, k)%cacheShards]
}

// get returns the item, or the generation to give to fill.
func (c *cache) get(k store.Key) (it store.Item, ok bool, gen uint64) {
	s := c.shard(k)
	s.mu.RLock()
	defer s.mu.RUnlock()
	it, ok = s.items[k]
	return it, ok, s.gen
}

// fill keeps what was read from the file, unless something was written since.
func (c *cache) fill(gen uint64, it store.Item) {
	s := c.shard(it.Key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen == gen {
		s.keep(it)
	}
}

// written keeps what has just been committed.
func (c *cache) written(it store.Item) {
	s := c.shard(it.Key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gen++
	// What the file would give back: no index, no message, whole milliseconds.
	s.keep(store.Item{Key: it.Key, Value: it.Value, Version: it.Version, Expires: fromMillis(millis(it.Expires)), Firm: it.Firm})
}

func (s *shard) keep(it store.Item) {
	s.drop(it.Key)
	if len(it.Value) > cacheBytes/cacheShards {
		return
	}
	s.items[it.Key] = it
	s.bytes += len(it.Value)
	for s.bytes > cacheBytes/cacheShards {
		for k := range s.items { // any other
			if k != it.Key {
				s.drop(k)
				break
			}
		}
	}
}

func (s *shard) drop(k store.Key) {
	if old, ok := s.items[k]; ok {
		s.bytes -= len(old.Value)
		delete(s.items, k)
	}
}

// forget removes the item.
func (c *cache) forget(k store.Key) {
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gen++
	s.drop(k)
}

// sweep removes what a sweep of the file removes.
func (c *cache) sweep(before time.Time) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.gen++
		for k, it := range s.items {
			if !it.Expires.IsZero() && it.Expires.Before(before) {
				s.drop(k)
			}
		}
		s.mu.Unlock()
	}
}
