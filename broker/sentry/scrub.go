package sentry

import (
	"regexp"
	"strings"
)

// filtered stands for what was removed.
const filtered = "[filtered]"

// maxText bounds a text, in bytes.
const maxText = 512

var (
	quotes = regexp.MustCompile("\"[^\"]*\"?|`[^`]*`?|(^|[\\s(:=])'[^']*'?")
	link   = regexp.MustCompile(`\b([a-z][a-z0-9+.-]{0,15})://(?:[^\s/?#@]*@)?([A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]+\])?[^\s]*`)
	name   = regexp.MustCompile(`^[A-Za-z_.-]{1,32}$`)
	number = regexp.MustCompile(`^[0-9]{1,5}$`)
	plain  = regexp.MustCompile(`^[*(]?[A-Za-z][A-Za-z.'_-]{0,31}$`)
	inside = regexp.MustCompile(`[a-z][A-Z]`)
	ours   = regexp.MustCompile(`^[A-Za-z0-9 ._/{}-]{1,80}$`)
)

// technical are words of error texts that would else look like a secret or a path.
var technical = map[string]bool{
	"oauth2": true, "x509": true, "http2": true, "h2c": true, "i/o": true, "sha1": true, "sha256": true, "base64": true, "utf-8": true, "ipv4": true, "ipv6": true,
	"ed25519": true, "rs256": true, "es256": true, "argon2id": true, "pkcs1": true, "pkcs8": true, "s3": true, "tcp4": true, "tcp6": true, "http/1.1": true, "http/2": true,
}

// announces are words after which a value comes, whatever it looks like.
var announces = map[string]bool{
	"password": true, "passwd": true, "pwd": true, "passphrase": true, "secret": true, "token": true, "code": true, "cookie": true, "set-cookie": true,
	"authorization": true, "bearer": true, "basic": true, "state": true, "nonce": true, "verifier": true, "key": true, "apikey": true, "credential": true, "session": true,
	"user": true, "username": true, "login": true, "account": true, "subject": true, "sub": true, "email": true, "mail": true, "e-mail": true, "name": true, "body": true, "query": true, "path": true, "value": true,
}

// Scrub keeps of an error's text what our own code and libraries have written,
// and leaves out what may have come from a user or an upstream: quoted text, all
// but the host of URLs, values after a name, everything with digits, non-ASCII or
// unusual letters, and every line but the first. It rather removes too much: the
// log has the whole text, under the same request id (docs/security.md ST-6).
func Scrub(s string) string {
	if i := strings.IndexFunc(s, func(c rune) bool { return c < ' ' && c != '\t' }); i >= 0 { // a line's end, and what nobody writes
		s = s[:i]
	}
	if len(s) > maxText {
		s = s[:maxText]
	}
	s = quotes.ReplaceAllString(s, " "+filtered+" ")
	var hosts []string
	s = link.ReplaceAllStringFunc(s, func(u string) string {
		m := link.FindStringSubmatch(u)
		end := ""
		if strings.HasSuffix(u, ":") {
			end = ":"
		}
		hosts = append(hosts, m[1]+"://"+m[2]+end)
		return " \x00 "
	})
	var out []string
	hide := false
	for w := range strings.FieldsSeq(s) {
		if w == "\x00" {
			w, hosts = hosts[0], hosts[1:]
			out, hide = append(out, w), false
			continue
		}
		kept := keep(w)
		if hide && kept != filtered {
			kept = filtered
		}
		bare := strings.ToLower(strings.Trim(w, ":,.;()"))
		hide = announces[bare] && (strings.HasSuffix(w, ":") || bare == "bearer" || bare == "basic") || hide && strings.HasSuffix(w, ",")
		if len(out) > 0 && kept == filtered && out[len(out)-1] == filtered {
			continue
		}
		out = append(out, kept)
	}
	return strings.Join(out, " ")
}

// keep returns a word, or what is left of it.
func keep(w string) string {
	if w == filtered || w == "-" {
		return w
	}
	core := strings.TrimRight(w, ":,;.)")
	end := w[len(core):]
	if len(end) > 2 {
		return filtered
	}
	if key, _, ok := strings.Cut(core, "="); ok {
		if name.MatchString(key) {
			return key + "=" + filtered
		}
		return filtered
	}
	switch {
	case technical[strings.ToLower(core)], number.MatchString(core):
		return w
	case !plain.MatchString(core):
		return filtered
	case len(core) >= 16 && inside.MatchString(core) && !strings.Contains(core, "."): // mixed letters without a meaning
		return filtered
	}
	return w
}

// word returns a value of ours for a tag, or "" if it does not look like one.
func word(s string) string {
	if !ours.MatchString(s) {
		return ""
	}
	return s
}
