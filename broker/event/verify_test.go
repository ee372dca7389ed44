package event_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"iter"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/event/audittest"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
)

// openFile opens a store whose file can be written behind its back.
func openFile(t *testing.T) (store.Store, audittest.Rewrite) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "t.db")
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, func(t *testing.T, topic string, entries []event.Entry) {
		t.Helper()
		db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(`delete from log where topic = ?`, topic); err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if _, err := db.Exec(`insert into log (pos, topic, entry) values (?, ?, ?)`, e.Position, topic, e.Raw); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// ST-5: every kind of tampering with the file is found and named.
func TestTamperingSQLite(t *testing.T) {
	audittest.Run(t, openFile)
}

// A bundle says the same as the log itself, wherever it is verified; one that
// was cut off or shortened is an error and no clean report.
func TestBundle(t *testing.T) {
	s, rewrite := openFile(t)
	l := audittest.New(t, s, &storetest.Clock{}, rewrite)
	for range 3 {
		l.Record(t, 5)
		l.Seal(t)
	}
	l.Record(t, 2)
	asked := 0
	var out bytes.Buffer
	if err := event.WriteBundle(t.Context(), &out, l.Source(), func() error { asked++; return nil }); err != nil {
		t.Fatal(err)
	}
	verify := func(text string) (event.Report, error) {
		b, err := event.ReadBundle(strings.NewReader(text))
		if err != nil {
			return event.Report{}, err
		}
		return event.Verification{Key: l.Key.Public, Now: l.Clock.Now()}.Run(t.Context(), b)
	}
	r, err := verify(out.String())
	if err != nil || len(r.Faults) > 0 || r.Blocks != 3 || r.Records != 17 || r.Unsealed != 2 || r.Newest != l.Verify(t, event.Checkpoint{}).Newest {
		t.Fatalf("%+v, %v", r, err)
	}
	lines := strings.SplitAfter(out.String(), "\n")
	if _, err := verify(strings.Join(lines[:7], "")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
	for name, text := range map[string]string{
		"a line left out": strings.Join(slices.Delete(slices.Clone(lines), 3, 4), ""), "empty": "", "no JSON": "hello\n",
		"no head": strings.Join(lines[1:], ""), "an odd line": lines[0] + "{}\n" + lines[1],
	} {
		if _, err := verify(text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	stop := errors.New("the session has ended")
	l.Record(t, 5000)
	if err := event.WriteBundle(t.Context(), io.Discard, l.Source(), func() error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a caller who may not go on: %v", err)
	}
}

func TestParseCheckpoint(t *testing.T) {
	c := event.Checkpoint{Number: 7, Hash: event.HashRecord(1, []byte("x"))}
	if got, err := event.ParseCheckpoint(c.String()); err != nil || got != c {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "7", "7:", ":x", "0" + c.String()[1:], "-" + c.String(), c.String() + "x", "7:" + strings.Repeat("A", 42)} {
		if _, err := event.ParseCheckpoint(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// Whatever bytes stand in the place of a block: what passes the check under the
// audit key is, in all that it says, a block that this key sealed.
func FuzzBlock(f *testing.F) {
	clock, sealer := &storetest.Clock{}, storetest.Sealer(f)
	s, err := sqlite.Open(f.Context(), sqlite.Config{Path: filepath.Join(f.TempDir(), "t.db"), Now: clock.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	key, err := event.OpenAuditKey(f.Context(), s, sealer, clock.Now)
	if err != nil {
		f.Fatal(err)
	}
	chain := event.NewSealer(event.SealerConfig{KV: s, Log: s, Key: key, Sealer: sealer, Now: clock.Now})
	for n := range 3 {
		if err := chain.Consume(f.Context(), []event.Entry{{Position: uint64(2*n + 1), Raw: []byte("a")}, {Position: uint64(2*n + 2), Raw: []byte("b")}}); err != nil {
			f.Fatal(err)
		}
	}
	seq, err := s.Read(f.Context(), event.BlockTopic, 0, 10)
	if err != nil {
		f.Fatal(err)
	}
	sealed := map[event.Hash]event.Block{}
	for _, raw := range seq {
		f.Add(raw)
		b, err := event.ParseBlock(raw)
		if err != nil {
			f.Fatal(err)
		}
		sealed[b.Hash] = b
	}
	f.Add([]byte(`{"number":1,"records":[{"pos":18446744073709551615}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := event.ParseBlock(raw)
		if err != nil {
			return
		}
		if audittest.Sum(&b) == b.Hash && b.Check(event.Block{Number: b.Number - 1, Hash: b.Previous}, nil) != nil {
			for i := 1; i < len(b.Records); i++ {
				if b.Records[i].Position <= b.Records[i-1].Position {
					return
				}
			}
			t.Fatalf("the hash is right by its description, and refused: %s", raw)
		}
		if b.Check(event.Block{Number: b.Number - 1, Hash: b.Previous}, key.Public) != nil {
			return
		}
		was, ok := sealed[b.Hash]
		if !ok || b.Number != was.Number || !b.Time.Equal(was.Time) || b.Previous != was.Previous || b.Key != was.Key || !slices.Equal(b.Records, was.Records) {
			t.Fatalf("what nobody sealed was taken: %s", raw)
		}
	})
}

// endless is a source that hands over records as long as anybody listens.
type endless struct {
	head    event.Head
	first   []event.Item
	n       int
	ascends bool // positions grow; else all are the same
	over    func()
}

func (s endless) Head(context.Context) (event.Head, error) { return s.head, nil }

func (s endless) Items(context.Context) iter.Seq2[event.Item, error] {
	return func(yield func(event.Item, error) bool) {
		for _, i := range s.first {
			if !yield(i, nil) {
				return
			}
		}
		for n := range s.n {
			e := event.Entry{Position: 1, Raw: make([]byte, 4096)}
			if s.ascends {
				e.Position = uint64(n) + 1
			}
			if !yield(event.Item{Record: &e}, nil) {
				return
			}
		}
		s.over()
	}
}

// A server that never stops sending costs a verification no memory, whatever it
// claims; what it sent is not taken for sealed.
func TestEndlessSource(t *testing.T) {
	s, rewrite := openFile(t)
	l := audittest.New(t, s, &storetest.Clock{}, rewrite)
	l.Record(t, 3)
	l.Seal(t)
	block := l.Read(t, event.BlockTopic)[0]
	const n = 200_000 // 800 MB
	for name, src := range map[string]endless{
		"without a block":                {ascends: true},
		"after a block":                  {first: []event.Item{{Block: &block}}, ascends: true},
		"of one position":                {first: []event.Item{{Block: &block}}},
		"of one position, as an archive": {first: []event.Item{{Block: &block}}, head: event.Head{Whole: true}},
		"after what is no block":         {first: []event.Item{{Block: &event.Entry{Raw: []byte("{}")}}}, ascends: true},
	} {
		var before, after runtime.MemStats
		held := func(m *runtime.MemStats) { runtime.GC(); runtime.ReadMemStats(m) }
		src.n, src.over = n, func() { held(&after) }
		held(&before)
		r, err := event.Verification{Key: l.Key.Public, Now: l.Clock.Now()}.Run(t.Context(), src)
		if err != nil || r.Records != n {
			t.Errorf("%s: %d records, %v", name, r.Records, err)
		}
		if len(src.first) > 0 && len(r.Faults) == 0 {
			t.Errorf("%s: no fault", name)
		}
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 { //nolint:gosec // bytes of memory
			t.Errorf("%s: %d bytes are held", name, grown)
		}
	}
}
