package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/remotegpu/gatehouse/broker/logging"
)

// requestLines fails a test when a line of the log was written while a request
// was served and does not say which. Every harness logs through it, so that
// whatever a test of the whole broker does is looked at.
type requestLines struct {
	slog.Handler
	t     testing.TB
	named bool // by WithAttrs
}

// Enabled has every line written.
func (h requestLines) Enabled(context.Context, slog.Level) bool { return true }

// Handle looks at a line and passes it on, if its level is wanted.
func (h requestLines) Handle(ctx context.Context, r slog.Record) error {
	named := h.named
	r.Attrs(func(a slog.Attr) bool {
		named = named || a.Key == logging.RequestIDKey
		return !named
	})
	if !named && serves() {
		h.t.Errorf("a line of a request does not say of which: %s", r.Message)
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs is slog's.
func (h requestLines) WithAttrs(as []slog.Attr) slog.Handler {
	named := h.named || slices.ContainsFunc(as, func(a slog.Attr) bool { return a.Key == logging.RequestIDKey })
	return requestLines{h.Handler.WithAttrs(as), h.t, named}
}

// WithGroup is slog's.
func (h requestLines) WithGroup(name string) slog.Handler {
	return requestLines{h.Handler.WithGroup(name), h.t, h.named}
}

// serves reports whether the caller is serving a request: the edge is among its
// callers.
func serves() bool {
	pcs := make([]uintptr, 128)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		if strings.HasPrefix(f.Function, "github.com/remotegpu/gatehouse/broker/web.(*Edge).Middleware") {
			return true
		}
		if !more {
			return false
		}
	}
}

// lockedBuffer is a buffer of many writers.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// lines decodes what was written.
func (b *lockedBuffer) lines(t *testing.T) []map[string]any {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []map[string]any
	for line := range strings.Lines(b.b.String()) {
		m := map[string]any{}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, m)
	}
	return out
}

// A whole sign-in, refused and accepted, and requests through the gateway: what
// is written while they are served says of which request it is, the id is the one
// of the answer, and each has one line of the access log that holds no query, no
// cookie and no path as it was sent.
func TestLogOfRequests(t *testing.T) {
	out := &lockedBuffer{}
	h := startWith(t, &harness{yaml: "log: {access: true}\nroutes: [{name: api, host: api.localhost, upstream: \"http://127.0.0.1:9\"}]\n", log: slog.NewJSONHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})})
	b := h.browser()
	ids := map[string]bool{}
	note := func(a answer) answer {
		id := a.Header.Get("X-Gatehouse-Request-Id")
		if id == "" || ids[id] {
			t.Errorf("%s: request id %q", a.Request.URL, id)
		}
		ids[id] = true
		return a
	}
	const secret = "NOT-FOR-LOGS"
	page := note(b.get("/signin?login_hint=" + secret))
	attempt := field(t, attemptField, page)
	note(b.post("/signin/local", url.Values{"username": {"demo"}, "password": {secret}, "attempt": {attempt}}))
	in := note(b.post("/signin/local", url.Values{"username": {"demo"}, "password": {"demo"}, "attempt": {attempt}}))
	if in.StatusCode != http.StatusSeeOther {
		t.Fatalf("sign-in: %d\n%s", in.StatusCode, in.Body)
	}
	note(b.get("/no/such/" + secret + "?code=" + secret))
	note(b.get("/account/sessions"))
	note(b.get("/api/v1/me/sessions", "Sec-Fetch-Site", "same-origin"))
	for _, path := range []string{"/" + secret + "?token=" + secret, "/a/../b"} {
		req, err := http.NewRequest(http.MethodGet, "http://api.localhost:"+strings.Split(h.host, ":")[1]+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+secret)
		note(b.do(req))
	}
	h.stop()
	access := map[string]map[string]any{}
	texts := map[string]bool{}
	for _, line := range out.lines(t) {
		id, _ := line["request_id"].(string)
		if line["msg"] == "access" {
			if access[id] != nil {
				t.Errorf("two lines of the access log for %s", id)
			}
			access[id] = line
		}
		if ids[id] {
			texts[line["msg"].(string)] = true
		}
		for k, v := range line {
			// The one place for a path as it was sent is the line of a refusal.
			if s, ok := v.(string); ok && strings.Contains(s, secret) && (k != "path" || line["msg"] != "request failed") {
				t.Errorf("%v", line)
			}
		}
	}
	for _, want := range []string{"access", "request", "request failed", "event"} {
		if !texts[want] {
			t.Errorf("no line %q of these requests, but %v", want, slices.Collect(maps.Keys(texts)))
		}
	}
	seen := map[string]int{}
	for id := range ids {
		line := access[id]
		if line == nil {
			t.Errorf("no line of the access log for %s", id)
			continue
		}
		seen[strings.Join(slices.DeleteFunc([]string{str(line["handler"]), str(line["route"]), str(line["path"])}, func(s string) bool { return s == "" }), " ")]++
		for _, k := range []string{"host", "method", "status", "duration_ms", "bytes", "ip", "proto"} {
			if line[k] == nil {
				t.Errorf("%s is missing: %v", k, line)
			}
		}
		if line["agent"] != nil {
			t.Errorf("the browser's description is there without being asked for: %v", line)
		}
	}
	for want, n := range map[string]int{"signin /signin": 1, "signin method /signin/{connector}": 2, "sessions /account/sessions": 1, "api /me/sessions /api/v1/me/sessions": 1, "api /": 2} {
		if seen[want] != n {
			t.Errorf("%d lines %q, want %d: %v", seen[want], want, n, seen)
		}
	}
	if line := access[in.Header.Get("X-Gatehouse-Request-Id")]; line["status"] != 303.0 {
		t.Errorf("%v", line)
	}
}

func str(v any) string {
	s, _ := v.(string)
	return s
}
