package broker

import (
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/remotegpu/gatehouse/broker/web"
)

// Handler is the public listener, of whichever configuration serves.
func (b *Broker) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.current.Load().public.ServeHTTP(w, r) })
}

// AdminHandler is the private listener.
func (b *Broker) AdminHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.current.Load().private.ServeHTTP(w, r) })
}

// publicHandler is the public listener: the issuer's host, the gateway's hosts,
// and nothing for any other.
func (b *serving) publicHandler() (http.Handler, error) {
	own, err := b.issuerRoutes()
	if err != nil {
		return nil, err
	}
	host := hostOnly(b.cfg.Issuer)
	unknown := b.edge.Handle("unknown host", func(w http.ResponseWriter, r *http.Request) error {
		if b.cfg.Dev && r.Method == http.MethodGet && loopbackName(web.RequestOf(r).Host) {
			b.edge.Redirect(w, r, b.cfg.Issuer+r.URL.RequestURI())
			return nil
		}
		return web.Fail(http.StatusMisdirectedRequest, "request.host", "error.not_found", nil)
	})
	return b.edge.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch h := web.RequestOf(r).Host; {
		case r.ProtoMajor == 2 && r.TLS == nil && !b.gateway.Owns(h): // for routes that say h2c alone
			b.edge.RenderError(w, r, web.Fail(http.StatusHTTPVersionNotSupported, "request.h2c", "error.bad_request", nil))
		case h == host:
			own.ServeHTTP(w, r)
		case b.gateway.Owns(h):
			b.gateway.ServeHTTP(w, r)
		case r.URL.Path == "/healthz":
			healthz(w, r)
		default:
			unknown.ServeHTTP(w, r)
		}
	})), nil
}

