// Package redis is the store of several replicas: one Redis, a Sentinel group or
// a Cluster. Every write touches one key, so that Cluster is no special case;
// index entries are hints beside the items. Nothing that writes is ever sent
// twice: a compare-and-set whose reply was lost would conflict with itself.
package redis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/store"
)

// DefaultPrefix is in front of every key and channel unless Config has another.
const DefaultPrefix = "gatehouse:"

// Config says where Redis is.
type Config struct {
	// URL is redis://[user:password@]host:6379/0, rediss://…,
	// redis+sentinel://h1,h2/master?db=0 or redis+cluster://h1,h2, the last two
	// also as rediss+…. It holds a password, hence its type.
	URL redact.String
	// CAFile is a PEM file with the authorities that may vouch for a rediss://
	// server; "" means that of the URL's ca_file, or those of the system.
	CAFile string
	// Prefix is in front of every key and channel; "" means DefaultPrefix.
	Prefix string
	// Now is our clock, by which items expire.
	Now func() time.Time
	Log *slog.Logger
}

// Store is the driver.
type Store struct {
	cfg    *Config
	prefix string
	target *target

	c goredis.UniversalClient
	// side carries the heartbeat and the bus, so that a burst of requests that
	// empties the pool does not make this replica look cut off.
	side goredis.UniversalClient
	bus  bus

	sweep sweepState
	// known are the firm writes that may have to be made again.
	known known
	// silent is when a command last got no answer in time.
	silent atomic.Int64

	ctx  context.Context // ends with Close
	stop context.CancelFunc

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

// schemaMajor is refused when the database has a newer one: an older program
// must not write what it does not understand.
const schemaMajor = 1

// openWait is how long Open waits for the first heartbeat. Without it the store
// is open, and stale until it hears one.
const openWait = time.Second

// quiet: the library writes to stderr by itself otherwise. What matters of it
// comes back as errors, from which we take the credentials out.
var quiet = sync.OnceFunc(logging.Disable)

// Open connects, checks the schema and starts the heartbeat.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.URL.IsZero() || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("redis: URL, Now and Log are needed")
	}
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	target, err := parseURL(cfg.URL.Reveal())
	if err != nil {
		return nil, err
	}
	if err := target.useTLS(cfg.CAFile); err != nil {
		return nil, err
	}
	quiet()
	s := &Store{cfg: &cfg, prefix: cfg.Prefix, target: &target}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.c = target.client(max(32, 10*runtime.GOMAXPROCS(0)))
	s.side = target.client(4)
	if err := s.checkSchema(ctx); err != nil {
		s.Close()
		return nil, err
	}
	s.known.init()
	s.bus.init(s)
	s.spawn(s.bus.listen)
	s.spawn(s.bus.beat)
	s.spawn(s.reassert)
	select {
	case <-s.bus.first:
	case <-ctx.Done():
	case <-time.After(openWait):
	}
	return s, nil
}

// client returns a client with the rules that all of ours obey.
func (t target) client(poolSize int) goredis.UniversalClient {
	o := &goredis.UniversalOptions{
		Addrs: t.hosts, MasterName: t.master, IsClusterMode: t.mode == modeCluster, DB: t.db,
		Username: t.user, Password: t.password.Reveal(), SentinelUsername: t.sentinelUser, SentinelPassword: t.sentinelPassword.Reveal(),
		TLSConfig: t.tls,
		// RESP2: nothing of RESP3 is used, and unasked-for pushes on a connection
		// are one more way for a reply to reach the wrong reader.
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		MaxRetries:               -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: 2 * time.Second, ReadTimeout: 3 * time.Second, WriteTimeout: 3 * time.Second,
		PoolSize: poolSize, PoolTimeout: 3 * time.Second,
	}
	if t.mode == modeCluster {
		c := o.Cluster()
		// We address one key at a time; the library need not ask every node
		// which commands it has.
		c.DisableRoutingPolicies = true
		// Its own minute would be how long a failover goes unnoticed.
		c.ClusterStateReloadInterval = 5 * time.Second
		return goredis.NewClusterClient(c)
	}
	return goredis.NewUniversalClient(o)
}

// spawn runs f until Close, which waits for it. It reports false after Close.
func (s *Store) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// Close ends the subscriptions, gives up the leases and closes the connections.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.bus.shut()
	s.wg.Wait()
	s.side.Close()
	s.c.Close()
	return nil
}

