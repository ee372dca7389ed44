package redis

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/remotegpu/gatehouse/broker/store"
)

// A failover may lose writes that were acknowledged, and with them revive what
// was revoked. So every replica hears each firm write whole, keeps it for a
// while, and for a minute after a reconnect makes those again that the server
// does not have any more (docs/security.md ST-3).
const (
	reassertFor   = time.Minute
	reassertEvery = 2 * time.Second
	// knownFor and knownMax bound what is kept: a failover loses seconds, and an
	// hour leaves room for one that nobody mends at night.
	knownFor = time.Hour
	knownMax = 5000
	// deletedFor is how long the server remembers the name of a deleted item:
	// longer than anybody knows it.
	deletedFor = 2 * knownFor
	// reassertBatch is how many are looked at in one round trip.
	reassertBatch = 200
)

func (s *Store) firmChannel() string { return s.prefix + "firm" }

// firmRecord is a firm write as it is told. The value is sealed by whoever wrote
// it: the channel shows no more than the database.
type firmRecord struct {
	Name    string            `json:"b"` // of the item, see casText
	Version uint64            `json:"v"`
	Kind    string            `json:"k"`
	ID      string            `json:"i"`
	Expires int64             `json:"e,omitempty"` // milliseconds since 1970
	Index   map[string]string `json:"x,omitempty"`
	Value   []byte            `json:"d,omitempty"`
	Topic   string            `json:"t,omitempty"` // whom to tell, and what
	Data    []byte            `json:"m,omitempty"`
	Deleted bool              `json:"g,omitempty"`

	heard time.Time
}

func firmRecordOf(it *store.Item) firmRecord {
	r := firmRecord{Version: it.Version + 1, Kind: it.Kind, ID: it.ID, Index: it.Index, Value: it.Value, Topic: it.Tell.Topic, Data: it.Tell.Data}
	if !it.Expires.IsZero() {
		r.Expires = max(1, it.Expires.UnixMilli())
	}
	return r
}

// tail is the record's JSON without what the script puts in front of it: the
// name and, for a deletion, the version.
func (r firmRecord) tail() string {
	js, err := json.Marshal(r)
	if err != nil { // strings, numbers and bytes always can
		return "}"
	}
	text := strings.TrimPrefix(string(js), `{"b":"",`)
	if r.Deleted {
		text = strings.TrimPrefix(text, `"v":0,`)
	}
	return text
}

func (r firmRecord) key() store.Key { return store.Key{Kind: r.Kind, ID: r.ID} }

func (r firmRecord) item() store.Item {
	it := store.Item{Key: r.key(), Value: r.Value, Index: r.Index, Firm: true, Tell: store.Message{Topic: r.Topic, Data: r.Data}}
	if r.Expires != 0 {
		it.Expires = time.UnixMilli(r.Expires)
	}
	return it
}

// known are the firm writes heard lately, the last of each item.
type known struct {
	again chan struct{} // asks for a minute of looking

	mu sync.Mutex
	m  map[store.Key]firmRecord
}

func (k *known) init() {
	k.again, k.m = make(chan struct{}, 1), map[store.Key]firmRecord{}
}

// doubt begins a minute in which the known writes are looked for.
func (k *known) doubt() {
	select {
	case k.again <- struct{}{}:
	default:
	}
}

// hear keeps a write. Of one item the later counts.
func (k *known) hear(payload string) {
	var r firmRecord
	if json.Unmarshal([]byte(payload), &r) != nil || r.Kind == "" || r.Version == 0 {
		return
	}
	r.heard = time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if old, there := k.m[r.key()]; there && old.Name == r.Name && old.Version > r.Version {
		return
	}
	k.m[r.key()] = r
	if len(k.m) > knownMax {
		k.prune(r.heard.Add(-knownFor))
	}
}

// prune forgets what was heard before a time, and if that is not enough the
// older half; k.mu is held.
func (k *known) prune(before time.Time) {
	maps.DeleteFunc(k.m, func(_ store.Key, r firmRecord) bool { return r.heard.Before(before) })
	if len(k.m) <= knownMax {
		return
	}
	rs := slices.SortedFunc(maps.Values(k.m), func(a, b firmRecord) int { return a.heard.Compare(b.heard) })
	for _, r := range rs[:len(rs)/2] {
		delete(k.m, r.key())
	}
}

// list returns what is known and not over.
func (k *known) list(now time.Time) []firmRecord {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.prune(time.Now().Add(-knownFor))
	var rs []firmRecord
	for _, r := range k.m {
		if r.Expires == 0 || r.Expires > now.UnixMilli() {
			rs = append(rs, r)
		}
	}
	return rs
}

