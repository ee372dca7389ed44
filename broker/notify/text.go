package notify

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/remotegpu/gatehouse/broker/event"
)

// How much of one message is shown at most, in runes before escaping
// (docs/security.md NO-2).
const (
	maxTitle = 100
	maxLabel = 40
	maxValue = 200
	maxLink  = 1000 // bytes; a longer one is left out
)

// room says how much of a message is rendered.
type room struct{ value, fields, text int }

// rooms are tried in turn until what comes out is under a vendor's limit. The
// last one is under every limit, whatever the message holds.
var rooms = []room{{maxValue, 40, 2000}, {maxValue, 20, 1000}, {100, 16, 500}, {60, 10, 200}, {30, 6, 60}, {16, 3, 0}}

// fit renders a message with as much of it as leaves size at or under limit.
func fit[T any](m Message, limit int, size func(T) int, render func(Message) T) T {
	var out T
	for _, r := range rooms {
		if out = render(m.within(r)); size(out) <= limit {
			break
		}
	}
	return out
}

// within returns the message cleaned and cut, not escaped.
func (m Message) within(r room) Message {
	m.ID = clean(m.ID, 64)
	m.Title = cmp.Or(clean(m.Title, maxTitle), "Gatehouse")
	if m.Count > 1 {
		m.Title += " ×" + strconv.Itoa(m.Count)
	}
	var lines []string
	for line := range strings.Lines(cut(m.Text, r.text)) {
		if line = oneLine(line); line != "" {
			lines = append(lines, line)
		}
	}
	m.Text = strings.Join(lines, "\n")
	var fields []Field
	for _, f := range m.Fields {
		f = Field{Label: cmp.Or(clean(f.Label, maxLabel), "–"), Value: clean(f.Value, r.value)}
		if f.Value != "" {
			fields = append(fields, f)
		}
	}
	if over := len(fields) - r.fields; over > 0 {
		fields = append(fields[:r.fields:r.fields], Field{Label: "…", Value: fmt.Sprintf("+%d", over)})
	}
	m.Fields = fields
	m.Link = safeLink(m.Link)
	m.LinkText = cmp.Or(clean(m.LinkText, maxLabel), "Gatehouse")
	return m
}

// foot is the line below a message: when it happened, and the id by which it is
// found in the log.
func (m Message) foot() string {
	return m.Time.Format("2006-01-02 15:04:05 -07:00") + " · " + m.ID
}

// colon is what stands between a label and its value.
func (m Message) colon() string {
	if strings.HasPrefix(m.Locale, "zh") {
		return "："
	}
	return ": "
}

// mark is a severity that is seen in a list of chats, in every language.
func mark(s event.Severity) string {
	switch s {
	case event.Critical:
		return "🔴"
	case event.Warning:
		return "🟠"
	default:
		return "🔵"
	}
}

// oneLine makes of a text one line without control characters, and without
// those that are not seen but turn the reading direction or break up words.
func oneLine(s string) string {
	var b strings.Builder
	gap := false
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch {
		case unicode.IsSpace(r) || r == '\u2028' || r == '\u2029':
			gap = b.Len() > 0
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs):
		default:
			if gap {
				b.WriteByte(' ')
				gap = false
			}
			b.WriteRune(r)
		}
	}
	return b.String()
}

// clean is oneLine, cut to n runes. Of a text that nobody would read to its end
// no more than 64 times as much is looked at.
func clean(s string, n int) string {
	if end := 64 * n; len(s) > end {
		for end > 0 && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end] + "…"
	}
	return cut(oneLine(s), n)
}

// cut returns at most n runes of s, the last one an ellipsis where some are missing.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	if n <= 0 {
		return ""
	}
	runes := 0
	for i := range s {
		if runes++; runes == n {
			return s[:i] + "…"
		}
	}
	return s
}

// escaped writes s with every rune escaped, and ends it with an ellipsis before
// it is longer than max by the vendor's measure.
func escaped(s string, max int, size func(string) int, escape func(rune) string) string {
	var b strings.Builder
	used, room, end := 0, max-size("…"), 0
	for _, r := range s {
		e := escape(r)
		if used += size(e); used <= room {
			end = b.Len() + len(e)
		}
		b.WriteString(e)
		if used > max {
			return b.String()[:end] + "…"
		}
	}
	return b.String()
}

// inFull escapes without a limit: for texts that are cut already.
func inFull(s string, escape func(rune) string) string {
	var b strings.Builder
	for _, r := range s {
		b.WriteString(escape(r))
	}
	return b.String()
}

func byteLen(s string) int { return len(s) }

// wide are full-width forms of the signs that a chat's markup is made of. They
// look alike and mean nothing, also in clients that know no escapes.
var wide = map[rune]string{
	'<': "＜", '>': "＞", '&': "＆", '@': "＠", '[': "［", ']': "］", '(': "（", ')': "）", '*': "＊", '_': "＿",
	'~': "～", '#': "＃", '|': "｜", '\\': "＼", '`': "｀", '!': "！",
}

// unlinked breaks what a client could make a link of by itself: a scheme, and a
// name with a top-level domain. Addresses in numbers stay.
func unlinked(s string) string {
	s = unschemed(s)
	rs := []rune(s)
	for i := 1; i+2 < len(rs); i++ {
		if rs[i] == '.' && (unicode.IsLetter(rs[i-1]) || unicode.IsDigit(rs[i-1])) && unicode.IsLetter(rs[i+1]) && unicode.IsLetter(rs[i+2]) {
			rs[i] = '．'
		}
	}
	return string(rs)
}

// unschemed breaks only the scheme, where a vendor's plain text is plain.
func unschemed(s string) string { return strings.ReplaceAll(s, "://", "：//") }

// safeLink returns the address of a link in a form that no markup can end early,
// or "" for what is no address of a page.
func safeLink(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Opaque != "" || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	out := strings.NewReplacer("(", "%28", ")", "%29", "<", "%3C", ">", "%3E", "[", "%5B", "]", "%5D", "|", "%7C", `"`, "%22", "'", "%27", "`", "%60", "*", "%2A", "@", "%40", "\\", "%5C", " ", "%20").Replace(u.String())
	if u.User != nil || len(out) > maxLink || strings.ContainsFunc(u.Host, func(r rune) bool { return strings.ContainsRune("()<>|\"'`*\\ ", r) }) {
		return ""
	}
	if strings.HasPrefix(u.Host, "[") { // an IPv6 literal keeps its brackets
		out = strings.Replace(strings.Replace(out, "%5B", "[", 1), "%5D", "]", 1)
	}
	return out
}

// marshal writes JSON without escaping < > &, which the vendors count.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("write the message: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}
