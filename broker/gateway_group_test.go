package broker_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// numbered is echoes, whose sockets first say which upstream they are of.
func numbered(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, n)
			return
		}
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		_ = c.Write(r.Context(), websocket.MessageText, fmt.Append(nil, n))
		for {
			typ, b, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), typ, b) != nil {
				return
			}
		}
	}
}

// first reads which upstream a socket is of.
func first(t testing.TB, c *websocket.Conn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, b, err := c.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Sockets are shared out between several upstreams as requests are, the one that
// has fewest of them first where the route says so; of those that are down nobody
// notices.
func TestGatewaySocketsOverSeveralUpstreams(t *testing.T) {
	t.Parallel()
	var ups []*upstream
	routes := `
routes:
  - {name: api, host: api.localhost, upstreams: [{url: UP_1}, {url: UP_2}, {url: UP_3}], audience: demo-api}
  - {name: busy, host: busy.localhost, upstreams: [{url: UP_1}, {url: UP_2}, {url: UP_3}], balance: least_busy, audience: demo-api}
  - {name: kept, host: kept.localhost, upstreams: [{url: UP_1}, {url: UP_2}, {url: UP_3}], sticky: true, audience: demo-api}
`
	for i := range 3 {
		ups = append(ups, newUpstream(t, numbered(i+1)))
		routes = strings.ReplaceAll(routes, fmt.Sprintf("UP_%d", i+1), ups[i].URL)
	}
	h := start(t, routes)
	auth := []string{"Origin", "", "Authorization", "Bearer " + h.service("deployments:write")}
	b := h.browser()
	open := func(host string, n int) (map[string]int, []*websocket.Conn) {
		t.Helper()
		per, all := map[string]int{}, []*websocket.Conn(nil)
		for range n {
			c := b.opensSocket(h.at(host, "/ws"), auth...)
			per[first(t, c)]++
			all = append(all, c)
		}
		return per, all
	}
	per, open1 := open("api", 9)
	if per["1"] != 3 || per["2"] != 3 || per["3"] != 3 {
		t.Errorf("round robin: %v", per)
	}
	per, busy := open("busy", 9)
	if per["1"] != 3 || per["2"] != 3 || per["3"] != 3 {
		t.Errorf("least busy: %v", per)
	}
	// Sockets count for as long as they are open: where three have closed, the next
	// three go.
	for i, c := range busy {
		if i%3 == 1 { // opened in turns, so of one upstream
			_ = c.Close(websocket.StatusNormalClosure, "")
		}
	}
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if n := strings.Count(h.browser().get(h.Admin+"/metrics").Body, `gatehouse_gateway_websockets_open{route="busy"} 6`); n == 1 {
			break
		}
		if time.Now().After(until) {
			t.Fatal("closed sockets are still counted")
		}
	}
	per, _ = open("busy", 3)
	if len(per) != 1 {
		t.Errorf("after three of one upstream have closed, the next three went to %v", per)
	}
	kept, _ := open("kept", 5)
	if len(kept) != 1 {
		t.Errorf("sticky: %v", kept)
	}

	ups[1].CloseClientConnections()
	ups[1].Close()
	per, _ = open("api", 12)
	if per["2"] != 0 || per["1"]+per["3"] != 12 {
		t.Errorf("with one upstream down: %v", per)
	}
	alive := 0
	for _, c := range open1 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if c.Write(ctx, websocket.MessageText, []byte("x")) == nil {
			if _, _, err := c.Read(ctx); err == nil {
				alive++
			}
		}
		cancel()
	}
	if alive != 9 { // an upstream that takes no more may still serve those it has
		t.Errorf("%d of 9 sockets that were open go on", alive)
	}
	for _, u := range []*upstream{ups[0], ups[2]} {
		u.CloseClientConnections()
		u.Close()
	}
	if _, resp, err := b.socket(h.at("api", "/ws"), auth...); err == nil || status(resp) != http.StatusBadGateway {
		t.Errorf("with all down: %d, %v", status(resp), err)
	}
}

