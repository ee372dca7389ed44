// Package web is HTTP at the edge, both ways: what every request of a browser
// or client passes before it reaches a handler, how pages, JSON, cookies and
// errors are written, and the one constructor of outgoing clients (fetch.go).
// It knows no users, clients or tokens.
package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/tracing"
)

// Config is what New needs.
type Config struct {
	// Issuer is the public URL of the broker; links and cookies follow it,
	// never the Host header (docs/security.md ISS-18).
	Issuer *url.URL
	// TrustedProxies may say who the client is (SE-9).
	TrustedProxies []netip.Prefix
	// PlaceHeaders are where they say where the client is.
	PlaceHeaders  PlaceHeaders
	DefaultLocale string
	Brand         string
	// Support is an address or link that error pages name; may be "".
	Support           string
	TimeZone          *time.Location
	Templates, Static fs.FS
	Sealer            *store.Sealer
	Log               *slog.Logger
	Now               func() time.Time
	// Access are the fields of the access log (AccessFields); none: no such log.
	Access []string
	// Sheds begins the names of cookies that a request may have too many of; the
	// oldest are then taken from the browser. "" for none.
	Sheds string
	// Observe is told of every answer; may be nil.
	Observe func(handler string, code int, took time.Duration)
	// Tracer begins the span of every request; nil where nothing is traced.
	Tracer *tracing.Tracer
	// Shown keeps the error pages of signed-in people; nil keeps none.
	Shown *ErrorPages
}

// PlaceHeaders name the headers in which a trusted proxy says where its client is:
// the code of its country (ISO 3166-1) and its city. "" is none.
type PlaceHeaders struct{ Country, City string }

// Edge is the edge of one broker.
type Edge struct {
	cfg    Config
	secure bool // cookies are Secure and carry __Host-
	pages  map[string]*template.Template
	texts  map[string]map[string]string
	assets assets
	icons  map[string]template.HTML
	cross  *http.CrossOriginProtection
	picked picked
	access *accessLog // nil: none
}

// New checks the configuration and parses all templates and texts.
func New(cfg Config) (*Edge, error) {
	if cfg.Issuer == nil || cfg.Templates == nil || cfg.Static == nil || cfg.Sealer == nil || cfg.Log == nil || cfg.Now == nil {
		return nil, errors.New("web: the configuration is incomplete")
	}
	if cfg.Brand == "" {
		cfg.Brand = "RemoteGPU"
	}
	if cfg.TimeZone == nil {
		cfg.TimeZone = time.UTC
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, int, time.Duration) {}
	}
	e := &Edge{cfg: cfg, secure: cfg.Issuer.Scheme == "https", cross: http.NewCrossOriginProtection(), access: newAccessLog(cfg.Log, cfg.Access)}
	var err error
	if e.texts, err = loadTexts(cfg.Templates); err != nil {
		return nil, err
	}
	if cfg.DefaultLocale == "" {
		e.cfg.DefaultLocale = "en"
	} else if e.texts[cfg.DefaultLocale] == nil {
		return nil, fmt.Errorf("web: there are no texts for the default locale %q", cfg.DefaultLocale)
	}
	if e.assets, err = loadAssets(cfg.Static); err != nil {
		return nil, err
	}
	if e.icons, err = loadIcons(cfg.Static); err != nil {
		return nil, err
	}
	if e.pages, err = loadPages(cfg.Templates, e); err != nil {
		return nil, err
	}
	return e, nil
}

// Handler answers a request, or returns an error that is rendered once.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Handle makes an http.Handler of h. name is its label in metrics and logs.
func (e *Edge) Handle(name string, h Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		q := RequestOf(r)
		q.Handler, q.Pattern = name, r.Pattern
		e.base(rec.Header(), q)
		if err := h(rec, r); err != nil {
			e.RenderError(rec, r, err)
		}
		if span := q.Span; span.On() {
			span.Name(r.Method + " " + name) // a known method, see Middleware
			span.Set("http.route", name)
			span.Status(rec.code(), tracing.Server)
		}
		took := time.Since(start)
		e.cfg.Observe(name, rec.code(), took)
		e.logRequest(r, name, rec.code(), took)
	})
}

// recorder remembers the status for logs and metrics.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(code int) {
	if r.status == 0 {
		r.status = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) code() int {
	if r.status == 0 {
		return http.StatusOK
	}
	return r.status
}

// JSON writes v. It is never cached unless the caller has said otherwise.
func (e *Edge) JSON(w http.ResponseWriter, status int, v any) error {
	js, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(js, '\n'))
	return nil
}

// Redirect sends the browser on with 303, so that a POST becomes a GET. to is a
// path of ours or a URL that the caller has checked.
func (e *Edge) Redirect(w http.ResponseWriter, r *http.Request, to string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if !strings.HasPrefix(to, "/") {
		// What another origin gets must not carry our URL (RFC 9700 section 4.2).
		h.Set("Referrer-Policy", "no-referrer")
	}
	h.Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// Protect refuses cross-origin requests that are not GET, HEAD or OPTIONS
// (docs/security.md SE-4).
func (e *Edge) Protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := e.cross.Check(r); err != nil {
			e.RenderError(w, r, Fail(http.StatusForbidden, "request.cross_origin", "error.cross_origin", err))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Navigates reports whether a person is looking at the answer: a document
// navigation, or a client too old to say, that asks for HTML.
func Navigates(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}
