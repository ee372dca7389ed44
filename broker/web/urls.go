package web

import (
	"net/url"
	"strings"

	"golang.org/x/net/idna"
)

// SafeReturn checks a URL that came from outside and that we are to go back to
// (docs/security.md SE-5): a path of ours, or an absolute URL whose host passes
// and whose scheme is https (http only where the issuer is). It returns the URL
// as it will be sent.
func SafeReturn(raw string, hosts func(host string) bool, issuer *url.URL) (string, bool) {
	if raw == "" || len(raw) > 2048 {
		return "", false
	}
	for i := range len(raw) {
		if c := raw[i]; c <= 0x20 || c >= 0x7f || c == '\\' {
			return "", false
		}
	}
	u, err := url.Parse(raw)
	if err != nil || u.User != nil || u.Opaque != "" || u.Fragment != "" {
		return "", false
	}
	if once, err := url.PathUnescape(u.EscapedPath()); err != nil || strings.ContainsAny(once, "\\\r\n\t\x00") || strings.HasPrefix(once, "//") {
		return "", false
	}
	if u.Scheme == "" && u.Host == "" {
		return raw, OwnPath(raw)
	}
	if u.Scheme != "https" && u.Scheme != issuer.Scheme {
		return "", false
	}
	host := HostName(u.Host)
	if host == "" || !hosts(host) {
		return "", false
	}
	if u.Port() != issuer.Port() && u.Port() != "" && issuer.Scheme != "http" {
		return "", false
	}
	return u.String(), true
}

// OwnPath reports whether s is a path of ours, with its query, in the eyes of
// every browser: they take "//host", "/\host" and what is left of either when
// tabs and line ends are dropped for another host (docs/security.md SE-5).
func OwnPath(s string) bool {
	if !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.HasPrefix(s, "/\\") {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= 0x20 || c == 0x7f {
			return false
		}
	}
	return true
}

// Domain returns the one normal form of an e-mail domain: IDNA's A-form in lower
// case. It takes what ValidEmail takes behind the @.
func Domain(s string) (string, bool) {
	_, domain, ok := ValidEmail("x@" + s)
	return domain, ok
}

// ValidEmail takes an address apart by a small grammar of our own: one @, a
// local part of plain characters, a domain of at least two labels, given in its
// IDNA A-form and lower case (docs/security.md UP-7). It refuses quoted local
// parts, comments, a trailing dot and look-alikes that IDNA maps.
func ValidEmail(s string) (local, domain string, ok bool) {
	if len(s) > 254 || strings.Count(s, "@") != 1 {
		return "", "", false
	}
	local, domain, _ = strings.Cut(s, "@")
	if local == "" || len(local) > 64 || local[0] == '.' || local[len(local)-1] == '.' || strings.Contains(local, "..") {
		return "", "", false
	}
	for i := range len(local) {
		c := local[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("!#$%&'*+-/=?^_`{|}~.", c) >= 0:
		default:
			return "", "", false
		}
	}
	if strings.HasSuffix(domain, ".") || !strings.Contains(domain, ".") {
		return "", "", false
	}
	a, err := idna.Lookup.ToASCII(domain)
	if err != nil {
		return "", "", false
	}
	a = lowerASCII(a)
	for label := range strings.SplitSeq(a, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", "", false
		}
		for i := range len(label) {
			if c := label[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
				return "", "", false
			}
		}
		if strings.HasPrefix(label, "xn--") { // an A-label must stand for something else than ASCII
			u, err := idna.Lookup.ToUnicode(label)
			if err != nil || isASCII(u) {
				return "", "", false
			}
		}
	}
	// A non-ASCII domain must be in the form that IDNA gives it: what maps to
	// another text is a look-alike.
	if !isASCII(domain) {
		u, err := idna.Lookup.ToUnicode(a)
		if err != nil || u != lowerASCII(domain) {
			return "", "", false
		}
	}
	return local, a, true
}

// lowerASCII leaves the rest alone: strings.ToLower would make a k of a Kelvin
// sign, and so hide the very mapping that is looked for.
func lowerASCII(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}, s)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
