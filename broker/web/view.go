package web

import (
	"fmt"
	"html/template"
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
	Path   string // of this page, where the language form returns to; "" where there is no such form
	Self   string // of this page, to ask for it again; "" for the answer to a form
	Name   string // of the template
	User   string // name of the person signed in; "" for nobody
	Framed bool   // it is shown in another page, where no page of the broker's may be
	Notice string // message id of what the last form did; shown once
	Data   any
}

// Signed is implemented by page data of a signed-in user; the layout then shows
// the navigation.
type Signed interface{ SignedInAs() string }

// Placed is implemented by page data whose page is better asked for at another
// path than the one that was asked: the answer to a form, or to a callback.
type Placed interface{ At() string }

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

// Word returns the text prefix.name, or the name itself where there is none: a
// kind of console, a role.
func (v View) Word(prefix string, name any) string {
	if id := prefix + "." + fmt.Sprint(name); v.edge.has(id) {
		return v.edge.Text(v.Locale, id, nil)
	}
	return fmt.Sprint(name)
}

// Part is what a part of several pages gets: the page and its own form.
type Part struct {
	View
	Form any
}

// With makes a Part.
func (v View) With(form any) Part { return Part{v, form} }

// Asset returns the URL of a static file, with its content's hash.
func (v View) Asset(name string) (string, error) {
	u, ok := v.edge.assets.url[name]
	if !ok {
		return "", fmt.Errorf("there is no static/%s", name)
	}
	return v.Base + u, nil
}

// Icon returns the drawing for a connector's type or another name in
// static/icons, to stand inside a button. It is decoration: the text beside it
// says the same.
func (v View) Icon(name string) (template.HTML, error) {
	switch name {
	case "ldap", "saml", "dingtalk", "wecom", "feishu":
		name = "building"
	case "oidc", "local":
		name = "key"
	}
	svg, ok := v.edge.icons[name]
	if !ok {
		return "", fmt.Errorf("there is no static/icons/%s.svg", name)
	}
	return svg, nil
}

// Time writes a time for people, in the configured zone (Zone says which).
func (v View) Time(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	if v.Locale == "zh-CN" {
		return t.In(v.edge.cfg.TimeZone).Format("2006年1月2日 15:04")
	}
	return t.In(v.edge.cfg.TimeZone).Format("2 Jan 2006, 15:04")
}

// Clock is Time without the date, for what is of today.
func (v View) Clock(t time.Time) string {
	zone := v.edge.cfg.TimeZone
	if y, d := t.In(zone).Year(), t.In(zone).YearDay(); y != v.edge.cfg.Now().In(zone).Year() || d != v.edge.cfg.Now().In(zone).YearDay() {
		return v.Time(t)
	}
	return t.In(zone).Format("15:04")
}

// Zone names the zone of Time. An abbreviation will not do: CST is many.
func (v View) Zone() string {
	zone := v.edge.cfg.TimeZone
	if zone == time.UTC || zone.String() == "UTC" {
		return "UTC"
	}
	offset := v.edge.cfg.Now().In(zone).Format("-07:00")
	return zone.String() + " (UTC" + strings.TrimSuffix(strings.Replace(strings.Replace(offset, "+0", "+", 1), "-0", "-", 1), ":00") + ")"
}

// UTCText is UTC for people who compare it with a log.
func (v View) UTCText(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// Support is whom the operator named for help, and SupportURL a link to it; ""
// where there is none.
func (v View) Support() string { return v.edge.cfg.Support }

// SupportURL returns where the link of Support leads, or "" when it is no
// address.
func (v View) SupportURL() string {
	s := v.edge.cfg.Support
	switch {
	case strings.HasPrefix(s, "https://"), strings.HasPrefix(s, "http://"), strings.HasPrefix(s, "mailto:"), strings.HasPrefix(s, "tel:"):
		return s
	case strings.Count(s, "@") == 1 && !strings.ContainsAny(s, " /<>?&"):
		return "mailto:" + s
	}
	return ""
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
