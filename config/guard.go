package config

import (
	"fmt"

	"github.com/goccy/go-yaml/lexer"
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
func guard(raw []byte) error {
	var (
		flow, run, perLine, line int
		keys                     = map[int]int{} // by column; in flow style, by minus the level
		last                     token.Type
		column                   int // of the last token that can be a key
	)
	tokens := lexer.Tokenize(string(raw))
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

// forget drops the counts of mappings that stand further right than column: they
// have ended.
func forget(keys map[int]int, column int) {
	for c := range keys {
		if c > column {
			delete(keys, c)
		}
	}
}
