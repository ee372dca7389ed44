package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// How long the replica and the disk have to confirm a firm write. With
// appendfsync everysec the disk needs up to a second.
const (
	waitReplica = 100 * time.Millisecond
	waitDisk    = 1500 * time.Millisecond
	// relearnTime is what a look at the cluster's new shape usually takes.
	relearnTime = 100 * time.Millisecond
)

// firm runs a script on a connection of its own to the key's master. If it has
// written something that must be confirmed, firm waits there until the write would outlive that machine:
// WAIT and WAITAOF count only what their own connection wrote, hence no pool. A
// write that is not confirmed is there nevertheless; nobody is told that it holds.
// The errors are ours already.
func (s *Store) firm(ctx context.Context, what, key, text string, args ...any) (any, error) {
	for range 4 {
		node, err := s.master(ctx, key)
		if err != nil {
			return nil, s.fail(what, err)
		}
		result, err := s.firmOn(ctx, node, key, text, args)
		if err == nil {
			return result, nil
		}
		if !strings.HasPrefix(err.Error(), "MOVED ") {
			return nil, s.fail(what, err)
		}
		// Another node has the key; nothing was written.
		relearn(s.c)
		select {
		case <-time.After(relearnTime):
		case <-ctx.Done():
			return nil, s.fail(what, ctx.Err())
		}
	}
	return nil, s.fail(what, errors.New("the cluster keeps moving the key"))
}

// master is the client of the node that the key lives on.
func (s *Store) master(ctx context.Context, key string) (*goredis.Client, error) {
	switch c := s.c.(type) {
	case *goredis.ClusterClient:
		return c.MasterForKey(ctx, key)
	case *goredis.Client:
		return c, nil
	}
	return nil, errors.New("unknown client")
}

func (s *Store) firmOn(ctx context.Context, node *goredis.Client, key, text string, args []any) (any, error) {
	conn := node.Conn()
	defer conn.Close()
	pipe := conn.Pipeline()
	about := pipe.Info(ctx) // in the same round trip: what this node can confirm
	run := pipe.Eval(ctx, text, []string{key}, args...)
	_, execErr := pipe.Exec(ctx)
	result, err := run.Result()
	if err != nil || !wrote(result) {
		return result, err
	}
	if err := about.Err(); err != nil {
		return nil, fmt.Errorf("the write cannot be confirmed: INFO: %w", err)
	}
	if execErr != nil {
		return nil, execErr
	}
	n := readNode(about.Val())
	if n.replicas > 0 {
		acked, err := conn.Wait(ctx, 1, waitReplica).Result()
		if err != nil {
			return nil, err
		}
		if acked < 1 {
			return nil, errors.New("no replica confirmed the write")
		}
	}
	if n.waitsForDisk() && n.appendOnly {
		acked, err := conn.WaitAOF(ctx, 1, 0, waitDisk).Result()
		if err != nil {
			return nil, err
		}
		if len(acked) == 0 || acked[0] < 1 {
			return nil, errors.New("the disk did not confirm the write")
		}
	}
	return result, nil
}

// node is what a server says of itself.
type node struct {
	version      string
	major, minor int
	appendOnly   bool
	replicas     int // connected and following; one that still copies cannot confirm
	policy       string
}

// waitsForDisk reports whether the server knows WAITAOF.
func (n node) waitsForDisk() bool { return n.major > 7 || n.major == 7 && n.minor >= 2 }

func readNode(info string) node {
	var n node
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case name == "redis_version":
			n.version = value
			parts := strings.SplitN(value, ".", 3)
			n.major, _ = strconv.Atoi(parts[0])
			if len(parts) > 1 {
				n.minor, _ = strconv.Atoi(parts[1])
			}
		case name == "aof_enabled":
			n.appendOnly = value == "1"
		case name == "maxmemory_policy":
			n.policy = value
		case isReplicaLine(name) && strings.Contains(value, "state=online"):
			n.replicas++
		}
	}
	return n
}

// isReplicaLine knows slave0, slave1, … from names like slave_repl_offset.
func isReplicaLine(name string) bool {
	number, ok := strings.CutPrefix(name, "slave")
	if !ok {
		return false
	}
	_, err := strconv.Atoi(number)
	return err == nil
}
