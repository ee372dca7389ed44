package web

import (
	"net/http"
	"slices"
	"strings"
)

// MaxHeader bounds what a request may say before its body, in bytes
// (docs/security.md G9). Listeners take more, for the sake of shed.
const MaxHeader = 16 << 10

// fits reports whether a request says no more than it may. Cookies of
// Config.Sheds do not count for it: a browser that opens many tabs at once is
// given one by each answer, before a request could have shown how many there are,
// and would then be refused by every page for as long as they live.
func (e *Edge) fits(w http.ResponseWriter, r *http.Request) bool {
	size := len(r.Method) + len(r.RequestURI) + len(r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			size += len(name) + len(v) + len(": \r\n")
		}
	}
	return size <= MaxHeader || e.cfg.Sheds != "" && e.shed(w, r, size) <= MaxHeader
}

// shed takes cookies of Config.Sheds from the request and from the browser until
// the rest fits: browsers name the oldest first. One that the address names is
// what the request is about.
func (e *Edge) shed(w http.ResponseWriter, r *http.Request, size int) int {
	prefix := e.CookieName(e.cfg.Sheds)
	var lines []string
	for _, line := range r.Header["Cookie"] {
		parts := slices.DeleteFunc(strings.Split(line, ";"), func(part string) bool {
			name, _, _ := strings.Cut(strings.TrimSpace(part), "=")
			id, ours := strings.CutPrefix(name, prefix)
			if size <= MaxHeader || !ours || id == "" || strings.Contains(r.RequestURI, id) {
				return false
			}
			size -= len(part) + len(";")
			e.SetCookie(w, e.cfg.Sheds+id, "", -1)
			return true
		})
		if len(parts) > 0 {
			lines = append(lines, strings.TrimSpace(strings.Join(parts, ";")))
		}
	}
	r.Header["Cookie"] = lines
	return size
}
