package web

import (
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"
)

// CookieName returns the name under which a cookie is set: with __Host- except
// on a loopback http issuer, where browsers refuse that prefix.
func (e *Edge) CookieName(name string) string {
	if e.secure {
		return "__Host-" + name
	}
	return name
}

// SetCookie sets a host-only, HttpOnly, Lax cookie (docs/security.md SE-2). A
// negative maxAge removes it; 0 makes it end with the browser.
func (e *Edge) SetCookie(w http.ResponseWriter, name, value string, maxAge time.Duration) {
	c := &http.Cookie{Name: e.CookieName(name), Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: e.secure}
	switch {
	case maxAge < 0:
		c.MaxAge = -1
	case maxAge > 0:
		c.MaxAge = int(maxAge / time.Second)
	}
	http.SetCookie(w, c)
}

// SetFrameCookie sets the one cookie of ours that is not Lax: of a page that
// another site frames, kept apart for that site (docs/security.md GW-16). On a
// loopback http issuer browsers take no such cookie, and it is Lax.
func (e *Edge) SetFrameCookie(w http.ResponseWriter, name, value string) {
	c := &http.Cookie{Name: e.CookieName(name), Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode}
	if e.secure {
		c.Secure, c.SameSite, c.Partitioned = true, http.SameSiteNoneMode, true
	}
	http.SetCookie(w, c)
}

// Cookie returns the cookie's value; a name that is there twice is as good as
// none, since somebody tossed one of them (SE-2).
func (e *Edge) Cookie(r *http.Request, name string) (string, bool) {
	want := e.CookieName(name)
	value, n := "", 0
	for k, v := range cookies(r) {
		if k == want {
			value, n = v, n+1
		}
	}
	if n != 1 {
		return "", false
	}
	return value, value != ""
}

// CookieSent reports whether the request carries the name at all, be it empty,
// malformed or there twice: what Cookie does not take can then be cleared.
func (e *Edge) CookieSent(r *http.Request, name string) bool {
	want := e.CookieName(name)
	for k := range cookies(r) {
		if k == want {
			return true
		}
	}
	return false
}

// CookieNames returns the names of a request's cookies that begin with prefix,
// without it and each once.
func (e *Edge) CookieNames(r *http.Request, prefix string) []string {
	prefix = e.CookieName(prefix)
	var out []string
	for k := range cookies(r) {
		if rest, ok := strings.CutPrefix(k, prefix); ok && !slices.Contains(out, rest) {
			out = append(out, rest)
		}
	}
	return out
}

// cookies is the one parser of Cookie headers (G2): names and values as they
// were sent, duplicates included. net/http's would leave out what it dislikes,
// and a cookie that one reader sees and another does not is how they are tossed.
func cookies(r *http.Request) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for _, line := range r.Header["Cookie"] {
			for line != "" {
				var part string
				part, line, _ = strings.Cut(line, ";")
				name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
				if n := len(value); n > 1 && value[0] == '"' && value[n-1] == '"' {
					value = value[1 : n-1]
				}
				if ok && !yield(strings.TrimSpace(name), value) {
					return
				}
			}
		}
	}
}
