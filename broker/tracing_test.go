package broker_test

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/remotegpu/gatehouse/broker/console"
)

// collected is an OpenTelemetry collector that keeps what it gets.
type collected struct {
	*httptest.Server
	mu      sync.Mutex
	spans   []*otlp.Span
	service map[string]string
	raw     strings.Builder
	header  http.Header
	down    bool
}

func newCollector(t *testing.T) *collected {
	t.Helper()
	c := &collected{service: map[string]string{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.down || r.URL.Path != "/v1/traces" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		zip, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Errorf("not compressed: %v", err)
			return
		}
		body, err := io.ReadAll(zip)
		var req collector.ExportTraceServiceRequest
		if err != nil || proto.Unmarshal(body, &req) != nil {
			t.Errorf("not OTLP: %v", err)
			return
		}
		c.header = r.Header.Clone()
		c.raw.Write(body)
		for _, rs := range req.GetResourceSpans() {
			for _, a := range rs.GetResource().GetAttributes() {
				c.service[a.GetKey()] = a.GetValue().GetStringValue()
			}
			for _, ss := range rs.GetScopeSpans() {
				c.spans = append(c.spans, ss.GetSpans()...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *collected) all() []*otlp.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

func (c *collected) yaml(more string) string {
	return fmt.Sprintf("tracing: {otlp_endpoint: %q, sample_ratio: 1%s}\n", c.URL, more)
}

// named returns the spans of a name.
func named(all []*otlp.Span, name string) []*otlp.Span {
	var out []*otlp.Span
	for _, s := range all {
		if s.GetName() == name {
			out = append(out, s)
		}
	}
	return out
}

// below returns the spans that a span contains, those within others included.
func below(all []*otlp.Span, top *otlp.Span) []*otlp.Span {
	var out []*otlp.Span
	for _, s := range all {
		if string(s.GetParentSpanId()) == string(top.GetSpanId()) && string(s.GetTraceId()) == string(top.GetTraceId()) {
			out = append(append(out, s), below(all, s)...)
		}
	}
	return out
}

func attribute(s *otlp.Span, key string) string {
	for _, a := range s.GetAttributes() {
		if a.GetKey() == key {
			if n := a.GetValue().GetIntValue(); n != 0 {
				return fmt.Sprint(n)
			}
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

// From the browser's request by connector, upstream and store, one trace; and
// nothing of a user in any of it (ST-6).
func TestTracing(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	h := start(t, staff()+c.yaml(", headers: {x-collector-key: s3cret-of-the-collector}"))
	secrets := h.tour()
	secrets["person's address"], secrets["person's name"], secrets["loopback"] = "demo@", "Demo User", "127.0.0.1:"
	h.browser().get("/healthz")
	h.browser().get(h.Admin + "/metrics")
	h.stop() // the last spans are sent
	all := c.all()
	enter := named(all, "POST signin method")
	if len(enter) < 3 {
		t.Fatalf("%d sign-ins in %d spans", len(enter), len(all))
	}
	var finished *otlp.Span
	for _, s := range enter {
		if attribute(s, "http.response.status_code") == "303" {
			finished = s
		}
		if len(attribute(s, "gatehouse.request_id")) != 26 || s.GetKind() != otlp.Span_SPAN_KIND_SERVER || attribute(s, "http.route") != "signin method" {
			t.Errorf("%v", s)
		}
	}
	if finished == nil {
		t.Fatal("no sign-in ended well")
	}
	names := map[string]int{}
	for _, s := range below(all, finished) {
		names[s.GetName()]++
		if s.GetName() == "connector authenticate" && (attribute(s, "gatehouse.connector") != "local" || attribute(s, "gatehouse.connector.type") != "local") {
			t.Errorf("%v", s)
		}
		if s.GetStatus().GetCode() == otlp.Status_STATUS_CODE_ERROR {
			t.Errorf("failed: %v", s)
		}
	}
	for _, want := range []string{"connector authenticate", "store put", "store get", "store append"} {
		if names[want] == 0 {
			t.Errorf("no %q below the sign-in: %v", want, names)
		}
	}
	for _, want := range []string{"GET authorize", "POST token", "GET gateway demo-api", "GET gateway demo-console", "GET api /users", "GET not found"} {
		if len(named(all, want)) == 0 {
			t.Errorf("there is no span %q", want)
		}
	}
	if up := named(all, "upstream"); len(up) == 0 || attribute(up[0], "gatehouse.route") == "" || attribute(up[0], "http.response.status_code") == "" {
		t.Errorf("upstream spans: %v", up)
	}
	if len(named(all, "request")) > 0 {
		t.Errorf("monitors are traced: %v", named(all, "request"))
	}
	if c.service["service.name"] != "gatehouse" || c.service["service.version"] != "test" || c.service["service.instance.id"] == "" || len(c.service) != 3 {
		t.Errorf("resource %v", c.service)
	}
	if c.header.Get("X-Collector-Key") != "s3cret-of-the-collector" {
		t.Error("the configured header does not come")
	}
	for name, s := range secrets {
		if strings.Contains(c.raw.String(), s) {
			t.Errorf("the traces hold the %s", name)
		}
	}
}

const (
	strangersTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	strangersParent = "00-" + strangersTrace + "-00f067aa0ba902b7-01"
	unsampledParent = "00-" + strangersTrace + "-00f067aa0ba902b7-00"
)

// Whose word about a trace counts, and what upstreams are told.
func TestTraceParents(t *testing.T) {
	t.Parallel()
	for _, k := range []struct {
		name, trusted, parent string
		same, sampled         bool
	}{
		{"a stranger's", "[]", strangersParent, false, true},
		{"a stranger's that is not sampled", "[]", unsampledParent, false, true},
		{"a trusted proxy's", "[127.0.0.1/32]", strangersParent, true, true},
		{"a trusted proxy's that is not sampled", "[127.0.0.1/32]", unsampledParent, true, false},
		{"nonsense", "[127.0.0.1/32]", "00-zzz-1-01", false, true},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			c, u := newCollector(t), newUpstream(t, nil)
			h := start(t, u.routesYAML(plainRoutes)+c.yaml("")+"trusted_proxies: "+k.trusted+"\n")
			tok := h.access("openid groups")
			h.browser().get(h.at("api", "/secret-path?secret=query"), "Authorization", "Bearer "+tok, "Traceparent", k.parent, "Tracestate", "rival=1", "Baggage", "user=li")
			got := u.last(t).Header
			tp := strings.Split(got.Get("Traceparent"), "-")
			if len(tp) != 4 || (tp[1] == strangersTrace) != k.same || (tp[3] == "01") != k.sampled || got.Get("Baggage") != "" {
				t.Fatalf("the upstream is told %q", got)
			}
			if ts := got.Get("Tracestate"); strings.Contains(ts, "rival") != k.same {
				t.Errorf("tracestate %q", ts)
			}
			h.stop()
			spans := named(c.all(), "GET gateway api")
			if !k.sampled {
				if len(spans) != 0 {
					t.Errorf("sampled: %v", spans)
				}
				return
			}
			if len(spans) != 1 {
				t.Fatalf("%d spans", len(spans))
			}
			s := spans[0]
			if (hex.EncodeToString(s.GetTraceId()) == strangersTrace) != k.same || hex.EncodeToString(s.GetTraceId()) != tp[1] {
				t.Errorf("trace %x, the upstream's %s", s.GetTraceId(), tp[1])
			}
			linked := len(s.GetLinks()) == 1 && hex.EncodeToString(s.GetLinks()[0].GetTraceId()) == strangersTrace
			if linked != (!k.same && k.name != "nonsense") {
				t.Errorf("links %v", s.GetLinks())
			}
			up := named(below(c.all(), s), "upstream")
			if len(up) != 1 || hex.EncodeToString(up[0].GetSpanId()) != tp[2] || attribute(up[0], "server.address") != "127.0.0.1" {
				t.Errorf("the upstream's parent is %s, its span %v", tp[2], up)
			}
			if strings.Contains(c.raw.String(), "secret") {
				t.Error("the path or the query is in the trace")
			}
		})
	}
}

// A console is a stranger's code: it is told nothing of our traces, and its own
// are left alone; a WebSocket of a route is told like any request.
func TestTraceStrangers(t *testing.T) {
	t.Parallel()
	c, u := newCollector(t), newUpstream(t, nil)
	h := start(t, u.routesYAML(plainRoutes)+c.yaml(""))
	h.lend(console.Lease{ID: "n1", Upstream: u.URL, Owner: "x", Groups: []string{"gpu-users"}})
	b := h.visit(h.at("n1.console", "/"))
	u.last(t)
	b.get(h.at("n1.console", "/x"), "Traceparent", strangersParent)
	if got := u.last(t).Header.Get("Traceparent"); got != strangersParent {
		t.Errorf("the console is told %q", got)
	}
	b.get(h.at("n1.console", "/x"))
	if got := u.last(t).Header.Get("Traceparent"); got != "" {
		t.Errorf("the console is told %q", got)
	}
	tok := h.access("openid groups")
	b.get(h.at("api", "/ws"), "Authorization", "Bearer "+tok, "Connection", "Upgrade", "Upgrade", "websocket", "Sec-Websocket-Version", "13", "Sec-Websocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "Traceparent", strangersParent)
	if got := u.last(t).Header.Get("Traceparent"); got == "" || strings.Contains(got, strangersTrace) {
		t.Errorf("a WebSocket's upstream is told %q", got)
	}
	h.stop()
	for _, s := range named(c.all(), "upstream") {
		if attribute(s, "gatehouse.route") == "console" && attribute(s, "server.address") != "" {
			t.Errorf("a person's machine is in the trace: %v", s)
		}
	}
}

// Without tracing, headers about traces pass as any others.
func TestNoTracing(t *testing.T) {
	t.Parallel()
	h, u := gate(t, plainRoutes, nil)
	h.browser().get(h.at("api", "/"), "Authorization", "Bearer "+h.access("openid groups"), "Traceparent", strangersParent, "Tracestate", "rival=1")
	if got := u.last(t).Header; got.Get("Traceparent") != strangersParent || got.Get("Tracestate") != "rival=1" {
		t.Errorf("the upstream is told %q", got)
	}
}

// A collector that is away costs its spans and nothing else; that is said once.
func TestCollectorAway(t *testing.T) {
	t.Parallel()
	c, out := newCollector(t), &captured{}
	c.down = true
	h := startWith(t, &harness{yaml: c.yaml(", headers: {authorization: s3cret-of-the-collector}"), log: slog.NewJSONHandler(out, nil)})
	h.browser().enter("demo", "demo")
	until(t, "the log", func() bool { return strings.Contains(out.text(), "do not reach the collector") })
	h.browser().enter("demo", "demo")
	c.mu.Lock()
	c.down = false
	c.mu.Unlock()
	h.browser().enter("demo", "demo")
	until(t, "the end of it", func() bool {
		h.browser().get("/signin")
		return strings.Contains(out.text(), "reach the collector again")
	})
	if n := strings.Count(out.text(), "do not reach the collector"); n != 1 || strings.Contains(out.text(), "s3cret") {
		t.Errorf("said %d times:\n%s", n, out.text())
	}
}
