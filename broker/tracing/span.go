// Package tracing is OpenTelemetry behind a narrow door: what takes time is a
// Span, and what may be said of one is a name of ours, a number or a configured
// word, never a user, a path, a query, an address or the text of an error
// (docs/security.md ST-6). Where tracing is off there is no Tracer, every Span is
// the zero Span, and nothing is allocated. Who traces what is not here.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// library names our spans among others in one process.
const library = "github.com/remotegpu/gatehouse"

// Kind is where a span stands.
type Kind = trace.SpanKind

// The kinds there are.
const (
	Internal Kind = trace.SpanKindInternal
	Server   Kind = trace.SpanKindServer
	Client   Kind = trace.SpanKindClient // something of others is called
)

// Span is something that takes time. The zero Span is none: all it does is
// nothing. One that was not sampled has an identity for others, and no content.
type Span struct{ s trace.Span }

// Start begins a span within the one of ctx. Where there is none, or it was not
// sampled, ctx is returned as it is.
func Start(ctx context.Context, name string, kind Kind) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Span{}
	}
	ctx, s := parent.TracerProvider().Tracer(library).Start(ctx, name, trace.WithSpanKind(kind))
	return ctx, Span{s}
}

// Known reports whether the span has an identity, sampled or not.
func (s Span) Known() bool { return s.s != nil }

// On reports whether what is said of the span is kept.
func (s Span) On() bool { return s.s != nil && s.s.IsRecording() }

// Name replaces the span's name: a template, never a path.
func (s Span) Name(name string) {
	if s.On() {
		s.s.SetName(name)
	}
}

// Set says something of the span, in our own or configured words.
func (s Span) Set(key, value string) {
	if s.On() {
		s.s.SetAttributes(attribute.String(key, value))
	}
}

// Status says what an HTTP request came to. For a server only its own faults are
// errors, for a client refusals too (opentelemetry.io, "Semantic Conventions for
// HTTP Spans", Status).
func (s Span) Status(code int, kind Kind) {
	if !s.On() {
		return
	}
	s.s.SetAttributes(attribute.Int("http.response.status_code", code))
	if code >= 500 || kind == Client && code >= 400 {
		s.s.SetStatus(codes.Error, "")
	}
}

// Fail marks the span as failed. Of the error only its class is kept: its text
// may hold what a user wrote.
func (s Span) Fail(err error) {
	if err != nil && s.On() {
		s.s.SetAttributes(attribute.String("error.type", Class(err)))
		s.s.SetStatus(codes.Error, "")
	}
}

// End ends the span.
func (s Span) End() {
	if s.s != nil {
		s.s.End()
	}
}

// TraceID is the trace's id in hexadecimal; "" of the zero Span.
func (s Span) TraceID() string {
	if s.s == nil || !s.s.SpanContext().HasTraceID() {
		return ""
	}
	return s.s.SpanContext().TraceID().String()
}

// Inject writes the span into the headers of a request to somebody else (W3C
// Trace Context), in place of what a client wrote there; its baggage goes too.
// The zero Span leaves them alone.
func (s Span) Inject(h http.Header) {
	if s.s == nil {
		return
	}
	delete(h, "Tracestate")
	delete(h, "Baggage")
	propagation.TraceContext{}.Inject(trace.ContextWithSpan(context.Background(), s.s), propagation.HeaderCarrier(h))
}

// Class is a word for an error: canceled, timeout, or the innermost Go type.
func Class(err error) string {
	var t interface{ Timeout() bool }
	switch {
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &t) && t.Timeout():
		return "timeout"
	}
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return fmt.Sprintf("%T", err)
		}
		err = next
	}
}
