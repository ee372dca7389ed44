package logging

import (
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Longest values of a line, in bytes. What strangers write is cut to 256 where it
// is taken (docs/security.md G8); this is the last bound, for errors that quote.
const (
	maxValue = 4 << 10
	maxStack = 64 << 10
)

// plain is slog.HandlerOptions.ReplaceAttr: no text in a line can end it, begin
// another, move a terminal's cursor or turn the reading direction. The handlers
// escape most of that; JSON leaves DEL, C1 and what is invisible as it is.
func plain(_ []string, a slog.Attr) slog.Attr {
	most := maxValue
	if a.Key == "stack" {
		most = maxStack
	}
	switch v := a.Value; v.Kind() {
	case slog.KindString:
		if s := v.String(); !isPlain(s, most) {
			a.Value = slog.StringValue(escape(s, most))
		}
	case slog.KindAny:
		switch x := v.Any().(type) {
		case error:
			a.Value = slog.StringValue(text(x.Error(), most))
		case []string:
			out := make([]string, len(x))
			for i, s := range x {
				out[i] = text(s, most)
			}
			a.Value = slog.AnyValue(out)
		}
	}
	if !isPlain(a.Key, maxValue) {
		a.Key = escape(a.Key, maxValue)
	}
	return a
}

func text(s string, most int) string {
	if isPlain(s, most) {
		return s
	}
	return escape(s, most)
}

func isPlain(s string, most int) bool {
	if len(s) > most {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f {
			return false
		}
	}
	return true
}

// escape replaces what is not to be seen by U+FFFD, all but the ends of lines and
// tabs, which both handlers escape, and cuts the text at a rune's border.
func escape(s string, most int) string {
	var b strings.Builder
	for _, c := range s {
		if c != '\n' && c != '\t' && !unicode.IsGraphic(c) || c == '\u2028' || c == '\u2029' {
			c = utf8.RuneError
		}
		if b.Len()+utf8.RuneLen(c) > most {
			b.WriteString("…")
			break
		}
		b.WriteRune(c)
	}
	return b.String()
}
