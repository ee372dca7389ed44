// Package redact holds the string type for secrets that come from the
// configuration. A value prints as *** wherever printing is automatic (fmt,
// log/slog, JSON, YAML), so that a secret reaches a log only by somebody
// writing Reveal.
package redact

import (
	"fmt"
	"io"
	"log/slog"
)

const mask = "***"

// String is a secret. The zero value is "no secret".
type String string

// Reveal returns the secret itself.
func (s String) Reveal() string { return string(s) }

// IsZero reports whether there is no secret.
func (s String) IsZero() bool { return s == "" }

// String returns *** or, for the zero value, nothing.
func (s String) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// Format keeps every verb of fmt from printing the secret: of one that does not
// fit a string, such as %d, fmt would print the value itself.
func (s String) Format(f fmt.State, verb rune) {
	if verb == 'v' && f.Flag('#') {
		_, _ = io.WriteString(f, s.GoString())
		return
	}
	_, _ = io.WriteString(f, s.String())
}

// GoString keeps %#v from printing the secret.
func (s String) GoString() string { return `redact.String("` + s.String() + `")` }

// LogValue keeps slog from printing the secret.
func (s String) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps encoders of JSON and YAML from printing the secret.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the secret from a configuration file.
func (s *String) UnmarshalText(b []byte) error {
	*s = String(b)
	return nil
}

// Box keeps a secret, or what holds one, in a struct that runs. fmt calls no
// method on an unexported field and prints a String there as it is; what is in a
// Box is not reached by printing whatever the Box is in. The zero value holds the
// zero value of T. (A pointer would do for %v, but fmt follows one for a verb that
// does not fit, such as %s; a function it never calls.)
type Box[T any] struct{ get func() T }

// Hide puts a value into a Box.
func Hide[T any](v T) Box[T] { return Box[T]{func() T { return v }} }

// Reveal returns what is in the Box.
func (b Box[T]) Reveal() T {
	if b.get == nil {
		var zero T
		return zero
	}
	return b.get()
}

// Format keeps every verb of fmt to ***, or nothing for the zero value.
func (b Box[T]) Format(f fmt.State, _ rune) {
	if b.get != nil {
		_, _ = io.WriteString(f, mask)
	}
}
