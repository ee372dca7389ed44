package web

import (
	"net/url"
	"strings"
	"testing"
)

// SE-5: where a URL is taken from outside.
func TestSafeReturn(t *testing.T) {
	issuer, err := url.Parse("https://id.example.com")
	if err != nil {
		t.Fatal(err)
	}
	dev, err := url.Parse("http://127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	hosts := func(h string) bool { return h == "app.example.com" || h == "api.localhost" }
	for raw, ok := range map[string]bool{
		"/": true, "/a/b?c=d%20e": true, "/a?next=//evil.example": true, "https://app.example.com/x?y": true, "https://APP.example.com/": true,
		"": false, "a": false, "//evil.example": false, "/\\evil.example": false, "\\\\evil.example": false, "/\tevil": false, "/a b": false, "/\n/evil.example": false,
		"/%2f/evil.example": false, "/%5cevil.example": false, "/a%00": false, "/é": false, "/a#b": false, "///evil.example": false, "https:///evil.example": false,
		"http://app.example.com/": false, "https://evil.example/": false, "https://evil.example/app.example.com": false, "https://app.example.com.evil.example/": false,
		"https://app.example.com@evil.example/": false, "https://app.example.com:444/": false, "https://app.example.com./": false, "https://xapp.example.com/": false,
		"javascript:alert(1)": false, "data:text/html,x": false, "https:app.example.com": false, "ftp://app.example.com/": false, "/" + strings.Repeat("a", 2048): false,
	} {
		if got, passed := SafeReturn(raw, hosts, issuer); passed != ok || passed && got == "" {
			t.Errorf("%q: %q %v", raw, got, passed)
		}
	}
	if got, ok := SafeReturn("http://api.localhost:8080/x", hosts, dev); !ok || got != "http://api.localhost:8080/x" {
		t.Errorf("http where the issuer is: %q %v", got, ok)
	}
}

// UP-7.
func TestValidEmail(t *testing.T) {
	for s, domain := range map[string]string{
		"li@corp.example": "corp.example", "Li.Wei+x@CORP.example": "corp.example", "li@b\u00fccher.example": "xn--bcher-kva.example", "li@xn--bcher-kva.example": "xn--bcher-kva.example",
		"": "", "li": "", "@corp.example": "", "li@": "", "li@corp": "", "li@corp.example.": "", "li@.example": "", "li@corp..example": "",
		"a@b@corp.example": "", "user@evil.example@corp.example": "", `"li"@corp.example`: "", "li (x)@corp.example": "", "li@corp.example (x)": "", "Li <li@corp.example>": "",
		".li@corp.example": "", "li.@corp.example": "", "l..i@corp.example": "", "li @corp.example": "", "li@corp .example": "", "li\x00@corp.example": "", "l\u00ef@corp.example": "",
		"li@-corp.example": "", "li@corp-.example": "", "li@co_rp.example": "", "li@[127.0.0.1]": "", "li@xn--corp-.example": "", "li@xn--a.example": "",
		"li@\u212aorp.example": "", "li@\uff43orp.example": "", "li@corp\u3002example": "", "li@corp.e\u00adxample": "", // mapped to ASCII
		strings.Repeat("a", 65) + "@corp.example": "", "li@" + strings.Repeat("a", 64) + ".example": "", "li@" + strings.Repeat("a.", 130) + "example": "",
	} {
		if _, got, ok := ValidEmail(s); got != domain || ok != (domain != "") {
			t.Errorf("%q: %q %v", s, got, ok)
		}
	}
}

func TestHostName(t *testing.T) {
	for s, want := range map[string]string{
		"id.example.com": "id.example.com", "ID.Example.com:443": "id.example.com", "127.0.0.1:8080": "127.0.0.1", "[::1]:80": "::1", "[::1]": "::1", "::1": "::1",
		"": "", "id.example.com.": "", "id.example.com.:443": "", "a:b:c": "", "id.example.com:443.": "", "id.example.com:x": "", "a/b": "", "a@b": "", "a b": "", "a\x00": "", "[x]": "", "[id.example.com]:443": "", "[127.0.0.1]": "", ":80": "", "é.example": "", strings.Repeat("a", 254): "",
	} {
		if got := HostName(s); got != want {
			t.Errorf("%q: %q", s, got)
		}
	}
}