// timeouts.idle ends a socket on which nothing moves with 1001, not one on which
// either side says something now and then.
func TestGatewayIdleSockets(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, "routes: [{name: api, host: api.localhost, upstream: UP, audience: demo-api, timeouts: {idle: 1s}}]", echoes)
	auth := []string{"Origin", "", "Authorization", "Bearer " + h.service("deployments:write")}
	began := time.Now()
	quiet, lively := h.browser().opensSocket(h.at("api", "/ws"), auth...), h.browser().opensSocket(h.at("api", "/ws"), auth...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for time.Since(began) < 4*time.Second {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			err := lively.Write(ctx, websocket.MessageText, []byte("x"))
			if err == nil {
				_, _, err = lively.Read(ctx)
			}
			cancel()
			if err != nil {
				t.Errorf("a socket that says something, after %v: %v", time.Since(began), err)
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	closes(t, "an idle socket", quiet, websocket.StatusGoingAway)
	if d := time.Since(began); d < time.Second {
		t.Errorf("it was ended after %v", d)
	}
	<-done
	closes(t, "the other one, then", lively, websocket.StatusGoingAway)
}

// An upstream that wants to know who we are is shown the route's certificate: by
// requests, sockets and health checks; with another one, or none, it answers
// nothing.
func TestGatewayMutualTLS(t *testing.T) {
	t.Parallel()
	ours, others := newAuthority(t), newAuthority(t)
	cert, key := ours.issue("gateway", "gateway.example")
	wrong, wrongKey := others.issue("gateway", "gateway.example")
	var checks, healthy atomic.Int64
	healthy.Store(1)
	server := func(n int) *httptest.Server {
		up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/healthz" {
				checks.Add(1)
				if healthy.Load() == 0 && n == 1 {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
				return
			}
			if len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != "gateway.example" {
				t.Error("somebody without a certificate was let in")
			}
			numbered(n)(w, r)
		}))
		pool := x509.NewCertPool()
		pool.AddCert(ours.cert)
		up.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ours.pair("up", "up.internal")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
		up.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that fail are meant
		up.StartTLS()
		t.Cleanup(up.Close)
		return up
	}
	one, two := server(1), server(2)
	routes := strings.NewReplacer("ONE", one.URL, "TWO", two.URL, "CA", ours.File, "WRONG", fmt.Sprintf("cert_file: %s, key_file: %s", wrong, wrongKey), "OURS", fmt.Sprintf("cert_file: %s, key_file: %s", cert, key)).Replace(`
routes:
  - {name: api, host: api.localhost, upstreams: [{url: "ONE"}, {url: "TWO"}], audience: demo-api, tls: {ca_file: "CA", server_name: up.internal, OURS}, health: {path: /healthz, every: 1s, unhealthy: 1, healthy: 1}}
  - {name: wrong, host: wrong.localhost, upstream: "ONE", audience: demo-api, tls: {ca_file: "CA", server_name: up.internal, WRONG}}
  - {name: none, host: none.localhost, upstream: "ONE", audience: demo-api, tls: {ca_file: "CA", server_name: up.internal}}
  - {name: name, host: name.localhost, upstream: "ONE", audience: demo-api, tls: {ca_file: "CA", OURS}}
`)
	h := start(t, routes)
	tok := h.service("deployments:write")
	both := func(want string) {
		t.Helper()
		seen := map[string]bool{}
		for range 6 {
			a := h.program(tok, http.MethodGet, h.at("api", "/"), nil)
			if a.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", a.StatusCode, a.Body)
			}
			seen[a.Body] = true
		}
		for range 6 {
			c := h.browser().opensSocket(h.at("api", "/ws"), "Origin", "", "Authorization", "Bearer "+tok)
			seen["ws "+first(t, c)] = true
		}
		for w := range strings.SplitSeq(want, ",") {
			if !seen[w] {
				t.Errorf("%q was not reached: %v", w, seen)
			}
			delete(seen, w)
		}
		if len(seen) > 0 {
			t.Errorf("reached besides: %v", seen)
		}
	}
	state := func(up *httptest.Server, value int) {
		t.Helper()
		want := fmt.Sprintf(`gatehouse_gateway_upstream_up{route="api",upstream="%s"} %d`, strings.TrimPrefix(up.URL, "https://"), value)
		for until := time.Now().Add(20 * time.Second); !strings.Contains(h.browser().get(h.Admin+"/metrics").Body, want); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("no %s", want)
			}
		}
	}
	state(one, 1)
	state(two, 1)
	both("1,2,ws 1,ws 2")
	if checks.Load() == 0 {
		t.Error("no health check came by")
	}
	healthy.Store(0)
	state(one, 0)
	both("2,ws 2")
	healthy.Store(1)
	state(one, 1)
	both("1,2,ws 1,ws 2")
	for _, host := range []string{"wrong", "none", "name"} {
		if a := h.program(tok, http.MethodGet, h.at(host, "/"), nil); a.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: %d", host, a.StatusCode)
		}
		if _, resp, err := h.browser().socket(h.at(host, "/ws"), "Origin", "", "Authorization", "Bearer "+tok); err == nil || status(resp) != http.StatusBadGateway {
			t.Errorf("%s, a socket: %d, %v", host, status(resp), err)
		}
	}
}
