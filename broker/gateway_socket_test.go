package broker_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/remotegpu/gatehouse/broker/console"
)

// echoes is an upstream that sends WebSocket messages back; /flood sends without
// end, and what is no WebSocket is "ok".
func echoes(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		_, _ = io.WriteString(w, "ok")
		return
	}
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: []string{"terminal"}, CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(64 << 20)
	if r.URL.Path == "/flood" {
		go func() { _, _, _ = c.Read(r.Context()) }()
		for c.Write(r.Context(), websocket.MessageBinary, make([]byte, 70_000)) == nil {
		}
		return
	}
	for {
		typ, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if string(b) == "bye" {
			_ = c.Close(4000, "as asked")
			return
		}
		if c.Write(r.Context(), typ, b) != nil {
			return
		}
	}
}

// socket opens a WebSocket as a page on the same origin does.
func (b *browser) socket(u string, headers ...string) (*websocket.Conn, *http.Response, error) {
	b.h.t.Helper()
	h := http.Header{"Origin": {strings.TrimSuffix(u[:strings.Index(u[8:], "/")+8], "/")}}
	for i := 0; i+1 < len(headers); i += 2 {
		h.Del(headers[i])
		if headers[i+1] != "" {
			h.Set(headers[i], headers[i+1])
		}
	}
	ctx, cancel := context.WithTimeout(b.h.t.Context(), 20*time.Second)
	defer cancel()
	client := *b.client
	client.Timeout = 0
	c, resp, err := websocket.Dial(ctx, u, &websocket.DialOptions{HTTPClient: &client, HTTPHeader: h, Subprotocols: []string{"terminal"}, CompressionMode: websocket.CompressionContextTakeover})
	if err == nil {
		c.SetReadLimit(64 << 20)
		b.h.t.Cleanup(func() { c.CloseNow() })
	}
	return c, resp, err
}

func (b *browser) opensSocket(u string, headers ...string) *websocket.Conn {
	b.h.t.Helper()
	c, _, err := b.socket(u, headers...)
	if err != nil {
		b.h.t.Fatal(err)
	}
	return c
}

// says sends a message and wants it back.
func says(t testing.TB, c *websocket.Conn, b []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageBinary, b); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(ctx); err != nil || !bytes.Equal(got, b) {
		t.Fatalf("%d bytes came back as %d: %v", len(b), len(got), err)
	}
}

// closes waits for the end of a socket and wants its code.
func closes(t testing.TB, why string, c *websocket.Conn, code websocket.StatusCode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		if _, _, err := c.Read(ctx); err != nil {
			if got := websocket.CloseStatus(err); got != code {
				t.Errorf("%s: %v, want close code %d", why, err, code)
			}
			return
		}
	}
}

// Messages of every size, pings, compression and subprotocols pass; so does the
// upstream's own close.
func TestGatewaySocketRelays(t *testing.T) {
	t.Parallel()
	h, up := gate(t, plainRoutes, echoes)
	h.lend(console.Lease{ID: "n1", Upstream: up.URL, Owner: "x", Groups: []string{"gpu-users"}})
	b := h.visit(h.at("n1.console", "/"))
	u := h.at("n1.console", "/ws?a=%2f")
	c, resp, err := b.socket(u, "X-Gatehouse-User", "root", "Cookie", "", "Authorization", "token own")
	if err != nil {
		t.Fatal(err)
	}
	if c.Subprotocol() != "terminal" || !strings.Contains(resp.Header.Get("Sec-Websocket-Extensions"), "permessage-deflate") || resp.Header.Get("X-Gatehouse-Request-Id") == "" {
		t.Errorf("answer: %v", resp.Header)
	}
	r := up.last(t)
	if r.URI != "/ws?a=%2f" || r.Header.Get("X-Gatehouse-User") == "root" || len(r.Header["X-Gatehouse-User"]) != 1 || r.Header.Get("Cookie") != "" || r.Header.Get("Authorization") != "token own" || r.Header.Get("X-Gatehouse-Email") != "" {
		t.Errorf("the console is told %v at %s", r.Header, r.URI)
	}
	for _, n := range []int{0, 1, 125, 126, 4096, 65535, 65536, 3 << 20} {
		b := make([]byte, n)
		_, _ = rand.Read(b)
		says(t, c, b)
	}
	go func() { _, _, _ = c.Read(t.Context()) }() // a ping's answer is read here
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("ping: %v", err)
	}
	c = b.opensSocket(u)
	// A message in many fragments, written piece by piece.
	w, err := c.Writer(t.Context(), websocket.MessageText)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		if _, err := fmt.Fprintf(w, "%d,%s", i, strings.Repeat("x", i)); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close()
	if _, got, err := c.Read(t.Context()); err != nil || len(got) < 100_000 || !bytes.HasPrefix(got, []byte("0,1,x2,xx")) {
		t.Errorf("fragments: %d bytes, %v", len(got), err)
	}
	if err := c.Write(t.Context(), websocket.MessageText, []byte("bye")); err != nil {
		t.Fatal(err)
	}
	_, _, err = c.Read(t.Context())
	var ce websocket.CloseError
	if !errors.As(err, &ce) || ce.Code != 4000 || ce.Reason != "as asked" {
		t.Errorf("the upstream's close arrives as %v", err)
	}
	// And the client's own: the upstream takes its leave, too.
	c = b.opensSocket(u)
	says(t, c, []byte("x"))
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("the client's close: %v", err)
	}
}

