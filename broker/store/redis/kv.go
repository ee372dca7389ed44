package redis

import (
	"context"
	"errors"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/remotegpu/gatehouse/broker/store"
)

// grace keeps an item in Redis after it has expired by our clock, for the sake
// of replicas whose clock is behind.
const grace = time.Minute

// casText is the compare-and-set. ARGV: the version that must be there (0 for
// none), the new one, milliseconds to live (0 for ever, negative: over already),
// expiry as we know it, firm, value, a name for the item should it be made, the
// channel and the record of a firm write, and the item's own channel and message.
// Publishing belongs to the write: whoever hears it may read it, and no broken
// connection comes between the two.
//
// Fields: v version, e expiry, f firm, d value, b the name, by which an item is
// told from an earlier one of its key, and w the version of the last firm write.
const casText = `
local have = redis.call('HMGET', KEYS[1], 'v', 'b')
if (have[1] or '0') ~= ARGV[1] then return 0 end
local name = have[2] or ARGV[7]
local ttl = tonumber(ARGV[3])
if ttl < 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'v', ARGV[2], 'e', ARGV[4], 'f', ARGV[5], 'd', ARGV[6], 'b', name)
  if ARGV[5] == '1' then redis.call('HSET', KEYS[1], 'w', ARGV[2]) end
  if ttl > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) else redis.call('PERSIST', KEYS[1]) end
  if ARGV[8] ~= '' then redis.call('PUBLISH', ARGV[8], '{"b":"' .. name .. '",' .. ARGV[9]) end
end
if ARGV[10] ~= '' then redis.call('PUBLISH', ARGV[10], ARGV[11]) end
return name`

var casScript = goredis.NewScript(casText)

// Get returns the item or store.ErrNotFound.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Item, error) {
	var fields []any
	ctx, done, err := s.ask(ctx)
	if err != nil {
		return store.Item{}, s.fail("get", err)
	}
	defer done()
	err = s.read(ctx, func() (err error) {
		fields, err = s.c.HMGet(ctx, s.itemKey(k), "v", "e", "f", "d").Result()
		return err
	})
	if err != nil {
		return store.Item{}, s.fail("get", err)
	}
	it, found, err := decode(k, fields)
	if err != nil {
		return store.Item{}, s.fail("get", err)
	}
	if !found {
		return store.Item{}, store.ErrNotFound
	}
	return it, nil
}

func decode(k store.Key, fields []any) (it store.Item, found bool, err error) {
	if len(fields) != 4 || fields[0] == nil {
		return store.Item{}, false, nil
	}
	str := func(i int) string { v, _ := fields[i].(string); return v }
	version, err1 := strconv.ParseUint(str(0), 10, 64)
	expires, err2 := strconv.ParseInt(str(1), 10, 64)
	if err1 != nil || err2 != nil || version == 0 {
		return store.Item{}, false, errors.New("the record is not one of Gatehouse's")
	}
	it = store.Item{Key: k, Version: version, Firm: str(2) == "1", Value: []byte(str(3))}
	if expires != 0 {
		it.Expires = time.UnixMilli(expires)
	}
	return it, true, nil
}

// Put creates (Version 0) or replaces exactly that version.
//
// The hints go first, so that a crash in between leaves a dangling hint and
// never an item that no List finds. A create writes them once more afterwards:
// somebody may have found the first ones dangling and removed them.
func (s *Store) Put(ctx context.Context, it store.Item) (uint64, error) {
	ctx, done, err := s.ask(ctx)
	if err != nil {
		return 0, s.fail("put", err)
	}
	defer done()
	if err := s.addHints(ctx, &it); err != nil {
		return 0, s.fail("put", err)
	}
	args := s.casArgs(&it)
	var result any
	if it.Firm {
		result, err = s.firm(ctx, "put", s.itemKey(it.Key), casText, args...)
	} else if result, err = s.script(ctx, casScript, casText, s.itemKey(it.Key), args...); err != nil {
		err = s.fail("put", err)
	}
	if err != nil {
		return 0, err
	}
	if !wrote(result) {
		return 0, store.ErrConflict
	}
	if it.Version == 0 {
		// The item is written whatever becomes of this.
		_ = s.addHints(ctx, &it)
	}
	return it.Version + 1, nil
}

func (s *Store) casArgs(it *store.Item) []any {
	var ttl, expires int64
	if !it.Expires.IsZero() {
		expires = max(1, it.Expires.UnixMilli())
		// Relative, and so of the same length whatever the server's clock says:
		// one that is ahead must not drop a tombstone early.
		ttl = min(expires-s.cfg.Now().UnixMilli(), 100*365*24*time.Hour.Milliseconds()) + grace.Milliseconds()
		if ttl <= 0 {
			ttl = -1
		}
	}
	firm, firmChannel, record := "0", "", ""
	if it.Firm {
		firm, firmChannel, record = "1", s.firmChannel(), firmRecordOf(it).tail()
	}
	channel := ""
	if it.Tell.Topic != "" {
		channel = s.channel(it.Tell.Topic)
	}
	return []any{
		strconv.FormatUint(it.Version, 10), strconv.FormatUint(it.Version+1, 10),
		strconv.FormatInt(ttl, 10), strconv.FormatInt(expires, 10), firm, it.Value,
		token(), firmChannel, record, channel, it.Tell.Data,
	}
}

