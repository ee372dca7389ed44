package signin

import (
	"context"

	"github.com/remotegpu/gatehouse/broker/tracing"
)

// span is the time that a connector has for a step; its calls to the upstream are
// below.
func (m *Method) span(ctx context.Context, step string) (context.Context, tracing.Span) {
	ctx, s := tracing.Start(ctx, "connector "+step, tracing.Internal)
	if s.On() {
		s.Set("gatehouse.connector", m.ID)
		s.Set("gatehouse.connector.type", m.Type)
	}
	return ctx, s
}
