package web

import (
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// G6: which addresses are everybody's, in every form that can hide another.
func TestPublic(t *testing.T) {
	for addr, public := range map[string]bool{
		"1.1.1.1": true, "223.5.5.5": true, "140.82.112.3": true, "2606:4700::1111": true, "2400:3200::1": true, "::ffff:1.1.1.1": true,
		"127.0.0.1": false, "127.255.0.9": false, "0.0.0.0": false, "0.1.2.3": false, "10.1.2.3": false, "172.16.0.1": false, "172.31.9.9": false,
		"192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false, "100.127.255.255": false, "100.100.100.200": false, "192.0.0.192": false,
		"192.0.2.1": false, "198.18.0.1": false, "198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "239.1.1.1": false, "240.0.0.1": false, "255.255.255.255": false,
		"::1": false, "::": false, "fe80::1": false, "fc00::1": false, "fd00:ec2::254": false, "fec0::1": false, "ff02::1": false,
		"::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::ffff:169.254.169.254": false, // IPv4-mapped
		"::127.0.0.1": false, "::ffff:0:127.0.0.1": false, // compatible, translated
		"64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b:1::1": false, // NAT64
		"2002:7f00:1::": false, "2001::1": false, "2001:db8::1": false, "3fff::1": false, "100::1": false, "5f00::1": false, "4000::1": false,
	} {
		if got := Public(netip.MustParseAddr(addr)); got != public {
			t.Errorf("%s: public %v", addr, got)
		}
	}
	if Public(netip.Addr{}) {
		t.Error("no address is public")
	}
}

func client(t *testing.T, cfg FetchConfig) *http.Client {
	t.Helper()
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// listening is a server that counts who reached it.
func listening(t *testing.T, tls bool, h http.HandlerFunc) (*httptest.Server, *atomic.Int32) {
	n := &atomic.Int32{}
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		h(w, r)
	})
	s := httptest.NewUnstartedServer(counted)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s, n
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

// G6: who may be reached, by where the URL came from.
func TestFetchReach(t *testing.T) {
	plain, plainN := listening(t, false, hello)
	secure, secureN := listening(t, true, hello)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	byName := "http://localhost:" + strings.Split(plain.URL, ":")[2] // resolves to loopback
	loop := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for name, c := range map[string]struct {
		cfg FetchConfig
		url string
		ok  bool
	}{
		"https to loopback":             {FetchConfig{CAFile: ca}, secure.URL, false},
		"http to loopback":              {FetchConfig{}, plain.URL, false},
		"http to a name":                {FetchConfig{}, byName, false},
		"http, listed host":             {FetchConfig{AllowHosts: []string{"127.0.0.1"}}, plain.URL, true},
		"https, listed host":            {FetchConfig{AllowHosts: []string{"127.0.0.1"}, CAFile: ca}, secure.URL, true},
		"https, listed, no CA":          {FetchConfig{AllowHosts: []string{"127.0.0.1"}}, secure.URL, false},
		"another host is listed":        {FetchConfig{AllowHosts: []string{"127.0.0.2"}}, plain.URL, false},
		"http, listed network":          {FetchConfig{AllowPrivate: loop}, plain.URL, true},
		"http, listed network, by name": {FetchConfig{AllowPrivate: loop}, byName, true},
		"https, listed network":         {FetchConfig{AllowPrivate: loop, CAFile: ca}, secure.URL, true},
		"http, another network":         {FetchConfig{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, plain.URL, false},
		"another scheme":                {FetchConfig{AllowHosts: []string{"127.0.0.1"}}, "ftp://127.0.0.1/", false},
		"mapped form":                   {FetchConfig{CAFile: ca}, strings.Replace(secure.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1), false},
	} {
		before := plainN.Load() + secureN.Load()
		resp, err := client(t, c.cfg).Get(c.url)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			resp.Body.Close()
		} else if plainN.Load()+secureN.Load() != before {
			t.Errorf("%s: refused after it was sent", name)
		}
	}
	if _, err := client(t, FetchConfig{CAFile: ca}).Get(secure.URL); !errors.Is(err, ErrForbiddenAddress) {
		t.Errorf("the reason: %v", err)
	}
	// http to a listed network leads nowhere else, be it public.
	c := client(t, FetchConfig{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if _, err := c.Get("http://192.0.2.1/"); !errors.Is(err, ErrForbiddenAddress) {
		t.Errorf("http past the listed network: %v", err)
	}
}

// G6: redirects are answers, not orders; credentials go nowhere else.
func TestFetchRedirects(t *testing.T) {
	target, n := listening(t, false, hello)
	first, _ := listening(t, false, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target.URL, http.StatusFound) })
	resp, err := client(t, FetchConfig{AllowHosts: []string{"127.0.0.1"}}).Get(first.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusFound || n.Load() != 0 {
		t.Errorf("%d, the target was called %d times", resp.StatusCode, n.Load())
	}
}

// G6: an answer is cut, also when it was compressed or its length was a lie, and
// so is the time that it takes.
func TestFetchBounds(t *testing.T) {
	s, _ := listening(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			<-r.Context().Done()
		case "/drip":
			_, _ = io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/headers":
			for range 100 {
				w.Header().Add("X", strings.Repeat("x", 1000))
			}
		case "/exact":
			_, _ = io.WriteString(w, strings.Repeat("x", 1000))
		default:
			_, _ = io.WriteString(w, strings.Repeat("x", 1001))
		}
	})
	c := client(t, FetchConfig{AllowHosts: []string{"127.0.0.1"}, MaxBody: 1000, Timeout: 300 * time.Millisecond})
	read := func(path string) (int, error) {
		resp, err := c.Get(s.URL + path)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return len(b), err
	}
	if n, err := read("/exact"); n != 1000 || err != nil {
		t.Errorf("as long as allowed: %d %v", n, err)
	}
	if _, err := read("/long"); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a byte more: %v", err)
	}
	for _, path := range []string{"/slow", "/drip", "/headers"} {
		if _, err := read(path); err == nil {
			t.Errorf("%s came to an end", path)
		}
	}
}