// GW-7, GW-8: who may open a socket; the upstream hears of nobody else.
func TestGatewaySocketRefusals(t *testing.T) {
	t.Parallel()
	h, up := gate(t, plainRoutes+"  - {name: admins, host: admins.localhost, upstream: UP, allow: '\"platform-admins\" in user.groups'}\n", echoes)
	b := h.visit(h.at("api", "/"))
	b.follow(b.get(h.at("admins", "/")))
	up.last(t)
	u := h.at("api", "/ws")
	tok := h.service("deployments:write")
	for name, c := range map[string]struct {
		b       *browser
		u       string
		headers []string
		status  int
	}{
		"signed out":                 {h.browser(), u, nil, 401},
		"cookie without Origin":      {b, u, []string{"Origin", ""}, 403},
		"foreign Origin":             {b, u, []string{"Origin", "http://evil.example"}, 403},
		"Origin null":                {b, u, []string{"Origin", "null"}, 403},
		"Origin of another port":     {b, u, []string{"Origin", "http://api.localhost"}, 403},
		"Origin of another scheme":   {b, u, []string{"Origin", strings.Replace(h.at("api", ""), "http:", "https:", 1)}, 403},
		"Origin that begins so":      {b, u, []string{"Origin", h.at("api", "") + ".evil.example"}, 403},
		"same-site, no listed":       {b, u, []string{"Origin", "http://n1.console.localhost", "Sec-Fetch-Site", "same-site"}, 403},
		"bearer, foreign Origin":     {h.browser(), u, []string{"Origin", "http://evil.example", "Authorization", "Bearer " + tok}, 403},
		"no permission":              {b, h.at("admins", "/ws"), nil, 403},
		"bad path":                   {b, h.at("api", "/a%2fb"), nil, 400},
		"listed Origin":              {b, u, []string{"Origin", "http://app.localhost", "Sec-Fetch-Site", "cross-site"}, 101},
		"own Origin":                 {b, u, nil, 101},
		"bearer without Origin":      {h.browser(), u, []string{"Origin", "", "Authorization", "Bearer " + tok}, 101},
		"bearer with its own Origin": {h.browser(), u, []string{"Authorization", "Bearer " + tok}, 101},
	} {
		n := len(up.requests())
		conn, resp, err := c.b.socket(c.u, c.headers...)
		if got := status(resp); got != c.status || (err == nil) != (c.status == 101) {
			t.Errorf("%s: %d, %v; want %d", name, got, err, c.status)
		}
		if err == nil {
			conn.CloseNow()
		} else if resp != nil && !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
			t.Errorf("%s: answered by %s", name, resp.Header.Get("Content-Type"))
		}
		if reached := len(up.requests()) > n; reached != (c.status == 101) {
			t.Errorf("%s: reached the upstream: %v", name, reached)
		}
	}
	upgrade := "Host: api.localhost\nAuthorization: Bearer " + tok + "\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\n"
	n := len(up.requests())
	for _, raw := range []string{"POST /ws HTTP/1.1\n" + upgrade + "Content-Length: 0\n\n", "GET /ws HTTP/1.1\n" + upgrade + "Content-Length: 3\n\nabc", "GET /ws HTTP/1.1\n" + upgrade + "Transfer-Encoding: chunked\n\n0\n\n"} {
		if r := h.wire(raw); status(r) != http.StatusBadRequest {
			t.Errorf("%.20q: %d", raw, status(r))
		}
	}
	if len(up.requests()) != n {
		t.Error("such an upgrade reached the upstream")
	}
}

