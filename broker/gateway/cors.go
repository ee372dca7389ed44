package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/remotegpu/gatehouse/broker/web"
)

// corsAnswer is what a route says to preflights.
type corsAnswer struct {
	methods, headers, expose, maxAge string
}

func newCORSAnswer(r Route) corsAnswer {
	methods := r.Methods
	if len(methods) == 0 {
		methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
	}
	age := r.CORS.MaxAge
	if age == 0 {
		age = 10 * time.Minute
	}
	return corsAnswer{methods: strings.Join(methods, ", "), headers: strings.Join(r.CORS.Headers, ", "), expose: strings.Join(r.CORS.Expose, ", "), maxAge: strconv.Itoa(int(age / time.Second))}
}

// cors answers preflights, which are never forwarded, and lets the route's
// listed origins read (GW-15).
func (g *Gateway) cors(w *answer, r *http.Request, rt *route) (done bool, err error) {
	if w.vary = len(rt.CORS.Origins) > 0; w.vary {
		if origin := r.Header.Get("Origin"); origin != "" && slices.Contains(rt.CORS.Origins, origin) {
			w.origin, w.expose = origin, rt.cors.expose
		}
		w.announce()
	}
	if !isPreflight(r) {
		return false, nil
	}
	if w.origin == "" {
		return true, web.Fail(http.StatusForbidden, "request.cross_origin", "error.cross_origin", nil)
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", rt.cors.methods)
	if rt.cors.headers != "" {
		h.Set("Access-Control-Allow-Headers", rt.cors.headers)
	} else if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" && len(asked) < 1024 {
		h.Set("Access-Control-Allow-Headers", asked)
	}
	h.Add("Vary", "Access-Control-Request-Headers")
	h.Set("Access-Control-Max-Age", rt.cors.maxAge)
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	return true, nil
}

// corsProblems complains about what browsers would not understand.
func (r Route) corsProblems(add func(field, rule, text, fix string)) {
	for i, o := range r.CORS.Origins {
		if !isOrigin(o) {
			add(fmt.Sprintf("CORS.Origins[%d]", i), "route.cors", fmt.Sprintf("%q is not an origin.", o), "https://app.example.com")
		}
	}
	for field, list := range map[string][]string{"Headers": r.CORS.Headers, "Expose": r.CORS.Expose} {
		for i, name := range list {
			// With credentials * is a header's name and nothing else (Fetch standard).
			if !httpguts.ValidHeaderFieldName(name) || name == "*" {
				add(fmt.Sprintf("CORS.%s[%d]", field, i), "route.cors", fmt.Sprintf("%q is no header.", name), "X-Request-Id")
			}
		}
	}
	if r.CORS.MaxAge < 0 || r.CORS.MaxAge > 24*time.Hour {
		add("CORS.MaxAge", "route.cors", "Browsers remember a preflight for a day at most.", "max_age: 10m")
	}
	if len(r.CORS.Origins) == 0 && (len(r.CORS.Headers) > 0 || len(r.CORS.Expose) > 0 || r.CORS.MaxAge != 0) {
		add("CORS", "route.cors", "Without origins nothing of cors is used.", "origins: [https://app.example.com]")
	}
}
