package web

import (
	"net/http"
	"strings"
	"time"
)

// noticeCookie tells the page after a form what the form did.
const noticeCookie = "gatehouse-notice"

// SetNotice has the next page say once what happened. id is a message id below
// "notice."; the cookie is signed, so that nobody else can make a page say it.
func (e *Edge) SetNotice(w http.ResponseWriter, id string) {
	e.SetCookie(w, noticeCookie, id+"."+e.FormToken(id, "notice"), time.Minute)
}

// takeNotice returns the notice of this request and forgets it.
func (e *Edge) takeNotice(w http.ResponseWriter, r *http.Request) string {
	v, ok := e.Cookie(r, noticeCookie)
	if !ok {
		return ""
	}
	e.SetCookie(w, noticeCookie, "", -1)
	i := strings.LastIndexByte(v, '.')
	if i < 0 || !strings.HasPrefix(v, "notice.") || !e.has(v[:i]) || !e.CheckFormToken(v[:i], "notice", v[i+1:]) {
		return ""
	}
	return v[:i]
}