// G6: a proxy carries what the operator wrote down and nothing else, since it
// resolves names itself; proxy_untrusted says that it may.
func TestFetchProxy(t *testing.T) {
	proxy, n := listening(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		_, _ = io.WriteString(w, "by proxy to "+r.URL.Host)
	})
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg := FetchConfig{Proxy: u, AllowHosts: []string{"git.internal.example"}, Timeout: 2 * time.Second}
	resp, err := client(t, cfg).Get("http://git.internal.example/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if n.Load() != 1 {
		t.Fatal("the proxy was not asked")
	}
	// A URL from outside whose host is the proxy's own does not slip past the guard.
	for _, raw := range []string{"https://" + u.Host + "/", "https://169.254.169.254/", "https://localhost/"} {
		if _, err := client(t, cfg).Get(raw); !errors.Is(err, ErrForbiddenAddress) {
			t.Errorf("%s: %v", raw, err)
		}
	}
	if n.Load() != 1 {
		t.Error("the proxy got a URL from outside")
	}
	cfg.ProxyUntrusted = true
	if _, err := client(t, cfg).Get("https://any.example/"); err == nil || n.Load() != 2 {
		t.Errorf("with proxy_untrusted: %v, %d calls", err, n.Load())
	}
}

// Our own TLS floor holds for calls too.
func TestFetchTLSFloor(t *testing.T) {
	c := client(t, FetchConfig{})
	for _, tr := range []*http.Transport{c.Transport.(*fetcher).free, c.Transport.(*fetcher).guarded, c.Transport.(*fetcher).clear} {
		if tr.TLSClientConfig.MinVersion != 0x0303 || tr.TLSClientConfig.InsecureSkipVerify {
			t.Errorf("TLS from %x, unverified %v", tr.TLSClientConfig.MinVersion, tr.TLSClientConfig.InsecureSkipVerify)
		}
	}
	if _, err := NewClient(FetchConfig{CAFile: filepath.Join(t.TempDir(), "missing.pem")}); err == nil {
		t.Error("a CA file that is missing was taken for none (G1)")
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(FetchConfig{CAFile: empty}); err == nil {
		t.Error("a CA file without a certificate was taken for none (G1)")
	}
}
