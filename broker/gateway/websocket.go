package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/web"
)

// Close codes of sockets that the gateway ends.
const (
	closeSession   = 4401 // the session has ended
	closeForbidden = 4403 // the lease has ended or the permission is lost
	closeAway      = 1001 // shutting down (RFC 6455 section 7.4.1)
)

// isUpgrade reports whether the client wants a WebSocket. Every other Upgrade is
// stripped with the hop-by-hop headers (GW-7).
func isUpgrade(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && tokenIn(r.Header["Connection"], "upgrade")
}

func tokenIn(lines []string, want string) bool {
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), want) {
				return true
			}
		}
	}
	return false
}

// websocket relays an upgraded connection. It is registered first, then session
// and lease are looked at again, then the upstream is dialled, so that an end in
// between is not missed (GW-9).
func (g *Gateway) websocket(w http.ResponseWriter, r *http.Request, act *activity, p *pass) error {
	if r.ProtoMajor != 1 || r.Method != http.MethodGet {
		return web.Fail(http.StatusBadRequest, "request.upgrade", "error.bad_request", errors.New("a WebSocket is opened by GET over HTTP/1.1"))
	}
	// Origin decides which page may use the visitor's cookie (RFC 6455 section 10.2).
	origin := r.Header.Get("Origin")
	if origin != "" && origin != g.origin(r) && !slices.Contains(act.route.CORS.Origins, origin) || origin == "" && act.caller.cookie {
		return web.Fail(http.StatusForbidden, "request.cross_origin", "error.cross_origin", fmt.Errorf("origin %q", origin))
	}
	ctx, cancel := context.WithCancel(g.base)
	defer cancel()
	rel := &relay{stop: make(chan int, 1)}
	act.end = rel.end
	s := g.active.add(act)
	defer s.remove(act)
	var ended <-chan struct{}
	if act.caller.session.ID != "" {
		var unwatch func()
		ended, unwatch = g.cfg.Sessions.Watch(act.caller.session.ID)
		defer unwatch()
		if _, err := g.cfg.Sessions.Get(r.Context(), act.caller.session.ID); err != nil {
			return web.Fail(http.StatusUnauthorized, "session.ended", "error.sign_in", err)
		}
	}
	up, err := g.dialUpstream(r.Context(), act)
	if err != nil {
		return g.upstreamError(act, err)
	}
	defer up.Close()
	out := r.Clone(r.Context())
	out.RequestURI, out.Body, out.ContentLength = "", nil, 0
	for _, line := range out.Header["Connection"] { // hop-by-hop
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" && !strings.EqualFold(name, "upgrade") {
				out.Header.Del(name)
			}
		}
	}
	for _, name := range []string{"Te", "Trailer", "Transfer-Encoding", "Keep-Alive", "Proxy-Connection"} {
		delete(out.Header, name)
	}
	g.prepare(r, out, &passage{activity: act, pass: p})
	out.Header["Connection"], out.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	_ = up.SetDeadline(time.Now().Add(30 * time.Second))
	if err := out.Write(up); err != nil {
		return g.upstreamError(act, err)
	}
	ubuf := bufio.NewReaderSize(up, relayBuffer)
	resp, err := http.ReadResponse(ubuf, out)
	if err != nil {
		return g.upstreamError(act, err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols { // the upstream's own refusal
		defer resp.Body.Close()
		cleanResponse(resp.Header, web.HostName(r.Host))
		h := w.Header()
		for k, vs := range resp.Header {
			if !slices.Contains([]string{"Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade", "Trailer"}, k) {
				h[k] = vs
			}
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, io.LimitReader(resp.Body, 1<<20))
		return nil
	}
	if !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") || !tokenIn(resp.Header["Connection"], "upgrade") {
		return g.upstreamError(act, errors.New("the upstream switched to another protocol"))
	}
	_ = up.SetDeadline(time.Time{})
	client, cbuf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("hijack: %w", err)
	}
	defer client.Close()
	_ = client.SetDeadline(time.Time{})
	g.relays.Add(1)
	defer g.relays.Done()
	act.route.health.saw(upstreamUp)
	act.route.health.sockets.Add(1)
	defer act.route.health.sockets.Add(-1)
	cleanResponse(resp.Header, web.HostName(r.Host))
	resp.Header["Connection"], resp.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	if err := writeSwitch(client, resp.Header); err != nil {
		return nil // the client went away; there is nobody to tell
	}
	if a, ok := w.(*answer); ok {
		a.status = http.StatusSwitchingProtocols
	}
	rel.run(ctx, ended, client, cbuf.Reader, up, ubuf)
	return nil
}

func writeSwitch(c net.Conn, h http.Header) error {
	var b strings.Builder
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	if err := h.Write(&b); err != nil {
		return err
	}
	b.WriteString("\r\n")
	_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_, err := io.WriteString(c, b.String())
	_ = c.SetWriteDeadline(time.Time{})
	return err
}

