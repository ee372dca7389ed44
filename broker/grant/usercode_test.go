package grant

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// RFC 8628 section 6.1: people type a code as they like.
func TestParseUserCode(t *testing.T) {
	for in, want := range map[string]string{
		"WDJBMJHT": "WDJBMJHT", "WDJB-MJHT": "WDJBMJHT", "wdjb mjht": "WDJBMJHT", " w-d j b\tmjht\n": "WDJBMJHT", "WDJB–MJHT": "WDJBMJHT", "WDJB—MJHT": "WDJBMJHT", "WDJB−MJHT": "WDJBMJHT",
		"ＷＤＪＢ－ＭＪＨＴ": "WDJBMJHT", "ｗｄｊｂ　ｍｊｈｔ": "WDJBMJHT", "\ufeffWDJB\u200b-MJHT": "WDJBMJHT", "Ⓦdjbmjht": "WDJBMJHT",
		"": "", "-": "", "WDJBMJH": "", "WDJBMJHTT": "", "WDJBMJHA": "", "WDJBMJH1": "", "WDJBMJHÜ": "", "WDJB_MJHT": "", "WDJB/MJHT": "", "WDJB.MJHT": "",
		strings.Repeat("-", 200) + "WDJBMJHT": "", "WDJBMJHT\x00": "", "ШDJBMJHT": "", "\xffDJBMJHT": "",
	} {
		got, ok := ParseUserCode(in)
		if ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q %v, want %q", in, got, ok, want)
		}
	}
}

// DF-1: eight letters of the alphabet, each as often as another.
func TestNewUserCode(t *testing.T) {
	seen, letters := map[string]bool{}, map[rune]int{}
	const n = 4000
	for range n {
		code, err := newUserCode()
		if err != nil {
			t.Fatal(err)
		}
		if again, ok := ParseUserCode(FormatUserCode(code)); !ok || again != code || len(FormatUserCode(code)) != 9 {
			t.Fatalf("%q is read as %q", code, again)
		}
		seen[code] = true
		for _, c := range code {
			letters[c]++
		}
	}
	if len(seen) != n || len(letters) != len(userCodeLetters) {
		t.Fatalf("%d codes of %d, %d letters", len(seen), n, len(letters))
	}
	for c, got := range letters { // 1,600 expected; eight standard deviations
		if got < 1290 || got > 1910 {
			t.Errorf("%c came %d times", c, got)
		}
	}
}

// What is read as a code is one, and reading it as it is shown gives it again.
func FuzzParseUserCode(f *testing.F) {
	for _, s := range []string{"WDJB-MJHT", "wdjb mjht", "ＷＤＪＢ－ＭＪＨＴ", "", "\xff", "ﷺ", "WDJBMJHTT"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		code, ok := ParseUserCode(s)
		if !ok {
			return
		}
		if len(code) != userCodeLen || strings.Trim(code, userCodeLetters) != "" || !utf8.ValidString(s) {
			t.Fatalf("%q was read as %q", s, code)
		}
		for _, shown := range []string{code, FormatUserCode(code), strings.ToLower(code), " " + code[:3] + " " + code[3:]} {
			if again, ok := ParseUserCode(shown); !ok || again != code {
				t.Fatalf("%q is read as %q", shown, again)
			}
		}
	})
}
