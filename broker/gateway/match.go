package gateway

import (
	"strings"

	"github.com/remotegpu/gatehouse/broker/console"
)

// table finds the route of a request: by host, then the first whose path is a
// prefix of whole segments. The default is none.
type table struct {
	exact map[string][]*route // wildcard routes that take the host too among them, in the file's order
	wild  map[string][]*route // by suffix: ".consoles.example.net"
}

func newTable(routes []*route) table {
	t := table{exact: map[string][]*route{}, wild: map[string][]*route{}}
	for _, r := range routes {
		if r.suffix != "" {
			t.wild[r.suffix] = append(t.wild[r.suffix], r)
		} else {
			t.exact[r.Host] = nil
		}
	}
	for host := range t.exact {
		for _, r := range routes {
			if r.Host == host || r.suffix != "" && wildcardTakes(host, r.suffix) {
				t.exact[host] = append(t.exact[host], r)
			}
		}
	}
	return t
}

func wildcardTakes(host, suffix string) bool {
	label, ok := strings.CutSuffix(host, suffix)
	return ok && console.ValidID(label)
}

// host returns the routes of a host and its first label, which a wildcard
// stands for.
func (t table) host(host string) (routes []*route, label string) {
	i := strings.IndexByte(host, '.')
	if i > 0 {
		label = host[:i]
	}
	if rs := t.exact[host]; rs != nil {
		return rs, label
	}
	if i <= 0 || !console.ValidID(label) {
		return nil, ""
	}
	if rs := t.wild[host[i:]]; rs != nil {
		return rs, label
	}
	return nil, ""
}

// pick finds the route of an address that somebody opens: by GET, with no header
// of its own. See choose for requests.
func pick(routes []*route, path string) *route {
	for _, r := range routes {
		if under(path, r.Path) && (r.match == nil || r.match.opens()) {
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
