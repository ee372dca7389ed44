//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// socket is a WebSocket of the demo console, spoken by hand.
type socket struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

// console opens the demo console with the person's cookies and its socket.
func (p *person) console(t *testing.T, g *gatehouse) *socket {
	t.Helper()
	return p.consoleOf(t, g, "demo")
}

// consoleOf opens a console that is the demo upstream, and its socket.
func (p *person) consoleOf(t *testing.T, g *gatehouse, lease string) *socket {
	t.Helper()
	base := strings.Replace(p.issuer, "127.0.0.1", lease+".console.localhost", 1)
	if r := p.follow(p.send(http.MethodGet, base+"/", nil)); r.StatusCode != http.StatusOK {
		t.Fatalf("the console: %d at %s", r.StatusCode, r.Request.URL)
	}
	u, err := url.Parse(base + "/ws")
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{"Origin": {base}}
	for _, c := range p.client.Jar.Cookies(u) {
		h.Add("Cookie", c.String())
	}
	return opens(t, g, u.String(), h)
}

// opens opens a socket with these headers.
func opens(t *testing.T, g *gatehouse, at string, h http.Header) *socket {
	t.Helper()
	conn, err := net.Dial("tcp", g.listening())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	req, err := http.NewRequest(http.MethodGet, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = h.Clone()
	for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
		req.Header.Set(k, v)
	}
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	s := &socket{t: t, conn: conn, r: bufio.NewReader(conn)}
	resp, err := http.ReadResponse(s.r, req)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the socket: %v, %v", resp, err)
	}
	return s
}

// frame reads one short frame (RFC 6455 section 5.2).
func (s *socket) frame(within time.Duration) (opcode byte, payload []byte, err error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return 0, nil, err
	}
	var head [2]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return 0, nil, err
	}
	payload = make([]byte, head[1]&0x7f)
	_, err = io.ReadFull(s.r, payload)
	return head[0] & 0xf, payload, err
}

// echo sends a text and waits for it to come back.
func (s *socket) echo(text string) error {
	frame := append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...) // masked with zeros
	if _, err := s.conn.Write(frame); err != nil {
		return err
	}
	for {
		op, got, err := s.frame(3 * time.Second)
		if err != nil || op == 8 {
			return fmt.Errorf("opcode %d, %w", op, err)
		}
		if op == 1 && strings.Contains(string(got), text) {
			return nil
		}
	}
}

// closed waits for the close frame and returns its code.
func (s *socket) closed(within time.Duration) int {
	s.t.Helper()
	for end := time.Now().Add(within); ; {
		op, got, err := s.frame(time.Until(end))
		if err != nil {
			s.t.Fatalf("no close frame within %v: %v", within, err)
		}
		if op == 8 && len(got) >= 2 {
			return int(got[0])<<8 | int(got[1])
		}
	}
}
