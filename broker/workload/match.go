package workload

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// Difference is a claim of a token that is not what a rule wants of it.
type Difference struct {
	Claim string `json:"claim"`
	// Want is the rule's value, in words where it has none.
	Want string `json:"wanted"`
	// Got is what the token has; "" where there is nothing.
	Got     string `json:"received"`
	Missing bool   `json:"missing,omitempty"`
	// Why says what is not to be seen from the values.
	Why string `json:"why,omitempty"`
}

// differences are the claims by which a token is not the rule's, in the order in
// which they are looked at: who it is before what it does. There are none for a
// token that matches.
func (r Rule) differences(claims map[string]any) []Difference {
	p := providers()[r.Provider]
	var out []Difference
	for _, c := range r.order(p) {
		want, named := r.Match[c]
		got, there := claims[c]
		text, isText := got.(string)
		d := Difference{Claim: c, Want: want, Got: show(got)}
		switch {
		case !there || got == nil:
			d.Missing, d.Got = true, ""
		case !isText:
			d.Why = "the token has no text here, and nothing is converted"
		case !named: // the guard
			if !p.guarded(text) {
				continue
			}
			d.Why = "somebody without rights to the project can start this; a rule must name it"
		case slices.Contains(p.addresses, c):
			if sameURL(want, text) {
				continue
			}
		case slices.Contains(p.folded, c):
			if glob(lower(want), lower(text)) {
				continue
			}
		case glob(want, text):
			continue
		}
		if !named && d.Want == "" {
			d.Want = "one that only members can start"
		}
		out = append(out, d)
	}
	return out
}

// order lists the claims that the rule looks at.
func (r Rule) order(p provider) []string {
	var out []string
	for _, c := range p.first {
		if _, named := r.Match[c]; named || c == p.guard {
			out = append(out, c)
		}
	}
	for _, c := range slices.Sorted(maps.Keys(r.Match)) {
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

func sameURL(want, got string) bool {
	a, ok := normalURL(want)
	b, good := normalURL(got)
	return ok && good && a == b
}

// lower changes A to Z alone: no other letter is in a name at GitHub, and folding
// more would make two names of one.
func lower(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}, s)
}

// glob reports whether pattern is all of text, where each `*` of the pattern stands
// for any text, or none, without `/` and `:`. The separators must therefore be the
// same ones in the same places, and what is between them is looked at part by part.
func glob(pattern, text string) bool {
	for {
		i, j := strings.IndexAny(pattern, "/:"), strings.IndexAny(text, "/:")
		if i < 0 || j < 0 {
			return i == j && part(pattern, text)
		}
		if pattern[i] != text[j] || !part(pattern[:i], text[:j]) {
			return false
		}
		pattern, text = pattern[i+1:], text[j+1:]
	}
}

// part is glob between two separators.
func part(pattern, text string) bool {
	before, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == text
	}
	if !strings.HasPrefix(text, before) {
		return false
	}
	text = text[len(before):]
	for {
		next, more, another := strings.Cut(rest, "*")
		if !another {
			return strings.HasSuffix(text, next)
		}
		i := strings.Index(text, next) // the first place leaves most for the others
		if i < 0 {
			return false
		}
		text, rest = text[i+len(next):], more
	}
}

// maxShown bounds what of a claim is shown, in bytes.
const maxShown = 256

// show returns a claim's value as people may read it: bounded, and without what
// could forge a line or turn its direction.
func show(v any) string {
	var s string
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		s = v
	case json.Number:
		s = v.String()
	case bool:
		s = fmt.Sprint(v)
	default:
		js, err := json.Marshal(v)
		if err != nil {
			return "?"
		}
		s = string(js)
	}
	s = strings.Map(func(c rune) rune {
		if unicode.Is(unicode.Cc, c) || unicode.Is(unicode.Cf, c) || c == '\u2028' || c == '\u2029' {
			return '\uFFFD'
		}
		return c
	}, strings.ToValidUTF8(s[:min(len(s), 4*maxShown)], "\uFFFD"))
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return s
}
