package grant

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// RedirectAllowed reports whether uri is registered: by exact comparison of
// strings, except that a public client's loopback IP redirect may have any port
// (RFC 8252 section 7.3, RFC 9700 section 4.1.3).
func (c *Client) RedirectAllowed(uri string) bool {
	if uri == "" {
		return false
	}
	if slices.Contains(c.RedirectURIs, uri) {
		return true
	}
	if !c.Public() {
		return false
	}
	return slices.ContainsFunc(c.RedirectURIs, func(reg string) bool { return sameLoopback(reg, uri) })
}

// sameLoopback compares two URIs of the form http://<loopback IP>[:port]/rest
// byte for byte, the port left out.
func sameLoopback(registered, asked string) bool {
	rh, rp, rrest, ok := splitLoopback(registered)
	if !ok {
		return false
	}
	ah, ap, arest, ok := splitLoopback(asked)
	return ok && rh == ah && rrest == arest && (ap != "" || rp == "")
}

func splitLoopback(uri string) (host, port, rest string, ok bool) {
	after, found := strings.CutPrefix(uri, "http://")
	if !found {
		return "", "", "", false
	}
	end := strings.IndexAny(after, "/?#")
	if end < 0 {
		end = len(after)
	}
	authority, rest := after[:end], after[end:]
	switch {
	case strings.HasPrefix(authority, "127.0.0.1"):
		host = "127.0.0.1"
	case strings.HasPrefix(authority, "[::1]"):
		host = "[::1]"
	default:
		return "", "", "", false
	}
	port = authority[len(host):]
	if port != "" {
		digits, colon := strings.CutPrefix(port, ":")
		if n, err := strconv.ParseUint(digits, 10, 16); !colon || err != nil || n == 0 {
			return "", "", "", false
		}
		port = digits
	}
	return host, port, rest, !strings.ContainsAny(rest, "#\\")
}

// ValidRedirectURI checks a redirect URI for registration (docs/security.md
// ISS-2). public tells whether the client has no secret: only such applications
// have private-use schemes on the person's own machine (RFC 8252 section 7.1).
func ValidRedirectURI(raw string, public bool) error {
	if len(raw) > 2048 {
		return errors.New("it is longer than 2048 bytes")
	}
	for i := range len(raw) {
		if c := raw[i]; c <= 0x20 || c >= 0x7f || c == '\\' {
			return errors.New("it holds a space, a backslash, a control or a non-ASCII character")
		}
	}
	if strings.Contains(raw, "#") {
		return errors.New("a redirect URI has no fragment (RFC 6749 section 3.1.2)")
	}
	if strings.Contains(raw, "*") {
		return errors.New("there are no wildcards: a redirect URI is compared as it stands (RFC 9700 section 4.1.3)")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("it is not a URI")
	}
	if u.User != nil || strings.Contains(u.Host, "@") {
		return errors.New("it holds user information (@)")
	}
	if strings.ContainsFunc(u.Path, func(c rune) bool { return c < 0x20 || c == 0x7f || c == '\\' }) {
		return errors.New("its path holds an encoded backslash or control character")
	}
	for _, p := range []string{u.EscapedPath(), u.Path} {
		for seg := range strings.SplitSeq(p, "/") {
			if name, _, _ := strings.Cut(seg, ";"); name == ".." || name == "." {
				return errors.New("its path holds . or .. segments")
			}
		}
	}
	switch scheme := strings.ToLower(u.Scheme); {
	case scheme == "https":
		if u.Hostname() == "" {
			return errors.New("it has no host")
		}
	case scheme == "http":
		host := u.Hostname()
		if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
			return errors.New("http is for loopback addresses alone; use https")
		}
	case strings.Contains(scheme, ".") && public: // reverse domain name, RFC 8252 section 7.1
		if u.Opaque != "" || u.Host == "" && !strings.HasPrefix(u.Path, "/") {
			return errors.New("write it as com.example.app:/callback")
		}
	default:
		return fmt.Errorf("scheme %q is not https, loopback http or (for public clients) a reverse domain name", u.Scheme)
	}
	return nil
}

// validLink checks a URL that people are shown or that we call.
func validLink(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return errors.New("it is not a URL")
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return errors.New("it is not an absolute https URL")
	case u.User != nil:
		return errors.New("it holds user information (@)")
	case u.Fragment != "":
		return errors.New("it has a fragment")
	}
	return nil
}
