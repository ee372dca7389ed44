package web

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/text/language"
)

// prefsCookie holds a reader's choice of language and theme: "zh-CN.dark".
const prefsCookie = "gatehouse-prefs"

// loadTexts reads templates/locale/*.json: message id → text with {name} places.
func loadTexts(files fs.FS) (map[string]map[string]string, error) {
	names, err := fs.Glob(files, "locale/*.json")
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("web: no texts in locale/: %w", err)
	}
	out := map[string]map[string]string{}
	for _, name := range names {
		raw, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("web: %w", err)
		}
		var m map[string]string
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, fmt.Errorf("web: %s: %w", name, err)
		}
		out[strings.TrimSuffix(path.Base(name), ".json")] = m
	}
	return out, nil
}

// Texts returns what Edge.Text is, for who has no Edge.
func Texts(files fs.FS) (func(locale, id string, args map[string]any) string, error) {
	texts, err := loadTexts(files)
	if err != nil {
		return nil, err
	}
	return (&Edge{texts: texts}).Text, nil
}

func (e *Edge) has(id string) bool { _, ok := e.texts["en"][id]; return ok }

// Text returns the text of a message id; English where a locale lacks it, the
// id itself where nobody has it.
func (e *Edge) Text(locale, id string, args map[string]any) string {
	s, ok := e.texts[locale][id]
	if !ok {
		if s, ok = e.texts["en"][id]; !ok {
			return id
		}
	}
	if len(args) == 0 {
		return s
	}
	pairs := make([]string, 0, 2*len(args))
	for k, v := range args {
		pairs = append(pairs, "{"+k+"}", strings.Map(visible, fmt.Sprint(v)))
	}
	return strings.NewReplacer(pairs...).Replace(s) // in one pass: a name may look like a place
}

// visible drops what would reorder the text around a name that somebody chose.
func visible(c rune) rune {
	if reorders(c) {
		return -1
	}
	return c
}

// reorders reports whether a character sets the direction of text.
func reorders(c rune) bool {
	return c >= 0x202A && c <= 0x202E || c >= 0x2066 && c <= 0x2069 || c == 0x200E || c == 0x200F
}

// Locales are those that we have texts for, ours first.
func (e *Edge) Locales() []string { return []string{"en", "zh-CN"} }

var matcher = language.NewMatcher([]language.Tag{language.English, language.SimplifiedChinese})

// PickLocale returns the best locale for a list such as ui_locales or
// Accept-Language, or "" when none fits.
func PickLocale(list string) string {
	type wish struct {
		tag language.Tag
		q   float32
	}
	var wishes []wish
	for item := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		// One by one: a language that nobody knows must not spoil the others.
		if tags, q, err := language.ParseAcceptLanguage(item); err == nil && len(tags) == 1 {
			wishes = append(wishes, wish{tags[0], q[0]})
		}
	}
	if len(wishes) == 0 {
		return ""
	}
	slices.SortStableFunc(wishes, func(a, b wish) int { return cmp.Compare(b.q, a.q) })
	tags := make([]language.Tag, len(wishes))
	for i, w := range wishes {
		tags[i] = w.tag
	}
	_, i, confidence := matcher.Match(tags...)
	if confidence == language.No {
		return ""
	}
	return []string{"en", "zh-CN"}[i]
}

// picked remembers what PickLocale said: browsers send few different lists, and
// taking one apart costs more than the rest of the edge.
type picked struct {
	mu sync.RWMutex
	m  map[string]string
}

// pickedMax bounds what strangers can make it remember.
const pickedMax = 500

func (p *picked) pick(list string) string {
	p.mu.RLock()
	locale, ok := p.m[list]
	p.mu.RUnlock()
	if ok {
		return locale
	}
	locale = PickLocale(list)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil || len(p.m) >= pickedMax {
		p.m = map[string]string{}
	}
	p.m[strings.Clone(list)] = locale
	return locale
}

// preferences returns the language and theme of a reader: what they chose, else
// what the browser asks for, else the default.
func (e *Edge) preferences(r *http.Request) (locale, theme string, chosen bool) {
	if v, ok := e.Cookie(r, prefsCookie); ok {
		l, t, _ := strings.Cut(v, ".")
		if e.texts[l] != nil {
			locale, chosen = l, true
		}
		if t == "light" || t == "dark" {
			theme = t
		}
	}
	if locale == "" {
		accept := r.Header.Get("Accept-Language")
		switch {
		case accept == "":
		case len(accept) > 3 && accept[:3] == "en-", accept == "en": // most common: spare the parser
			locale = "en"
		case len(accept) < 200:
			locale = e.picked.pick(accept)
		}
	}
	if locale == "" {
		locale = e.cfg.DefaultLocale
	}
	return locale, theme, chosen
}

// Prefer takes the client's wish for a language (ui_locales), unless the reader
// has chosen one.
func Prefer(r *http.Request, locales string) {
	q := RequestOf(r)
	if q.chosen || locales == "" {
		return
	}
	if l := PickLocale(locales); l != "" {
		q.Locale = l
	}
}

// SetPreferences remembers a reader's choice; an empty one stays as it is,
// theme "auto" follows the system again.
func (e *Edge) SetPreferences(w http.ResponseWriter, r *http.Request, locale, theme string) {
	oldLocale, oldTheme := "", RequestOf(r).Theme
	if v, ok := e.Cookie(r, prefsCookie); ok {
		oldLocale, _, _ = strings.Cut(v, ".")
	}
	if e.texts[locale] == nil {
		locale = oldLocale
	}
	switch theme {
	case "light", "dark":
	case "auto":
		theme = ""
	default:
		theme = oldTheme
	}
	e.SetCookie(w, prefsCookie, locale+"."+theme, 180*24*time.Hour)
}
