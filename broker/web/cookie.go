package web

import (
	"net/http"
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

// Cookie returns the cookie's value; a name that is there twice is as good as
// none, since somebody tossed one of them (SE-2).
func (e *Edge) Cookie(r *http.Request, name string) (string, bool) {
	want := e.CookieName(name)
	value, n := "", 0
	for _, line := range r.Header["Cookie"] {
		for line != "" {
			var part string
			part, line, _ = strings.Cut(line, ";")
			k, v, ok := strings.Cut(strings.TrimSpace(part), "=")
			if ok && k == want {
				value, n = strings.Trim(v, `"`), n+1
			}
		}
	}
	return value, n == 1 && value != ""
}

// CookieNames returns the names of a request's cookies that begin with prefix,
// without it.
func (e *Edge) CookieNames(r *http.Request, prefix string) []string {
	prefix = e.CookieName(prefix)
	var out []string
	for _, c := range r.Cookies() {
		if rest, ok := strings.CutPrefix(c.Name, prefix); ok {
			out = append(out, rest)
		}
	}
	return out
}
