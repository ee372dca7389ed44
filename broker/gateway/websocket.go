package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/gateway/relay"
	"github.com/remotegpu/gatehouse/broker/web"
)

// Close codes of sockets, and reasons to end what else is open.
const (
	closeSession   = relay.SessionEnded
	closeForbidden = relay.Forbidden
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

// websocket relays an upgraded connection. It is registered first, then session,
// lease and permission are looked at again, then the upstream is dialled, so
// that an end in between is not missed (GW-9).
func (g *Gateway) websocket(r *http.Request, pg *passage) error {
	// Origin decides which page may use the visitor's cookie (RFC 6455 section
	// 10.2, GW-8).
	origin := r.Header.Get("Origin")
	if origin != "" && origin != g.origin(r) && !slices.Contains(pg.route.CORS.Origins, origin) || origin == "" && pg.caller.cookie {
		return web.Fail(http.StatusForbidden, "request.cross_origin", "error.cross_origin", fmt.Errorf("origin %q", origin))
	}
	if !g.relays.enter() {
		return web.Fail(http.StatusServiceUnavailable, "gateway.closing", "error.internal", errors.New("shutting down"))
	}
	var after undo
	relayed := false
	defer func() {
		if !relayed {
			after.run()
		}
	}()
	after.add(g.relays.leave)
	rel := relay.New(relay.Config{Buffers: &g.buffers, Mute: looksOnly(pg.lease, pg.caller), Idle: pg.route.Timeouts.Idle})
	pg.socket, pg.end = true, rel.End
	s, ok := g.active.add(&pg.activity)
	if !ok {
		return tooMany()
	}
	after.add(func() { s.remove(&pg.activity) })
	var over <-chan struct{}
	if id := pg.caller.session.ID; id != "" {
		var unwatch func()
		over, unwatch = g.cfg.Sessions.Watch(id)
		after.add(unwatch)
	}
	if code := g.over(r.Context(), &pg.activity); code != 0 {
		return g.overError(r, pg, code)
	}
	ctx, cancel := context.WithCancel(r.Context()) // until the connection is ours
	defer cancel()
	defer context.AfterFunc(g.base, cancel)()
	q := web.RequestOf(r)
	ctx = pg.trace(ctx, q.Span)
	up, resp, ubuf, release, err := g.openUpstream(ctx, r, pg)
	if err != nil {
		pg.traced(0, err)
		return g.upstreamError(r, &pg.activity, err)
	}
	pg.traced(resp.StatusCode, nil)
	after.add(release)
	after.add(func() { up.Close() })
	g.sawUp(pg)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return pg.refused(resp)
	}
	client, cbuf, err := http.NewResponseController(pg.answer.ResponseWriter).Hijack()
	if err != nil {
		return fmt.Errorf("hijack: %w", err)
	}
	after.add(func() { client.Close() })
	_ = client.SetDeadline(time.Time{})
	pg.answer.status, q.Switched = http.StatusSwitchingProtocols, true
	pg.clean(resp)
	hopByHop(resp.Header)
	resp.Header["Connection"], resp.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	resp.Header.Set(web.RequestIDHeader, pg.answer.id)
	if err := writeSwitch(client, resp.Header); err != nil {
		return nil // the client went away; there is nobody to tell
	}
	pg.route.health.sockets.Add(1)
	after.add(func() { pg.route.health.sockets.Add(-1) })
	early := [2][]byte{ahead(cbuf.Reader), ahead(ubuf)}
	// The handler returns, and with it go its stack and the server's buffers: most
	// of what an idle socket would cost. Shutdown waits for the relays.
	pg.answer.ResponseWriter, pg.answer.out.rc = nil, nil
	relayed = true
	after.add(q.Detach())
	log := g.cfg.Log
	go func() {
		defer after.run()
		defer func() {
			if v := recover(); v != nil {
				log.Error("panic", "handler", "websocket", "value", fmt.Sprint(v), "stack", string(debug.Stack()))
			}
		}()
		rel.Run(g.base, over, client, early[0], up, early[1])
	}()
	return nil
}

// undo is what is to be done at an end, last first.
type undo []func()

func (u *undo) add(f func()) { *u = append(*u, f) }

func (u undo) run() {
	for _, f := range slices.Backward(u) {
		f()
	}
}

// ahead is what was read already of what a side sends.
func ahead(src *bufio.Reader) []byte {
	b, _ := src.Peek(src.Buffered()) // no more than there is: no error
	return bytes.Clone(b)
}

// refused passes on that the upstream did not switch.
func (pg *passage) refused(resp *http.Response) error {
	defer resp.Body.Close()
	pg.clean(resp)
	hopByHop(resp.Header)
	h := pg.answer.Header()
	for k, vs := range resp.Header {
		h[k] = append(h[k], vs...)
	}
	pg.answer.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(&pg.answer, resp.Body); err != nil {
		panic(http.ErrAbortHandler) // broken off: cut, not ended as if whole (GW-17)
	}
	return nil
}

// hopByHop removes what is between two neighbours alone (RFC 9110 section 7.6.1).
func hopByHop(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Te", "Trailer", "Transfer-Encoding", "Upgrade"} {
		delete(h, name)
	}
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
