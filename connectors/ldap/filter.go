package ldap

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	ber "github.com/go-asn1-ber/asn1-ber"
	goldap "github.com/go-ldap/ldap/v3"
)

// template is a filter with places for values. It is the only way in which
// somebody's input reaches a filter.
type template struct {
	text  string
	marks []string
	shape string
	// anybody is the filter with every value left open: what all that the
	// template can find have in common.
	anybody string
}

var errShape = errors.New("the value changes the filter's shape")

// parseTemplate reads a filter in which each mark stands for a value. At least
// one mark must be there, or the filter would find the same for everybody.
func parseTemplate(text string, marks ...string) (template, error) {
	t := template{text: text, marks: marks}
	found := false
	for _, m := range marks {
		found = found || strings.Contains(text, m)
	}
	if !found {
		return t, fmt.Errorf("%s is missing in it, so that it finds the same entries for everybody", strings.Join(marks, " or "))
	}
	// Two values, neither of which is hexadecimal, so that a mark in the name of
	// an attribute or within an escape (\%s) is found out.
	var shapes [2]string
	for i, dummy := range []string{"zz", "yyy"} {
		p, err := goldap.CompileFilter(t.expand(t.fill(dummy)))
		if err != nil {
			return t, errors.New("it is not a filter in brackets, as RFC 4515 has them")
		}
		shapes[i] = shape(p)
	}
	if shapes[0] != shapes[1] {
		return t, errors.New("a placeholder stands elsewhere than in a value")
	}
	t.shape = shapes[0]
	var err error
	t.anybody, err = wildcards(text, marks)
	return t, err
}

// fill returns value once for each mark.
func (t template) fill(value string) []string {
	vs := make([]string, len(t.marks))
	for i := range vs {
		vs[i] = value
	}
	return vs
}

// expand puts escaped values in the places of the marks, in one pass: a value
// that contains a mark is not expanded again.
func (t template) expand(values []string) string {
	var pairs []string
	for i, m := range t.marks {
		pairs = append(pairs, m, goldap.EscapeFilter(values[i]))
	}
	return strings.NewReplacer(pairs...).Replace(t.text)
}

// build returns the filter for values. That the shape is the template's follows
// from the escaping; it is looked at nevertheless, because everything rests on it.
func (t template) build(values ...string) (string, error) {
	f := t.expand(values)
	p, err := goldap.CompileFilter(f)
	if err != nil || shape(p) != t.shape {
		return "", errShape
	}
	return f, nil
}

// shape describes a filter without its values: operators, attributes and
// matching rules.
func shape(p *ber.Packet) string {
	var b strings.Builder
	writeShape(&b, p)
	return b.String()
}

func writeShape(b *strings.Builder, p *ber.Packet) {
	fmt.Fprintf(b, "(%d", p.Tag)
	switch p.Tag {
	case goldap.FilterAnd, goldap.FilterOr, goldap.FilterNot:
		for _, c := range p.Children {
			writeShape(b, c)
		}
	case goldap.FilterPresent:
		fmt.Fprintf(b, "%q", p.Data.String())
	case goldap.FilterSubstrings:
		fmt.Fprintf(b, "%q", p.Children[0].Data.String())
		for _, c := range p.Children[1].Children {
			fmt.Fprintf(b, ",%d", c.Tag)
		}
	case goldap.FilterExtensibleMatch:
		for _, c := range p.Children {
			if c.Tag == goldap.MatchingRuleAssertionMatchValue {
				continue
			}
			fmt.Fprintf(b, ",%d%q", c.Tag, c.Data.String())
		}
	default: // equality, order, approximation
		fmt.Fprintf(b, "%q", p.Children[0].Data.String())
	}
	b.WriteByte(')')
}

// filterItem is one comparison: attribute, operator, value. Brackets within
// values are escaped, so that the brackets seen are the filter's.
var filterItem = regexp.MustCompile(`\(([^()=]*?)(:=|~=|>=|<=|=)([^()]*)\)`)

// wildcards returns the filter with its marks as wildcards.
func wildcards(text string, marks []string) (string, error) {
	var failed error
	out := filterItem.ReplaceAllStringFunc(text, func(item string) string {
		m := filterItem.FindStringSubmatch(item)
		attr, op, value := m[1], m[2], m[3]
		marked := false
		for _, k := range marks {
			marked = marked || strings.Contains(value, k)
			value = strings.ReplaceAll(value, k, "*")
		}
		switch {
		case !marked:
			return item
		case op == "=":
			for strings.Contains(value, "**") {
				value = strings.ReplaceAll(value, "**", "*")
			}
			return "(" + attr + "=" + value + ")"
		}
		// A wildcard means something only to "=": ask for presence instead.
		if attr, _, _ = strings.Cut(attr, ":"); attr == "" {
			failed = errors.New("a comparison with a placeholder names no attribute")
		}
		return "(" + attr + "=*)"
	})
	if failed != nil {
		return "", failed
	}
	if _, err := goldap.CompileFilter(out); err != nil {
		return "", errors.New("it cannot be asked for everybody")
	}
	return out, nil
}

const (
	maxName     = 256
	maxPassword = 1024
)

// validName says whether a name may be asked for. It keeps out what no
// directory has as a name, so that the search is the same work for the rest.
func validName(s string) bool {
	return len(s) <= maxName && s != "*" && strings.TrimSpace(s) != "" && printable(s)
}

// printable reports valid UTF-8 without control characters.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// validPassword says whether a password may be tried. A bind with an empty
// password succeeds as nobody (RFC 4513 5.1.2), and directories cut passwords
// at a NUL or trim them.
func validPassword(s string) bool {
	return len(s) <= maxPassword && strings.TrimSpace(s) != "" && !strings.ContainsRune(s, 0) && utf8.ValidString(s)
}
