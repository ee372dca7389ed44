package web

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

// accessLine serves one request with an access log of these fields, and returns
// its line.
func accessLine(t *testing.T, fields []string, r *http.Request, h http.HandlerFunc) map[string]any {
	t.Helper()
	e, log := edge(t, "https://id.example.com")
	e.access = newAccessLog(e.cfg.Log, fields)
	func() {
		defer func() { // a handler may break off
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				panic(v)
			}
		}()
		e.Middleware(h).ServeHTTP(httptest.NewRecorder(), r)
	}()
	var found map[string]any
	for line := range strings.Lines(log.String()) {
		m := map[string]any{}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		if m["msg"] == AccessMessage {
			if found != nil {
				t.Fatalf("two lines: %s", log)
			}
			delete(m, "time")
			delete(m, "level")
			delete(m, "msg")
			found = m
		}
	}
	return found
}

// Each end of a request has its line, with the fields that were asked for and no
// others; what was not known is left out.
func TestAccessLine(t *testing.T) {
	some := []string{"status", "bytes", "path", "user", "method"}
	for _, c := range []struct {
		name string
		h    http.HandlerFunc
		want map[string]any
	}{
		{"written", func(w http.ResponseWriter, r *http.Request) {
			q := RequestOf(r)
			q.Pattern, q.User = "/a/{id}", "u1"
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, "short")
			_, _ = io.WriteString(w, " and stout")
		}, map[string]any{"status": 418.0, "bytes": 15.0, "path": "/a/{id}", "user": "u1", "method": "GET"}},
		{"after a hint", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNoContent)
		}, map[string]any{"status": 204.0, "bytes": 0.0, "method": "GET"}},
		{"nothing written", func(http.ResponseWriter, *http.Request) {}, map[string]any{"status": 200.0, "bytes": 0.0, "method": "GET"}},
		{"only a body", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") }, map[string]any{"status": 200.0, "bytes": 1.0, "method": "GET"}},
		{"a socket", func(_ http.ResponseWriter, r *http.Request) { RequestOf(r).Switched = true }, map[string]any{"status": 101.0, "bytes": 0.0, "method": "GET"}},
		{"broken off", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "ha")
			panic(http.ErrAbortHandler)
		}, map[string]any{"status": 200.0, "bytes": 2.0, "method": "GET"}},
	} {
		if got := accessLine(t, some, html(http.MethodGet, "/a/b?code=c"), c.h); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := accessLine(t, []string{"status"}, html(http.MethodGet, "/"), func(http.ResponseWriter, *http.Request) { panic("fault") }); got["status"] != 500.0 {
		t.Errorf("a panic: %v", got)
	}
	r := html("TRACE", "/")
	r.Header.Set("User-Agent", "x\u202ey")
	if got := accessLine(t, AccessFields(), r, func(http.ResponseWriter, *http.Request) {}); got["status"] != 405.0 || got["agent"] != "x\ufffdy" || got["host"] == nil || got["proto"] != "HTTP/1.1" {
		t.Errorf("a refused method: %v", got)
	}
	if got := accessLine(t, nil, html(http.MethodGet, "/"), func(http.ResponseWriter, *http.Request) {}); got != nil {
		t.Errorf("off: %v", got)
	}
}

// What the access log costs, and that it costs nothing when it is off.
func BenchmarkAccess(b *testing.B) {
	for _, c := range []struct {
		name   string
		fields []string
	}{{"off", nil}, {"on", AccessDefault()}} {
		b.Run(c.name, func(b *testing.B) {
			e, _ := edge(b, "https://id.example.com")
			e.cfg.Log = slog.New(slog.NewJSONHandler(io.Discard, nil))
			e.access = newAccessLog(e.cfg.Log, c.fields)
			h := e.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				q := RequestOf(r)
				q.Route, q.Pattern, q.User, q.Session = "api", "/v1", "QK3JBSWY3DPEHPK3PXP", "7RBJBSWY3DPEHPK3PXP"
				w.WriteHeader(http.StatusNoContent)
			}))
			r := html(http.MethodGet, "/v1/things")
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
	}
}
