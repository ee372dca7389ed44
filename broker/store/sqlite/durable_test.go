package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// Firm items, their deletion, and with durability=full everything, are on disk
// before they are acknowledged; the rest outlives the process (docs/security.md
// ST-7).
func TestHowFirmlyIsWritten(t *testing.T) {
	const normal, full = 1, 2 // of "pragma synchronous"
	for _, c := range []struct {
		durability string
		item       store.Item
		op         op
		want       int
	}{
		{"", store.Item{}, opPut, normal},
		{"", store.Item{Firm: true}, opPut, full},
		{"", store.Item{Firm: true}, opDelete, full},
		{"", store.Item{}, opDelete, normal},
		{"full", store.Item{}, opPut, full},
	} {
		s := &Store{cfg: Config{Path: filepath.Join(t.TempDir(), "a.db"), Durability: c.durability, Now: time.Now, Log: slog.New(slog.DiscardHandler)}}
		if err := s.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		w := &writer{s: s}
		c.item.Key = store.Key{Kind: "k", ID: "a"}
		if c.op == opDelete {
			if err := w.commit([]*job{{op: opPut, item: c.item}, {op: opPut, item: store.Item{Key: store.Key{Kind: "k", ID: "b"}}}}); err != nil {
				t.Fatal(err)
			}
			c.item.Firm = false // who deletes does not know
		}
		if err := w.commit([]*job{{op: opPut, item: store.Item{Key: store.Key{Kind: "k", ID: "c"}}}, {op: c.op, item: c.item}}); err != nil {
			t.Fatal(err)
		}
		var got int
		var mode string
		if err := w.conn.QueryRowContext(t.Context(), "pragma synchronous").Scan(&got); err != nil || got != c.want {
			t.Errorf("durability %q, %+v, op %v: synchronous = %d, %v; want %d", c.durability, c.item, c.op, got, err, c.want)
		}
		if err := w.conn.QueryRowContext(t.Context(), "pragma journal_mode").Scan(&mode); err != nil || mode != "wal" {
			t.Errorf("journal_mode = %s, %v", mode, err)
		}
		w.closeStmts()
		s.read.Close()
		s.write.Close()
	}
}

// A caller who has gone does not keep a write from being told.
func TestToldWithoutItsCaller(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a.db"), "")
	news, err := s.Subscribe(t.Context(), "news")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		k := store.Key{Kind: "k", ID: fmt.Sprint(i)}
		_, err := s.Put(ctx, store.Item{Key: k, Tell: store.Message{Topic: "news", Data: []byte(k.ID)}})
		cancel()
		if err == nil {
			if got := string(<-news); got != k.ID {
				t.Fatalf("told %s, want %s", got, k.ID)
			}
			continue
		}
		// Nobody knows whether it was written; if it was, it is told.
		if _, err := s.Put(t.Context(), store.Item{Key: store.Key{Kind: "after", ID: k.ID}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(t.Context(), k); err == nil {
			select {
			case <-news:
			default:
				t.Fatalf("%s was written and nobody was told", k.ID)
			}
		}
	}
}

// An older file is brought up to date, a newer one is left as it is.
func TestNewerFileIsNotTouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	s := open(t, path, "")
	if _, err := s.write.Exec(`update meta set major = 99; drop table log`); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(t.Context(), Config{Path: path, Now: time.Now, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Fatalf("a newer file: %v", err)
	}
	s = &Store{cfg: Config{Path: path}}
	if err := s.open(t.Context()); err == nil {
		t.Fatal("opened")
	}
	var n int
	if err := s.write.QueryRow(`select count(*) from sqlite_master where name = 'log'`).Scan(&n); err != nil || n != 0 {
		t.Errorf("a table was made in a newer file: %d, %v", n, err)
	}
	s.write.Close()
}

// kill -9 loses nothing that was acknowledged: another process writes, says what
// was acknowledged, and is killed in the middle of it.
func TestKilledWriterLosesNothing(t *testing.T) {
	const variable = "GATEHOUSE_TEST_WRITE_TO"
	if path := os.Getenv(variable); path != "" {
		writeForEver(path)
	}
	path := filepath.Join(t.TempDir(), "a.db")
	acked := map[string]bool{}
	for round := range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriterLosesNothing$")
		cmd.Env = append(os.Environ(), variable+"="+path, fmt.Sprintf("ROUND=%d", round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		for n := 0; ; n++ {
			id, err := lines.ReadString('\n')
			if err == io.EOF || err != nil {
				break // what was cut off in the middle of a line was not said
			}
			acked[strings.TrimSpace(id)] = true
			if n == 400 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
	}
	s := open(t, path, "")
	if len(acked) < 1200 {
		t.Fatalf("only %d were acknowledged", len(acked))
	}
	for id := range acked {
		if _, err := s.Get(t.Context(), store.Key{Kind: "k", ID: id}); err != nil {
			t.Fatalf("%s of %d is lost: %v", id, len(acked), err)
		}
	}
}

func writeForEver(path string) {
	s, err := Open(context.Background(), Config{Path: path, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	said := make(chan string)
	for worker := range 8 {
		go func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("%s-%d-%d", os.Getenv("ROUND"), worker, n)
				if _, err := s.Put(context.Background(), store.Item{Key: store.Key{Kind: "k", ID: id}, Value: make([]byte, 400), Firm: n%10 == 0}); err != nil {
					os.Exit(1)
				}
				said <- id
			}
		}()
	}
	for id := range said {
		fmt.Println(id)
	}
}
