// Package sqlite is the embedded store: one file, no server, no cgo. One writer
// gathers concurrent writes into one transaction; readers have connections of
// their own. The bus and the leases live in the process, so the data folder is
// locked: several replicas need Redis.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite" // the driver registers itself under "sqlite"

	"github.com/remotegpu/gatehouse/broker/store"
)

// Config says where the file is and how firmly it is written.
type Config struct {
	// Path of the database file; its folder is made with mode 0700.
	Path string
	// Durability "" commits ordinary items so that they outlive the process;
	// "full" makes every commit outlive a power cut.
	Durability string
	// Now is our clock, for leases and sweeping.
	Now func() time.Time
	Log *slog.Logger
}

// Store is the driver.
type Store struct {
	bus    bus
	leases leases
	cache  cache
	cfg    Config
	lock   *os.File
	write  *sql.DB // one connection, used by the writer alone
	read   *sql.DB
	get    *sql.Stmt
	jobs   chan *job
	done   chan struct{} // closed when the writer has ended
	dirty  atomic.Bool   // written since the last sync
	synced chan struct{} // closed when the syncer has ended
	close  sync.Once
	closed chan struct{}
}

// schemaMajor is refused when the file has a newer one: an older program must
// not write what it does not understand.
const schemaMajor = 1

// Open opens or creates the database and takes the folder's lock.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Path == "" || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("sqlite: Path, Now and Log are needed")
	}
	if cfg.Durability != "" && cfg.Durability != "full" {
		return nil, fmt.Errorf("sqlite: durability=%q is unknown; leave it out or write durability=full", cfg.Durability)
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700); err != nil {
		return nil, fmt.Errorf("sqlite: make the data folder: %w", err)
	}
	lock, err := lockFile(cfg.Path + ".lock")
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, lock: lock, jobs: make(chan *job, 256), done: make(chan struct{}), synced: make(chan struct{}), closed: make(chan struct{})}
	s.bus.init()
	s.cache.init()
	s.leases.init(cfg.Now)
	if err := s.open(ctx); err != nil {
		s.closeFiles()
		return nil, err
	}
	go s.writer()
	go s.syncer()
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	// The file is made with its final mode; SQLite would use the umask, and
	// gives its -wal and -shm files the mode of the main one.
	f, err := os.OpenFile(s.cfg.Path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	err = f.Chmod(0o600) // one that was copied here may be open to all
	f.Close()
	if err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	dsn := func(pragmas ...string) string {
		q := url.Values{"_pragma": append([]string{"busy_timeout(5000)", "temp_store(memory)"}, pragmas...)}
		return "file:" + (&url.URL{Path: s.cfg.Path}).EscapedPath() + "?" + q.Encode()
	}
	if s.write, err = sql.Open("sqlite", dsn("journal_mode(wal)", "synchronous(normal)", "wal_autocheckpoint(10000)", "cache_size(-8000)")); err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	s.write.SetMaxOpenConns(1)
	// Before anything is written: what a newer program has made is not ours to change.
	var there, major int
	if err := s.write.QueryRowContext(ctx, `select count(*) from sqlite_master where name = 'meta'`).Scan(&there); err != nil {
		return fmt.Errorf("sqlite: %s: %w", s.cfg.Path, err)
	}
	if there > 0 {
		if err := s.write.QueryRowContext(ctx, `select major from meta`).Scan(&major); err != nil {
			return fmt.Errorf("sqlite: read the schema's version: %w", err)
		}
	}
	if major > schemaMajor {
		return fmt.Errorf("sqlite: %s was written by a newer Gatehouse (schema %d, this one knows %d); start the newer program", s.cfg.Path, major, schemaMajor)
	}
	if _, err := s.write.ExecContext(ctx, schema); err != nil {
		return fmt.Errorf("sqlite: %s: %w", s.cfg.Path, err)
	}
	if s.read, err = sql.Open("sqlite", dsn("query_only(1)", "cache_size(-2000)")); err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	n := max(4, runtime.NumCPU())
	s.read.SetMaxOpenConns(n)
	s.read.SetMaxIdleConns(n)
	if s.get, err = s.read.PrepareContext(ctx, `select value, version, expires, firm from items where kind = ? and id = ?`); err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	return nil
}

