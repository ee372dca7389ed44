package web

import "net/http"

// pageCSP lets a page use our own files and send forms to us alone. A form must
// therefore never end in a redirect to another origin: Hop is for that.
const pageCSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'"

// permissions are what a page of ours may ask the browser for: the clipboard,
// for the copy buttons, and passkeys.
const permissions = "clipboard-write=(self), publickey-credentials-get=(self), camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"

// base sets what every answer of our own carries.
func (e *Edge) base(h http.Header, q *Request) {
	if q.ID != "" {
		h.Set("X-Request-Id", q.ID) // where people look for it; an upstream's own stays on what it answers
	}
	h.Set("X-Content-Type-Options", "nosniff")
	// Not no-referrer: that makes our own forms send "Origin: null" (ISS-9).
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Permissions-Policy", permissions)
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	if e.secure {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}
