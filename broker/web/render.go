package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

func loadPages(files fs.FS, e *Edge) (map[string]*template.Template, error) {
	names, err := fs.Glob(files, "*.html")
	if err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	pages := map[string]*template.Template{}
	for _, name := range names {
		if name == "layout.html" || name == "parts.html" {
			continue
		}
		t, err := template.New("layout.html").Option("missingkey=error").ParseFS(files, "layout.html", "parts.html", name)
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
	return e.page(w, r, status, name, data, pageCSP)
}

func (e *Edge) page(w http.ResponseWriter, r *http.Request, status int, name string, data any, csp string) error {
	t := e.pages[name]
	if t == nil {
		return fmt.Errorf("there is no page %q", name)
	}
	q := RequestOf(r)
	v := View{edge: e, req: q, Locale: q.Locale, Theme: q.Theme, Brand: e.cfg.Brand, Host: e.cfg.Issuer.Host, Path: r.URL.RequestURI(), Name: name, Data: data}
	if p, ok := data.(Placed); ok {
		v.Path = p.At()
	} else if r.Method != http.MethodGet && r.Method != http.MethodHead {
		v.Path = "/" // a form's own path has no page
	}
	// A path of two slashes is another host's in a link.
	if uri := r.URL.RequestURI(); r.Method == http.MethodGet && !strings.HasPrefix(uri, "//") && !strings.Contains(uri, "\\") {
		v.Self = uri
	}
	if q.Host != e.cfg.Issuer.Hostname() {
		v.Path = "" // a page on a gateway host cannot set the broker's cookie
		v.Base = e.cfg.Issuer.Scheme + "://" + e.cfg.Issuer.Host
		csp = strings.NewReplacer("script-src 'self'", "script-src "+v.Base, "style-src 'self'", "style-src "+v.Base, "img-src 'self'", "img-src "+v.Base).Replace(csp)
	}
	if len(q.Ancestors) > 0 {
		v.Framed = true
		csp = strings.Replace(csp, "frame-ancestors 'none'", "frame-ancestors "+strings.Join(q.Ancestors, " "), 1)
	}
	if s, ok := data.(Signed); ok {
		v.User = s.SignedInAs()
	}
	if v.Base == "" && status == http.StatusOK && name != "hop" && name != "post" {
		v.Notice = e.takeNotice(w, r)
	}
	var buf bytes.Buffer
	if err := t.Execute(&buf, v); err != nil {
		return fmt.Errorf("page %s: %w", name, err)
	}
	h := w.Header()
	e.base(h, q)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", q.Locale)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", csp)
	h.Set("Permissions-Policy", permissions)
	if strings.HasPrefix(r.URL.Path, "/account") || strings.HasPrefix(r.URL.Path, "/admin") || r.URL.Path == "/device" {
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

type postPage struct {
	URL, Name string
	Fields    []postField
}

type postField struct{ Name, Value string }

// PostTo answers 200 with a form for another origin that sends itself, and has a
// button for browsers without scripts (SAML's POST binding). This page's policy
// alone lets a form go there.
func (e *Edge) PostTo(w http.ResponseWriter, r *http.Request, to string, form url.Values, name string) error {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || HostName(u.Host) == "" {
		return fmt.Errorf("a form cannot be sent to %q", to)
	}
	p := postPage{URL: to, Name: name}
	for _, k := range slices.Sorted(maps.Keys(form)) {
		for _, v := range form[k] {
			p.Fields = append(p.Fields, postField{k, v})
		}
	}
	if err := e.page(w, r, http.StatusOK, "post", p, strings.Replace(pageCSP, "form-action 'self'", "form-action 'self' "+u.Scheme+"://"+u.Host, 1)); err != nil {
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
		ext := path.Ext(name)
		if ext == "" { // NOTICE
			return nil
		}
		sum := sha256.Sum256(body)
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

// loadIcons reads static/icons/*.svg as they stand: files of ours, in the
// binary, that hold nothing from outside.
func loadIcons(files fs.FS) (map[string]template.HTML, error) {
	names, err := fs.Glob(files, "icons/*.svg")
	if err != nil {
		return nil, fmt.Errorf("web: icons: %w", err)
	}
	out := map[string]template.HTML{}
	for _, name := range names {
		svg, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("web: icons: %w", err)
		}
		out[strings.TrimSuffix(path.Base(name), ".svg")] = template.HTML(bytes.TrimSpace(svg))
	}
	return out, nil
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
