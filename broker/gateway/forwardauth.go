package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/remotegpu/gatehouse/broker/web"
)

// envoyPrefix is Envoy's path_prefix: what comes below it is the request itself.
const envoyPrefix = "/.gatehouse/auth/"

// family is which of a proxy's headers describe the request that it asks about.
// It is the endpoint's configuration and never guessed: each proxy lets its
// client forge another one's (docs/security.md GW-6).
type family string

const (
	familyForwarded family = "forwarded" // Caddy, Traefik, HAProxy: X-Forwarded-Method, -Proto, -Host, -Uri
	familyOriginal  family = "original"  // nginx: X-Original-Method, X-Original-URL
	familyEnvoy     family = "envoy"     // the request itself
)

var errNotAProxy = errors.New("asked by somebody who is not in trusted_proxies")

// ForwardAuth is /gateway/auth, and /.gatehouse/auth on gateway hosts: another
// proxy asks whether it may pass a request on. 200 comes with every identity
// header, empty where there is nothing.
func (g *Gateway) ForwardAuth(w http.ResponseWriter, r *http.Request) error {
	params, err := web.ParseValues(r.URL.RawQuery)
	if err != nil {
		return err
	}
	f := family(params.Get("headers"))
	if f == "" {
		f = familyForwarded
	}
	return g.forwardAuth(w, r, f)
}

// envoyAuth is what comes below /.gatehouse/auth/: its query is the client's and
// says nothing about us.
func (g *Gateway) envoyAuth(w http.ResponseWriter, r *http.Request) error {
	return g.forwardAuth(w, r, familyEnvoy)
}

func (g *Gateway) forwardAuth(w http.ResponseWriter, r *http.Request, f family) error {
	refused := func(err error) error {
		return web.Fail(http.StatusForbidden, "forward_auth.refused", "error.bad_request", err)
	}
	if !g.cfg.Edge.Trusted(r) {
		return refused(errNotAProxy)
	}
	asked, err := described(r, f)
	if err != nil {
		return refused(err)
	}
	pg := &passage{answer: answer{ResponseWriter: w}, host: web.HostName(asked.Host)}
	q := *web.RequestOf(r)
	q.Host = pg.host
	asked = asked.WithContext(web.WithRequest(r.Context(), &q))
	defer func() { // the log's line is of the question, and says what it was about
		line := web.RequestOf(r)
		line.Route, line.User, line.Session = q.Route, q.User, q.Session
	}()
	if err := g.match(pg, asked, rawPath(asked)); err != nil {
		return forwardError(err)
	}
	err = g.admit(pg, asked)
	switch {
	case errors.Is(err, errNobody):
		if f != familyOriginal && pg.route.session && begins(asked) {
			return g.startHandoff(w, asked, 0) // these hand the answer to the browser as it is
		}
		return g.forwardUnauthenticated(asked, pg.route)
	case err != nil:
		return forwardError(err)
	case pg.pass.stepUp > 0:
		if f != familyOriginal {
			return g.stepUp(w, asked, pg.pass.stepUp)
		}
		asked.Method = http.MethodPost // nginx takes 401 alone, and leads to sign-in by itself
		return g.stepUp(w, asked, pg.pass.stepUp)
	}
	g.identify(w.Header(), pg)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return nil
}

