package gateway

import (
	"context"

	"github.com/remotegpu/gatehouse/broker/tracing"
)

// trace begins the span of what goes upstream, below the request's. Where that is
// not sampled, the upstream is told the request's own identity, so that it does
// not begin another trace.
func (pg *passage) trace(ctx context.Context, request tracing.Span) context.Context {
	if !request.Known() {
		return ctx
	}
	ctx, up := tracing.Start(ctx, "upstream", tracing.Client)
	if !up.On() {
		pg.span = request
		return ctx
	}
	pg.span = up
	up.Set("gatehouse.route", pg.route.Name)
	if !pg.route.Lease && !pg.route.placed { // what is configured, and never a person's machine
		up.Set("server.address", pg.target().Hostname())
	}
	return ctx
}

// traced ends the span of what went upstream: with what it answered, or why it
// did not.
func (pg *passage) traced(code int, err error) {
	if !pg.span.On() {
		return
	}
	if err != nil {
		pg.span.Fail(err)
	} else {
		pg.span.Status(code, tracing.Client)
	}
	pg.span.End()
}

// describe says what a request of the gateway was.
func (pg *passage) describe(span tracing.Span, method string) {
	name := pg.name()
	span.Name(method + " gateway " + name)
	span.Set("http.route", "gateway "+name)
	span.Set("gatehouse.route", name)
	span.Status(pg.answer.code(), tracing.Server)
}
