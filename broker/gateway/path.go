package gateway

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

var errPath = errors.New("the path is ambiguous: it holds an encoded or doubled separator, a dot segment or a control character")

// checkPath refuses paths that an upstream may read as another path than the
// one that the policy was asked about (docs/security.md GW-4). It looks at the
// raw path of the request line.
func checkPath(raw string) error {
	if raw == "" || raw[0] != '/' {
		return errPath
	}
	plain := true
	for i := range len(raw) {
		switch c := raw[i]; {
		case c == '%' || c == ';' || c == '\\' || c == '#' || c == '?' || c == '.' || c <= 0x20 || c >= 0x7f:
			plain = false
		case c == '/' && i > 0 && raw[i-1] == '/':
			return errPath
		}
	}
	if plain {
		return nil
	}
	decoded := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == ';' || c == '\\' || c == '#' || c == '?' || c <= 0x20 || c == 0x7f:
			return errPath
		case c == '%':
			d, ok := unescape(raw[i:])
			if !ok || d == '/' || d == '\\' || d == '.' || d == ';' || d == '%' || d < 0x20 || d == 0x7f {
				return errPath
			}
			decoded = append(decoded, d)
			i += 2
		default:
			decoded = append(decoded, c)
		}
	}
	if !utf8.Valid(decoded) {
		return errPath
	}
	for seg := range strings.SplitSeq(string(decoded), "/") {
		if seg == "." || seg == ".." {
			return errPath
		}
	}
	return nil
}

// unescape reads the percent code at the beginning of s.
func unescape(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	hi, lo := unhex(s[1]), unhex(s[2])
	return byte(hi<<4 | lo), hi >= 0 && lo >= 0
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// rawPath is the path as it stood in the request line.
func rawPath(r *http.Request) string {
	p, _, _ := strings.Cut(r.RequestURI, "?")
	return p
}

// below cuts a prefix of n decoded bytes off a raw path.
func below(raw string, n int) string {
	i := 0
	for ; n > 0 && i < len(raw); n-- {
		if raw[i] == '%' {
			i += 2
		}
		i++
	}
	return raw[min(i, len(raw)):]
}

// setTarget gives out the URL of the upstream with the path and query of the
// request line, byte for byte: what was checked is what is sent (G2, GW-4).
func (rt *route) setTarget(out, in *url.URL, raw string, base *url.URL) {
	path := in.Path
	if rt.StripPath && rt.Path != "/" {
		n := len(strings.TrimSuffix(rt.Path, "/"))
		if path, raw = path[n:], below(raw, n); path == "" {
			path, raw = "/", "/"
		}
	}
	if bp := strings.TrimSuffix(base.Path, "/"); bp != "" {
		path, raw = bp+path, strings.TrimSuffix(base.EscapedPath(), "/")+raw
	}
	*out = url.URL{Scheme: base.Scheme, Host: base.Host, Path: path, RawQuery: in.RawQuery, ForceQuery: in.ForceQuery}
	if raw == path && plainPath(raw) {
		return
	}
	out.RawPath = raw
	if out.EscapedPath() != raw && !strings.HasPrefix(raw, "//") {
		// net/url would write some characters in its own way; an opaque URL it
		// sends as it is. One that begins with // would become an authority.
		out.Opaque = raw
	}
}

// plainPath reports whether net/url writes a path as it stands.
func plainPath(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '/', c == '-', c == '_', c == '.', c == '~':
		default:
			return false
		}
	}
	return true
}
