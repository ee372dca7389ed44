// Package index finds events: by person, address, client, name, time, reference
// and text. It is a file of this process's own beside the data folder, filled by
// following the log of the store. What it says is never the truth but the way to
// it: each event that is shown is read from the record and compared with what was
// asked. A file that is missing or damaged is made again from the log; what the
// log does not hold any more comes back by Restore (docs/adr/0020-audit-index.md).
package index

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver registers itself under "sqlite"

	"github.com/remotegpu/gatehouse/broker/store"
)

// Config is what Open needs.
type Config struct {
	// Path of the file; its folder is made with mode 0700. Processes may share it.
	Path string
	Log  store.Log
	KV   store.KV
	// Keep has the index hold the records too: with Redis the log is trimmed long
	// before the audit log's retention is over. Without it a record is read from
	// the log when it is shown.
	Keep bool
	// Retention is how long events are found; it may change with the
	// configuration. 0 means for ever.
	Retention func() time.Duration
	Now       func() time.Time
	Logger    *slog.Logger
}

// Index is one open file. It is safe for concurrent use.
type Index struct {
	cfg   Config
	write *sql.DB // one connection
	read  *sql.DB

	bounds  bounds
	filling sync.Mutex // one fill at a time
}

// schemaVersion is of the file: another one is made again.
const schemaVersion = 1

// Texts are kept as 64 bits of their hash: an index entry is 20 bytes instead of
// 50, and what a stranger wrote (an address, a user name) takes no more room
// than anything else. NULL is "none", and is in no index.
const schema = `
create table if not exists meta (name text primary key, value text not null) without rowid;
create table if not exists events (
	pos integer primary key, time integer not null, name integer not null, severity integer not null,
	actor integer, target integer, connector integer, client integer, ip integer, ref integer, until integer
);
create index if not exists events_time on events (time);
create index if not exists events_name on events (name, time);
create index if not exists events_severity on events (severity, time) where severity > 0;
create index if not exists events_actor on events (actor, time) where actor is not null;
create index if not exists events_target on events (target, time) where target is not null;
create index if not exists events_client on events (client, time) where client is not null;
create index if not exists events_ip on events (ip, time) where ip is not null;
create index if not exists events_ref on events (ref, time) where ref is not null;
create table if not exists records (pos integer primary key, record blob not null);
`

// Open opens the file or makes it, and makes it anew when it is damaged, of
// another version, or belongs to another log. It is filled by Run.
func Open(ctx context.Context, cfg Config) (*Index, error) {
	if cfg.Path == "" || cfg.Log == nil || cfg.KV == nil || cfg.Retention == nil || cfg.Now == nil || cfg.Logger == nil {
		return nil, errors.New("audit index: Path, Log, KV, Retention, Now and Logger are needed")
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700); err != nil {
		return nil, fmt.Errorf("audit index: make its folder: %w", err)
	}
	of, err := logID(ctx, cfg.KV)
	if err != nil {
		return nil, fmt.Errorf("audit index: which log it belongs to: %w", err)
	}
	x := &Index{cfg: cfg, bounds: usual}
	err = x.open(ctx, of)
	if err == nil {
		return x, nil
	}
	x.Close()
	if ctx.Err() != nil {
		return nil, err
	}
	cfg.Logger.Warn("the audit log's index is made again", "file", cfg.Path, "why", err.Error())
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(cfg.Path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("audit index: remove the old one: %w", err)
		}
	}
	x = &Index{cfg: cfg, bounds: usual}
	if err := x.open(ctx, of); err != nil {
		x.Close()
		return nil, fmt.Errorf("audit index: %s: %w", cfg.Path, err)
	}
	return x, nil
}

func (x *Index) open(ctx context.Context, of string) error {
	f, err := os.OpenFile(x.cfg.Path, os.O_CREATE|os.O_RDWR, 0o600) // SQLite would use the umask
	if err != nil {
		return err
	}
	err = f.Chmod(0o600)
	f.Close()
	if err != nil {
		return err
	}
	dsn := func(pragmas ...string) string {
		q := url.Values{"_pragma": append([]string{"busy_timeout(10000)", "temp_store(memory)", "mmap_size(0)"}, pragmas...)}
		return "file:" + (&url.URL{Path: x.cfg.Path}).EscapedPath() + "?" + q.Encode()
	}
	// Transactions begin as writers: another process that shares the file waits,
	// and need not fail because it has read before. What a power cut takes is read from the log again: nothing waits for the disk.
	if x.write, err = sql.Open("sqlite", dsn("journal_mode(wal)", "synchronous(off)", "wal_autocheckpoint(4000)", "cache_size(-32000)")+"&_txlock=immediate"); err != nil {
		return err
	}
	x.write.SetMaxOpenConns(1)
	if _, err := x.write.ExecContext(ctx, schema); err != nil {
		return err
	}
	if x.read, err = sql.Open("sqlite", dsn("query_only(1)", "cache_size(-4000)")); err != nil {
		return err
	}
	x.read.SetMaxOpenConns(4)
	x.read.SetMaxIdleConns(4)
	kind := "places"
	if x.cfg.Keep {
		kind = "records"
	}
	for name, want := range map[string]string{"version": fmt.Sprint(schemaVersion), "log": of, "holds": kind} {
		var have string
		err := x.write.QueryRowContext(ctx, `insert into meta (name, value) values (?, ?) on conflict do update set value = value returning value`, name, want).Scan(&have)
		if err != nil {
			return err
		}
		if have != want {
			return fmt.Errorf("it is of %s %q, not %q", name, have, want)
		}
	}
	return x.sameLog(ctx)
}

// Close closes the file.
func (x *Index) Close() {
	if x.read != nil {
		x.read.Close()
	}
	if x.write != nil {
		x.write.Close()
	}
}

// logID names the log of this store: an index that was filled from another would
// point to the wrong records.
func logID(ctx context.Context, kv store.KV) (string, error) {
	k := store.Key{Kind: "audit-log", ID: "id"}
	for range 2 {
		it, err := kv.Get(ctx, k)
		if err == nil {
			return string(it.Value), nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return "", err
		}
		if _, err := kv.Put(ctx, store.Item{Key: k, Value: []byte(rand.Text())}); err != nil && !errors.Is(err, store.ErrConflict) {
			return "", err
		}
	}
	return "", errors.New("the store forgets what it was told")
}

// hash is how a text is kept; nil for none.
func hash(text string) any {
	if text == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(text))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}
