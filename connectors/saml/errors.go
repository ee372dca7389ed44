package saml

import (
	"errors"
	"fmt"
	"strings"

	"github.com/remotegpu/gatehouse/connectors"
)

// refusal is why a document was refused: a word that stays the same, for
// searching logs, and a sentence that tells the identity provider's
// administrator what to mend. Neither reaches the person (docs/security.md G7).
type refusal struct {
	word, text string
}

// Error returns both, for the log.
func (r *refusal) Error() string { return "saml: " + r.word + ": " + r.text }

// maxText bounds a refusal's text, in bytes: it may quote what a stranger wrote.
const maxText = 512

func refuse(word, format string, args ...any) error {
	s := fmt.Sprintf(format, args...)
	if len(s) > maxText {
		s = s[:maxText]
	}
	s = strings.Map(func(r rune) rune { // for the log, docs/security.md G8
		if unsafeRune(r) {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return &refusal{word, s}
}

// The public codes. All that is found before a signature has been verified is
// one code: whoever sends forged documents learns nothing from the answer.
const (
	faultSignature = "saml.signature"
	faultClock     = "saml.clock"
	faultStatus    = "saml.status"
	faultAnswer    = "saml.answer"
)

// fault gives an error its public code.
func fault(code string, err error) error {
	var f *connectors.Fault
	if err == nil || errors.As(err, &f) || errors.Is(err, connectors.ErrUnavailable) {
		return err
	}
	return &connectors.Fault{Code: code, Err: err}
}