func (g *Gateway) dialUpstream(ctx context.Context, act *activity) (net.Conn, error) {
	u, err := act.target()
	if err != nil {
		return nil, err
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	dial, tc := (&net.Dialer{Timeout: 5 * time.Second}).DialContext, &tls.Config{MinVersion: tls.VersionTLS12}
	if act.route.Lease {
		dial, tc = g.proxy.dial, g.proxy.tls.Clone()
	}
	conn, err := dial(ctx, "tcp", host)
	if err != nil || u.Scheme != "https" {
		return conn, err
	}
	tc.ServerName = u.Hostname()
	tconn := tls.Client(conn, tc)
	if err := tconn.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return tconn, nil
}

const (
	relayBuffer = 4 << 10
	// atBoundary is how long an end waits for a frame to be finished.
	atBoundary = 250 * time.Millisecond
)

// relay copies frames both ways and knows where they end, so that a close frame
// of ours never lands inside one.
type relay struct {
	stop chan int
	once sync.Once
}

// end asks the relay to close with a code; the first one counts.
func (r *relay) end(code int) { r.once.Do(func() { r.stop <- code }) }

// leg is one direction.
type leg struct {
	mu     sync.Mutex // held while a chunk is written and accounted for
	dst    net.Conn
	frames frames
	closed bool // a close frame has passed or was sent: nothing may follow
}

func (r *relay) run(ctx context.Context, ended <-chan struct{}, client net.Conn, fromClient *bufio.Reader, up net.Conn, fromUp *bufio.Reader) {
	toClient, toUp := &leg{dst: client}, &leg{dst: up}
	done := make(chan struct{}, 2)
	var copies sync.WaitGroup
	copies.Go(func() { toClient.copy(fromUp); done <- struct{}{} })
	copies.Go(func() { toUp.copy(fromClient); done <- struct{}{} })
	code := 0
	select {
	case <-done: // one side has ended: let what it said reach the other
		select {
		case <-done:
		case <-time.After(atBoundary):
		}
	case <-ended:
		code = closeSession
	case code = <-r.stop:
	case <-ctx.Done():
		code = closeAway
	}
	if code != 0 {
		deadline := time.Now().Add(atBoundary)
		// The client first: the upstream answers a close frame with its own,
		// which must not reach the client instead of ours.
		toClient.close(code, false, deadline)
		toUp.close(closeAway, true, deadline)
	}
	client.Close()
	up.Close()
	copies.Wait()
}

// copy moves what comes until either side ends.
func (l *leg) copy(src *bufio.Reader) {
	buf := make([]byte, relayBuffer)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			l.mu.Lock()
			if l.closed {
				l.mu.Unlock()
				return
			}
			_ = l.dst.SetWriteDeadline(time.Now().Add(time.Minute))
			_, werr := l.dst.Write(buf[:n])
			l.frames.pass(buf[:n])
			l.mu.Unlock()
			if werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// close sends a close frame between two frames, if there is a boundary in time.
func (l *leg) close(code int, masked bool, deadline time.Time) {
	_ = l.dst.SetWriteDeadline(deadline)
	for {
		l.mu.Lock()
		if l.closed || l.frames.closing {
			l.mu.Unlock()
			return
		}
		if l.frames.boundary() {
			l.closed = true
			_, _ = l.dst.Write(closeFrame(code, masked))
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		if !time.Now().Before(deadline) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// closeFrame is a close frame with a code and no reason (RFC 6455 section 5.5.1).
func closeFrame(code int, masked bool) []byte {
	payload := binary.BigEndian.AppendUint16(nil, uint16(code))
	if !masked {
		return append([]byte{0x88, 2}, payload...)
	}
	// A mask of zeros leaves the payload as it is and is a valid mask.
	return append([]byte{0x88, 0x80 | 2, 0, 0, 0, 0}, payload...)
}

// frames follows the frames of one direction by their headers alone (RFC 6455
// section 5.2).
type frames struct {
	head    [14]byte
	have    int    // bytes of the header seen
	left    uint64 // bytes of the payload to come
	closing bool   // a close frame has begun
}

func (f *frames) boundary() bool { return f.have == 0 && f.left == 0 }

// pass accounts for bytes that were sent on.
func (f *frames) pass(b []byte) {
	for len(b) > 0 {
		if f.left > 0 {
			n := min(uint64(len(b)), f.left)
			f.left -= n
			b = b[n:]
			continue
		}
		f.head[f.have] = b[0]
		f.have++
		b = b[1:]
		if f.have < 2 {
			continue
		}
		need := 2
		switch f.head[1] & 0x7f {
		case 126:
			need += 2
		case 127:
			need += 8
		}
		payloadAt := need
		if f.head[1]&0x80 != 0 {
			need += 4
		}
		if f.have < need {
			continue
		}
		switch n := f.head[1] & 0x7f; n {
		case 126:
			f.left = uint64(binary.BigEndian.Uint16(f.head[2:payloadAt]))
		case 127:
			f.left = binary.BigEndian.Uint64(f.head[2:payloadAt])
		default:
			f.left = uint64(n)
		}
		if f.head[0]&0x0f == 8 {
			f.closing = true
		}
		f.have = 0
	}
}