// described makes the request that a proxy asks about of what it says.
func described(r *http.Request, f family) (*http.Request, error) {
	one := func(name string) (string, error) {
		switch v := r.Header[name]; {
		case len(v) == 1 && v[0] != "":
			return v[0], nil
		case len(v) > 1:
			return "", errors.New(name + " is there twice")
		}
		return "", errors.New(name + " is missing; is headers= right for this proxy?")
	}
	out := r.Clone(context.WithoutCancel(r.Context()))
	out.Body, out.ContentLength, out.Trailer, out.TransferEncoding = http.NoBody, 0, nil, nil
	var method, host, uri string
	var err error
	switch f {
	case familyForwarded:
		for name, to := range map[string]*string{"X-Forwarded-Method": &method, "X-Forwarded-Host": &host, "X-Forwarded-Uri": &uri, "X-Forwarded-Proto": new(string)} {
			if *to, err = one(name); err != nil {
				return nil, err
			}
		}
	case familyOriginal:
		if method, err = one("X-Original-Method"); err != nil {
			return nil, err
		}
		whole, err := one("X-Original-Url")
		if err != nil {
			return nil, err
		}
		_, rest, ok := strings.Cut(whole, "://")
		slash := strings.IndexByte(rest, '/')
		if !ok || slash < 0 {
			return nil, errors.New("X-Original-URL is no whole address")
		}
		host, uri = rest[:slash], rest[slash:]
	case familyEnvoy:
		raw := r.URL.EscapedPath()
		if r.RequestURI != "" {
			raw, _, _ = strings.Cut(r.RequestURI, "?")
		}
		below, ok := strings.CutPrefix(raw, envoyPrefix)
		if !ok {
			return nil, errors.New("path_prefix of Envoy is " + envoyPrefix + ", and nothing else is asked as it asks")
		}
		// Envoy puts its path_prefix, which ends with a slash, before a path that begins with one.
		if !strings.HasPrefix(below, "/") {
			return nil, errors.New("path_prefix must be " + envoyPrefix + " with the slash at its end")
		}
		method, host, uri = r.Method, r.Host, below
		if r.URL.RawQuery != "" {
			uri += "?" + r.URL.RawQuery
		}
	default:
		return nil, errors.New("headers= must be original, forwarded or envoy")
	}
	u, err := url.ParseRequestURI(uri)
	if err != nil || !strings.HasPrefix(uri, "/") || u.Host != "" && !strings.HasPrefix(uri, "//") {
		return nil, errors.New("the address of the request cannot be read")
	}
	if !web.KnownMethod(method) {
		return nil, errors.New("the method of the request is none that passes")
	}
	out.Method, out.Host, out.URL, out.RequestURI = method, host, u, uri
	// The question is not the request: what upgrades a connection is between
	// browser and proxy (Caddy passes it on).
	for _, name := range []string{"Upgrade", "Connection"} {
		delete(out.Header, name)
	}
	return out, nil
}

// identify sets every identity header, so that a proxy that copies them replaces
// what its client forged.
func (g *Gateway) identify(h http.Header, pg *passage) {
	full := !pg.route.Lease || pg.route.Identity != ""
	h["Authorization"] = []string{""}
	if pg.pass.bearer != nil {
		h["Authorization"] = pg.pass.bearer
	}
	for _, name := range []string{"X-Gatehouse-User", "X-Gatehouse-Email", "X-Gatehouse-Name", "X-Gatehouse-Groups", "X-Gatehouse-Groups-Truncated"} {
		h[name] = []string{""}
	}
	pg.pass.identity.set(h, full)
}

// forwardUnauthenticated is 401: nginx goes on to error_page, the others hand it
// to the client.
func (g *Gateway) forwardUnauthenticated(asked *http.Request, rt *route) error {
	e := web.Fail(http.StatusUnauthorized, "session.required", "error.sign_in", errNobody)
	e.Header = http.Header{"Www-Authenticate": {`Bearer realm="gatehouse"`}}
	e.JSON = map[string]string{"error": "unauthorized", "code": "session.required", "message": "Sign in first, or send a bearer token for this service.",
		"login_url": g.cfg.Issuer.String() + "/gateway/start?rd=" + url.QueryEscape(g.origin(asked)+"/"), "route": rt.Name}
	return e
}

// forwardError keeps what proxies understand: 401, 403, and 5xx for our own
// trouble. nginx answers any other status with 500.
func forwardError(err error) error {
	var e *web.Error
	if errors.As(err, &e) && e.Status >= 400 && e.Status < 500 && e.Status != http.StatusUnauthorized {
		e.Status = http.StatusForbidden
	}
	return err
}
