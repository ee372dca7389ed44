package grant

import (
	"crypto/rand"
	"math/big"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// userCodeLetters are those of a user code: consonants, so that no code is a
// word and no letter looks like another (RFC 8628 section 6.1). Eight of them
// are 34.5 bits.
const (
	userCodeLetters = "BCDFGHJKLMNPQRSTVWXZ"
	userCodeLen     = 8
	// userCodeMost bounds what somebody may type for one, in bytes: full-width
	// letters have three each.
	userCodeMost = 128
)

func newUserCode() (string, error) {
	most := big.NewInt(int64(len(userCodeLetters)))
	var b [userCodeLen]byte
	for i := range b {
		n, err := rand.Int(rand.Reader, most) // without the bias of a remainder
		if err != nil {
			return "", err
		}
		b[i] = userCodeLetters[n.Int64()]
	}
	return string(b[:]), nil
}

// ParseUserCode reads a user code as people type and paste it: in any case, in
// full-width letters, with spaces and dashes anywhere. ok is false for what
// cannot be one.
func ParseUserCode(s string) (code string, ok bool) {
	if len(s) > userCodeMost {
		return "", false
	}
	var b strings.Builder
	for _, c := range strings.ToUpper(norm.NFKC.String(s)) {
		switch {
		case strings.ContainsRune(userCodeLetters, c):
			b.WriteRune(c)
		case c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '-' || c >= '\u2010' && c <= '\u2015' || c == '\u2212' || c == '\u30fc' || c == '\u200b' || c == '\ufeff':
			// Dashes of every keyboard, and what comes along when something is copied.
		default:
			return "", false
		}
		if b.Len() > userCodeLen {
			return "", false
		}
	}
	return b.String(), b.Len() == userCodeLen
}

// FormatUserCode writes a user code as people are shown it: XXXX-XXXX.
func FormatUserCode(code string) string {
	if len(code) != userCodeLen {
		return code
	}
	return code[:userCodeLen/2] + "-" + code[userCodeLen/2:]
}