// GW-9: a live socket ends with what let it begin, and says why.
func TestGatewaySocketCloseCodes(t *testing.T) {
	t.Parallel()
	h, up := gate(t, plainRoutes+"  - {name: fresh, host: fresh.localhost, upstream: UP, allow: 'session.age < duration(\"5m\")'}\n", echoes)
	lend := func(id, owner string, until time.Duration) {
		h.lend(console.Lease{ID: id, Upstream: up.URL, Owner: owner, Groups: []string{"gpu-users"}, Expires: h.now().Add(until)})
	}
	lend("n1", "a", 100*time.Hour)
	lend("n2", "a", 6*time.Minute)
	b := h.visit(h.at("api", "/"))
	for _, host := range []string{"n1.console", "n2.console", "fresh"} {
		b.open(h.at(host, "/"))
	}
	api, moved, expired, fresh := b.opensSocket(h.at("api", "/ws")), b.opensSocket(h.at("n1.console", "/ws")), b.opensSocket(h.at("n2.console", "/ws")), b.opensSocket(h.at("fresh", "/ws"))
	flood := b.opensSocket(h.at("api", "/flood"))
	tok := h.access("openid offline_access")
	service := h.browser().opensSocket(h.at("api", "/ws"), "Authorization", "Bearer "+h.service("deployments:write"))
	person := h.browser().opensSocket(h.at("api", "/ws"), "Authorization", "Bearer "+tok)
	for _, c := range []*websocket.Conn{api, moved, expired, fresh, service, person} {
		says(t, c, []byte("alive"))
	}
	lend("n1", "b", 100*time.Hour)
	closes(t, "the lease is somebody else's", moved, 4403)
	h.wait(6 * time.Minute)
	closes(t, "the lease has ended", expired, 4403)
	closes(t, "the rule has changed its mind", fresh, 4403)
	says(t, api, []byte("still alive"))
	says(t, person, []byte("still alive"))
	h.wait(5 * time.Minute)
	closes(t, "the service's token has expired", service, 4401)
	closes(t, "the person's token has expired", person, 4401)
	says(t, api, []byte("still alive"))
	page := b.get("/signout")
	b.follow(b.post("/signout", url.Values{"token": {field(t, tokenField, page)}}))
	closes(t, "signed out", api, 4401)
	closes(t, "signed out in the middle of a flood", flood, 4401)
}

// Revoking a grant, ending a session from elsewhere and suspending the account
// end sockets alike; shutting down says 1001.
func TestGatewaySocketsAreEndedFromElsewhere(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, plainRoutes, echoes)
	b := h.browser()
	b.enter("demo", "demo")
	grant := h.redeem(b.code(authRequest())).json(t)
	bearer := h.browser().opensSocket(h.at("api", "/ws"), "Authorization", "Bearer "+grant["access_token"].(string))
	h.tokenEndpoint("/oauth2/revoke", url.Values{"token": {grant["refresh_token"].(string)}})
	h.wait(time.Second) // how long the store's word about a grant is believed
	closes(t, "the grant was revoked", bearer, 4401)
	q := authRequest()
	q.Set("scope", "openid") // lives by the browser session, which goes on
	online := h.redeem(b.code(q)).json(t)["access_token"].(string)
	bearer = h.browser().opensSocket(h.at("api", "/ws"), "Authorization", "Bearer "+online)
	h.tokenEndpoint("/oauth2/revoke", url.Values{"token": {online}})
	h.wait(time.Second)
	closes(t, "the access token was revoked", bearer, 4401)

	b.open(h.at("api", "/"))
	other := h.visit(h.at("api", "/"))
	sock := other.opensSocket(h.at("api", "/ws"))
	says(t, sock, []byte("x"))
	page := b.get("/account/sessions")
	b.post("/account/sessions/end-others", url.Values{"token": {field(t, tokenField, page)}})
	closes(t, "ended on another device", sock, 4401)

	sock = b.opensSocket(h.at("api", "/ws"))
	says(t, sock, []byte("x"))
	me := claims(t, grant["access_token"])["sub"].(string)
	root := h.browser()
	root.enter("admin", "admin")
	if a := root.post("/api/v1/users/"+me+"/suspend", nil, "Content-Type", "application/json", "Accept", "application/json"); a.StatusCode >= 300 {
		t.Fatalf("suspend: %d %s", a.StatusCode, a.Body)
	}
	closes(t, "suspended", sock, 4401)

	admin := h.browser()
	admin.enter("admin", "admin")
	admin.open(h.at("api", "/"))
	sock = admin.opensSocket(h.at("api", "/ws"))
	says(t, sock, []byte("x"))
	go h.stop()
	closes(t, "shutdown", sock, websocket.StatusGoingAway)
}

