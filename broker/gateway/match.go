package gateway

import (
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"
)

// table finds the route of a request: by host, then the first whose path is a
// prefix of whole segments. The default is none.
type table struct {
	exact map[string][]*route
	wild  map[string][]*route // by suffix: ".consoles.example.net"
}

func newTable(routes []*route) table {
	t := table{exact: map[string][]*route{}, wild: map[string][]*route{}}
	for _, r := range routes {
		if r.suffix != "" {
			t.wild[r.suffix] = append(t.wild[r.suffix], r)
		} else {
			t.exact[r.Host] = append(t.exact[r.Host], r)
		}
	}
	return t
}

// host returns the routes of a host and, for a wildcard, its first label.
func (t table) host(host string) (routes []*route, label string) {
	if rs := t.exact[host]; rs != nil {
		return rs, ""
	}
	i := strings.IndexByte(host, '.')
	if i <= 0 {
		return nil, ""
	}
	rs := t.wild[host[i:]]
	if rs == nil || !validNode(host[:i]) {
		return nil, ""
	}
	return rs, host[:i]
}

// validNode is the form of a node's label (docs/security.md GW-12).
func validNode(s string) bool {
	if len(s) < 1 || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

func pick(routes []*route, path string) *route {
	for _, r := range routes {
		if under(path, r.Path) {
			return r
		}
	}
	return nil
}

func under(path, prefix string) bool {
	if prefix == "/" {
		return true
	}
	prefix = strings.TrimSuffix(prefix, "/")
	return path == prefix || strings.HasPrefix(path, prefix) && path[len(prefix)] == '/'
}

var errPath = errors.New("the path is ambiguous: it holds an encoded or doubled separator, a dot segment or a control character")

// checkPath refuses paths that an upstream may read as another path than the
// one that the policy was asked about (docs/security.md GW-4). It looks at the
// raw path of the request line.
func checkPath(raw string) error {
	plain := true
	for i := range len(raw) {
		switch c := raw[i]; {
		case c == '%' || c == ';' || c == '\\' || c == '#' || c == '.' || c <= 0x20 || c >= 0x7f:
			plain = false
		case c == '/' && i > 0 && raw[i-1] == '/':
			return errPath
		}
	}
	if plain {
		return nil
	}
	var decoded []byte
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == ';' || c == '\\' || c == '#' || c < 0x20 || c == 0x7f:
			return errPath
		case c == '%':
			if i+2 >= len(raw) {
				return errPath
			}
			hi, lo := unhex(raw[i+1]), unhex(raw[i+2])
			if hi < 0 || lo < 0 {
				return errPath
			}
			d := byte(hi<<4 | lo)
			if d == '/' || d == '\\' || d == '.' || d == ';' || d == '%' || d < 0x20 || d == 0x7f {
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
	if p == "" {
		return r.URL.EscapedPath()
	}
	return p
}