// wrote reports whether a script has written: it then returns the item's name.
func wrote(result any) bool {
	_, ok := result.(string)
	return ok
}

// addHints lists the item under its kind and its index entries. Doing it twice
// is harmless.
func (s *Store) addHints(ctx context.Context, it *store.Item) error {
	_, err := s.c.Pipelined(ctx, func(p goredis.Pipeliner) error {
		member := goredis.Z{Member: it.ID}
		p.ZAdd(ctx, s.indexKey(it.Kind, "", ""), member)
		for name, value := range it.Index {
			p.ZAdd(ctx, s.indexKey(it.Kind, name, value), member)
		}
		return nil
	})
	return err
}

// Delete removes the item. Its hints go when somebody comes across them.
func (s *Store) Delete(ctx context.Context, k store.Key) error {
	ctx, done, err := s.ask(ctx)
	if err != nil {
		return s.fail("delete", err)
	}
	defer done()
	rec := firmRecord{Kind: k.Kind, ID: k.ID, Deleted: true}
	_, err = s.firm(ctx, "delete", s.itemKey(k), deleteText, s.firmChannel(), rec.tail(), deletedFor.Milliseconds())
	return err
}

// deleteText deletes. If the item was ever written firmly its deletion is firm,
// too: it is told with the version that it ended at, and field g keeps its name
// for a while, so that a replica that missed the news does not take the item for
// lost and make it again. What has no v is not there.
const deleteText = `
local have = redis.call('HMGET', KEYS[1], 'v', 'b', 'w')
if not have[1] then return 0 end
redis.call('DEL', KEYS[1])
if not have[3] then return 0 end
redis.call('HSET', KEYS[1], 'g', have[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[1], '{"b":"' .. have[2] .. '","v":' .. have[1] .. ',' .. ARGV[2])
return have[2]`

// maxPage bounds what one round of List asks for.
const maxPage = 500

// List returns items in order of ID and removes the hints whose item is gone.
func (s *Store) List(ctx context.Context, kind, index, value, after string, limit int) ([]store.Item, error) {
	if limit <= 0 {
		return nil, nil
	}
	if index == "" {
		value = ""
	}
	ctx, done, err := s.ask(ctx)
	if err != nil {
		return nil, s.fail("list", err)
	}
	defer done()
	key := s.indexKey(kind, index, value)
	var items []store.Item
	for len(items) < limit {
		n := min(limit-len(items)+4, maxPage) // a few more, since some may dangle
		ids, err := s.hints(ctx, key, after, n)
		if err != nil {
			return nil, s.fail("list", err)
		}
		var gone []string
		records := make([]*goredis.SliceCmd, len(ids))
		err = s.read(ctx, func() error {
			if len(ids) == 0 {
				return nil
			}
			_, err := s.c.Pipelined(ctx, func(p goredis.Pipeliner) error {
				for i, id := range ids {
					records[i] = p.HMGet(ctx, s.itemKey(store.Key{Kind: kind, ID: id}), "v", "e", "f", "d")
				}
				return nil
			})
			return err
		})
		if err != nil {
			return nil, s.fail("list", err)
		}
		for i, id := range ids {
			it, found, err := decode(store.Key{Kind: kind, ID: id}, records[i].Val())
			switch {
			case err != nil:
				return nil, s.fail("list", err)
			case !found:
				gone = append(gone, id)
			case len(items) < limit:
				items = append(items, it)
			}
		}
		s.dropHints(ctx, key, kindPart(kind), gone)
		if len(ids) < n {
			break
		}
		after = ids[len(ids)-1]
	}
	return items, nil
}

// hints returns up to n ids > after of an index.
func (s *Store) hints(ctx context.Context, key, after string, n int) (ids []string, err error) {
	from := "-"
	if after != "" {
		from = "(" + after
	}
	err = s.read(ctx, func() (err error) {
		ids, err = s.c.ZRangeByLex(ctx, key, &goredis.ZRangeBy{Min: from, Max: "+", Count: int64(n)}).Result()
		return err
	})
	return ids, err
}

// dropHints removes hints whose item was missing, and puts back those whose item
// has come meanwhile. Together with the second writing in Put no order of events
// loses the hint of a living item: either it is written after this removal, or
// the item was there before it and is seen here. Failing is harmless.
func (s *Store) dropHints(ctx context.Context, key, kindPart string, ids []string) {
	if len(ids) == 0 {
		return
	}
	members := make([]any, len(ids))
	for i, id := range ids {
		members[i] = id
	}
	if err := s.c.ZRem(ctx, key, members...).Err(); err != nil && ctx.Err() == nil {
		s.cfg.Log.DebugContext(ctx, "redis: dangling index entries stay", "error", s.target.scrub(err.Error()))
	}
	// Also when the removal failed: it may have happened, with its reply lost.
	there := make([]*goredis.BoolCmd, len(ids))
	_, err := s.c.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for i, id := range ids {
			there[i] = p.HExists(ctx, s.prefix+kindPart+":"+id, "v")
		}
		return nil
	})
	var back []goredis.Z
	for i, id := range ids {
		// What cannot be asked is put back: a dangling hint costs nothing.
		if err != nil || there[i].Val() {
			back = append(back, goredis.Z{Member: id})
		}
	}
	if len(back) > 0 {
		_ = s.c.ZAdd(context.WithoutCancel(ctx), key, back...).Err()
	}
}