// issuerRoutes is every URL of the issuer's host on one page.
func (b *serving) issuerRoutes() (http.Handler, error) {
	r := chi.NewRouter()
	// Bodies and answers of these are small: nobody may hold a connection open.
	r.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			if r.ContentLength != 0 {
				_ = rc.SetReadDeadline(time.Now().Add(30 * time.Second))
			}
			if !strings.HasPrefix(r.URL.Path, "/api/") { // which has exports
				_ = rc.SetWriteDeadline(time.Now().Add(time.Minute))
			}
			next.ServeHTTP(w, r)
		})
	})
	get := func(pattern, name string, h web.Handler) { r.Method(http.MethodGet, pattern, b.edge.Handle(name, h)) }
	// Monitors, caches and people with curl ask so. The handler sees a GET, so that
	// none takes it for a form; net/http leaves the body out.
	page := func(pattern, name string, h web.Handler) {
		get(pattern, name, h)
		r.Method(http.MethodHead, pattern, b.edge.Handle(name, func(w http.ResponseWriter, r *http.Request) error {
			as := *r
			as.Method = http.MethodGet
			return h(w, &as)
		}))
	}
	form := func(pattern, name string, h web.Handler) {
		r.Method(http.MethodPost, pattern, b.edge.Protect(b.edge.Handle(name, h)))
	}
	both := func(pattern, name string, h web.Handler) { page(pattern, name, h); form(pattern, name, h) }

	// The issuer. No cookie authenticates these, so they need no cross-origin check.
	is := b.issuer
	page("/.well-known/openid-configuration", "discovery", is.Discovery)
	page("/.well-known/oauth-authorization-server", "discovery", is.Discovery)
	page("/oauth2/jwks", "jwks", is.JWKS)
	get("/oauth2/authorize", "authorize", is.Authorize)
	r.Method(http.MethodPost, "/oauth2/authorize", b.edge.Handle("authorize", is.Authorize))
	r.Handle("/oauth2/token", b.edge.Handle("token", is.Token))
	r.Handle("/oauth2/userinfo", b.edge.Handle("userinfo", is.UserInfo))
	r.Handle("/oauth2/introspect", b.edge.Handle("introspect", is.Introspect))
	r.Handle("/oauth2/revoke", b.edge.Handle("revoke", is.Revoke))
	r.Handle("/oauth2/device_authorization", b.edge.Handle("device authorization", is.DeviceAuthorization))
	both("/consent/{id}", "consent", is.Consent)
	both("/device", "device", is.Device)

	// Signing in and out.
	d := b.door
	page("/signin", "signin", d.Choose)
	form("/signin", "signin e-mail", d.Email)
	both("/signin/{connector}", "signin method", d.Method)
	r.Handle("/auth/{connector}/callback", b.edge.Handle("callback", d.Callback))
	r.Method(http.MethodPost, "/auth/{connector}/backchannel-logout", b.edge.Handle("backchannel logout", d.BackchannelLogout)) // server to server
	r.Handle("/auth/{connector}/slo", b.edge.Handle("single logout", d.Logout))                                                 // signed messages of the upstream's, cross-site by design
	page("/auth/{connector}/metadata", "sp metadata", d.Describe)
	get("/resume/{id}", "resume", d.Resume)
	page("/invite/{token}", "invite", d.Invite)
	both("/account/links/confirm", "confirm link", d.Confirm)
	both("/signout", "signout", d.SignOut)
	page("/signed-out", "signed out", d.SignedOut)

	// The gateway's beginning of a hand-off.
	get("/gateway/start", "gateway start", b.gateway.Start)
	r.Handle("/gateway/auth", b.edge.Handle("forward auth", b.gateway.ForwardAuth)) // for proxies alone, whatever the method

	// People.
	p := b.portal
	page("/", "home", p.Home)
	page("/account", "account", p.Account)
	page("/account/links", "links", p.Links)
	form("/account/links/link", "link", p.Link)
	form("/account/links/unlink", "unlink", p.Unlink)
	page("/account/sessions", "sessions", p.Sessions)
	form("/account/sessions/end", "end session", p.EndSession)
	page("/account/sessions/end-others", "end other sessions", p.AskEndOthers)
	form("/account/sessions/end-others", "end other sessions", p.EndOthers)
	page("/account/apps", "apps", p.Apps)
	form("/account/apps/revoke", "revoke app", p.RevokeApp)
	page("/account/keys", "keys", p.Keys)
	form("/account/keys", "create key", p.CreateKey)
	form("/account/keys/revoke", "revoke key", p.RevokeKey)
	form("/account/keys/rotate", "rotate key", p.RotateKey)
	page("/account/security-log", "security log", p.SecurityLog)
	page("/account/claims", "claims", p.Claims)
	form("/prefs", "prefs", p.Prefs)
	page("/error/{ref}", "error again", p.ErrorAgain)
	api, err := p.API(false)
	if err != nil {
		return nil, err
	}
	r.Method(http.MethodOptions, "/api/v1/consoles/{id}/ticket", b.edge.Handle("ticket preflight", p.TicketPreflight))
	r.Handle("/api/v1/*", api)

	page("/static/*", "static", b.edge.Static)
	for _, m := range []string{http.MethodGet, http.MethodHead} {
		r.Method(m, "/healthz", http.HandlerFunc(healthz))
	}
	r.NotFound(b.edge.Handle("not found", func(http.ResponseWriter, *http.Request) error {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}).ServeHTTP)
	r.MethodNotAllowed(b.edge.Handle("method", func(_ http.ResponseWriter, req *http.Request) error {
		e := web.Fail(http.StatusMethodNotAllowed, "request.method", "error.method", nil)
		e.Header = http.Header{} // a 405 names what there is (RFC 9110 section 15.5.6)
		for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			if r.Match(chi.NewRouteContext(), m, req.URL.Path) {
				e.Header.Add("Allow", m)
			}
		}
		return e
	}).ServeHTTP)
	return r, nil
}

// privateHandler is the private listener.
func (b *serving) privateHandler() (http.Handler, error) {
	r := chi.NewRouter()
	api, err := b.portal.API(true)
	if err != nil {
		return nil, err
	}
	r.Handle("/api/v1/*", api)
	for _, m := range []string{http.MethodGet, http.MethodHead} {
		r.Method(m, "/healthz", http.HandlerFunc(healthz))
		r.Method(m, "/readyz", b.edge.Handle("readyz", b.readyz))
	}
	r.Handle("/metrics", promhttp.HandlerFor(b.metrics.registry, promhttp.HandlerOpts{}))
	if b.cfg.Debug {
		r.HandleFunc("/debug/pprof/*", pprof.Index)
		r.HandleFunc("/debug/pprof/profile", pprof.Profile)
		r.HandleFunc("/debug/pprof/trace", pprof.Trace)
		r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	}
	return b.edge.Middleware(b.guardPrivate(r)), nil
}

// healthz says only that the process lives: in a word, or in JSON to who asks for
// that alone.
func healthz(w http.ResponseWriter, r *http.Request) {
	h, body := w.Header(), "ok\n"
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if strings.TrimSpace(r.Header.Get("Accept")) == "application/json" {
		h.Set("Content-Type", "application/json")
		body = `{"status":"ok"}` + "\n"
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	_, _ = w.Write([]byte(body))
}
