package connectors

import "context"

// Expression is one of the operator's expressions in a connector's section.
// Field is its Go path there, as in problem.Problem. A Config that has some lists
// them in a method Expressions() []Expression, so that they are checked with the
// file.
type Expression struct{ Field, Source string }

// Mapping is a compiled Expression over what an upstream said.
type Mapping func(ctx context.Context, claims map[string]any) (any, error)
