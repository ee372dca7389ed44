package web

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Tunnel connects to host:port through an HTTP proxy by CONNECT (RFC 9110
// 9.3.6), for protocols that no http.Client speaks. It is for addresses from the
// configuration alone: the proxy resolves the name (docs/security.md G6).
// Errors hold no password of the proxy.
func Tunnel(ctx context.Context, proxy *url.URL, address string) (net.Conn, error) {
	at := proxy.Host
	if proxy.Port() == "" {
		at = net.JoinHostPort(proxy.Hostname(), map[string]string{"http": "80", "https": "443"}[proxy.Scheme])
	}
	d := &net.Dialer{Timeout: 5 * time.Second}
	var conn net.Conn
	var err error
	switch proxy.Scheme {
	case "http":
		conn, err = d.DialContext(ctx, "tcp", at)
	case "https":
		conn, err = (&tls.Dialer{NetDialer: d, Config: &tls.Config{MinVersion: tls.VersionTLS12}}).DialContext(ctx, "tcp", at)
	default:
		return nil, errors.New("proxy: only http and https proxies are spoken to")
	}
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	err = connect(conn, proxy.User, address)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return conn, nil
}

func connect(conn net.Conn, user *url.Userinfo, address string) error {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{"User-Agent": {"Gatehouse"}}}
	if user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	// One byte at a time: what follows the head belongs to the tunnel.
	resp, err := http.ReadResponse(bufio.NewReaderSize(io.LimitReader(oneByte{conn}, 16<<10), 16), req)
	if err != nil {
		return fmt.Errorf("the answer to CONNECT: %w", err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("CONNECT %s: status %d: does the proxy allow this port?", address, resp.StatusCode)
	}
	return conn.SetDeadline(time.Time{})
}

// oneByte keeps a buffered reader from taking what comes after the head.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) {
	if len(p) > 1 {
		p = p[:1]
	}
	return o.r.Read(p)
}
