package redis

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/remotegpu/gatehouse/broker/redact"
)

type mode int

const (
	modeSingle mode = iota
	modeSentinel
	modeCluster
)

// target is what a URL says.
type target struct {
	mode                       mode
	hosts                      []string // host:port
	db                         int
	master                     string
	user, sentinelUser         string
	password, sentinelPassword redact.String
	secure                     bool
	caFile                     string
	tls                        *tls.Config
}

// Format keeps fmt from printing the passwords.
func (t target) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "redis at %v, db %d", t.hosts, t.db) }

// schemes that are understood, in both forms.
var schemes = map[string]target{
	"redis":           {mode: modeSingle},
	"rediss":          {mode: modeSingle, secure: true},
	"redis+sentinel":  {mode: modeSentinel},
	"rediss+sentinel": {mode: modeSentinel, secure: true},
	"redis+cluster":   {mode: modeCluster},
	"rediss+cluster":  {mode: modeCluster, secure: true},
}

// parseURL reads a store URL. It does so by hand, because net/url refuses lists
// of hosts and puts what it refuses, password included, into its errors. Ours
// repeat no part of the URL that could be a piece of a badly written password.
func parseURL(raw string) (target, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	t, known := schemes[scheme]
	if !ok || !known {
		return target{}, errors.New("redis: the URL must begin with redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://")
	}
	bad := func(format string, args ...any) (target, error) {
		return target{}, fmt.Errorf("redis: %s:// URL: "+format, append([]any{scheme}, args...)...)
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if strings.ContainsAny(path+query, "@#") {
		return bad("write the characters / ? # @ of a user name or password as %%2F %%3F %%23 %%40")
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, password, _ := strings.Cut(authority[:at], ":")
		authority = authority[at+1:]
		var err1, err2 error
		t.user, err1 = url.PathUnescape(user)
		password, err2 = url.PathUnescape(password)
		t.password = redact.String(password)
		if err1 != nil || err2 != nil {
			return bad("write the %% of a user name or password as %%25")
		}
		if t.user != "" && t.password == "" {
			return bad("a user needs a password: user:password@host")
		}
	}
	var err error
	if t.hosts, err = parseHosts(authority, t.mode); err != nil {
		return bad("%w", err)
	}
	if t.mode == modeSingle && len(t.hosts) != 1 {
		return bad("several hosts need redis+sentinel:// or redis+cluster://")
	}
	db := ""
	switch t.mode {
	case modeSingle:
		db = path
	case modeSentinel:
		if t.master, err = url.PathUnescape(path); err != nil || t.master == "" || strings.Contains(path, "/") {
			return bad("the master's name is missing: redis+sentinel://host1,host2/name")
		}
	case modeCluster:
		if path != "" {
			return bad("a cluster has no database number and no name after the hosts")
		}
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return bad("what follows ? is not name=value")
	}
	for name, vs := range values {
		if len(vs) != 1 {
			return bad("an option is given twice")
		}
		switch {
		case name == "skip_verify":
			return bad("skip_verify is refused: it lets anybody answer for the server; name its authority with ca_file")
		case name == "ca_file" && t.secure:
			t.caFile = vs[0]
		case name == "ca_file":
			return bad("ca_file has no meaning without TLS; use rediss")
		case name == "db" && t.mode == modeSentinel, name == "db" && t.mode == modeSingle && db == "":
			db = vs[0]
		case name == "sentinel_username" && t.mode == modeSentinel:
			t.sentinelUser = vs[0]
		case name == "sentinel_password" && t.mode == modeSentinel:
			t.sentinelPassword = redact.String(vs[0])
		default:
			return bad("an option after ? is unknown here; there are db, with rediss:// ca_file and, for Sentinel, sentinel_username and sentinel_password")
		}
	}
	if db != "" {
		if t.db, err = strconv.Atoi(db); err != nil || t.db < 0 {
			return bad("the database must be a number, as in redis://host:6379/0")
		}
	}
	return t, nil
}

func parseHosts(authority string, m mode) ([]string, error) {
	port := "6379"
	if m == modeSentinel {
		port = "26379"
	}
	var hosts []string
	for _, h := range strings.Split(authority, ",") {
		host, p, err := net.SplitHostPort(h)
		if err != nil {
			host, p = strings.TrimSuffix(strings.TrimPrefix(h, "["), "]"), port
			if _, err := netip.ParseAddr(host); err != nil && strings.Contains(host, ":") {
				return nil, errors.New("a host is not host or host:port")
			}
		}
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 || host == "" || strings.ContainsAny(host, " \t\r\n[]%\\") {
			return nil, errors.New("a host is not host or host:port")
		}
		hosts = append(hosts, net.JoinHostPort(host, p))
	}
	return hosts, nil
}

// useTLS sets up rediss://. Verification is always on; the server's name is
// that of the host that is dialled.
func (t *target) useTLS(caFile string) error {
	if !t.secure {
		if caFile != "" {
			return errors.New("redis: ca_file has no meaning without rediss://; use rediss:// or leave it out")
		}
		return nil
	}
	t.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile == "" {
		caFile = t.caFile
	}
	if caFile == "" {
		return nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return fmt.Errorf("redis: ca_file: %w", err)
	}
	t.tls.RootCAs = x509.NewCertPool()
	if !t.tls.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("redis: ca_file %s holds no PEM certificate", caFile)
	}
	return nil
}

// exposed reports whether passwords and data travel readable to another machine.
func (t *target) exposed() bool {
	if t.secure {
		return false
	}
	for _, h := range t.hosts {
		host, _, err := net.SplitHostPort(h)
		if err != nil {
			return true
		}
		if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
			return true
		}
	}
	return false
}

// scrub takes the credentials out of a text.
func (t *target) scrub(text string) string {
	for _, secret := range []string{t.password.Reveal(), t.sentinelPassword.Reveal()} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
			text = strings.ReplaceAll(text, url.PathEscape(secret), "***")
		}
	}
	return text
}
