package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/remotegpu/gatehouse/broker/web"
)

// shared is a buffer that the timers of a log write to as well.
type shared struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *shared) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *shared) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf.Reset()
}

// lines decodes what was logged.
func lines(t *testing.T, out fmt.Stringer) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(out.String()) {
		m := map[string]any{}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, m)
	}
	return all
}

// The request's id is on a line once, whether its writer knew of it or not.
func TestRequestID(t *testing.T) {
	out := &bytes.Buffer{}
	log := slog.New(WithRequest(WithRequest(slog.NewJSONHandler(out, nil)))).With("connector", "acme")
	ctx := web.WithRequest(t.Context(), &web.Request{ID: "R1"})
	log.InfoContext(ctx, "a")
	log.InfoContext(ctx, "b", "request_id", "R2")
	log.Info("c")
	got := lines(t, out)
	if got[0]["request_id"] != "R1" || got[1]["request_id"] != "R2" || got[2]["request_id"] != nil || strings.Count(out.String(), "request_id") != 2 || got[0]["connector"] != "acme" {
		t.Errorf("%s", out)
	}
}

// hostile is what somebody would write to make a line look like two, or another.
const hostile = "x\r\n{\"level\":\"ERROR\"}\x00\x1b[2J\x7f\u009b31m\u202Egnp\u2066\u2028\u2029\ufeff\u200b\xff"

// G8: whatever is written, one record is one line, which holds nothing that a
// terminal or a viewer obeys.
func TestOneLine(t *testing.T) {
	for _, asText := range []bool{false, true} {
		out := &bytes.Buffer{}
		log, flush := New(out, Config{Text: asText, Flood: -1})
		flush()
		log.With("with", hostile).WithGroup("group").Info(hostile, hostile, hostile, "err", errors.New(hostile), "list", []string{hostile}, "wrapped", fmt.Errorf("a: %w", errors.New(hostile)), "long", strings.Repeat("é", 1<<20))
		line := out.String()
		if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
			t.Fatalf("text %v: %d lines: %q", asText, strings.Count(line, "\n"), line)
		}
		for _, c := range strings.TrimSuffix(line, "\n") {
			if !unicode.IsGraphic(c) || c == '\u2028' || c == '\u2029' {
				t.Errorf("text %v: %U in %q", asText, c, line[:200])
			}
		}
		if len(line) > 16<<10 {
			t.Errorf("text %v: %d bytes", asText, len(line))
		}
	}
}

// The same message over and over is counted, whatever else is said goes through,
// and the count comes by itself.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &shared{}
		log, flush := New(out, Config{Flood: 3})
		for i := range 1000 {
			log.Error("the store is away", "n", i)
			if i == 500 {
				log.Info("something else")
				log.With("a", 1).Error("request failed", "code", "x")
			}
		}
		for range 5 {
			log.Info(web.AccessMessage)
		}
		if n := len(lines(t, out)); n != 3+2+5 {
			t.Fatalf("%d lines: %s", n, out)
		}
		time.Sleep(floodWindow + time.Millisecond)
		synctest.Wait()
		got := lines(t, out)
		if last := got[len(got)-1]; len(got) != 11 || last["summed"] != 997.0 || last["n"] != 999.0 || last["level"] != "ERROR" || last["msg"] != "the store is away" {
			t.Fatalf("%v", got)
		}
		// A new second begins anew, and what is held at the end is written.
		out.Reset()
		for range 5 {
			log.Error("the store is away")
		}
		flush()
		log.Error("the store is away")
		if got := lines(t, out); len(got) != 5 || got[3]["summed"] != 2.0 || got[4]["summed"] != nil {
			t.Errorf("%v", got)
		}
	})
}

// The messages that are told apart are bounded, and what they hold is not lost.
func TestFloodBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &shared{}
		log, flush := New(out, Config{Flood: 1})
		log.Info("first")
		log.Info("first")
		for i := range 2 * floodMost {
			log.Info(fmt.Sprint("message ", i))
		}
		out.Reset()
		flush()
		if got := lines(t, out); len(got) != 1 || got[0]["summed"] != 1.0 {
			t.Errorf("%v", got)
		}
	})
}

// What every line of the log costs.
func BenchmarkLine(b *testing.B) {
	ctx := web.WithRequest(b.Context(), &web.Request{ID: "JBSWY3DPEHPK3PXPJBSWY3DPEH"})
	for _, c := range []struct {
		name string
		log  *slog.Logger
	}{
		{"slog", slog.New(slog.NewJSONHandler(nowhere{}, nil))},
		{"ours", func() *slog.Logger {
			log, _ := New(nowhere{}, Config{Flood: -1})
			return slog.New(WithRequest(log.Handler()))
		}()},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				c.log.LogAttrs(ctx, slog.LevelInfo, "request failed", slog.String("code", "not_found"), slog.Int("status", 404), slog.String("path", "/nothing"))
			}
		})
	}
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
