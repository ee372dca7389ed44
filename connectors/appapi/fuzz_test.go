package appapi

import (
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/remotegpu/gatehouse/connectors"
)

// FuzzValues feeds what a browser brings back, and what an API says of people.
func FuzzValues(f *testing.F) {
	for _, s := range []string{"state=A&code=x", "state=A&error=access_denied", "state=A&error=%3Cb%3E", "code=x&code=y&state=A", "a@b.example", "张三\u202e", `{"mobile":"1","a":2}`, "https://x.example/a.png", "\xff"} {
		f.Add(s)
	}
	a := connectors.Attempt{ID: "A"}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := url.ParseQuery(s); err == nil {
			code, err := ReturnedCode(a, p, "authCode", "code")
			if err == nil && (!Opaque(code) || p.Get("state") != "A" || p.Has("error") && p.Get("error") != "") {
				t.Errorf("code %q of %q", code, s)
			}
			if err != nil && (len(err.Error()) > 200 || strings.ContainsFunc(err.Error(), unicode.IsControl)) {
				t.Errorf("error %q", err)
			}
		}
		if e := Email(s); e != "" && (strings.Count(e, "@") != 1 || strings.ContainsAny(e, " \r\n\x00<>,;")) {
			t.Errorf("e-mail %q", e)
		}
		if n := Name(s); len(n) > 256 || !utf8.ValidString(n) || strings.ContainsFunc(n, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }) {
			t.Errorf("name %q", n)
		}
		if ID(s) && strings.Contains(s, "/") || len(Word(s)) > 64 {
			t.Errorf("id or word %q", s)
		}
		if p := Picture(s); p != "" && !strings.HasPrefix(p, "https://") {
			t.Errorf("picture %q", p)
		}
		for k := range Claims([]byte(s)) {
			if k == "mobile" || k == "access_token" {
				t.Errorf("a claim %s", k)
			}
		}
		for _, p := range (Address{Written: s}).Problems() {
			if u, err := url.Parse(s); err == nil && u.User != nil {
				if pw, ok := u.User.Password(); ok && len(pw) > 3 && strings.Contains(p.Fix, pw) && !strings.Contains(u.Host+u.Path, pw) {
					t.Errorf("the complaint quotes the password of %q", s)
				}
			}
		}
	})
}
