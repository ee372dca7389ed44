package issuer

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"time"
)

// markParam carries our own marker through a sign-in or consent page: when this
// request began, and what was agreed to since. It is sealed with the request's
// hash, so that it says nothing about any other request.
const markParam = "resume"

const markTTL = time.Hour

type mark struct {
	At      time.Time `json:"t"`
	Consent string    `json:"c,omitempty"`
}

func markAAD(query string) string {
	sum := sha256.Sum256([]byte(query))
	return "authorize/" + string(sum[:])
}

func (is *Issuer) sealMark(m mark, query string) string {
	js, err := json.Marshal(m)
	if err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(is.marks.Seal(markAAD(query), js))
}

func (is *Issuer) openMark(text, rawQuery string) (mark, bool) {
	if text == "" {
		return mark{}, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return mark{}, false
	}
	js, err := is.marks.Open(markAAD(withoutMark(rawQuery)), raw)
	if err != nil {
		return mark{}, false
	}
	var m mark
	if json.Unmarshal(js, &m) != nil || is.cfg.Now().Sub(m.At) > markTTL {
		return mark{}, false
	}
	return m, true
}

// withoutMark is the query as the client sent it, byte for byte, but for what it
// may have sent under our marker's name, in any spelling.
func withoutMark(raw string) string {
	var out []string
	for part := range strings.SplitSeq(raw, "&") {
		name, _, _ := strings.Cut(part, "=")
		if n, err := url.QueryUnescape(name); err == nil && n == markParam {
			continue
		}
		out = append(out, part)
	}
	return strings.Join(out, "&")
}