// A frame that has begun is never broken into: the close frame stands at the
// next boundary, or the connection is cut without one.
func TestGatewayCloseFrameOnTheWire(t *testing.T) {
	t.Parallel()
	half := append([]byte{0x82, 126, 1, 0}, bytes.Repeat([]byte{0x88}, 100)...) // 100 of 256 bytes
	addr := rawUpstream(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if req.Header.Get("Upgrade") == "" {
			_, _ = io.WriteString(c, crlf("HTTP/1.1 200 OK\nContent-Length: 0\nConnection: close\n\n"))
			return
		}
		_, _ = io.WriteString(c, crlf("HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Accept: x\n\n"))
		if req.URL.Path == "/half" {
			_, _ = c.Write(half)
		}
		_, _ = io.Copy(io.Discard, r)
	})
	h := start(t, strings.ReplaceAll(plainRoutes, "UP", addr))
	b := h.visit(h.at("api", "/"))
	cookie := b.cookie(h.at("api", "/"), "gatehouse-console")
	open := func(path string, first int) (net.Conn, *bufio.Reader) {
		c := h.dial()
		t.Cleanup(func() { c.Close() })
		_, _ = io.WriteString(c, crlf("GET "+path+" HTTP/1.1\nHost: api.localhost\nOrigin: http://api.localhost\nCookie: gatehouse-console="+cookie+
			"\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: "+base64.StdEncoding.EncodeToString(make([]byte, 16))+"\n\n"))
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%s: %d, %v", path, status(resp), err)
		}
		if _, err := io.ReadFull(r, make([]byte, first)); err != nil {
			t.Fatal(err)
		}
		return c, r
	}
	_, whole := open("/whole", 0)
	_, broken := open("/half", len(half))
	page := b.get("/signout")
	b.follow(b.post("/signout", url.Values{"token": {field(t, tokenField, page)}}))
	if got, err := io.ReadAll(whole); err != nil || !bytes.Equal(got, []byte{0x88, 2, 0x11, 0x31}) {
		t.Errorf("at a boundary: %x, %v", got, err)
	}
	if got, _ := io.ReadAll(broken); len(got) > 0 {
		t.Errorf("inside a frame: %x", got)
	}
}

// What an upstream answers instead of switching reaches the client filtered; one
// that breaks off is cut, and one that switches to something else is 502.
func TestGatewaySocketUpstreamAnswers(t *testing.T) {
	t.Parallel()
	answers := map[string]string{
		"/refused": "HTTP/1.1 403 Forbidden\nContent-Length: 2\nSet-Cookie: gatehouse-console=x\nX-Accel-Redirect: /x\nX-App: 1\nUpgrade: websocket\n\nno",
		"/hints":   "HTTP/1.1 103 Early Hints\nLink: <x>\n\nHTTP/1.1 404 Not Found\nContent-Length: 2\n\nno",
		"/cut":     "HTTP/1.1 500 Oops\nContent-Length: 100\n\nno",
		"/h2c":     "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: h2c\n\n",
		"/huge":    "HTTP/1.1 101 Switching Protocols\nX: " + strings.Repeat("x", 100<<10) + "\nConnection: Upgrade\nUpgrade: websocket\n\n",
		"/garbage": "SSH-2.0-OpenSSH\n",
	}
	addr := rawUpstream(t, func(c net.Conn, r *bufio.Reader) {
		if req, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(c, crlf(answers[req.URL.Path]))
		}
	})
	h := start(t, strings.ReplaceAll(plainRoutes, "UP", addr))
	tok := h.service("deployments:write")
	for path, want := range map[string]int{"/refused": 403, "/hints": 404, "/cut": 500, "/h2c": 502, "/huge": 502, "/garbage": 502} {
		c := h.dial()
		_, _ = io.WriteString(c, crlf("GET "+path+" HTTP/1.1\nHost: api.localhost\nAuthorization: Bearer "+tok+"\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\n\n"))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if path == "/cut" {
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			if err == nil {
				t.Error("a refusal that broke off was ended as if whole")
			}
			c.Close()
			continue
		}
		if status(resp) != want {
			t.Errorf("%s: %d, %v", path, status(resp), err)
		} else if resp.Header.Get("Set-Cookie")+resp.Header.Get("X-Accel-Redirect")+resp.Header.Get("Upgrade") != "" || resp.Header.Get("X-Gatehouse-Request-Id") == "" {
			t.Errorf("%s: %v", path, resp.Header)
		}
		c.Close()
	}
	// A 101 that nobody asked for is no answer to a plain request (GW-7).
	if a := h.bearer(h.at("api", "/h2c"), tok); a.StatusCode != http.StatusBadGateway {
		t.Errorf("an unasked switch: %d", a.StatusCode)
	}
}
