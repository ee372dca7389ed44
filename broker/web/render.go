package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
)

// View is what every template gets: the page around it, and its own data.
type View struct {
	edge   *Edge
	req    *Request
	Locale string
	Theme  string
	Brand  string
	Base   string // "" on the issuer's host, else its origin: gateway hosts have no files of ours
	Host   string // of the issuer, for the footer
	Path   string // of this page, where the language form returns to
	Name   string // of the template
	User   string // name of the person signed in; "" for nobody
	Data   any
}

// Signed is implemented by page data of a signed-in user; the layout then shows
// the navigation.
type Signed interface{ SignedInAs() string }

// T returns a text in the reader's language; args are name, value pairs.
func (v View) T(id string, args ...any) (string, error) {
	if len(args)%2 != 0 {
		return "", fmt.Errorf("text %s: arguments are not pairs", id)
	}
	var m map[string]any
	if len(args) > 0 {
		m = make(map[string]any, len(args)/2)
		for i := 0; i < len(args); i += 2 {
			m[fmt.Sprint(args[i])] = args[i+1]
		}
	}
	return v.edge.Text(v.Locale, id, m), nil
}

// Asset returns the URL of a static file, with its content's hash.
func (v View) Asset(name string) (string, error) {
	u, ok := v.edge.assets.url[name]
	if !ok {
		return "", fmt.Errorf("there is no static/%s", name)
	}
	return v.Base + u, nil
}

// Time writes a time for people: in the configured zone, with the zone's name.
func (v View) Time(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	if v.Locale == "zh-CN" {
		return t.In(v.edge.cfg.TimeZone).Format("2006年1月2日 15:04 MST")
	}
	return t.In(v.edge.cfg.TimeZone).Format("2 Jan 2006, 15:04 MST")
}

// UTC writes a time for machines and for comparing with logs.
func (v View) UTC(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// OtherLocale is the language that the footer offers.
func (v View) OtherLocale() string {
	if v.Locale == "zh-CN" {
		return "en"
	}
	return "zh-CN"
}

// NextTheme is the theme that the footer's button goes to.
func (v View) NextTheme() string {
	switch v.Theme {
	case "":
		return "dark"
	case "dark":
		return "light"
	}
	return "auto"
}

func loadPages(files fs.FS, e *Edge) (map[string]*template.Template, error) {
	names, err := fs.Glob(files, "*.html")
	if err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	pages := map[string]*template.Template{}
	for _, name := range names {
		if name == "layout.html" {
			continue
		}
		t, err := template.New("layout.html").Option("missingkey=error").ParseFS(files, "layout.html", name)
		if err != nil {
			return nil, fmt.Errorf("web: templates/%s: %w", name, err)
		}
		pages[strings.TrimSuffix(name, ".html")] = t
	}
	if pages["error"] == nil || pages["hop"] == nil {
		return nil, fmt.Errorf("web: templates/error.html and templates/hop.html are needed, found %v", names)
	}
	return pages, nil
}

// Page renders templates/<name>.html with data. Nothing is written before the
// whole page could be made.
func (e *Edge) Page(w http.ResponseWriter, r *http.Request, status int, name string, data any) error {
	t := e.pages[name]
	if t == nil {
		return fmt.Errorf("there is no page %q", name)
	}
	q := RequestOf(r)
	v := View{edge: e, req: q, Locale: q.Locale, Theme: q.Theme, Brand: e.cfg.Brand, Host: e.cfg.Issuer.Host, Path: r.URL.RequestURI(), Name: name, Data: data}
	csp := pageCSP
	if q.Host != e.cfg.Issuer.Hostname() {
		v.Path = "" // a page on a gateway host cannot set the broker's cookie
		v.Base = e.cfg.Issuer.Scheme + "://" + e.cfg.Issuer.Host
		csp = strings.NewReplacer("script-src 'self'", "script-src "+v.Base, "style-src 'self'", "style-src "+v.Base, "img-src 'self'", "img-src "+v.Base).Replace(pageCSP)
	}
	if s, ok := data.(Signed); ok {
		v.User = s.SignedInAs()
	}
	var buf bytes.Buffer
	if err := t.Execute(&buf, v); err != nil {
		return fmt.Errorf("page %s: %w", name, err)
	}
	h := w.Header()
	setBaseHeaders(h, e.secure)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", q.Locale)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", csp)
	if strings.HasPrefix(r.URL.Path, "/account") || strings.HasPrefix(r.URL.Path, "/admin") {
		h.Set("Cross-Origin-Opener-Policy", "same-origin") // not on pages that clients open as pop-ups (ISS-17)
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(buf.Bytes())
	}
	return nil
}

// Hop answers 200 with a page that goes on to another place by itself, and by a
// visible link. Chromium applies form-action to the redirects behind a form, so
// a form's answer may not redirect to another origin (docs/adr).
func (e *Edge) Hop(w http.ResponseWriter, r *http.Request, to string) error {
	w.Header().Set("Refresh", "0;url="+to)
	if err := e.Page(w, r, http.StatusOK, "hop", struct{ To string }{to}); err != nil {
		return err
	}
	return nil
}

// assets are the static files under names that hold their content's hash.
type assets struct {
	url  map[string]string // "app.css" → "/static/app.1a2b3c4d.css"
	file map[string]asset  // by the name in the URL
}

type asset struct {
	body []byte
	ct   string
}

func loadAssets(files fs.FS) (assets, error) {
	a := assets{url: map[string]string{}, file: map[string]asset{}}
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(name, ".go") {
			return err
		}
		body, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		ext := path.Ext(name)
		hashed := strings.TrimSuffix(name, ext) + "." + hex.EncodeToString(sum[:6]) + ext
		ct := mime.TypeByExtension(ext)
		switch ext { // not what the machine's own tables say
		case ".css":
			ct = "text/css; charset=utf-8"
		case ".js":
			ct = "text/javascript; charset=utf-8"
		case ".svg":
			ct = "image/svg+xml"
		}
		a.url[name] = "/static/" + hashed
		a.file[hashed] = asset{body, ct}
		return nil
	})
	if err != nil {
		return a, fmt.Errorf("web: static files: %w", err)
	}
	return a, nil
}

// Static serves /static/…; what it gives never changes under its name.
func (e *Edge) Static(w http.ResponseWriter, r *http.Request) error {
	a, ok := e.assets.file[strings.TrimPrefix(r.URL.Path, "/static/")]
	if !ok {
		return Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	h := w.Header()
	h.Set("Content-Type", a.ct)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body)
	}
	return nil
}
