package broker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/remotegpu/gatehouse/broker/store"
)

// envelopes is a Sentry that keeps what it gets.
type envelopes struct {
	*httptest.Server
	mu  sync.Mutex
	raw []string
}

func newEnvelopes(t *testing.T) *envelopes {
	t.Helper()
	e := &envelopes{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/api/yyy/envelope/" {
			t.Errorf("%s: %v", r.URL, err)
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.raw = append(e.raw, string(body))
		fmt.Fprint(w, `{"id":"1"}`)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *envelopes) text() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.raw, "\n")
}

// of returns the payloads of a type: event or transaction.
func (e *envelopes) of(t *testing.T, kind string) []map[string]any {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []map[string]any
	for _, raw := range e.raw {
		lines := strings.Split(raw, "\n")
		if !strings.Contains(lines[1], `"`+kind+`"`) {
			continue
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(lines[2]), &m); err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// yaml is the requirements' sentry.yml, with the address of this one.
func (e *envelopes) yaml(rate string) string {
	return fmt.Sprintf("sentry:\n  dsn: %s/yyy\n  environment: production\n  traces_sample_rate: %s\n", strings.Replace(e.URL, "://", "://xxx@", 1), rate)
}

// tattling is a store whose faults tell all that they know, as a bad driver's
// might, and which can panic.
type tattling struct {
	store.Store
	fails, panics *atomic.Bool
}

func (s tattling) Put(ctx context.Context, it store.Item) (uint64, error) {
	switch {
	case it.Kind != "tombstone": // which a sign-in uses up
	case s.panics.Load():
		panic("cannot put " + it.ID + " swordfishes li.wei@acme.example")
	case s.fails.Load():
		return 0, fmt.Errorf("put %s/%s: user demo, password: demo-password, cookie __Host-gatehouse=%s, mail li.wei@acme.example, body %q", it.Kind, it.ID, it.ID, it.Value)
	}
	return s.Store.Put(ctx, it)
}

// What goes wrong in a request is reported with its id, its handler and its trace;
// a panic with its stack; and no secret of a whole sign-in is in what is sent.
func TestSentry(t *testing.T) {
	t.Parallel()
	e, out := newEnvelopes(t), &captured{}
	var fails, panics atomic.Bool
	h := startWith(t, &harness{yaml: staff() + e.yaml("1"), log: slog.NewJSONHandler(out, nil),
		wrap: func(s store.Store) store.Store { return tattling{s, &fails, &panics} }})
	secrets := h.tour()
	fails.Store(true)
	b := h.browser()
	failed := b.post("/signin/local", map[string][]string{"username": {"demo"}, "password": {"demo"}, "attempt": {field(t, attemptField, b.follow(b.get("/")))}})
	fails.Store(false)
	if failed.StatusCode != http.StatusInternalServerError {
		t.Fatalf("status %d", failed.StatusCode)
	}
	panics.Store(true)
	b = h.browser()
	broken := b.post("/signin/local", map[string][]string{"username": {"demo"}, "password": {"demo"}, "attempt": {field(t, attemptField, b.follow(b.get("/")))}})
	panics.Store(false)
	if broken.StatusCode != http.StatusInternalServerError {
		t.Fatalf("status %d", broken.StatusCode)
	}
	h.stop()
	events := e.of(t, "event")
	if len(events) != 2 {
		t.Fatalf("%d events:\n%s", len(events), e.text())
	}
	id := failed.Header.Get("X-Gatehouse-Request-Id")
	tags := events[0]["tags"].(map[string]any)
	if tags["request_id"] != id || events[0]["transaction"] != "signin method" || events[0]["release"] != "gatehouse@test" || events[0]["environment"] != "production" {
		t.Errorf("%v", events[0])
	}
	traced, _ := events[0]["contexts"].(map[string]any)["trace"].(map[string]any)
	found := false
	for _, tx := range e.of(t, "transaction") {
		if tr := tx["contexts"].(map[string]any)["trace"].(map[string]any); tr["trace_id"] == traced["trace_id"] && tx["transaction"] == "POST signin method" {
			found = true
			names := fmt.Sprint(tx["spans"])
			if !strings.Contains(names, "connector authenticate") || !strings.Contains(names, "store put") || tx["tags"].(map[string]any)["request_id"] != id {
				t.Errorf("%v", tx)
			}
		}
	}
	if !found {
		t.Errorf("no trace %v", traced)
	}
	if events[1]["contexts"].(map[string]any)["trace"] == nil {
		t.Errorf("the panic has no trace: %v", events[1])
	}
	if x := events[1]["exception"].([]any)[0].(map[string]any); x["type"] != "panic" || !strings.Contains(fmt.Sprint(x["stacktrace"]), "tattling") {
		t.Errorf("%v", x)
	}
	for _, more := range []string{"swordfish", "li.wei", "demo-password", "acme.example", "Mozilla", "127.0.0.1", `"value":"internal: put`} {
		if more != `"value":"internal: put` {
			secrets[more] = more
		} else if !strings.Contains(e.text(), more) {
			t.Errorf("nothing useful is left of the error:\n%s", e.text())
		}
	}
	for name, s := range secrets {
		if strings.Contains(e.text(), s) {
			t.Errorf("Sentry gets the %s", name)
		}
	}
	if !strings.Contains(out.text(), "demo-password") { // what is in the log is more
		t.Error("the log does not have the whole error")
	}
}

// Sentry and tracing are for the life of a process: a change is said to need a
// restart.
func TestSentryNeedsRestart(t *testing.T) {
	t.Parallel()
	e := newEnvelopes(t)
	h := start(t, e.yaml("0"))
	h.mu.Lock()
	h.yaml = e.yaml("0.5") + "tracing: {otlp_endpoint: \"http://127.0.0.1:4318\"}\n"
	h.mu.Unlock()
	r, err := h.b.Reload(t.Context(), "test")
	if err != nil || strings.Join(r.Restart, " ") != "sentry tracing" {
		t.Errorf("%+v, %v", r, err)
	}
}
