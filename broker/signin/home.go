package signin

import (
	"net/http"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/web"
)

// emailForm asks for the address by which somebody's company is found.
type emailForm struct {
	Value   string
	Problem string // message id; "" before the first try
}

// home returns the methods that a domain's people use: those which enforce it,
// if there are any. Domains of public mail providers are nobody's home.
func (d *Door) home(domain string) []*Method {
	if web.PublicMail(domain) {
		return nil
	}
	var all, enforcing []*Method
	for i := range d.cfg.Methods {
		m := &d.cfg.Methods[i]
		if !m.opens() || !slices.Contains(m.Domains, domain) {
			continue
		}
		all = append(all, m)
		if m.Enforce {
			enforcing = append(enforcing, m)
		}
	}
	if enforcing != nil {
		return enforcing
	}
	return all
}

// routesByEmail reports whether it helps to know somebody's address: there is a
// choice, and a domain leads to a part of it.
func (d *Door) routesByEmail() bool {
	methods, routed := 0, false
	for i := range d.cfg.Methods {
		m := &d.cfg.Methods[i]
		if m.opens() {
			methods++
			routed = routed || slices.ContainsFunc(m.Domains, func(s string) bool { return !web.PublicMail(s) })
		}
	}
	return methods > 1 && routed
}

// Email is POST /signin: home-realm discovery. One method of the address's
// domain: on to it; several: they are offered; none: the same page with the same
// words, whether or not the domain is known. It asks the configuration alone, so
// that it says nothing of who has an account.
func (d *Door) Email(w http.ResponseWriter, r *http.Request) error {
	form, err := web.Form(w, r, maxForm)
	if err != nil {
		return err
	}
	email := strings.TrimSpace(form.Get("email"))
	a, ok := d.open(r, form.Get("attempt"))
	if !ok || a.Done || !d.fresh(a) {
		note := "signin.stale"
		if len(r.Cookies()) == 0 {
			note = "signin.cookies"
		}
		return d.startAgain(w, r, a, http.StatusOK, choosePage{Note: note, Warn: note == "signin.cookies", Email: &emailForm{Value: cut(email, 256)}})
	}
	_, domain, ok := web.ValidEmail(email)
	if !ok {
		return d.choosePage(w, r, http.StatusUnprocessableEntity, a, choosePage{Email: &emailForm{Value: cut(strings.ToValidUTF8(email, ""), 256), Problem: "signin.email_invalid"}})
	}
	a.LoginHint = email
	switch ms := d.home(domain); len(ms) {
	case 0:
		return d.choosePage(w, r, http.StatusOK, a, choosePage{Note: "signin.choose"})
	case 1:
		if err := d.keep(w, r, a); err != nil {
			return err
		}
		// A form's answer must not redirect to another origin (ux F1).
		return d.cfg.Edge.Hop(w, r, "/signin/"+ms[0].ID+"?attempt="+a.ID)
	default:
		return d.choosePage(w, r, http.StatusOK, a, choosePage{Note: "signin.several", NoteArgs: map[string]any{"name": domain}, only: ms})
	}
}
