package sentry

import (
	"context"
	"strings"
	"sync"

	sdk "github.com/getsentry/sentry-go"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	maxOpen  = 10_000 // spans that have begun and not ended; more are not told of
	maxSpans = 200    // of one request
)

// transactions makes of the spans of a request what Sentry calls a transaction.
type transactions struct {
	report func(*sdk.Event)
	mu     sync.Mutex
	open   map[[8]byte]*transaction // by the id of a span that is open
}

type transaction struct {
	root  trace.SpanID
	spans []*sdk.Span
	over  bool
}

// OnStart notes to which request a span belongs.
func (t *transactions) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) >= maxOpen {
		return
	}
	id, parent := s.SpanContext().SpanID(), s.Parent()
	if !parent.IsValid() || parent.IsRemote() {
		t.open[id] = &transaction{root: id}
	} else if tx := t.open[parent.SpanID()]; tx != nil {
		t.open[id] = tx
	}
}

// OnEnd keeps the span, and reports the request when that is over.
func (t *transactions) OnEnd(s sdktrace.ReadOnlySpan) {
	id := s.SpanContext().SpanID()
	t.mu.Lock()
	tx := t.open[id]
	delete(t.open, id)
	if tx == nil || tx.over {
		t.mu.Unlock()
		return
	}
	if tx.root != id {
		if len(tx.spans) < maxSpans {
			tx.spans = append(tx.spans, span(s))
		}
		t.mu.Unlock()
		return
	}
	tx.over = true
	t.mu.Unlock()
	t.report(tx.event(s))
}

// Shutdown has nothing to end.
func (t *transactions) Shutdown(context.Context) error { return nil }

// ForceFlush has nothing to wait for.
func (t *transactions) ForceFlush(context.Context) error { return nil }

func (tx *transaction) event(root sdktrace.ReadOnlySpan) *sdk.Event {
	sc := root.SpanContext()
	e := sdk.NewEvent()
	e.Type, e.Transaction, e.StartTime, e.Timestamp, e.Spans, e.Level = "transaction", root.Name(), root.StartTime(), root.EndTime(), tx.spans, sdk.LevelInfo
	e.TransactionInfo = &sdk.TransactionInfo{Source: sdk.SourceRoute}
	s := span(root)
	e.Contexts["trace"] = sdk.Context{"trace_id": sc.TraceID().String(), "span_id": sc.SpanID().String(), "op": s.Op, "status": s.Status.String(), "data": s.Data}
	if id, ok := s.Data["gatehouse.request_id"].(string); ok {
		e.Tags["request_id"] = id
	}
	return e
}

// span is a span as Sentry reads it. Names and attributes are our own words, see
// package tracing.
func span(s sdktrace.ReadOnlySpan) *sdk.Span {
	out := &sdk.Span{TraceID: sdk.TraceID(s.SpanContext().TraceID()), SpanID: sdk.SpanID(s.SpanContext().SpanID()), ParentSpanID: sdk.SpanID(s.Parent().SpanID()),
		Op: op(s), Description: s.Name(), StartTime: s.StartTime(), EndTime: s.EndTime(), Status: sdk.SpanStatusOK, Data: map[string]any{}}
	for _, a := range s.Attributes() {
		out.Data[string(a.Key)] = a.Value.AsInterface()
	}
	if s.Status().Code == codes.Error {
		out.Status = sdk.SpanStatusInternalError
		switch out.Data["error.type"] {
		case "timeout":
			out.Status = sdk.SpanStatusDeadlineExceeded
		case "canceled":
			out.Status = sdk.SpanStatusCanceled
		}
	}
	return out
}

// op is Sentry's word for what a span is (develop.sentry.dev, "Span Operations").
func op(s sdktrace.ReadOnlySpan) string {
	switch {
	case strings.HasPrefix(s.Name(), "store "):
		return "db"
	case s.SpanKind() == trace.SpanKindServer:
		return "http.server"
	case s.SpanKind() == trace.SpanKindClient:
		return "http.client"
	}
	return "function"
}
