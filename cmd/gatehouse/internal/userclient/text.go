package userclient

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable makes text of a server fit for a terminal: one line without control,
// format and private characters (escape sequences, marks that turn the writing
// direction), cut after limit runes.
func Printable(s string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		switch {
		case unicode.IsSpace(r):
			r = ' '
		case r == utf8.RuneError, !unicode.IsPrint(r):
			continue
		}
		if n++; n > limit {
			b.WriteRune('…')
			break
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}

// opaque reports whether a token, code or key can be sent and printed as it is:
// visible ASCII, and not longer than limit bytes.
func opaque(s string, limit int) bool {
	return s != "" && len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return r <= 0x20 || r >= 0x7f })
}
