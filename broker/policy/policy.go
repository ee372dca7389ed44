// Package policy compiles and decides the rules that operators write in CEL
// (https://cel.dev). It has a vocabulary of its own, so that rules do not follow
// the shape of stored records, and does no I/O.
package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
)

// Place is where an expression stands; it decides what the expression may name.
type Place string

// The places of expressions (docs/configuration.md).
const (
	AtConnector Place = "connector" // a connector's allow
	AtRoute     Place = "route"     // a route's allow
	AtLease     Place = "lease"     // the allow of a route with lease: true
	AtClaims    Place = "claims"    // a client's extra claims
	AtStorage   Place = "storage"   // who may have bucket credentials
	AtExchange  Place = "exchange"  // a client's exchange: which tokens it may exchange, and for what
	AtMapping   Place = "mapping"   // where a connector finds our values in the upstream's claims
)

// Kind is what an expression must come to.
type Kind int

// The kinds of expressions.
const (
	Bool Kind = iota
	Any
)

// fields are the members of each variable.
var fields = map[string][]string{
	"user":     {"id", "email", "name", "username", "groups", "kind", "attributes"},
	"identity": {"connector", "org", "subject", "username", "name", "email", "email_verified", "groups", "claims"},
	"session":  {"id", "kind", "scope", "connector", "acr", "amr", "auth_time", "age", "device"},
	"client":   {"id", "name"},
	"request":  {"method", "path", "host", "ip", "time"},
	"route":    {"name", "host"},
	"lease":    {"id", "owner", "node", "kind", "users", "groups", "read_only", "admits"},
	"target":   {"audience", "scopes"},
	"subject":  {"client", "audience"},
	"actor":    {"id", "client", "kind"},
	"claims":   nil, // whatever the upstream says
}

func variables(p Place) (map[string][]string, error) {
	pick := func(names ...string) map[string][]string {
		out := map[string][]string{}
		for _, n := range names {
			out[n] = fields[n]
		}
		return out
	}
	switch p {
	case AtConnector:
		return pick("identity", "request"), nil
	case AtRoute, AtLease:
		vs := pick("user", "session", "client", "request", "route")
		vs["identity"] = []string{"connector", "org"}
		if p == AtLease {
			vs["lease"] = fields["lease"]
		}
		return vs, nil
	case AtClaims, AtStorage:
		return pick("user", "session", "client"), nil
	case AtExchange:
		vs := pick("user", "session", "client", "target", "subject", "actor")
		vs["request"] = []string{"ip", "time"}
		return vs, nil
	case AtMapping:
		return pick("claims"), nil
	}
	return nil, fmt.Errorf("there is no place %q for expressions", p)
}

// Expr is a compiled and checked expression. It is safe for concurrent use.
type Expr struct {
	source  string
	program cel.Program
	names   []string // the variables it reads
	aging   bool     // it may read session.age, which changes by itself
	path    bool     // it may read request.path
}

const (
	maxSource = 4096
	maxCost   = 100_000
	timeout   = 100 * time.Millisecond
)