// reassert runs until Close.
func (s *Store) reassert() {
	tick := time.NewTicker(reassertEvery)
	defer tick.Stop()
	var until time.Time
	masters := s.masters()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.known.again:
			until = time.Now().Add(reassertFor)
		case <-tick.C:
			// A Cluster's node can fail over while the bus, on another, goes on.
			if now := s.masters(); !slices.Equal(now, masters) {
				masters, until = now, time.Now().Add(reassertFor)
			}
		}
		if time.Now().Before(until) {
			s.reassertOnce()
		}
	}
}

// masters are the addresses of a Cluster's masters; nil for other servers,
// whose failover breaks the bus.
func (s *Store) masters() []string {
	c, ok := s.c.(*goredis.ClusterClient)
	if !ok {
		return nil
	}
	var mu sync.Mutex
	var addrs []string
	_ = c.ForEachMaster(s.ctx, func(_ context.Context, node *goredis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		addrs = append(addrs, node.Options().Addr)
		return nil
	})
	slices.Sort(addrs)
	return addrs
}

// reassertOnce looks for every known write and makes the lost ones again.
// Whatever fails is tried the next time.
func (s *Store) reassertOnce() {
	for batch := range slices.Chunk(s.known.list(s.cfg.Now()), reassertBatch) {
		ctx, done, err := s.ask(s.ctx)
		if err != nil {
			return
		}
		have := make([]*goredis.SliceCmd, len(batch))
		_, err = s.c.Pipelined(ctx, func(p goredis.Pipeliner) error {
			for i, r := range batch {
				have[i] = p.HMGet(ctx, s.itemKey(r.key()), "v", "b", "w", "g")
			}
			return nil
		})
		done()
		if err != nil {
			_ = s.fail("look for what was revoked", err)
			return
		}
		for i, r := range batch {
			if r.lost(have[i].Val()) {
				if err := s.makeAgain(r); err != nil {
					s.cfg.Log.Warn("redis: a revocation or other firm write that the server lost is not made again yet", "kind", r.Kind, "error", err)
					return
				}
			}
		}
	}
}

// lost reports whether the server does not have the write any more.
func (r firmRecord) lost(have []any) bool {
	if len(have) != 4 {
		return false
	}
	v, _ := have[0].(string)
	name, _ := have[1].(string)
	w, _ := have[2].(string)
	deleted, _ := have[3].(string)
	if r.Deleted {
		return v != "" && name == r.Name
	}
	firm, _ := strconv.ParseUint(w, 10, 64)
	return v == "" && deleted != r.Name || v != "" && name == r.Name && firm < r.Version
}

// againText writes a lost write over what is there, unless that is another item
// of the key, or has been written firmly since. ARGV as in casText, but for the
// first two: the version of the lost write, and the item's name.
const againText = `
local have = redis.call('HMGET', KEYS[1], 'v', 'b', 'w', 'g')
if not have[1] and have[4] == ARGV[2] then return 0 end
if have[1] and (have[2] ~= ARGV[2] or tonumber(have[3] or '0') >= tonumber(ARGV[1])) then return 0 end
local version = string.format('%.0f', math.max(tonumber(have[1] or '0') + 1, tonumber(ARGV[1])))
redis.call('HSET', KEYS[1], 'v', version, 'e', ARGV[4], 'f', '1', 'd', ARGV[6], 'b', ARGV[2], 'w', version)
local ttl = tonumber(ARGV[3])
if ttl > 0 then redis.call('PEXPIRE', KEYS[1], ttl) else redis.call('PERSIST', KEYS[1]) end
if ARGV[10] ~= '' then redis.call('PUBLISH', ARGV[10], ARGV[11]) end
return ARGV[2]`

const deleteAgainText = `
if redis.call('HGET', KEYS[1], 'b') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'g', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return ARGV[1]`

func (s *Store) makeAgain(r firmRecord) error {
	ctx, done := context.WithTimeout(s.ctx, waitReplica+waitDisk+askLimit)
	defer done()
	if r.Deleted {
		_, err := s.firm(ctx, "delete again", s.itemKey(r.key()), deleteAgainText, r.Name, deletedFor.Milliseconds())
		return err
	}
	it := r.item()
	if err := s.addHints(ctx, &it); err != nil {
		return s.fail("write again", err)
	}
	args := s.casArgs(&it)
	args[0], args[1] = strconv.FormatUint(r.Version, 10), r.Name
	result, err := s.firm(ctx, "write again", s.itemKey(r.key()), againText, args...)
	if err == nil && wrote(result) {
		s.cfg.Log.Warn("redis: the server had lost a firm write; it was made again", "kind", r.Kind)
	}
	return err
}
