//go:build e2e

package e2e

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/event/index"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
)

// A smaller log, so that each run of CI says when a search has become slow.
func TestAuditIndex(t *testing.T) { auditIndex(t, 200_000) }

// halfYear is how long the events are spread over.
const halfYear = 180 * 24 * time.Hour

// auditIndex fills an embedded store with n events of half a year, indexes them
// and prints what searches take. A person's day must be found within 100 ms.
func auditIndex(t *testing.T, n int) {
	dir := t.TempDir()
	path := filepath.Join(dir, "gatehouse.db")
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	end := time.Now().UTC()
	writeEvents(t, path, n, end.Add(-halfYear))
	x, err := index.Open(t.Context(), index.Config{Path: filepath.Join(dir, "audit-index.db"), Log: s, KV: s, Retention: func() time.Duration { return 2 * halfYear }, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Close)
	began := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	for behind := true; behind; {
		p, err := x.Search(t.Context(), index.Filter{}, "", 1)
		if err != nil {
			t.Fatal(err)
		}
		behind = p.Behind
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	st, err := os.Stat(filepath.Join(dir, "audit-index.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events indexed in %v (%.0f a second); %d bytes an event", n, took.Round(time.Millisecond), float64(n)/took.Seconds(), st.Size()/int64(n))
	random := rand.New(rand.NewPCG(1, 2))
	day := func() (after, before time.Time) {
		after = end.Add(-halfYear + time.Duration(random.Int64N(int64(halfYear-48*time.Hour)))).Truncate(24 * time.Hour)
		return after, after.Add(24 * time.Hour)
	}
	for _, c := range []struct {
		name   string
		filter func() index.Filter
		least  int // to be found in all searches; -1: nothing is
	}{
		{"a person's day", func() (f index.Filter) { f.After, f.Before = day(); f.Actor = auditUser(random); return f }, 0},
		{"a busy program's day", func() (f index.Filter) { f.After, f.Before = day(); f.Actor = "robot"; return f }, 1000},
		{"a person's newest, as actor or target", func() index.Filter { return index.Filter{Person: auditUser(random)} }, 1},
		{"an address", func() index.Filter { return index.Filter{IP: auditIP(random)} }, 1},
		{"a reference", func() index.Filter { return index.Filter{Ref: fmt.Sprintf("R%025d", random.IntN(n))} }, 20},
		{"the newest", func() index.Filter { return index.Filter{} }, 1000},
		{"lockouts of a day", func() (f index.Filter) {
			f.After, f.Before = day()
			f.Names = []event.Name{event.SigninLockout}
			return f
		}, 1},
		{"critical ones, which are none", func() index.Filter { return index.Filter{MinSeverity: event.Critical} }, -1},
		{"a text that nothing has", func() index.Filter { return index.Filter{Text: "nothing says this"} }, -1},
		{"a text in a person's events", func() index.Filter { return index.Filter{Actor: auditUser(random), Text: "wrong"} }, 0},
	} {
		var times []time.Duration
		found := 0
		for range 20 {
			f := c.filter()
			began := time.Now()
			p, err := x.Search(t.Context(), f, "", 50)
			if err != nil {
				t.Fatal(err)
			}
			times, found = append(times, time.Since(began)), found+len(p.Entries)
		}
		slices.Sort(times)
		t.Logf("%-38s median %8v, slowest %8v, %4d found in 20", c.name, times[10].Round(10*time.Microsecond), times[19].Round(10*time.Microsecond), found)
		if found < c.least || c.least < 0 && found > 0 {
			t.Errorf("%s: %d found", c.name, found)
		}
	}
}

func auditUser(r *rand.Rand) string { return fmt.Sprintf("user%022d", r.IntN(20_000)) }

func auditIP(r *rand.Rand) string { return fmt.Sprintf("198.51.%d.%d", r.IntN(100), r.IntN(256)) }

// writeEvents puts n events into the file itself: through the program they would
// take an hour.
func writeEvents(t *testing.T, path string, n int, from time.Time) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)&_pragma=synchronous(off)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	random, names := rand.New(rand.NewPCG(3, 4)), event.All()
	for i := 0; i < n; {
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		put, err := tx.Prepare(`insert into log (topic, entry) values ('events', ?)`)
		if err != nil {
			t.Fatal(err)
		}
		for stop := min(n, i+100_000); i < stop; i++ {
			e := event.Event{ID: fmt.Sprintf("E%025d", i), Time: from.Add(time.Duration(float64(halfYear) * float64(i) / float64(n))), Name: names[random.IntN(len(names))], Severity: event.Info,
				Actor: auditUser(random), Target: fmt.Sprintf("T%025d", random.IntN(n)), Connector: "acme", IP: auditIP(random), RequestID: fmt.Sprintf("R%025d", i),
				Agent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36", Details: map[string]string{"session": fmt.Sprintf("S%025d", i), "kind": "browser"}}
			switch i % 10 {
			case 0:
				e.Actor, e.Client = "robot", "demo-app"
			case 1:
				e.Target = auditUser(random)
			}
			js, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := put.Exec(js); err != nil {
				t.Fatal(err)
			}
		}
		put.Close()
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
}
