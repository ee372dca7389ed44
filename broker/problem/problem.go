// Package problem holds the one type with which every owner of configuration
// complains about it. It knows no field of anybody's; the configuration loader
// turns a Problem into file, line and column.
package problem

import "strings"

// Problem is one complaint about a value that was decoded without error but
// cannot be used as it stands. It is an error, so that owners can also return
// it from a constructor.
type Problem struct {
	// Field is the Go path of the field below the struct that complains, for
	// example "Users[2].PasswordHash"; empty means the struct as a whole.
	Field string
	// Rule is a short stable id of the rule, for example "local.hash".
	Rule string
	// Text says what is wrong and what it leads to, in one sentence.
	Text string
	// Fix says what to write instead; empty where Text already does.
	Fix string
	// Warning marks a complaint that does not stop the start.
	Warning bool
}

// Error returns text and remedy on one line.
func (p Problem) Error() string {
	var b strings.Builder
	if p.Field != "" {
		b.WriteString(p.Field)
		b.WriteString(": ")
	}
	b.WriteString(p.Text)
	if p.Fix != "" {
		b.WriteString(" Fix: ")
		b.WriteString(p.Fix)
	}
	return b.String()
}

// StructField returns Field. The YAML library reads it to find the line.
func (p Problem) StructField() string { return p.Field }

// Under returns the problems with prefix put before each Field, for an owner
// that contains other owners: Under("Users[2]", ps).
func Under(prefix string, ps []Problem) []Problem {
	out := make([]Problem, len(ps))
	for i, p := range ps {
		switch {
		case p.Field == "":
			p.Field = prefix
		case strings.HasPrefix(p.Field, "["):
			p.Field = prefix + p.Field
		default:
			p.Field = prefix + "." + p.Field
		}
		out[i] = p
	}
	return out
}
