package notify

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/redact"
)

// hidden are texts that no error, log or metric may hold (docs/security.md
// NO-1): the parts of an address that are its secret, and what signs.
type hidden []string

// secretsOf lists the parts of an address that could be a secret, in all forms
// in which somebody could quote them; the longest first, so that none hides a
// part of another.
func secretsOf(u *url.URL, more ...string) hidden {
	all := append(hidden{u.RawQuery, u.Path, u.EscapedPath()}, more...)
	for part := range strings.SplitSeq(u.Path, "/") {
		if !slices.Contains([]string{"services", "open-apis"}, part) {
			all = append(all, part)
		}
	}
	for _, vs := range u.Query() {
		all = append(all, vs...)
	}
	if u.User != nil {
		p, _ := u.User.Password()
		all = append(all, u.User.String(), p)
	}
	// What is short is no secret, and would hide ordinary words.
	all = slices.DeleteFunc(all, func(s string) bool { return len(s) < 8 })
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(all)
}

// said returns a text of the other side for an error: one short line without
// our secrets.
func (h hidden) said(s string) string {
	for _, secret := range h {
		s = strings.ReplaceAll(s, secret, "***")
	}
	return cut(oneLine(s), 200)
}

// failed takes the address out of an error of net/http, which quotes it whole.
// The rest is kept as the cause: it tells of time limits and forbidden hosts.
func (h hidden) failed(who, doing string, err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	if clear := h.said(err.Error()); clear != cut(oneLine(err.Error()), 200) {
		return fmt.Errorf("%s: %s: %s", who, doing, clear)
	}
	return fmt.Errorf("%s: %s: %w", who, doing, err)
}

// Shown returns what may be seen of an address that holds a secret: its host and
// the last four characters (docs/security.md NO-1).
func Shown(address redact.String) string {
	u, err := url.Parse(address.Reveal())
	if err != nil || u.Host == "" {
		return ""
	}
	rest := strings.TrimPrefix(u.RequestURI(), "/")
	if len(rest) < 12 {
		return u.Host // four characters of a short secret are too many
	}
	return u.Host + "/…" + rest[len(rest)-4:]
}
