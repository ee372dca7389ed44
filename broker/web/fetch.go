package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// FetchConfig says how far an outgoing client may reach (docs/security.md G6).
type FetchConfig struct {
	// AllowPrivate are networks that may be reached although they are not public.
	AllowPrivate []netip.Prefix
	// AllowHosts are hosts that the operator wrote into the configuration: they
	// may be private, and be spoken to over http where the URL says so.
	AllowHosts []string
	// Proxy, when set, carries every request.
	Proxy *url.URL
	// CAFile adds certificate authorities to the system's.
	CAFile    string
	Timeout   time.Duration // whole exchange; default 10 s
	MaxBody   int64         // bytes of an answer; default 1 MiB
	UserAgent string
}

// ErrForbiddenAddress means that a URL leads to an address that we do not call.
var ErrForbiddenAddress = errors.New("the address is not public; list its host or network under outgoing.allow_private if it may be called")

// ErrTooLarge means that an answer was longer than we read.
var ErrTooLarge = errors.New("the answer is too large")

// NewClient is the one constructor of outgoing clients: https only, the address
// checked after the name was resolved, no redirects, no proxy but the
// configured one, everything bounded in time and size.
func NewClient(cfg FetchConfig) (*http.Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 1 << 20
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "Gatehouse"
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: there is no PEM certificate in %s", cfg.CAFile)
		}
		tc.RootCAs = pool
	}
	trusted := map[string]bool{}
	for _, h := range cfg.AllowHosts {
		trusted[strings.ToLower(h)] = true
	}
	free := &net.Dialer{Timeout: 5 * time.Second}
	guarded := &net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%s: %w", address, ErrForbiddenAddress)
		}
		ip := ap.Addr().Unmap().WithZone("")
		if Public(ip) || slices.ContainsFunc(cfg.AllowPrivate, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			return nil
		}
		return fmt.Errorf("%s: %w", ip, ErrForbiddenAddress)
	}}
	tr := &http.Transport{
		TLSClientConfig: tc, TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: cfg.Timeout,
		MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 128, MaxIdleConnsPerHost: 32, IdleConnTimeout: 60 * time.Second, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			if trusted[strings.ToLower(host)] || cfg.Proxy != nil && strings.EqualFold(host, cfg.Proxy.Hostname()) {
				return free.DialContext(ctx, network, addr)
			}
			return guarded.DialContext(ctx, network, addr)
		},
	}
	if cfg.Proxy != nil {
		tr.Proxy = http.ProxyURL(cfg.Proxy)
	}
	return &http.Client{
		Timeout:       cfg.Timeout,
		Transport:     &fetcher{next: tr, cfg: cfg, trusted: trusted},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

type fetcher struct {
	next    http.RoundTripper
	cfg     FetchConfig
	trusted map[string]bool
}

// RoundTrip refuses plain http to hosts that nobody listed, and bounds the body.
func (f *fetcher) RoundTrip(r *http.Request) (*http.Response, error) {
	known := f.trusted[strings.ToLower(r.URL.Hostname())]
	if r.URL.Scheme != "https" && !known {
		return nil, fmt.Errorf("%s://%s: only https is called, http only to hosts in the configuration", r.URL.Scheme, r.URL.Host)
	}
	if f.cfg.Proxy != nil && !known {
		// The proxy resolves the name: we could not check where it leads.
		return nil, fmt.Errorf("%s: %w (and a proxy is set, which would resolve it)", r.URL.Host, ErrForbiddenAddress)
	}
	if r.Header.Get("User-Agent") == "" {
		r = r.Clone(r.Context())
		r.Header.Set("User-Agent", f.cfg.UserAgent)
	}
	resp, err := f.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: f.cfg.MaxBody}
	return resp, nil
}

// CloseIdleConnections lets http.Client pass the call on.
func (f *fetcher) CloseIdleConnections() {
	if t, ok := f.next.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, ErrTooLarge
	}
	return n, err
}

var notPublic = func() []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "fec0::/10",
	} {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}()

// Public reports whether an address is one that everybody can reach.
func Public(ip netip.Addr) bool {
	ip = ip.Unmap()
	if !ip.IsValid() || !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return false
	}
	return !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(ip) })
}
