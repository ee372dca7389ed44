package connectortest

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
)

// Server stands for an upstream's web server. Any path can be made to answer
// something else, and it remembers what was asked.
type Server struct {
	*httptest.Server
	mu        sync.Mutex
	override  map[string]http.HandlerFunc
	calls     []string
	addresses []string
}

// NewServer starts one that answers by handler.
func NewServer(t testing.TB, handler http.Handler) *Server {
	s := &Server{override: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.calls = append(s.calls, r.Method+" "+r.URL.Path)
		s.addresses = append(s.addresses, r.URL.String())
		o := s.override[r.URL.Path]
		s.mu.Unlock()
		if o != nil {
			o(w, r)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(s.Close)
	return s
}

// Answer makes paths answer by h, or again as before when h is nil.
func (s *Server) Answer(h http.HandlerFunc, paths ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range paths {
		s.override[p] = h
	}
}

// Set changes what the handler looks at, between two calls.
func (s *Server) Set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// Called says how often "METHOD /path" was asked.
func (s *Server) Called(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		if c == call {
			n++
		}
	}
	return n
}

// Forget forgets what was asked.
func (s *Server) Forget() { s.Set(func() { s.calls, s.addresses = nil, nil }) }

// Addresses returns the path and query of every call.
func (s *Server) Addresses() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.addresses)
}

// Env opens a connector that trusts the server.
func (s *Server) Env(id string, now func() time.Time, log slog.Handler) connectors.Env {
	return connectors.Env{ID: id, Now: now, Log: slog.New(log), HTTP: func(string, string, ...string) (*http.Client, error) { return s.Client(), nil }}
}

// Status answers with a status and a body.
func Status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// Troubles are the states of an upstream whose paths all have the same trouble.
func (s *Server) Troubles(paths ...string) []Trouble {
	trouble := func(name string, unavailable bool, h http.HandlerFunc) Trouble {
		return Trouble{Name: name, Unavailable: unavailable, Begin: func() { s.Answer(h, paths...) }, End: func() { s.Answer(nil, paths...) }}
	}
	return []Trouble{
		trouble("down", true, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
		trouble("502", true, Status(http.StatusBadGateway, "<html>")),
		trouble("429", true, Status(http.StatusTooManyRequests, "")),
		trouble("slow", true, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}),
		trouble("drips", true, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			_, _ = io.WriteString(w, `{"`)
			_ = http.NewResponseController(w).Flush()
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			panic(http.ErrAbortHandler) // a handler that returns ends its answer well, and TLS may still deliver that
		}),
		trouble("huge", false, Status(http.StatusOK, `{"errcode":0,"code":0,"access_token":"`+strings.Repeat("a", 4<<20)+`"}`)),
		trouble("nonsense", false, Status(http.StatusOK, "<html>")),
		trouble("empty", false, Status(http.StatusOK, "")),
		trouble("null", false, Status(http.StatusOK, "null")),
		trouble("list", false, Status(http.StatusOK, "[]")),
		trouble("deep", false, Status(http.StatusOK, strings.Repeat("[", 20000))),
		trouble("redirect", false, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(http.StatusFound)
		}),
	}
}
