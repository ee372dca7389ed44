package gateway

import (
	"net/http"
	"net/url"
	"strings"
)

// forged are the names under which an upstream might believe what a client
// wrote. They are compared in a normal form, since upstreams fold spellings
// (docs/security.md GW-2): lower case, every other character a dash.
var (
	forged = map[string]bool{
		"x-real-ip": true, "true-client-ip": true, "cf-connecting-ip": true, "x-client-ip": true, "x-cluster-client-ip": true, "forwarded": true,
		"x-original-url": true, "x-original-uri": true, "x-rewrite-url": true, "x-http-method-override": true, "x-http-method": true, "x-method-override": true, "x-remote-user": true, "remote-user": true,
		"proxy-authorization": true, "proxy-connection": true,
	}
	forgedPrefixes = []string{"x-gatehouse-", "x-forwarded-", "x-auth-request-", "x-webauth-", "x-accel-"}
)

// nameBuffer is enough for the header names that are compared; a longer one
// costs an allocation.
const nameBuffer = 64

// normal appends the normal form of a header name to buf.
func normal(buf []byte, name string) []byte {
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		default:
			c = '-'
		}
		buf = append(buf, c)
	}
	return buf
}

// suspicious is a quick look: only names that begin so can be forged ones.
func suspicious(name string) bool {
	if name == "" {
		return true
	}
	switch name[0] {
	case 'X', 'x', 'F', 'f', 'T', 't', 'C', 'c', 'R', 'r', 'P', 'p':
		return true
	}
	return false
}

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

func isForged(name string) bool {
	if !suspicious(name) {
		return false
	}
	var buf [nameBuffer]byte
	n := normal(buf[:0], name)
	if forged[string(n)] {
		return true
	}
	for _, p := range forgedPrefixes {
		if hasPrefix(n, p) || string(n) == p[:len(p)-1] {
			return true
		}
	}
	return false
}

// cleanRequest removes what the client must not say from an outgoing request,
// trailers included.
func cleanRequest(out *http.Request) {
	for name := range out.Header {
		if isForged(name) {
			delete(out.Header, name)
		}
	}
	for name := range out.Trailer {
		if isForged(name) || notInTrailers(name) {
			delete(out.Trailer, name)
		}
	}
}

// notInTrailers are fields that say who asks, where to, or how a message is cut:
// after the body they come too late, and one who merges them into the header would
// believe them (RFC 9110 section 6.5.1).
func notInTrailers(name string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "", "Authorization", "Cookie", "Set-Cookie", "Host", "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Upgrade", "Transfer-Encoding",
		"Content-Length", "Content-Encoding", "Content-Range", "Content-Type", "Expect", "Range", "Strict-Transport-Security":
		return true
	}
	return false
}

// cookieNames of ours; an upstream neither sees nor sets them (GW-10).
func ownCookie(name string) bool {
	name = strings.TrimPrefix(name, "__Host-")
	return name == "gatehouse" || strings.HasPrefix(name, "gatehouse-")
}

// cleanCookies rebuilds the Cookie header from those that are not ours.
func cleanCookies(h http.Header) {
	lines := h["Cookie"]
	if len(lines) == 0 {
		return
	}
	var keep []string
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ";") {
			part = strings.TrimSpace(part)
			name, _, _ := strings.Cut(part, "=")
			if part != "" && !ownCookie(strings.TrimSpace(name)) {
				keep = append(keep, part)
			}
		}
	}
	if len(keep) == 0 {
		delete(h, "Cookie")
		return
	}
	h["Cookie"] = []string{strings.Join(keep, "; ")}
}

// notForClients are names of answers that an upstream must not use in our name
// (GW-10): they would speak to a proxy in front of us, for the gateway, or for
// the whole site.
func notForClients(name string) bool {
	switch name[0] {
	case 'X', 'x', 'C', 'c':
	default:
		return false
	}
	var buf [nameBuffer]byte
	n := normal(buf[:0], name)
	return hasPrefix(n, "x-accel-") || string(n) == "x-sendfile" || string(n) == "clear-site-data" || hasPrefix(n, "x-gatehouse-")
}

// cleanResponse removes what an upstream must not say in our name.
func cleanResponse(h http.Header, host string) {
	for name := range h {
		if name == "" || notForClients(name) {
			delete(h, name)
		}
	}
	for _, sts := range h["Strict-Transport-Security"] {
		if strings.Contains(strings.ToLower(sts), "includesubdomains") {
			delete(h, "Strict-Transport-Security")
		}
	}
	if cs := h["Set-Cookie"]; len(cs) > 0 {
		keep := cs[:0:0]
		for _, c := range cs {
			if allowedSetCookie(c, host) {
				keep = append(keep, c)
			}
		}
		if len(keep) == 0 {
			delete(h, "Set-Cookie")
		} else {
			h["Set-Cookie"] = keep
		}
	}
}

// cleanTrailer does the same for what comes after the body; nobody needs a
// cookie there (GW-17).
func cleanTrailer(h http.Header) {
	for name := range h {
		if notInTrailers(name) || notForClients(name) {
			delete(h, name)
		}
	}
}

func allowedSetCookie(line, host string) bool {
	pair, rest, _ := strings.Cut(line, ";")
	// A cookie without a name is sent back as its value alone, which then reads
	// as a cookie of the name that stands in it.
	name, _, _ := strings.Cut(strings.TrimLeft(pair, "= \t"), "=")
	if ownCookie(strings.TrimSpace(name)) {
		return false
	}
	for attr := range strings.SplitSeq(rest, ";") {
		k, v, _ := strings.Cut(attr, "=")
		if !strings.EqualFold(strings.TrimSpace(k), "domain") {
			continue
		}
		domain := strings.ToLower(strings.TrimPrefix(strings.TrimSpace(v), "."))
		if domain != host && !strings.HasSuffix(domain, "."+host) { // above its own host
			return false
		}
	}
	return true
}

// maxHeaderValue is the most that one identity header carries (GW-3).
const maxHeaderValue = 8 << 10

// percent encodes text for a header: unreserved ASCII as it is, everything else
// as percent-encoded UTF-8.
func percent(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

// identity are the headers that tell an upstream who it is. They are made once
// for each pass and shared by its requests.
type identity struct {
	user, email, name, groups []string // values as net/http keeps them; nil is left out
	truncated                 bool     // the groups were too long
}

func newIdentity(userID, email, name string, groups []string) identity {
	parts := make([]string, len(groups))
	for i, g := range groups {
		parts[i] = percent(g)
	}
	id := identity{user: []string{percent(userID)}}
	if email != "" {
		id.email = []string{percentEmail(email)}
	}
	if n := percent(name); n != "" && len(n) <= maxHeaderValue {
		id.name = []string{n}
	}
	if all := strings.Join(parts, ","); len(all) <= maxHeaderValue {
		id.groups = []string{all}
	} else {
		id.truncated = true
	}
	return id
}

// percentEmail leaves @ readable.
func percentEmail(s string) string { return strings.ReplaceAll(percent(s), "%40", "@") }

// set writes the headers; a lease upstream is told only the id unless the route
// says more (GW-11).
func (id identity) set(h http.Header, all bool) {
	h["X-Gatehouse-User"] = id.user
	if !all {
		return
	}
	if id.email != nil {
		h["X-Gatehouse-Email"] = id.email
	}
	if id.name != nil {
		h["X-Gatehouse-Name"] = id.name
	}
	if id.truncated {
		h["X-Gatehouse-Groups-Truncated"] = []string{"1"}
	} else {
		h["X-Gatehouse-Groups"] = id.groups
	}
}