func (s *Store) checkSchema(ctx context.Context) error {
	key := s.prefix + "meta:schema"
	if _, err := s.once(ctx, "set", key, schemaMajor, "nx"); err != nil && !errors.Is(err, goredis.Nil) {
		return s.fail("open", err)
	}
	v, err := s.c.Get(ctx, key).Result()
	if err != nil {
		return s.fail("read the schema's version", err)
	}
	major, err := strconv.Atoi(v)
	if err != nil {
		return fmt.Errorf("redis: %s is no version; is this prefix used by another program?", key)
	}
	if major > schemaMajor {
		return fmt.Errorf("redis: %s was written by a newer Gatehouse (schema %d, this one knows %d); start the newer program", key, major, schemaMajor)
	}
	return nil
}

// onceCmd is a command that the Cluster client, too, sends only once. Being told
// that another node has the key is no second time: the first one did nothing.
type onceCmd struct{ *goredis.Cmd }

// NoRetry tells the library.
func (onceCmd) NoRetry() bool { return true }

// once runs a write.
func (s *Store) once(ctx context.Context, args ...any) (any, error) {
	return once(ctx, s.c, args...)
}

func once(ctx context.Context, c goredis.UniversalClient, args ...any) (any, error) {
	cmd := onceCmd{goredis.NewCmd(ctx, args...)}
	// What decides the node. For PUBLISH, which any node would take, it is the
	// channel: over several nodes a topic's messages would overtake each other.
	if args[0] == "eval" || args[0] == "evalsha" {
		cmd.SetFirstKeyPos(3)
	} else {
		cmd.SetFirstKeyPos(1)
	}
	if err := c.Process(ctx, cmd); err != nil {
		return nil, err
	}
	return cmd.Result()
}

// relearn asks a Cluster, in the background, who has what now. The library does
// so when a node sends it elsewhere, but not when the node is dead.
func relearn(c goredis.UniversalClient) {
	if cluster, ok := c.(*goredis.ClusterClient); ok {
		cluster.ReloadState(context.Background())
	}
}

// script runs a script on one key. When the server does not know it, it has
// done nothing and is given the text.
func (s *Store) script(ctx context.Context, sc *goredis.Script, text, key string, args ...any) (any, error) {
	v, err := s.once(ctx, append([]any{"evalsha", sc.Hash(), 1, key}, args...)...)
	if err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT") {
		return s.once(ctx, append([]any{"eval", text, 1, key}, args...)...)
	}
	return v, err
}

// read runs something that only reads, a second time if the pooled connection
// turns out to be dead, as all are after a restart of the server.
func (s *Store) read(ctx context.Context, run func() error) error {
	err := run()
	if err != nil && ctx.Err() == nil && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
		err = run()
	}
	return err
}

// askLimit is how long a command may take, and how long none is sent after one
// that got no answer, while nothing is heard of the server: a paused one leaves
// its connections up, and every request would hang on it.
const askLimit = time.Second

var errSilent = errors.New("the server does not answer")

// ask begins a command.
func (s *Store) ask(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if err := ctx.Err(); err != nil {
		return ctx, nil, err
	}
	if !s.Stale() {
		return ctx, func() {}, nil
	}
	if at := s.silent.Load(); at != 0 && time.Duration(int64(s.bus.now())-at) < askLimit {
		return ctx, nil, errSilent
	}
	ctx, done := context.WithTimeout(ctx, askLimit)
	return ctx, done, nil
}

// fail turns an error of the library into one of ours. Its text is taken over
// without credentials (old servers echo a command that they do not know, AUTH
// included); the error itself is not wrapped.
func (s *Store) fail(what string, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("redis: %s: %w", what, context.Canceled)
	}
	if errors.Is(err, errSilent) {
		return fmt.Errorf("redis: %s: %w: %w", what, store.ErrUnavailable, err)
	}
	relearn(s.c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, goredis.ErrPoolTimeout) {
		s.silent.Store(int64(s.bus.now()))
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("redis: %s: %w: %w", what, store.ErrUnavailable, context.DeadlineExceeded)
	}
	return fmt.Errorf("redis: %s: %w: %s", what, store.ErrUnavailable, s.target.scrub(err.Error()))
}

// reserved are the name spaces beside those of the kinds.
var reserved = map[string]bool{"ix": true, "log": true, "bus": true, "beat": true, "firm": true, "lease": true, "meta": true}

// escape keeps a ":" inside a name from shifting the parts of a key.
var escape = strings.NewReplacer("%", "%25", ":", "%3A")

func kindPart(kind string) string {
	if reserved[kind] {
		return "%" + kind // no escaped name looks like this
	}
	return escape.Replace(kind)
}

func (s *Store) itemKey(k store.Key) string { return s.prefix + kindPart(k.Kind) + ":" + k.ID }

// indexKey is the sorted set of the ids under index=value; both "" is the kind.
func (s *Store) indexKey(kind, index, value string) string {
	return s.prefix + "ix:" + kindPart(kind) + ":" + escape.Replace(index) + ":" + value
}
