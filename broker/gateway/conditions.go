package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/remotegpu/gatehouse/broker/web"
)

// conditions are what a route asks of a request besides host and path; nil is
// nothing.
type conditions struct {
	methods []string
	headers []headerValue
}

type headerValue struct {
	name, value string
	normal      string
}

func newConditions(r Route) *conditions {
	if len(r.Methods) == 0 && len(r.Headers) == 0 {
		return nil
	}
	c := &conditions{methods: r.Methods}
	for name, value := range r.Headers {
		name = http.CanonicalHeaderKey(name)
		c.headers = append(c.headers, headerValue{name: name, value: value, normal: string(normal(nil, name))})
	}
	slices.SortFunc(c.headers, func(a, b headerValue) int { return strings.Compare(a.name, b.name) })
	return c
}

// takesMethod reports whether a list of methods takes one; where GET is, HEAD is
// (RFC 9110 section 9.1).
func takesMethod(methods []string, m string) bool {
	return slices.Contains(methods, m) || m == http.MethodHead && slices.Contains(methods, http.MethodGet)
}

// opens reports whether following a link is enough.
func (c *conditions) opens() bool {
	return len(c.headers) == 0 && (len(c.methods) == 0 || takesMethod(c.methods, http.MethodGet))
}

var errHeaderSpelling = errors.New("a header that decides the route is there twice or in another spelling")

// hold reports whether the headers are as they must be. A header that an
// upstream may read otherwise than we did is an error (docs/security.md GW-2).
func (c *conditions) hold(h http.Header) (bool, error) {
	all := true
	for _, want := range c.headers {
		for name, values := range h {
			if name == want.name {
				if len(values) > 1 {
					return false, errHeaderSpelling
				}
				continue
			}
			if len(name) != len(want.name) {
				continue
			}
			var buf [nameBuffer]byte
			if string(normal(buf[:0], name)) == want.normal {
				return false, errHeaderSpelling
			}
		}
		if v := h[want.name]; len(v) != 1 || v[0] != want.value {
			all = false
		}
	}
	return all, nil
}

// announced is hold for a preflight, which names headers and not their values.
func (c *conditions) announced(h http.Header) bool {
	for _, want := range c.headers {
		if !tokenIn(h["Access-Control-Request-Headers"], want.name) {
			return false
		}
	}
	return true
}

// isPreflight reports whether a browser asks before it sends (Fetch standard,
// CORS-preflight request).
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// choose finds the first route that takes a request. A preflight is the route's
// of the request that it announces.
func choose(routes []*route, r *http.Request) (*route, error) {
	var methods []string
	for _, rt := range routes {
		if !under(r.URL.Path, rt.Path) {
			continue
		}
		if rt.match == nil {
			return rt, nil
		}
		method, preflight := r.Method, isPreflight(r)
		if preflight {
			method = r.Header.Get("Access-Control-Request-Method")
		}
		ok := true
		if preflight {
			ok = rt.match.announced(r.Header)
		} else {
			var err error
			if ok, err = rt.match.hold(r.Header); err != nil {
				return nil, web.Fail(http.StatusBadRequest, "request.header", "error.bad_request", err)
			}
		}
		if !ok {
			continue
		}
		if len(rt.match.methods) == 0 || takesMethod(rt.match.methods, method) {
			return rt, nil
		}
		methods = append(methods, rt.match.methods...)
	}
	if len(methods) > 0 {
		e := web.Fail(http.StatusMethodNotAllowed, "request.method", "error.method", nil)
		if slices.Contains(methods, http.MethodGet) {
			methods = append(methods, http.MethodHead)
		}
		slices.Sort(methods)
		e.Header = http.Header{"Allow": {strings.Join(slices.Compact(methods), ", ")}}
		return nil, e
	}
	return nil, web.Fail(http.StatusNotFound, "route.path", "error.not_found", nil)
}

// matchProblems complains about methods and headers that cannot be matched.
func (r Route) matchProblems(add func(field, rule, text, fix string)) {
	for i, m := range r.Methods {
		field := fmt.Sprintf("Methods[%d]", i)
		switch {
		case !httpguts.ValidHeaderFieldName(m) || strings.ToUpper(m) != m: // a method is a token, too (RFC 9110 section 9.1)
			add(field, "route.methods", fmt.Sprintf("%q is no method.", m), "methods: [GET, POST]")
		case slices.Contains([]string{http.MethodConnect, http.MethodTrace, "TRACK"}, m):
			add(field, "route.methods", fmt.Sprintf("%s is never forwarded.", m), "leave it out")
		case slices.Contains(r.Methods[:i], m):
			add(field, "route.methods", fmt.Sprintf("%s is there twice.", m), "leave one out")
		}
	}
	seen := map[string]bool{}
	for _, name := range sortedKeys(r.Headers) {
		n := string(normal(nil, name))
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			add("Headers."+name, "route.headers", fmt.Sprintf("%q is no header.", name), "headers: {X-Api-Version: \"2\"}")
		case isForged(name) || isHopByHop(name) || slices.Contains([]string{"host", "cookie", "authorization", "content-length"}, n):
			add("Headers."+name, "route.headers", fmt.Sprintf("%s is not matched: the gateway removes, makes or uses it itself.", name), "another header")
		case r.Headers[name] == "" || !httpguts.ValidHeaderFieldValue(r.Headers[name]) || strings.TrimSpace(r.Headers[name]) != r.Headers[name]:
			add("Headers."+name, "route.headers", "A header is matched by its value, without spaces around it.", "headers: {X-Api-Version: \"2\"}")
		case seen[n]:
			add("Headers."+name, "route.headers", fmt.Sprintf("%s is there twice.", name), "leave one out")
		}
		seen[n] = true
	}
}