// Times are stored in milliseconds since 1970, 0 for never.
const schema = `
create table if not exists meta (one integer primary key check (one = 1), major integer not null);
insert or ignore into meta (one, major) values (1, 1);
create table if not exists items (
	kind text not null, id text not null, value blob not null, version integer not null,
	expires integer not null, firm integer not null, primary key (kind, id)
) without rowid;
create index if not exists items_expires on items (expires) where expires > 0;
create table if not exists entries (
	kind text not null, name text not null, value text not null, id text not null,
	primary key (kind, name, value, id)
) without rowid;
create index if not exists entries_id on entries (kind, id);
create table if not exists log (pos integer primary key autoincrement, topic text not null, entry blob not null);
create index if not exists log_topic on log (topic, pos);
`

// Get returns the item or store.ErrNotFound.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Item, error) {
	select {
	case <-s.closed:
		return store.Item{}, fmt.Errorf("sqlite: closed: %w", store.ErrUnavailable)
	default:
	}
	it, ok, gen := s.cache.get(k)
	if ok && ctx.Err() == nil {
		return it, nil
	}
	it = store.Item{Key: k}
	var expires int64
	err := s.get.QueryRowContext(ctx, k.Kind, k.ID).Scan(&it.Value, &it.Version, &expires, &it.Firm)
	if errors.Is(err, sql.ErrNoRows) {
		return store.Item{}, store.ErrNotFound
	}
	if err != nil {
		return store.Item{}, unavailable("get", err)
	}
	it.Expires = fromMillis(expires)
	s.cache.fill(gen, it)
	return it, nil
}

// Put creates (Version 0) or replaces exactly that version.
func (s *Store) Put(ctx context.Context, it store.Item) (uint64, error) {
	return s.do(ctx, &job{op: opPut, item: it})
}

// Delete removes the item.
func (s *Store) Delete(ctx context.Context, k store.Key) error {
	_, err := s.do(ctx, &job{op: opDelete, item: store.Item{Key: k}})
	return err
}

// List returns items in order of ID.
func (s *Store) List(ctx context.Context, kind, index, value, after string, limit int) ([]store.Item, error) {
	if limit <= 0 {
		return nil, nil
	}
	var rows *sql.Rows
	var err error
	if index == "" {
		rows, err = s.read.QueryContext(ctx, `select id, value, version, expires, firm from items where kind = ? and id > ? order by id limit ?`, kind, after, limit)
	} else {
		rows, err = s.read.QueryContext(ctx, `select i.id, i.value, i.version, i.expires, i.firm from entries e join items i on i.kind = e.kind and i.id = e.id
			where e.kind = ? and e.name = ? and e.value = ? and e.id > ? order by e.id limit ?`, kind, index, value, after, limit)
	}
	if err != nil {
		return nil, unavailable("list", err)
	}
	defer rows.Close()
	var items []store.Item
	for rows.Next() {
		it := store.Item{Key: store.Key{Kind: kind}}
		var expires int64
		if err := rows.Scan(&it.ID, &it.Value, &it.Version, &expires, &it.Firm); err != nil {
			return nil, unavailable("list", err)
		}
		it.Expires = fromMillis(expires)
		items = append(items, it)
	}
	if err := rows.Err(); err != nil {
		return nil, unavailable("list", err)
	}
	return items, nil
}

// Check asks the database for one row.
func (s *Store) Check(ctx context.Context) ([]string, error) {
	var one int
	if err := s.read.QueryRowContext(ctx, `select one from meta`).Scan(&one); err != nil {
		return nil, unavailable("check", err)
	}
	return nil, nil
}

// Close lets the writer finish what it has, and closes the file.
func (s *Store) Close() error {
	s.close.Do(func() {
		close(s.closed)
		<-s.done
		<-s.synced
		s.bus.closeAll()
		s.leases.closeAll()
		s.closeFiles()
	})
	return nil
}

func (s *Store) closeFiles() {
	if s.get != nil {
		s.get.Close()
	}
	if s.read != nil {
		s.read.Close()
	}
	if s.write != nil {
		s.write.Close()
	}
	s.lock.Close()
}

func unavailable(what string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("sqlite: %s: %w", what, err)
	}
	return fmt.Errorf("sqlite: %s: %w: %w", what, store.ErrUnavailable, err)
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(1, t.UnixMilli())
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
