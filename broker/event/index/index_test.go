package index

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
	"github.com/remotegpu/gatehouse/broker/web"
)

// rig is a log with events and an index beside it.
type rig struct {
	t     testing.TB
	clock storetest.Clock
	store store.Store
	path  string
	keep  bool
	x     *Index
}

func newRig(t testing.TB, keep bool) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, keep: keep, path: filepath.Join(dir, "index", "audit-index.db")}
	r.store = r.openStore(filepath.Join(dir, "gatehouse.db"))
	r.open()
	return r
}

func (r *rig) openStore(path string) store.Store {
	r.t.Helper()
	s, err := sqlite.Open(context.Background(), sqlite.Config{Path: path, Now: r.clock.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close() })
	return s
}

func (r *rig) open() {
	r.t.Helper()
	if r.x != nil {
		r.x.Close()
	}
	x, err := Open(r.t.Context(), Config{Path: r.path, Log: r.store, KV: r.store, Keep: r.keep, Retention: func() time.Duration { return 180 * 24 * time.Hour },
		Now: r.clock.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.x = x
	r.t.Cleanup(x.Close)
}

// events writes n events of few people, many at once, and returns all entries.
func (r *rig) events(n int) []event.Entry {
	r.t.Helper()
	rec, err := event.New(event.Config{Log: r.store, Now: r.clock.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	names := event.All()
	var all sync.WaitGroup
	for w := range 20 {
		all.Go(func() {
			for i := w; i < n; i += 20 {
				e := event.Event{Name: names[i%7], Connector: []string{"", "acme", "github"}[i%3], IP: fmt.Sprintf("192.0.2.%d", i%50), RequestID: fmt.Sprint("request-", i/2),
					Details: map[string]string{"session": fmt.Sprint("S", i), "reason": []string{"Wrong password", "ein Grund: <ä>"}[i%2]}}
				if i%4 > 0 {
					e.Actor = fmt.Sprint("user", i%11)
				}
				if i%5 > 0 {
					e.Target = fmt.Sprint("user", i%13)
				}
				if i%9 == 0 {
					e.Client = "demo-app"
				}
				if i%10 == 0 {
					e.Severity = event.Critical
				}
				if err := rec.Record(r.t.Context(), e); err != nil {
					r.t.Error(err)
				}
				if i%17 == 0 {
					r.clock.Wait(time.Minute)
				}
			}
		})
	}
	all.Wait()
	return r.all()
}

// all reads the log itself.
func (r *rig) all() (out []event.Entry) {
	r.t.Helper()
	for after := uint64(0); ; {
		events, next, err := event.Read(r.t.Context(), r.store, after, 1000)
		if err != nil {
			r.t.Fatal(err)
		}
		if len(events) == 0 {
			return out
		}
		seq, err := r.store.Read(r.t.Context(), event.Topic, after, 1000)
		if err != nil {
			r.t.Fatal(err)
		}
		i := 0
		for pos, raw := range seq {
			out = append(out, event.Entry{Position: pos, Raw: raw, Event: events[i]})
			i++
		}
		after = next
	}
}

// search pages through everything that a filter finds.
func (r *rig) search(f Filter, limit int) (found []event.Entry) {
	r.t.Helper()
	cursor := ""
	for range 100_000 {
		p, err := r.x.Search(r.t.Context(), f, cursor, limit)
		if err != nil {
			r.t.Fatal(err)
		}
		if len(p.Entries) > limit {
			r.t.Fatalf("%d events of %d at most", len(p.Entries), limit)
		}
		found = append(found, p.Entries...)
		if cursor = p.Next; cursor == "" {
			return found
		}
	}
	r.t.Fatal("pages without end")
	return nil
}

func positions(es []event.Entry) (out []uint64) {
	for _, e := range es {
		out = append(out, e.Position)
	}
	return out
}

// What a search finds is what looking at every record finds, in the order of
// time, whatever the page's size; with and without records of its own.
func TestSearchIsExact(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprint("keep ", keep), func(t *testing.T) {
			r := newRig(t, keep)
			all := r.events(300)
			slices.SortFunc(all, func(a, b event.Entry) int {
				if c := b.Event.Time.Truncate(time.Microsecond).Compare(a.Event.Time.Truncate(time.Microsecond)); c != 0 {
					return c
				}
				return int(int64(b.Position) - int64(a.Position))
			})
			mid := all[150].Event.Time
			for _, f := range []Filter{
				{},
				{Actor: "user3"}, {Target: "user3"}, {Person: "user3"}, {Person: "user3", Connector: "acme"}, {Actor: "user3", Target: "user5"},
				{IP: "192.0.2.7"}, {Client: "demo-app"}, {Connector: "github"}, {Connector: "github", MinSeverity: event.Critical}, {MinSeverity: event.Warning}, {MinSeverity: event.Critical}, {MinSeverity: event.Info, Names: event.All()[:4]}, {Names: event.All()},
				{After: mid}, {Before: mid}, {After: all[120].Event.Time, Before: all[60].Event.Time}, {Actor: "user3", After: mid}, {Person: "user4", Before: mid},
				{Names: []event.Name{event.SigninFailed}}, {Names: []event.Name{event.SigninFailed, event.Signout}, Actor: "user2"},
				{Ref: "request-77"}, {Ref: web.RequestRef("request-77")}, {Ref: strings.ToLower(web.RequestRef("request-77"))}, {Ref: "GH-0000-0000"},
				{Text: "WRONG PASS"}, {Text: "<ä>", Actor: "user3"}, {Text: "S123"}, {Text: "signin.f"}, {Text: "nothing says this"},
				{Actor: "nobody"}, {Actor: "user3' or 1=1"},
			} {
				for _, oldest := range []bool{false, true} {
					f.OldestFirst = oldest
					var want []event.Entry
					for _, e := range all {
						if f.matches(e.Event) {
							want = append(want, e)
						}
					}
					if oldest {
						slices.Reverse(want)
					}
					for _, limit := range map[bool][]int{false: {23, 1000}, true: {23}}[oldest] {
						if got := r.search(f, limit); !slices.Equal(positions(got), positions(want)) {
							t.Errorf("%+v, %d at a time: found %d, want %d", f, limit, len(got), len(want))
						}
					}
				}
			}
		})
	}
}

// A filter of one column is served by its index alone: nothing is sorted.
func TestSearchSortsNothing(t *testing.T) {
	r := newRig(t, false)
	r.events(50)
	for _, f := range []Filter{{}, {Actor: "user1"}, {Target: "user1", Connector: "acme"}, {IP: "192.0.2.7"}, {Client: "demo-app"}, {Ref: "x"}, {Names: []event.Name{event.Signout}}, {MinSeverity: event.Critical}} {
		for _, f.OldestFirst = range []bool{false, true} {
			arms, _, _ := f.arms()
			query, args := f.inner(arms, f.start(), 10)
			rows, err := r.x.read.QueryContext(t.Context(), "explain query plan "+query, args...)
			if err != nil {
				t.Fatal(err)
			}
			plan := ""
			for rows.Next() {
				var id, parent, unused int
				var detail string
				if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
					t.Fatal(err)
				}
				plan += detail + "\n"
			}
			rows.Close()
			if strings.Contains(plan, "TEMP B-TREE") || !strings.Contains(plan, "USING INDEX "+arms[0].index) && !strings.Contains(plan, "USING COVERING INDEX "+arms[0].index) {
				t.Errorf("%+v:\n%s", f, plan)
			}
		}
	}
}

// A search that finds nothing stops at its bound and says where to go on.
func TestSearchIsBounded(t *testing.T) {
	r := newRig(t, false)
	r.x.bounds = bounds{rows: 300, records: 100, step: 50}
	r.events(150)
	p, err := r.x.Search(t.Context(), Filter{Text: "nothing says this"}, "", 10)
	if err != nil || len(p.Entries) != 0 || p.Next == "" {
		t.Fatalf("%d events, next %q, %v", len(p.Entries), p.Next, err)
	}
	if p, err = r.x.Search(t.Context(), Filter{Text: "nothing says this"}, p.Next, 10); err != nil || p.Next != "" {
		t.Fatalf("the second part goes on at %q, %v", p.Next, err)
	}
	rare := Filter{Connector: "nobody's"}
	if p, err = r.x.Search(t.Context(), rare, "", 10); err != nil || p.Next != "" {
		t.Fatalf("150 rows of 300: goes on at %q, %v", p.Next, err)
	}
	r.x.bounds.rows = 100
	if p, err = r.x.Search(t.Context(), rare, "", 10); err != nil || p.Next == "" || len(r.search(Filter{Connector: "acme"}, 3)) != 50 {
		t.Fatalf("150 rows of 100: goes on at %q, %v", p.Next, err)
	}
	for _, odd := range []string{"x", "1", "1.", ".1", "1.2.3", "' or 1"} {
		if _, err := r.x.Search(t.Context(), Filter{}, odd, 10); err == nil {
			t.Errorf("the cursor %q was taken", odd)
		}
	}
}

// Missing, damaged, of another log, of a log that was put back from a copy: the
// index is made again, and what it finds is the log's.
func TestIndexIsMadeAgain(t *testing.T) {
	check := func(t *testing.T, r *rig) {
		t.Helper()
		all := r.all()
		got := r.search(Filter{OldestFirst: true}, 500)
		if len(got) != len(all) {
			t.Fatalf("found %d of %d", len(got), len(all))
		}
		for _, e := range got {
			if i := slices.IndexFunc(all, func(a event.Entry) bool { return a.Position == e.Position }); i < 0 || all[i].Event.ID != e.Event.ID {
				t.Fatalf("%d is not in the log as it was found", e.Position)
			}
		}
	}
	for name, harm := range map[string]func(t *testing.T, r *rig){
		"nothing": func(*testing.T, *rig) {},
		"missing": func(t *testing.T, r *rig) {
			for _, s := range []string{"", "-wal", "-shm"} {
				os.Remove(r.path + s)
			}
		},
		"damaged": func(t *testing.T, r *rig) {
			if err := os.WriteFile(r.path, []byte(strings.Repeat("no database", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"another log": func(t *testing.T, r *rig) {
			r.store = r.openStore(filepath.Join(t.TempDir(), "other.db"))
			r.events(90)
		},
		"a copy put back": func(t *testing.T, r *rig) {
			other := r.openStore(filepath.Join(t.TempDir(), "copy.db"))
			it, err := r.store.Get(t.Context(), store.Key{Kind: "audit-log", ID: "id"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := other.Put(t.Context(), store.Item{Key: it.Key, Value: it.Value}); err != nil {
				t.Fatal(err)
			}
			r.store = other
			r.events(70)
		},
		"records kept now": func(_ *testing.T, r *rig) { r.keep = true },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, false)
			r.events(60)
			check(t, r)
			r.x.Close()
			harm(t, r)
			r.open()
			check(t, r)
			if st, err := os.Stat(r.path); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", st.Mode(), err)
			}
		})
	}
}

// Two processes on one file: nothing twice, nothing lost.
func TestIndexIsShared(t *testing.T) {
	r := newRig(t, true)
	first := r.x
	r.x = nil
	r.open()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, x := range []*Index{first, r.x} {
		running.Go(func() { _ = x.Run(ctx) })
		running.Go(func() {
			for ctx.Err() == nil {
				_, _ = x.fill(ctx, 1)
			}
		})
	}
	all := r.events(500)
	if got := r.search(Filter{}, 1000); len(got) != len(all) {
		t.Errorf("found %d of %d", len(got), len(all))
	}
	cancel()
	running.Wait()
}

// archive is a History.
type archive []event.Entry

func (a archive) Events(_ context.Context, from, to time.Time) iter.Seq2[event.Entry, error] {
	return func(yield func(event.Entry, error) bool) {
		for _, e := range a {
			if !e.Event.Time.Before(from) && e.Event.Time.Before(to) && !yield(e, nil) {
				return
			}
		}
	}
}

// What is older than the retention is forgotten, with its record; what was
// restored from the archive is found although the log has lost it, and forgotten
// after its time.
func TestPruneAndRestore(t *testing.T) {
	r := newRig(t, true)
	began := r.clock.Now()
	old := r.events(300)
	r.clock.Wait(181 * 24 * time.Hour)
	young := r.events(40)[300:]
	if _, err := r.x.fill(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	if err := r.x.prune(t.Context(), r.clock.Now()); err != nil {
		t.Fatal(err)
	}
	count := func(table string) (n int) {
		if err := r.x.read.QueryRow(`select count(*) from ` + table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if count("events") != len(young) || count("records") != len(young) || len(r.search(Filter{}, 100)) != len(young) {
		t.Fatalf("after the retention: %d events, %d records, want %d", count("events"), count("records"), len(young))
	}
	if err := r.store.Trim(t.Context(), event.Topic, young[0].Position); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n, err := r.x.Restore(t.Context(), archive(old), began, r.clock.Now()); err != nil || n != len(old) {
			t.Fatalf("restored %d of %d, %v", n, len(old), err)
		}
	}
	if err := r.x.prune(t.Context(), r.clock.Now()); err != nil {
		t.Fatal(err)
	}
	if got := r.search(Filter{}, 1000); len(got) != len(old)+len(young) {
		t.Errorf("found %d, want %d", len(got), len(old)+len(young))
	}
	r.clock.Wait(RestoredFor + time.Hour)
	if err := r.x.prune(t.Context(), r.clock.Now()); err != nil {
		t.Fatal(err)
	}
	if count("events") != len(young) {
		t.Errorf("%d are left, want %d", count("events"), len(young))
	}
}

func TestParseNames(t *testing.T) {
	for text, want := range map[string]int{"": 0, "signin.failed": 1, "signin.failed, signout": 2, "key.*": 2, "key.*,key.rotated": 2, "key.rotated,key.*": 2} {
		if got, err := ParseNames(text); err != nil || len(got) != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"signin", "nothing.*", "signout,", "*x"} {
		if got, err := ParseNames(text); err == nil {
			t.Errorf("%q was taken: %v", text, got)
		}
	}
}
