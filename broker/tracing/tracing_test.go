package tracing_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/remotegpu/gatehouse/broker/tracing"
)

// The zero Span and a nil Tracer do nothing, and cost nothing.
func TestOff(t *testing.T) {
	tr, err := tracing.New(tracing.Settings{})
	if err != nil || tr != nil {
		t.Fatalf("%v, %v", tr, err)
	}
	ctx, h := t.Context(), http.Header{"Traceparent": {"as it was"}}
	n := testing.AllocsPerRun(100, func() {
		in, s := tr.Begin(ctx, h, true, "request")
		_, below := tracing.Start(in, "store get", tracing.Client)
		below.Set("a", "b")
		below.Status(500, tracing.Client)
		below.Fail(context.Canceled)
		below.Inject(h)
		below.End()
		s.Name("x")
		s.End()
		if s.Known() || s.On() || s.TraceID() != "" {
			t.Error("the zero Span is something")
		}
	})
	if n != 0 || h.Get("Traceparent") != "as it was" {
		t.Errorf("%v allocations, %v", n, h)
	}
	if err := tr.Close(ctx); err != nil {
		t.Error(err)
	}
}

// Each destination gets its own part of the traces, each trace whole.
func TestParts(t *testing.T) {
	t.Parallel()
	kept := tracetest.NewInMemoryExporter()
	tr, err := tracing.New(tracing.Settings{Also: sdktrace.NewSimpleSpanProcessor(kept), AlsoRatio: 0.3, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	const all = 2000
	for range all {
		ctx, s := tr.Begin(t.Context(), http.Header{}, false, "request")
		_, below := tracing.Start(ctx, "store get", tracing.Client)
		below.End()
		s.End()
	}
	roots, children := map[string]bool{}, map[string]bool{}
	for _, s := range kept.GetSpans() {
		if s.Parent.IsValid() {
			children[s.SpanContext.TraceID().String()] = true
		} else {
			roots[s.SpanContext.TraceID().String()] = true
		}
	}
	if n := len(roots); n < all*3/10-150 || n > all*3/10+150 || len(children) != n {
		t.Errorf("%d of %d traces, %d with children", n, all, len(children))
	}
	for id := range children {
		if !roots[id] {
			t.Error("half of a trace")
		}
	}
}

// Of an error only its class is kept.
func TestClass(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"canceled": fmt.Errorf("get secret: %w", context.Canceled), "timeout": fmt.Errorf("get secret: %w", context.DeadlineExceeded),
		"*errors.errorString": fmt.Errorf("bind as secret: %w", errors.New("secret")), "*http.ProtocolError": fmt.Errorf("x: %w", http.ErrNotSupported),
	} {
		if got := tracing.Class(err); got != want || strings.Contains(got, "secret") {
			t.Errorf("%v is %q, want %q", err, got, want)
		}
	}
	kept := tracetest.NewInMemoryExporter()
	tr, err := tracing.New(tracing.Settings{Also: sdktrace.NewSimpleSpanProcessor(kept), AlsoRatio: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, s := tr.Begin(t.Context(), nil, false, "request")
	s.Fail(errors.New("secret"))
	s.Set("long", strings.Repeat("x", 10_000))
	s.End()
	if got := fmt.Sprint(kept.GetSpans()); strings.Contains(got, "secret") || strings.Contains(got, strings.Repeat("x", 300)) {
		t.Errorf("%s", got)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	ratio := func(f float64) *float64 { return &f }
	for _, c := range []struct {
		cfg tracing.Config
		url string // "" is refused
	}{
		{tracing.Config{OTLPEndpoint: "http://127.0.0.1:4318"}, "http://127.0.0.1:4318/v1/traces"},
		{tracing.Config{OTLPEndpoint: "https://otel.example/base/", SampleRatio: ratio(0)}, "https://otel.example/base/v1/traces"},
		{tracing.Config{OTLPEndpoint: "https://otel.example/v1/traces"}, "https://otel.example/v1/traces"},
		{tracing.Config{OTLPEndpoint: "127.0.0.1:4318"}, ""},
		{tracing.Config{OTLPEndpoint: "grpc://otel.example:4317"}, ""},
		{tracing.Config{OTLPEndpoint: "https://user:pass@otel.example"}, ""},
		{tracing.Config{OTLPEndpoint: "https://otel.example/?key=x"}, ""},
		{tracing.Config{OTLPEndpoint: "https://otel.example", SampleRatio: ratio(1.1)}, ""},
		{tracing.Config{OTLPEndpoint: "https://otel.example", SampleRatio: ratio(-0.1)}, ""},
	} {
		if ps := c.cfg.Problems(); (len(ps) == 0) != (c.url != "") {
			t.Errorf("%+v: %v", c.cfg, ps)
		}
		if u, err := c.cfg.URL(); c.url != "" && (err != nil || u.String() != c.url) {
			t.Errorf("%s, %v, want %s", u, err, c.url)
		}
	}
}
