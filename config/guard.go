package config

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/token"
)

// Bounds of one file. The YAML parser recurses for every level and compares every
// key with those before it, so that a small file could take it minutes or the
// whole stack. The lexer does neither: what is too much is seen there.
const (
	maxFile   = 1 << 20 // bytes
	maxTokens = 200_000
	maxLevels = 64   // of [ and {, and of indicators in a row
	maxKeys   = 2000 // of one mapping
)

// tooMuch is a bound that a document exceeds.
type tooMuch struct {
	at   *token.Position
	text string
}

func (e *tooMuch) Error() string { return e.text }

// guard refuses what would be too much for the parser.
func guard(tokens token.Tokens) error {
	var (
		flow, run, perLine, line int
		keys                     = map[int]int{} // by column; in flow style, by minus the level
		last                     token.Type
		column                   int // of the last token that can be a key
	)
	if len(tokens) > maxTokens {
		return &tooMuch{tokens[maxTokens].Position, fmt.Sprintf("the file has more than %d words and signs", maxTokens)}
	}
	for _, t := range tokens {
		if t.Position.Line != line {
			line, perLine = t.Position.Line, 0
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
			delete(keys, -flow)
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			run++
			if flow == 0 && t.Type == token.SequenceEntryType {
				forget(keys, t.Position.Column)
			}
		case token.AliasType:
			perLine++
		case token.MappingValueType:
			at := column
			if flow > 0 {
				at = -flow
			} else {
				perLine++
				forget(keys, at)
			}
			if keys[at]++; keys[at] > maxKeys {
				return &tooMuch{t.Position, fmt.Sprintf("a mapping has more than %d keys", maxKeys)}
			}
		case token.CollectEntryType, token.CommentType:
		default: // a scalar, and with it the end of a row of indicators
			if last != token.AnchorType {
				run = 0
			}
			column = t.Position.Column
		}
		if flow > maxLevels || run > maxLevels || flow == 0 && perLine > maxLevels {
			return &tooMuch{t.Position, fmt.Sprintf("it is nested more than %d levels deep", maxLevels)}
		}
		last = t.Type
	}
	return nil
}

// mend puts together plain scalars with a colon inside, such as deployments:write,
// that the lexer cuts at the first colon where they stand between { and } (YAML 1.2
// section 7.3.3: a colon ends a plain scalar only before a space).
func mend(tokens token.Tokens) token.Tokens {
	var out token.Tokens
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		if i+2 >= len(tokens) || !plainScalar(t) || tokens[i+1].Type != token.MappingValueType || !plainScalar(tokens[i+2]) ||
			!beside(t, tokens[i+1], utf8.RuneCountInString(t.Value)) || !beside(tokens[i+1], tokens[i+2], 1) {
			out.Add(t)
			continue
		}
		rest := tokens[i+2].Value
		cut, tail := strings.Index(rest, ": "), ""
		switch {
		case cut >= 0:
			tail = strings.TrimSpace(rest[cut+1:])
		case strings.HasSuffix(rest, ":"):
			cut = len(rest) - 1
		default:
			cut = len(rest)
		}
		key := t.Value + ":" + rest[:cut]
		at := func(columns int) *token.Position {
			p := *t.Position
			p.Column += columns
			p.Offset += columns
			return &p
		}
		width := utf8.RuneCountInString(key)
		out.Add(token.New(key, key, at(0)))
		if cut < len(rest) {
			out.Add(token.MappingValue(at(width)))
		}
		if tail != "" {
			out.Add(token.New(tail, tail, at(width+2)))
		}
		i += 2
	}
	return out
}

func plainScalar(t *token.Token) bool {
	switch t.Type {
	case token.StringType, token.IntegerType, token.FloatType, token.BoolType, token.NullType:
		return true
	}
	return false
}

// beside reports whether b begins where a, of that many columns, ends.
func beside(a, b *token.Token, columns int) bool {
	return a.Position.Line == b.Position.Line && a.Position.Column+columns == b.Position.Column
}

// forget drops the counts of mappings that stand further right than column: they
// have ended.
func forget(keys map[int]int, column int) {
	for c := range keys {
		if c > column {
			delete(keys, c)
		}
	}
}
