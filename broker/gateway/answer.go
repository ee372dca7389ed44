package gateway

import (
	"net/http"

	"github.com/remotegpu/gatehouse/broker/web"
)

// answer remembers the status and drops informational answers of upstreams,
// which carry hop-by-hop headers through ReverseProxy (docs/security.md GW-10).
type answer struct {
	http.ResponseWriter
	status   int
	id       string // X-Gatehouse-Request-Id
	vary     bool   // the route has cors.origins
	origin   string // the one of them that asks
	expose   string // what it may read
	informed bool   // a 1xx was dropped
	out      outlet
}

// announce sets the headers that every answer of a route carries.
func (a *answer) announce() {
	h := a.ResponseWriter.Header()
	if a.id != "" {
		h.Set(web.RequestIDHeader, a.id)
	}
	if a.vary {
		h.Add("Vary", "Origin")
	}
	if a.origin != "" {
		h.Set("Access-Control-Allow-Origin", a.origin)
		h.Set("Access-Control-Allow-Credentials", "true")
		if a.expose != "" {
			h.Set("Access-Control-Expose-Headers", a.expose)
		}
	}
}

// WriteHeader passes final statuses on.
func (a *answer) WriteHeader(code int) {
	if code >= 100 && code < 200 && code != http.StatusSwitchingProtocols {
		a.informed = true
		return
	}
	if a.status == 0 {
		a.status = code
		if a.informed { // ReverseProxy has cleared all headers with the 1xx's
			a.announce()
		}
	}
	a.ResponseWriter.WriteHeader(code)
}

// Write implies 200.
func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	a.out.writing()
	defer a.out.wrote()
	return a.ResponseWriter.Write(b)
}

// Flush sends what is buffered.
func (a *answer) Flush() {
	a.out.writing()
	defer a.out.wrote()
	_ = a.out.rc.Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) code() int {
	if a.status == 0 {
		return http.StatusOK
	}
	return a.status
}
