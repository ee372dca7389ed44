package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// HeaderRules change headers. Every spelling of a name is meant, since upstreams
// fold them. Values may hold the {name} of the route's host.
type HeaderRules struct {
	Set    map[string]string `yaml:"set"`
	Remove []string          `yaml:"remove,some"`
}

// headerRules are HeaderRules made ready; nil changes nothing.
type headerRules struct {
	names   []string // normal forms of all that is set or removed
	set     []setHeader
	capture string
}

type setHeader struct {
	name   string
	value  []string // as net/http keeps it
	places bool     // the value holds the capture
}

func newHeaderRules(c HeaderRules, capture string) *headerRules {
	if len(c.Set) == 0 && len(c.Remove) == 0 {
		return nil
	}
	r := &headerRules{capture: capture}
	for _, name := range c.Remove {
		r.names = append(r.names, string(normal(nil, name)))
	}
	for _, name := range sortedKeys(c.Set) {
		r.names = append(r.names, string(normal(nil, name)))
		value := c.Set[name]
		r.set = append(r.set, setHeader{name: http.CanonicalHeaderKey(name), value: []string{value}, places: captureName.MatchString(capture) && strings.Contains(value, capture)})
	}
	return r
}

// apply changes h; label is what the host's wildcard stands for.
func (r *headerRules) apply(h http.Header, label string) {
	if r == nil {
		return
	}
	r.remove(h)
	for _, s := range r.set {
		if s.places {
			h[s.name] = []string{strings.ReplaceAll(s.value[0], r.capture, label)}
		} else {
			h[s.name] = s.value[:1:1]
		}
	}
}

// remove takes out what is set or removed, in every spelling; of trailers it is
// all that is done.
func (r *headerRules) remove(h http.Header) {
	if r == nil {
		return
	}
	for name := range h {
		var buf [nameBuffer]byte
		n := normal(buf[:0], name)
		for _, mine := range r.names {
			if string(n) == mine {
				delete(h, name)
				break
			}
		}
	}
}

// isHopByHop reports whether a header is between two neighbours alone, or frames
// the message (RFC 9110 section 7.6.1, RFC 9112 section 6).
func isHopByHop(name string) bool {
	var buf [nameBuffer]byte
	switch string(normal(buf[:0], name)) {
	case "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "expect", "content-length":
		return true
	}
	return false
}

// ruledBy is why a header is not for rules; "" if it is. response tells which
// rules are meant.
func ruledBy(name string, response bool) string {
	n := string(normal(nil, name))
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return "it is no header name"
	case isHopByHop(name):
		return "it belongs to the connection or frames the message"
	case hasPrefix([]byte(n), "x-gatehouse-") || n == "x-gatehouse":
		return "its name is the gateway's"
	case !response && isForged(name):
		return "the gateway removes or makes it"
	case !response && slices.Contains([]string{"host", "authorization", "cookie"}, n):
		return "it carries the address or a credential"
	case response && notForClients(name):
		return "it speaks to a proxy or for the whole site"
	case response && n == "set-cookie":
		return "cookies are the upstream's own"
	case response && strings.HasPrefix(n, "access-control-"):
		return "cors decides it"
	}
	return ""
}

var anyCapture = regexp.MustCompile(`\{[a-z][a-z0-9_]*\}`)

// unknownCapture is a {name} in s that the route's host does not have.
func unknownCapture(s, capture string) string {
	for _, c := range anyCapture.FindAllString(s, -1) {
		if c != capture {
			return c
		}
	}
	return ""
}

// headerProblems complains about rules that the gateway would not follow.
func (r Route) headerProblems(add func(field, rule, text, fix string)) {
	capture, _ := wildcard(r.Host)
	for _, side := range []struct {
		field    string
		rules    HeaderRules
		response bool
	}{{"RequestHeaders", r.RequestHeaders, false}, {"ResponseHeaders", r.ResponseHeaders, true}} {
		seen := map[string]bool{}
		judge := func(field, name string) {
			n := string(normal(nil, name))
			if why := ruledBy(name, side.response); why != "" {
				add(field, "route.header_rule", fmt.Sprintf("%q cannot be changed: %s.", name, why), "leave it out")
			} else if seen[n] {
				add(field, "route.header_rule", fmt.Sprintf("There are two rules for %q.", name), "keep one of them")
			}
			seen[n] = true
		}
		for _, name := range sortedKeys(side.rules.Set) {
			field, value := side.field+".Set."+name, side.rules.Set[name]
			judge(field, name)
			if !httpguts.ValidHeaderFieldValue(value) || strings.TrimSpace(value) != value || len(value) > maxHeaderValue {
				add(field, "route.header_rule", "A header's value is one line without spaces around it.", "")
			}
			if c := unknownCapture(value, capture); c != "" {
				add(field, "route.capture", fmt.Sprintf("%s is no label of this route's host.", c), "host: \""+c+".example.com\"")
			}
		}
		for i, name := range side.rules.Remove {
			judge(fmt.Sprintf("%s.Remove[%d]", side.field, i), name)
		}
	}
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
