package config

import (
	"fmt"
	"strings"
	"unicode"
)

// Finding is one complaint with its place in a file.
type Finding struct {
	Severity string `json:"severity"` // error, warning or note
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Rule     string `json:"rule"`
	Text     string `json:"text"`
	Fix      string `json:"fix,omitempty"`
}

// The severities of findings.
const (
	SeverityError   = "error"
	SeverityWarning = "warning"
	SeverityNote    = "note"
)

// String writes the finding on one line: severity place rule text fix.
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.Severity)
	if f.File != "" {
		fmt.Fprintf(&b, " %s", f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
		}
	}
	fmt.Fprintf(&b, " [%s] %s", f.Rule, f.Text)
	if f.Fix != "" {
		b.WriteString(" Fix: ")
		b.WriteString(f.Fix)
	}
	// What a file holds must not steer the reader's terminal.
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return ' '
		}
		return r
	}, b.String())
}

// Findings is an error when one of them is.
type Findings []Finding

// Err returns the findings as an error if one of them stops the start.
func (fs Findings) Err() error {
	for _, f := range fs {
		if f.Severity == SeverityError {
			return fs
		}
	}
	return nil
}

// Error lists the errors, one a line.
func (fs Findings) Error() string {
	var lines []string
	for _, f := range fs {
		if f.Severity == SeverityError {
			lines = append(lines, f.String())
		}
	}
	return strings.Join(lines, "\n")
}

// nearest returns the known word that is most like w, or "".
func nearest(w string, known []string) string {
	best, at := "", 3
	if len(w) <= 4 {
		at = 2
	}
	for _, k := range known {
		if d := distance(strings.ToLower(w), strings.ToLower(k)); d < at || d == at && best == "" && d <= len(w)/2 {
			best, at = k, d
		}
	}
	return best
}

// distance counts insertions, deletions, substitutions and swaps of neighbours.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 99
	}
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
