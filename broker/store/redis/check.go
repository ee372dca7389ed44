package redis

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// Check asks every master and warns of settings that lose data.
func (s *Store) Check(ctx context.Context) ([]string, error) {
	var mu sync.Mutex
	var warnings []string
	if s.target.exposed() {
		warnings = append(warnings, "store: redis:// sends passwords and data readable to another machine; use rediss://")
	}
	err := s.eachMaster(ctx, func(ctx context.Context, c *goredis.Client) error {
		if err := c.Ping(ctx).Err(); err != nil {
			return err
		}
		info, err := c.Info(ctx).Result()
		if err != nil {
			return err
		}
		n := readNode(info)
		fsync := ""
		if !n.waitsForDisk() && n.appendOnly {
			// Users with few rights may not ask; then it is not known.
			if m, err := c.ConfigGet(ctx, "appendfsync").Result(); err == nil {
				fsync = m["appendfsync"]
			}
		}
		mu.Lock()
		defer mu.Unlock()
		warnings = append(warnings, n.warnings(fsync)...)
		return nil
	})
	if err != nil {
		return nil, s.fail("check", err)
	}
	slices.Sort(warnings)
	return slices.Compact(warnings), nil
}

// warnings says what the server's settings put at risk. fsync "" is unknown.
func (n node) warnings(fsync string) []string {
	var w []string
	if !n.appendOnly {
		w = append(w, `store: Redis runs without "appendonly yes": when it restarts, sessions are lost and revocations undone`)
	}
	if n.policy != "" && n.policy != "noeviction" {
		w = append(w, fmt.Sprintf(`store: Redis has maxmemory-policy %s: a revocation that it evicts is undone; set "maxmemory-policy noeviction"`, n.policy))
	}
	if n.appendOnly && !n.waitsForDisk() && fsync != "always" {
		is := "is " + fsync
		if fsync == "" {
			is = "cannot be read by this user"
		}
		w = append(w, fmt.Sprintf(`store: Redis %s cannot confirm that a revocation is on disk (7.2 can) and appendfsync %s: a power cut may undo the last second; set "appendfsync always" or update`, n.version, is))
	}
	return w
}

func (s *Store) eachMaster(ctx context.Context, f func(context.Context, *goredis.Client) error) error {
	switch c := s.c.(type) {
	case *goredis.ClusterClient:
		return c.ForEachMaster(ctx, f)
	case *goredis.Client:
		return f(ctx, c)
	}
	return nil
}

// sweepEvery bounds how often a replica walks through all hints; Redis drops the
// items themselves.
const sweepEvery = 10 * time.Minute

type sweepState struct {
	mu   sync.Mutex
	last time.Time
}

// Sweep removes hints whose item is gone, which otherwise only List does. Redis
// removes the items by itself, so it need not do so each time it is asked.
func (s *Store) Sweep(ctx context.Context, _ time.Time) error {
	st := &s.sweep
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.last.IsZero() && time.Since(st.last) < sweepEvery {
		return nil
	}
	var mu sync.Mutex
	var keys []string
	err := s.eachMaster(ctx, func(ctx context.Context, c *goredis.Client) error {
		it := c.Scan(ctx, 0, globEscape.Replace(s.prefix+"ix:")+"*", 1000).Iterator()
		for it.Next(ctx) {
			mu.Lock()
			keys = append(keys, it.Val())
			mu.Unlock()
		}
		return it.Err()
	})
	if err != nil {
		return s.fail("sweep", err)
	}
	for _, key := range keys {
		if err := s.sweepIndex(ctx, key); err != nil {
			return s.fail("sweep", err)
		}
	}
	st.last = time.Now()
	return nil
}

var globEscape = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

func (s *Store) sweepIndex(ctx context.Context, key string) error {
	kind, _, ok := strings.Cut(strings.TrimPrefix(key, s.prefix+"ix:"), ":")
	if !ok {
		return nil // not ours
	}
	for after := ""; ; {
		ids, err := s.hints(ctx, key, after, maxPage)
		if err != nil || len(ids) == 0 {
			return err
		}
		there := make([]*goredis.BoolCmd, len(ids))
		_, err = s.c.Pipelined(ctx, func(p goredis.Pipeliner) error {
			for i, id := range ids {
				there[i] = p.HExists(ctx, s.prefix+kind+":"+id, "v")
			}
			return nil
		})
		if err != nil {
			return err
		}
		var gone []string
		for i, id := range ids {
			if !there[i].Val() {
				gone = append(gone, id)
			}
		}
		s.dropHints(ctx, key, kind, gone)
		if len(ids) < maxPage {
			return nil
		}
		after = ids[len(ids)-1]
	}
}
