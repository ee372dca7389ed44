package web

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// proxyFor answers the first CONNECT of one connection with what answer says.
func proxyFor(t *testing.T, answer func(*http.Request) string) *url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, answer(r))
		_, _ = io.Copy(io.Discard, c)
	}()
	return &url.URL{Scheme: "http", Host: l.Addr().String(), User: url.UserPassword("u", "proxy-password")}
}

// What the far side says at once, in the same packet as the proxy's answer, is
// the tunnel's and not lost.
func TestTunnel(t *testing.T) {
	var asked *http.Request
	p := proxyFor(t, func(r *http.Request) string {
		asked = r
		return "HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n220 hello\r\n"
	})
	c, err := Tunnel(context.Background(), p, "mail.example.com:587")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "220 hello\r\n" || err != nil {
		t.Errorf("%q %v", line, err)
	}
	user, password, ok := parseProxyAuth(asked)
	if asked.Method != http.MethodConnect || asked.RequestURI != "mail.example.com:587" || asked.Host != "mail.example.com:587" || !ok || user != "u" || password != "proxy-password" {
		t.Errorf("%s %s %s %v", asked.Method, asked.RequestURI, asked.Host, asked.Header)
	}
}

func parseProxyAuth(r *http.Request) (user, password string, ok bool) {
	r.Header.Set("Authorization", r.Header.Get("Proxy-Authorization"))
	return r.BasicAuth()
}

// A proxy that refuses, talks nonsense or without end, or says nothing.
func TestTunnelRefused(t *testing.T) {
	for name, answer := range map[string]string{
		"refused":  "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
		"nonsense": "220 mail.example.com ESMTP\r\n\r\n",
		"endless":  "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 64<<10),
		"moved":    "HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n",
	} {
		c, err := Tunnel(context.Background(), proxyFor(t, func(*http.Request) string { return answer }), "mail.example.com:587")
		if err == nil {
			c.Close()
			t.Errorf("%s: a tunnel", name)
		} else if strings.Contains(err.Error(), "proxy-password") {
			t.Errorf("%s: the password is in %v", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := Tunnel(ctx, proxyFor(t, func(*http.Request) string { return "" }), "mail.example.com:587"); err == nil || time.Since(began) > 5*time.Second {
		t.Errorf("silent, after %s: %v", time.Since(began), err)
	}
	for _, p := range []*url.URL{{Scheme: "socks5", Host: "127.0.0.1:1"}, {Scheme: "http", Host: "127.0.0.1:1"}, {Scheme: "https", Host: "127.0.0.1:1"}} {
		if _, err := Tunnel(context.Background(), p, "mail.example.com:587"); err == nil {
			t.Errorf("%s: a tunnel", p.Scheme)
		}
	}
}
