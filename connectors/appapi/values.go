package appapi

import (
	"encoding/json"
	"maps"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Opaque reports whether s can be a token or a code: printable and of sane size.
func Opaque(s string) bool {
	return s != "" && len(s) <= 4096 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// ID reports whether s can be the vendor's id of a person, company or
// department. A slash separates two ids in a subject, so that none is in one.
func ID(s string) bool { return Opaque(s) && len(s) <= 128 && !strings.Contains(s, "/") }

// Word returns an error code as it may stand in a log.
func Word(s string) string {
	if s == "" || len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '.' && r != '-'
	}) {
		return "an unreadable error"
	}
	return s
}

// Name returns a name for people, without what could hide in one: control and
// direction characters (docs/security.md SP-10). A name that is too long is cut.
func Name(s string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, s))
	for len(s) > 256 {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

// Email returns the first of the addresses that is plainly one, or "". Whether
// somebody's address is theirs none of the three vendors says.
func Email(addresses ...string) string {
	for _, s := range addresses {
		local, domain, ok := strings.Cut(s, "@")
		if ok && local != "" && strings.Contains(domain, ".") && len(s) <= 254 && !strings.Contains(domain, "@") &&
			!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"(),:;<>[\]`, r) }) {
			return s
		}
	}
	return ""
}

// Picture returns the address of a picture that a page may show, or "".
func Picture(s string) string {
	if strings.HasPrefix(s, "https://") && len(s) <= 1024 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return s
	}
	return ""
}

// private are data, most of them personal, that no rule about who may sign in
// needs.
var private = []string{"mobile", "stateCode", "state_code", "telephone", "tel", "hide_mobile", "address", "id_card", "qr_code", "biz_mail_alias", "user_ticket", "access_token", "errcode", "errmsg"}

// Claims joins objects as claims for an allow expression. Telephone numbers and
// the like are left out, since nothing asks for them.
func Claims(objects ...json.RawMessage) map[string]any {
	out := map[string]any{}
	for _, raw := range objects {
		var m map[string]any
		if json.Unmarshal(raw, &m) == nil {
			maps.Copy(out, m)
		}
	}
	for _, k := range private {
		delete(out, k)
	}
	return out
}