// Compile checks an expression for its place: that it parses, names nothing
// that does not exist there, and comes to the right type. An empty one is an
// error: absent and empty are not the same (docs/security.md G1).
func Compile(place Place, kind Kind, source string) (*Expr, error) {
	if strings.TrimSpace(source) == "" {
		return nil, errors.New("the expression is empty: leave the key out, or write a condition")
	}
	if len(source) > maxSource {
		return nil, fmt.Errorf("the expression is longer than %d bytes", maxSource)
	}
	vars, err := variables(place)
	if err != nil {
		return nil, err
	}
	opts := []cel.EnvOption{cel.ParserExpressionSizeLimit(maxSource), cel.ParserRecursionLimit(64), inCIDR()}
	for name := range vars {
		opts = append(opts, cel.Variable(name, cel.MapType(cel.StringType, cel.DynType)))
	}
	env, err := cel.NewEnv(opts...)
	if err != nil {
		return nil, fmt.Errorf("expressions: %w", err)
	}
	checked, iss := env.Compile(source)
	if iss.Err() != nil {
		return nil, errors.New(complaint(iss.Errors(), vars))
	}
	if out := checked.OutputType(); kind == Bool && !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("the expression comes to %s, not to true or false", out)
	}
	e := &Expr{source: source}
	var bad error
	whole := map[string]int{} // how often a variable is used other than by a member that is written out
	member := func(variable, field string) {
		whole[variable]--
		bad = errors.Join(bad, knownField(vars, variable, field))
		e.aging = e.aging || variable == "session" && field == "age"
		e.path = e.path || variable == "request" && field == "path"
	}
	ast.PreOrderVisit(checked.NativeRep().Expr(), ast.NewExprVisitor(func(x ast.Expr) {
		switch x.Kind() {
		case ast.IdentKind:
			n := x.AsIdent()
			whole[n]++
			if _, is := vars[n]; is && !slices.Contains(e.names, n) {
				e.names = append(e.names, n)
			}
		case ast.SelectKind:
			if s := x.AsSelect(); s.Operand().Kind() == ast.IdentKind {
				member(s.Operand().AsIdent(), s.FieldName())
			}
		case ast.CallKind:
			// user["id"] is user.id spelt otherwise.
			if c := x.AsCall(); c.FunctionName() == "_[_]" && len(c.Args()) == 2 && c.Args()[0].Kind() == ast.IdentKind && c.Args()[1].Kind() == ast.LiteralKind {
				if f, ok := c.Args()[1].AsLiteral().Value().(string); ok {
					member(c.Args()[0].AsIdent(), f)
				}
			}
		}
	}))
	// session["a" + "ge"] and the like: which member is read is not known.
	e.aging = e.aging || whole["session"] > 0
	e.path = e.path || whole["request"] > 0
	if bad != nil {
		return nil, bad
	}
	e.program, err = env.Program(checked, cel.CostLimit(maxCost), cel.InterruptCheckFrequency(100), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fmt.Errorf("expressions: %w", err)
	}
	return e, nil
}

// complaint writes on one line what is wrong in an expression, and where.
func complaint(errs []*common.Error, vars map[string][]string) string {
	parts := make([]string, 0, len(errs)+1)
	undeclared := false
	for _, e := range errs {
		text := strings.ReplaceAll(strings.TrimSuffix(e.Message, " (in container '')"), "\n", " ")
		undeclared = undeclared || strings.Contains(text, "undeclared reference")
		parts = append(parts, fmt.Sprintf("%s at %d:%d of the expression", text, e.Location.Line(), e.Location.Column()+1))
	}
	if undeclared {
		parts = append(parts, "here an expression sees "+strings.Join(sortedNames(vars), ", "))
	}
	return strings.Join(parts, "; ")
}

func sortedNames(vars map[string][]string) []string {
	var out []string
	for n := range vars {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func knownField(vars map[string][]string, name, field string) error {
	known, ok := vars[name]
	if !ok || known == nil || slices.Contains(known, field) {
		return nil
	}
	return fmt.Errorf("%s has no %q here; it has %s", name, field, strings.Join(known, ", "))
}

// Source returns the expression's text.
func (e *Expr) Source() string { return e.source }

// ReadsRequest reports whether the expression looks at the request, so that its
// decision cannot be kept for another one.
func (e *Expr) ReadsRequest() bool { return slices.Contains(e.names, "request") }

// ReadsPath reports whether the expression may look at the request's path.
func (e *Expr) ReadsPath() bool { return e.path }

// Keepable reports whether a decision holds for the next request of the same
// session: the expression looks neither at the request nor at the clock.
func (e *Expr) Keepable() bool { return !e.ReadsRequest() && !e.aging }

// Decision is what an expression says.
type Decision struct {
	Allowed bool
	Reason  string // for operators: the expression that refused
}

// Decide evaluates a condition. Any error is a refusal (docs/security.md AD-10).
func (e *Expr) Decide(ctx context.Context, in Input) (Decision, error) {
	v, err := e.Value(ctx, in)
	if err != nil {
		return Decision{Reason: e.source}, err
	}
	ok, isBool := v.(bool)
	if !isBool {
		return Decision{Reason: e.source}, fmt.Errorf("policy: the expression came to %T", v)
	}
	if !ok {
		return Decision{Reason: e.source}, nil
	}
	return Decision{Allowed: true}, nil
}

// Value evaluates an expression of any type.
func (e *Expr) Value(ctx context.Context, in Input) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out, _, err := e.program.ContextEval(ctx, in.vars(e.names))
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return native(out.Value()), nil
}
