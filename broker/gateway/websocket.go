package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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
	defer g.relays.leave()
	rel := relay.New(relay.Config{Buffers: &g.buffers, Mute: looksOnly(pg.lease, pg.caller), Idle: pg.route.Timeouts.Idle})
	pg.socket, pg.end = true, rel.End
	s, ok := g.active.add(&pg.activity)
	if !ok {
		return tooMany()
	}
	defer s.remove(&pg.activity)
	var over <-chan struct{}
	if id := pg.caller.session.ID; id != "" {
		var unwatch func()
		over, unwatch = g.cfg.Sessions.Watch(id)
		defer unwatch()
	}
	if code := g.over(r.Context(), &pg.activity); code != 0 {
		return g.overError(r, pg, code)
	}
	ctx, cancel := context.WithCancel(r.Context()) // until the connection is ours
	defer cancel()
	defer context.AfterFunc(g.base, cancel)()
	ctx = pg.trace(ctx, web.RequestOf(r).Span)
	up, resp, ubuf, release, err := g.openUpstream(ctx, r, pg)
	if err != nil {
		pg.traced(0, err)
		return g.upstreamError(r, &pg.activity, err)
	}
	pg.traced(resp.StatusCode, nil)
	defer release()
	defer up.Close()
	g.sawUp(pg)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return pg.refused(resp)
	}
	client, cbuf, err := http.NewResponseController(pg.answer.ResponseWriter).Hijack()
	if err != nil {
		return fmt.Errorf("hijack: %w", err)
	}
	defer client.Close()
	_ = client.SetDeadline(time.Time{})
	pg.answer.status, web.RequestOf(r).Switched = http.StatusSwitchingProtocols, true
	pg.clean(resp)
	hopByHop(resp.Header)
	resp.Header["Connection"], resp.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	resp.Header.Set(web.RequestIDHeader, pg.answer.id)
	if err := writeSwitch(client, resp.Header); err != nil {
		return nil // the client went away; there is nobody to tell
	}
	pg.route.health.sockets.Add(1)
	defer pg.route.health.sockets.Add(-1)
	rel.Run(g.base, over, client, cbuf.Reader, up, ubuf)
	return nil
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
