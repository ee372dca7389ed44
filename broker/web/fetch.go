package web

import (
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

	"github.com/remotegpu/gatehouse/broker/tracing"
)

// FetchConfig says how far an outgoing client may reach (docs/security.md G6).
type FetchConfig struct {
	// AllowPrivate are networks that may be reached although they are not
	// public, and over http.
	AllowPrivate []netip.Prefix
	// AllowHosts are hosts that the operator wrote into the configuration: they
	// may be private, and be spoken to over http where the URL says so.
	AllowHosts []string
	// Proxy, when set, carries every request to AllowHosts. It resolves names
	// itself, so other URLs go past it, where the address can be checked...
	Proxy *url.URL
	// ProxyUntrusted ...unless this says that the proxy checks them.
	ProxyUntrusted bool
	// CAFile adds certificate authorities to the system's.
	CAFile    string
	Timeout   time.Duration // whole exchange; default 10 s
	MaxBody   int64         // bytes of an answer; default 1 MiB
	UserAgent string
	// Answered is told of every answer's header, and when the request was sent and
	// answered; may be nil.
	Answered func(host string, h http.Header, sent, received time.Time)
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
	var err error
	if tc.RootCAs, err = RootCAs(cfg.CAFile); err != nil {
		return nil, err
	}
	f := &fetcher{cfg: cfg, known: map[string]bool{}}
	for _, h := range cfg.AllowHosts {
		f.known[strings.ToLower(h)] = true
	}
	listed := func(ip netip.Addr) bool {
		return slices.ContainsFunc(cfg.AllowPrivate, func(p netip.Prefix) bool { return p.Contains(ip) })
	}
	f.free = transport(cfg, tc, nil)
	f.guarded = transport(cfg, tc, func(ip netip.Addr) bool { return Public(ip) || listed(ip) })
	f.clear = transport(cfg, tc, listed)
	if cfg.Proxy != nil {
		f.free.Proxy = http.ProxyURL(cfg.Proxy)
	}
	return &http.Client{
		Timeout:       cfg.Timeout,
		Transport:     f,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// RootCAs returns the system's certificate authorities and those of a PEM file;
// nil, which means the system's, without a file.
func RootCAs(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file: there is no PEM certificate in %s", caFile)
	}
	return pool, nil
}

// transport makes a transport that connects only where may allows; nil allows
// all. The address is looked at after the name was resolved, so that a name
// cannot lead elsewhere the second time.
func transport(cfg FetchConfig, tc *tls.Config, may func(netip.Addr) bool) *http.Transport {
	d := &net.Dialer{Timeout: 5 * time.Second}
	if may != nil {
		d.Control = func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%s: %w", address, ErrForbiddenAddress)
			}
			if ip := ap.Addr().Unmap().WithZone(""); !may(ip) {
				return fmt.Errorf("%s: %w", ip, ErrForbiddenAddress)
			}
			return nil
		}
	}
	return &http.Transport{
		TLSClientConfig: tc.Clone(), TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: cfg.Timeout,
		MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 128, MaxIdleConnsPerHost: 32, IdleConnTimeout: 60 * time.Second, ForceAttemptHTTP2: true,
		DialContext: d.DialContext,
	}
}

// fetcher chooses how a request may connect.
type fetcher struct {
	cfg     FetchConfig
	known   map[string]bool // hosts in the configuration
	free    *http.Transport // to them, by the proxy if there is one
	guarded *http.Transport // to public addresses and listed networks
	clear   *http.Transport // http, to listed networks alone
}

// route returns the transport that a URL may use.
func (f *fetcher) route(u *url.URL) (*http.Transport, error) {
	known := f.known[strings.ToLower(u.Hostname())]
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("%s: only https is called", u.Scheme)
	case known:
		return f.free, nil
	case u.Scheme == "http" && len(f.cfg.AllowPrivate) > 0:
		return f.clear, nil
	case u.Scheme == "http":
		return nil, fmt.Errorf("http://%s: only https is called, http only to hosts in the configuration: %w", u.Host, ErrForbiddenAddress)
	case f.cfg.Proxy != nil && f.cfg.ProxyUntrusted:
		return f.free, nil
	}
	return f.guarded, nil
}

// RoundTrip sends the request where it may go, and bounds the answer's body.
func (f *fetcher) RoundTrip(r *http.Request) (*http.Response, error) {
	t, err := f.route(r.URL)
	if err != nil {
		return nil, err
	}
	if r.Header.Get("User-Agent") == "" {
		r = r.Clone(r.Context())
		r.Header.Set("User-Agent", f.cfg.UserAgent)
	}
	_, span := tracing.Start(r.Context(), "HTTP "+r.Method, tracing.Client)
	if span.On() { // the trace is not passed on: its id is nothing to strangers
		span.Set("server.address", r.URL.Hostname())
	}
	sent := time.Now()
	resp, err := t.RoundTrip(r)
	if err != nil {
		span.Fail(err)
		span.End()
		return nil, err
	}
	span.Status(resp.StatusCode, tracing.Client)
	span.End()
	if f.cfg.Answered != nil {
		f.cfg.Answered(r.URL.Hostname(), resp.Header, sent, time.Now())
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: f.cfg.MaxBody}
	return resp, nil
}

// CloseIdleConnections lets http.Client pass the call on.
func (f *fetcher) CloseIdleConnections() {
	for _, t := range []*http.Transport{f.free, f.guarded, f.clear} {
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

// notPublic are special-purpose networks (IANA's registries) that net/netip
// counts as global unicast. IPv6 outside 2000::/3 needs no entry.
var notPublic = func() []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	} {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}()

// Public reports whether an address is one that everybody can reach. Of IPv6
// that is what is given out to networks, 2000::/3, so that no form that carries
// an IPv4 address (mapped, compatible, translated, NAT64) hides a private one.
func Public(ip netip.Addr) bool {
	ip = ip.Unmap()
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.Is6() && ip.As16()[0]&0xe0 != 0x20 {
		return false
	}
	return !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(ip) })
}
