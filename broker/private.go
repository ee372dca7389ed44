package broker

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/remotegpu/gatehouse/broker/web"
)

// guardPrivate keeps pages of other sites, open in the browser of somebody who can
// reach the private listener, from reading it. A page that has its own name lead
// here (DNS rebinding) is of the same origin to its browser, so no header tells it
// from Prometheus: only the name does. /healthz says nothing, and load balancers
// ask it by whatever name they have (docs/security.md AD-11).
func (b *serving) guardPrivate(next http.Handler) http.Handler {
	own := slices.Clone(b.cfg.AdminHosts)
	if host, _, err := net.SplitHostPort(b.cfg.AdminListen); err == nil {
		own = append(own, host)
	}
	if name, err := os.Hostname(); err == nil {
		own = append(own, name)
	}
	for i := range own {
		own[i] = strings.ToLower(own[i])
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch host := web.RequestOf(r).Host; {
		case r.URL.Path == "/healthz":
		case publicName(host) && !slices.Contains(own, host):
			b.edge.RenderError(w, r, web.Fail(http.StatusMisdirectedRequest, "admin.host", "error.admin_host", fmt.Errorf("asked as %s, which stands in admin_hosts no more than in admin_listen", host)))
			return
		case fromElsewhere(r):
			b.edge.RenderError(w, r, web.Fail(http.StatusForbidden, "request.cross_origin", "error.cross_origin", nil))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// publicName reports whether anybody could own a host name and lead it here: not
// addresses, localhost and single words such as a container's, nor names below
// what is no top-level domain of the Internet (.internal, .local, .svc).
func publicName(host string) bool {
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return false
	}
	at := strings.LastIndexByte(host, '.')
	if at < 0 {
		return false
	}
	_, known := publicsuffix.PublicSuffix(host[at+1:])
	return known
}

// fromElsewhere reports whether a browser sends a request for a page of another
// origin. Somebody who follows a link comes from elsewhere, too, but that page sees
// nothing of it.
func fromElsewhere(r *http.Request) bool {
	if o := r.Header.Get("Origin"); o != "" {
		u, err := url.Parse(o)
		return err != nil || u.Host != r.Host
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document"
}
