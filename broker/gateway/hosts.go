package gateway

import (
	"regexp"
	"strings"

	"github.com/remotegpu/gatehouse/broker/console"
)

// nodeLabel is what the host of a lease route begins with.
const nodeLabel = "{node}"

// captureName is a label of a route's host that has a name.
var captureName = regexp.MustCompile(`^\{[a-z][a-z0-9_]*\}$`)

// wildcard takes the label that stands for any off a route's host: "*" or
// "{name}"; "" where there is none.
func wildcard(host string) (label, rest string) {
	first, rest, ok := strings.Cut(host, ".")
	if ok && (first == "*" || captureName.MatchString(first)) {
		return first, rest
	}
	return "", host
}

// Clashes reports whether the route lets ambiguous paths through to a host of
// which a route before it guards some: what that one keeps in would be reached
// around it (docs/security.md GW-4).
func (r Route) Clashes(before Route) bool {
	return r.raw() && before.Path != "" && before.Path != "/" && (r.Takes(before.Host) || before.Takes(r.Host))
}

// Takes reports whether a host as routes write it, a wildcard too, is this
// route's with all that it stands for.
func (r Route) Takes(host string) bool {
	mine, host := strings.ToLower(r.Host), strings.ToLower(host)
	label, suffix := wildcard(mine)
	if label == "" {
		return mine == host
	}
	if other, rest := wildcard(host); other != "" {
		return rest == suffix
	}
	first, rest, _ := strings.Cut(host, ".")
	return rest == suffix && console.ValidID(first)
}

// Shadows reports whether the route takes every request that a later one would
// take, so that the later one is never reached.
func (r Route) Shadows(later Route) bool {
	if !r.Takes(later.Host) || !under(cleanPrefix(later.Path), cleanPrefix(r.Path)) {
		return false
	}
	if len(r.Methods) > 0 {
		if len(later.Methods) == 0 {
			return false
		}
		for _, m := range later.Methods {
			if !takesMethod(r.Methods, m) {
				return false
			}
		}
	}
	for name, value := range r.Headers {
		if later.header(name) != value {
			return false
		}
	}
	return true
}

// header is the value that a request's header must have; "" is any.
func (r Route) header(name string) string {
	for n, v := range r.Headers {
		if strings.EqualFold(n, name) {
			return v
		}
	}
	return ""
}

func cleanPrefix(path string) string {
	if path = strings.TrimSuffix(path, "/"); path == "" {
		return "/"
	}
	return path
}
