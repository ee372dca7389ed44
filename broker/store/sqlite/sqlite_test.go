package sqlite

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
)

func open(t testing.TB, path, durability string) *Store {
	t.Helper()
	s, err := Open(context.Background(), Config{Path: path, Durability: durability, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	size := storetest.Full
	if testing.Short() {
		size = storetest.Short
	}
	storetest.Run(t, size, func(t *testing.T) store.Store {
		return open(t, filepath.Join(t.TempDir(), "data", "gatehouse.db"), "")
	})
}

func TestConformanceDurabilityFull(t *testing.T) {
	storetest.Run(t, storetest.Short, func(t *testing.T) store.Store {
		return open(t, filepath.Join(t.TempDir(), "gatehouse.db"), "full")
	})
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	s := open(t, path, "")
	if _, err := s.Put(t.Context(), store.Item{Key: store.Key{Kind: "k", ID: "1"}, Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, path, "")
	if it, err := s.Get(t.Context(), store.Key{Kind: "k", ID: "1"}); err != nil || string(it.Value) != "v" {
		t.Fatalf("after reopening: %v, %v", it, err)
	}
}

// A second process would not hear the first one's revocations.
func TestSecondProcessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	open(t, path, "")
	_, err := Open(t.Context(), Config{Path: path, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "redis://") {
		t.Fatalf("a second opening: %v; want an error that names redis://", err)
	}
}

// ST-2: the file holds secrets, sealed though they are.
func TestFileModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := open(t, filepath.Join(dir, "a.db"), "")
	s.Close()
	if err := os.Chmod(filepath.Join(dir, "a.db"), 0o644); err != nil { // as a copy may be
		t.Fatal(err)
	}
	open(t, filepath.Join(dir, "a.db"), "")
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v", fi.Mode(), err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "a.db*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("files: %v, %v", files, err)
	}
	for _, f := range files {
		if fi, err := os.Stat(f); err != nil || fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", f, fi.Mode(), err)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	s := open(t, path, "")
	if _, err := s.write.Exec(`update meta set major = 99`); err == nil {
		s.Close()
	} else {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Path: path, Now: time.Now, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Fatalf("a newer schema: %v", err)
	}
}

func BenchmarkPut(b *testing.B) {
	for _, durability := range []string{"", "full"} {
		b.Run("durability="+durability, func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "a.db"), durability)
			value := make([]byte, 400)
			var n atomic.Uint64
			b.ReportAllocs()
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Put(b.Context(), store.Item{Key: store.Key{Kind: "k", ID: fmt.Sprint(n.Add(1))}, Value: value}); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
