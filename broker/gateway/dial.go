package gateway

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/gateway/relay"
	"github.com/remotegpu/gatehouse/broker/gateway/upstream"
)

const (
	switchTime   = 30 * time.Second // for an upstream to answer the upgrade
	switchHeader = 64 << 10         // bytes of that answer's header
)

// openUpstream dials and asks for the upgrade; of several upstreams another one,
// when the first does not answer at all. The answer may be another than 101.
// release is called when nothing of it is open any more.
func (g *Gateway) openUpstream(ctx context.Context, r *http.Request, pg *passage) (_ net.Conn, _ *http.Response, _ *bufio.Reader, release func(), err error) {
	group := pg.route.group
	if group == nil {
		up, resp, buf, err := g.askUpgrade(ctx, r, pg)
		return up, resp, buf, func() {}, err
	}
	var tried upstream.Tried
	for n := 0; n <= upstream.MaxRetries; n++ {
		a, ok := group.Begin(context.WithValue(ctx, passageKey{}, pg), tried)
		if !ok {
			break
		}
		pg.server = a.URL()
		up, resp, buf, failed := g.askUpgrade(ctx, r, pg)
		if failed == nil {
			a.Judge(ctx, resp.StatusCode)
			return up, resp, buf, a.Release, nil
		}
		err = failed
		a.Release()
		if ctx.Err() != nil {
			a.Dropped()
			break
		}
		a.Failed(ctx, err.Error())
		if tried.Add(a); !upstream.Unheard(err) {
			break
		}
	}
	return nil, nil, nil, nil, err
}

// askUpgrade asks the passage's target.
func (g *Gateway) askUpgrade(ctx context.Context, r *http.Request, pg *passage) (_ net.Conn, _ *http.Response, _ *bufio.Reader, err error) {
	up, err := g.dialUpstream(ctx, pg)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			up.Close()
		}
	}()
	defer context.AfterFunc(ctx, func() { _ = up.SetDeadline(time.Unix(1, 0)) })()
	out := r.Clone(ctx)
	out.RequestURI, out.Body, out.ContentLength, out.Trailer = "", nil, 0, nil
	hopByHop(out.Header)
	g.prepare(r, out, pg)
	out.Header["Connection"], out.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	_ = up.SetDeadline(time.Now().Add(switchTime))
	if err := out.Write(up); err != nil {
		return nil, nil, nil, err
	}
	head := &io.LimitedReader{R: up, N: switchHeader}
	buf := bufio.NewReaderSize(head, relay.BufferSize)
	for {
		resp, err := http.ReadResponse(buf, out)
		if err != nil {
			return nil, nil, nil, err
		}
		switch code := resp.StatusCode; {
		case code == http.StatusSwitchingProtocols:
			if !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") || !tokenIn(resp.Header["Connection"], "upgrade") {
				return nil, nil, nil, errors.New("the upstream switched to another protocol")
			}
		case code < 200: // dropped, as everywhere (GW-10); the limit ends an upstream that goes on so
			continue
		}
		head.N = math.MaxInt64
		if resp.StatusCode == http.StatusSwitchingProtocols {
			_ = up.SetDeadline(time.Time{})
		}
		return up, resp, buf, nil
	}
}

func (g *Gateway) dialUpstream(ctx context.Context, pg *passage) (net.Conn, error) {
	u := pg.target()
	addr := hostPort(u)
	ctx, cancel := context.WithTimeout(ctx, max(10*time.Second, pg.route.connect()))
	defer cancel()
	dial, files, name := (&net.Dialer{Timeout: pg.route.connect()}).DialContext, pg.route.tls, u.Hostname()
	if pg.route.Lease {
		dial, files, name = g.proxy.dial, g.proxy.tls, cmp.Or(pg.lease.TLS.ServerName, name)
	}
	conn, err := dial(ctx, "tcp", addr)
	if err != nil || u.Scheme != "https" {
		return conn, err
	}
	if files != nil {
		return files.Handshake(ctx, conn, name)
	}
	tconn := tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name})
	if err := tconn.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return tconn, nil
}
