package config

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml/lexer"
)

// A small file cannot keep the parser busy or use up its stack: what would is
// refused by the lexer. Each of these, without the guard, takes minutes or ends
// the process.
func TestGuardRefusesBombs(t *testing.T) {
	n := maxFile / 4
	lines := func(format string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	for name, doc := range map[string]string{
		"flow sequence":   "a: " + strings.Repeat("[", n),
		"flow mapping":    "a: " + strings.Repeat("{a: ", n/4),
		"block sequence":  strings.Repeat("- ", n/2),
		"complex keys":    strings.Repeat("? ", n/2),
		"anchors":         strings.Repeat("&a ", n/3),
		"anchors, lines":  "a:\n" + strings.Repeat("&a\n", n/3),
		"tags":            strings.Repeat("!!str ", n/6),
		"keys in a line":  strings.Repeat("a: ", n/3),
		"aliases":         "a: &a b\nb: " + strings.Repeat("*a ", n/3),
		"keys":            lines("k%d: v\n", n/8),
		"keys, indented":  "a:\n" + lines("  k%d: v\n", n/10),
		"keys, in flow":   "a: {" + lines("k%d: v, ", n/10) + "}",
		"tokens":          "a:\n" + strings.Repeat(" - a\n", maxTokens/2+1),
		"one key, quoted": lines("\"k%d\": v\n", n/8),
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan error, 1)
			go func() { _, err := safeParse([]byte(doc)); done <- err }()
			select {
			case err := <-done:
				if err == nil {
					t.Fatal("accepted")
				}
			case <-time.After(30 * time.Second):
				t.Fatal("still parsing after 30 s")
			}
		})
	}
}

// What an operator may really write passes.
func TestGuardPassesLargeFiles(t *testing.T) {
	var b strings.Builder
	b.WriteString("clients:\n")
	for i := range 3000 {
		fmt.Fprintf(&b, "  - client_id: c%d\n    client_secret: &s%d abcdefgh\n    audiences: [*s%d, {a: b}]\n", i, i, i)
	}
	for i := range maxKeys / 2 {
		fmt.Fprintf(&b, "k%d: {a: [[1, 2], [3]]}\n", i)
	}
	if err := guard(lexer.Tokenize(b.String())); err != nil {
		t.Fatal(err)
	}
}

// A key may hold a colon, in flow style too.
func TestColonsInKeys(t *testing.T) {
	for doc, want := range map[string]string{
		"{a:b: {c: d}}":                     "{a:b: {c: d}}",
		"{x: y, a:b: 12, c: d}":             "{x: y, a:b: 12, c: d}",
		"{a:b:c: d}":                        "{a:b:c: d}",
		"{a:b: \"q\", u: http://h:1/x}":     "{a:b: \"q\", u: http://h:1/x}",
		"{启:动: {zh-CN: 启动}}":                "{启:动: {zh-CN: 启动}}",
		"a:b: {c:d: [e:f, g]}":              "a:b: {c:d: [e:f, g]}",
		"{\"a:b\": c}":                      "{\"a:b\": c}",
		"{a: b:c}":                          "{a: b:c}",
		"{a: [local:admin, 127.0.0.1:80]}":  "{a: [local:admin, 127.0.0.1:80]}",
		"{a:b, c: d}":                       "{a:b:, c: d}",
		"{one: {a:b: c: d}, two: {e:f: g}}": "",
	} {
		f, err := safeParse([]byte(doc))
		if err != nil {
			if want != "" {
				t.Errorf("%s: %v", doc, err)
			}
			continue
		}
		if got := strings.TrimSpace(f.String()); want != "" && got != want {
			t.Errorf("%s is read as %s", doc, got)
		}
	}
}
