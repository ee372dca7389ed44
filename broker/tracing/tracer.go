package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Settings are what New needs.
type Settings struct {
	Config Config
	// Client carries the exports. It may be nil without an endpoint.
	Client *http.Client
	// Version and Instance name this replica in the traces.
	Version, Instance string
	// Also gets every span of the traces that it wants, beside the collector; nil
	// for none. AlsoRatio is the part of them that it wants.
	Also      sdktrace.SpanProcessor
	AlsoRatio float64
	Log       *slog.Logger
}

// Tracer begins traces. A nil Tracer begins none.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

const (
	queueSize     = 2048 // spans that wait; more are dropped, nobody waits
	batchSize     = 512
	exportEvery   = 2 * time.Second
	exportTimeout = 10 * time.Second
	retryTime     = 3 * time.Second
	// maxAttributes and maxValue bound one span.
	maxAttributes = 32
	maxValue      = 256
)

// New returns a Tracer, or nil where nobody wants traces. It reaches no network:
// a collector that is away costs its spans and nothing else.
func New(cfg Settings) (*Tracer, error) {
	ratio := cfg.AlsoRatio
	var opts []sdktrace.TracerProviderOption
	if cfg.Config.OTLPEndpoint != "" {
		ex, err := exporter(cfg)
		if err != nil {
			return nil, err
		}
		own := cfg.Config.Ratio()
		ratio = max(ratio, own)
		batch := sdktrace.NewBatchSpanProcessor(ex, sdktrace.WithMaxQueueSize(queueSize), sdktrace.WithMaxExportBatchSize(batchSize),
			sdktrace.WithBatchTimeout(exportEvery), sdktrace.WithExportTimeout(exportTimeout))
		opts = append(opts, sdktrace.WithSpanProcessor(only{batch, sdktrace.TraceIDRatioBased(own), true}))
	}
	if cfg.Also != nil && cfg.AlsoRatio > 0 {
		opts = append(opts, sdktrace.WithSpanProcessor(only{cfg.Also, sdktrace.TraceIDRatioBased(cfg.AlsoRatio), false}))
	}
	if len(opts) == 0 {
		return nil, nil
	}
	// What is said of the process is said here; the environment and the machine add
	// nothing, a host's name for example.
	res := resource.NewSchemaless(attribute.String("service.name", "gatehouse"), attribute.String("service.version", cfg.Version), attribute.String("service.instance.id", cfg.Instance))
	opts = append(opts, sdktrace.WithResource(res), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio))),
		sdktrace.WithRawSpanLimits(sdktrace.SpanLimits{AttributeCountLimit: maxAttributes, AttributeValueLengthLimit: maxValue, EventCountLimit: 0, LinkCountLimit: 1, AttributePerLinkCountLimit: 0}))
	p := sdktrace.NewTracerProvider(opts...)
	return &Tracer{provider: p, tracer: p.Tracer(library)}, nil
}

// exporter posts to the collector, compressed.
func exporter(cfg Settings) (sdktrace.SpanExporter, error) {
	if cfg.Client == nil || cfg.Log == nil {
		return nil, errors.New("tracing: Client and Log are needed")
	}
	u, err := cfg.Config.URL()
	if err != nil {
		return nil, fmt.Errorf("tracing.otlp_endpoint: %w", err)
	}
	headers := map[string]string{}
	for k, v := range cfg.Config.Headers {
		headers[k] = v.Reveal()
	}
	ex, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(u.String()), otlptracehttp.WithHTTPClient(cfg.Client), otlptracehttp.WithHeaders(headers),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression), otlptracehttp.WithTimeout(exportTimeout),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: retryTime}))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	return &told{SpanExporter: ex, host: u.Host, log: cfg.Log}, nil
}

// told says once that exports fail and once that they work again. The library
// would tell a variable of the whole process.
type told struct {
	sdktrace.SpanExporter
	host   string
	log    *slog.Logger
	failed bool // exports come one after another
}

// ExportSpans never fails: what could not be sent is lost.
func (t *told) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := t.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case err != nil && !t.failed:
		t.log.Warn("traces do not reach the collector and are lost; tried again each time", "host", t.host, "err", err)
		t.failed = true
	case err == nil && t.failed:
		t.log.Info("traces reach the collector again", "host", t.host)
		t.failed = false
	}
	return nil
}

// only lets a processor see its part of the traces: the same ids at every
// replica, so that a trace is whole or not there. A trace that a trusted proxy
// has begun is kept as the proxy says, where follows is set.
type only struct {
	sdktrace.SpanProcessor
	part    sdktrace.Sampler
	follows bool
}

// OnStart passes on what belongs to the part.
func (o only) OnStart(ctx context.Context, s sdktrace.ReadWriteSpan) {
	if o.wants(s) {
		o.SpanProcessor.OnStart(ctx, s)
	}
}

// OnEnd passes on what belongs to the part.
func (o only) OnEnd(s sdktrace.ReadOnlySpan) {
	if o.wants(s) {
		o.SpanProcessor.OnEnd(s)
	}
}

func (o only) wants(s sdktrace.ReadOnlySpan) bool {
	wanted := o.part.ShouldSample(sdktrace.SamplingParameters{TraceID: s.SpanContext().TraceID()}).Decision == sdktrace.RecordAndSample
	return wanted || o.follows && begunElsewhere(s)
}

// begunElsewhere reports whether somebody else has begun the trace. All spans of
// ours carry that, see Begin.
func begunElsewhere(s sdktrace.ReadOnlySpan) bool {
	return s.SpanContext().TraceState().Get(elsewhere) != "" || s.Parent().IsRemote()
}

// elsewhere is our own member of the trace state (W3C Trace Context section 3.3).
const elsewhere = "gatehouse"

// Begin begins the span of a request that came in. Only whom we trust says which
// trace it belongs to; another's word becomes a link from a trace of our own.
func (t *Tracer) Begin(ctx context.Context, h http.Header, trusted bool, name string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	opts := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer)}
	if said := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(h))); said.IsValid() {
		if trusted {
			if state, err := said.TraceState().Insert(elsewhere, "1"); err == nil {
				said = said.WithTraceState(state)
			}
			ctx = trace.ContextWithRemoteSpanContext(ctx, said)
		} else {
			opts = append(opts, trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: said.WithTraceState(trace.TraceState{})}))
		}
	}
	ctx, s := t.tracer.Start(ctx, name, opts...)
	return ctx, Span{s}
}

// Close sends what waits, as long as ctx lasts, and ends.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}
