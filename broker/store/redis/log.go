package redis

import (
	"context"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"

	goredis "github.com/redis/go-redis/v9"
)

// appendText adds an entry to a stream under an id of our choice: the server's
// microseconds, or one more than the last id if the clock has not moved on. An
// id made of a mere count would be given a second time after a failover that
// lost the last entries, and a reader who had seen them would miss the new ones.
const appendText = `
local t = redis.call('TIME')
local n = tonumber(t[1]) * 1000000 + tonumber(t[2])
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local last = tonumber(string.match(info[i + 1], '^(%d+)'))
      if last >= n then n = last + 1 end
    end
  end
end
local id = string.format('%.0f', n)
redis.call('XADD', KEYS[1], id .. '-0', 'e', ARGV[1])
return id`

var appendScript = goredis.NewScript(appendText)

// trimText removes the oldest entries below an id, at most so many. Deleting
// them one by one keeps to the bound exactly; XTRIM's own LIMIT is for its
// approximate form alone.
const trimText = `
local first = redis.call('XRANGE', KEYS[1], '-', '(' .. ARGV[1] .. '-0', 'COUNT', ARGV[2])
if #first == 0 then return 0 end
local last = tonumber(string.match(first[#first][1], '^(%d+)'))
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f', last + 1) .. '-0')
return #first`

var trimScript = goredis.NewScript(trimText)

func (s *Store) logKey(topic string) string { return s.prefix + "log:" + topic }

// Append adds an entry to the topic's stream. With appendonly it outlives the
// process once it is acknowledged, as every write does.
func (s *Store) Append(ctx context.Context, topic string, entry []byte) (uint64, error) {
	ctx, done, err := s.ask(ctx)
	if err != nil {
		return 0, s.fail("append", err)
	}
	defer done()
	v, err := s.script(ctx, appendScript, appendText, s.logKey(topic), entry)
	if err != nil {
		return 0, s.fail("append", err)
	}
	id, _ := v.(string)
	pos, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return 0, s.fail("append", fmt.Errorf("the position is no number"))
	}
	return pos, nil
}

// Read returns entries with position > after.
func (s *Store) Read(ctx context.Context, topic string, after uint64, limit int) (iter.Seq2[uint64, []byte], error) {
	type line struct {
		pos   uint64
		entry string
	}
	var lines []line
	if limit > 0 && after < math.MaxInt64 {
		var messages []goredis.XMessage
		ctx, done, err := s.ask(ctx)
		if err != nil {
			return nil, s.fail("read log", err)
		}
		defer done()
		err = s.read(ctx, func() (err error) {
			messages, err = s.c.XRangeN(ctx, s.logKey(topic), strconv.FormatUint(after+1, 10)+"-0", "+", int64(limit)).Result()
			return err
		})
		if err != nil {
			return nil, s.fail("read log", err)
		}
		for _, m := range messages {
			id, _, _ := strings.Cut(m.ID, "-")
			pos, err := strconv.ParseUint(id, 10, 64)
			entry, ok := m.Values["e"].(string)
			if err != nil || !ok {
				return nil, s.fail("read log", fmt.Errorf("an entry is not one of Gatehouse's"))
			}
			lines = append(lines, line{pos, entry})
		}
	}
	return func(yield func(uint64, []byte) bool) {
		for _, l := range lines {
			if !yield(l.pos, []byte(l.entry)) {
				return
			}
		}
	}, nil
}

// trimStep bounds the entries that one command removes, so that no other client
// waits for long.
const trimStep = 1000

// Trim removes the entries with position < before. XTRIM leaves the stream and
// its last id even when nothing is left in it, so that no position comes twice.
func (s *Store) Trim(ctx context.Context, topic string, before uint64) error {
	if before == 0 {
		return nil
	}
	for {
		ctx, done, err := s.ask(ctx)
		if err != nil {
			return s.fail("trim log", err)
		}
		v, err := s.script(ctx, trimScript, trimText, s.logKey(topic), strconv.FormatUint(min(before, math.MaxInt64), 10), trimStep)
		done()
		if err != nil {
			return s.fail("trim log", err)
		}
		if n, _ := v.(int64); n < trimStep {
			return nil
		}
	}
}
