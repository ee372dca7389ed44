package broker_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// slowRoutes are an API that cuts what does not move and one that does not; /big
// answers without end.
const slowRoutes = `
routes:
  - {name: api, host: api.localhost, upstream: UP, audience: demo-api, timeouts: {idle: 700ms}}
  - {name: patient, host: patient.localhost, upstream: UP, audience: demo-api}
`

// pouring is an upstream that sends /big without end and tells when that was
// ended; of all else it reads the body.
func pouring(ended chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/big" {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "ok")
			return
		}
		_, _ = io.Copy(w, endless{})
		ended <- struct{}{}
	}
}

// gone wants a connection to be closed by the broker in this time, and returns
// what came before.
func gone(t *testing.T, what string, c net.Conn, within time.Duration) string {
	t.Helper()
	began := time.Now()
	_ = c.SetReadDeadline(began.Add(within))
	said, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: still open after %v: %q", what, within, said)
	}
	return string(said)
}

// GW-14: who sends a header or a body slowly, or reads nothing, is cut by the
// time limits; meanwhile others are served.
func TestGatewaySlowClients(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{}, 10)
	up := newUpstream(t, pouring(ended))
	routes := up.routesYAML(slowRoutes)
	h := start(t, routes)
	over, _ := secure(t, routes)
	tok := h.service("deployments:write")
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() { // others
		b := h.browser()
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			req, err := http.NewRequest(http.MethodPost, h.at("api", "/"), strings.NewReader("x"))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+tok)
			began := time.Now()
			resp, err := b.client.Do(req)
			if err != nil || resp.StatusCode != http.StatusOK || time.Since(began) > 5*time.Second {
				t.Errorf("somebody else: %v, %v after %v", status(resp), err, time.Since(began))
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
	const post = "POST / HTTP/1.1\nHost: api.localhost\n"
	auth := "Authorization: Bearer " + tok + "\n"
	var slow sync.WaitGroup
	for what, c := range map[string]struct {
		raw    string
		drip   string // sent byte by byte, five a second
		status string // "" for none
		within time.Duration
	}{
		"a header byte by byte":         {"", "GET / HTTP/1.1\nHost: api.localhost\nX-Long: " + strings.Repeat("x", 200), "", 8 * time.Second},
		"half a header":                 {"GET / HTTP/1.1\nHost: api.localhost\n", "", "", 8 * time.Second},
		"a stranger's body":             {post + "Content-Length: 100\n\nabc", "", " 401 ", 8 * time.Second},
		"a stranger's chunks":           {post + "Transfer-Encoding: chunked\n\n3\nabc\n", "", " 401 ", 8 * time.Second},
		"a stranger's body by drops":    {post + "Content-Length: 1000\n\nabc", strings.Repeat("x", 200), " 401 ", 8 * time.Second},
		"a body that stalls":            {post + auth + "Content-Length: 100\n\nabc", "", " 408 ", 8 * time.Second},
		"chunks that stall":             {post + auth + "Transfer-Encoding: chunked\n\n3\nabc\n", "", " 408 ", 8 * time.Second},
		"a form on the issuer's host":   {"POST /oauth2/token HTTP/1.1\nHost: 127.0.0.1\nContent-Type: application/json\nContent-Length: 100\n\nabc", "", " 400 ", 8 * time.Second},
		"an unknown host":               {"POST / HTTP/1.1\nHost: nobody.example\nContent-Length: 100\n\nabc", "", " 421 ", 8 * time.Second},
		"one who says nothing over TLS": {"", "", "tls", 8 * time.Second},
	} {
		slow.Go(func() {
			addr := h.host
			if c.status == "tls" {
				addr, c.status = over.host, ""
			}
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, crlf(c.raw)); err != nil {
				t.Error(err)
				return
			}
			go func() {
				for _, b := range []byte(crlf(c.drip)) {
					if _, err := conn.Write([]byte{b}); err != nil {
						return
					}
					time.Sleep(200 * time.Millisecond)
				}
			}()
			said := gone(t, what, conn, c.within)
			if line, _, _ := strings.Cut(said, "\r\n"); !strings.Contains(line, c.status) || c.status == "" && line != "" && !strings.Contains(line, " 408 ") {
				t.Errorf("%s: %q, want%s", what, said, c.status)
			}
			if n := strings.Count(said, "HTTP/1.1 "); n > 1 {
				t.Errorf("%s: %d answers: %q", what, n, said)
			}
		})
	}
	slow.Wait()
	close(stop)
	others.Wait()
}

// GW-9, GW-14: a client that reads nothing of an answer keeps nothing open: not
// for longer than the route's idle, nor after the end of its session.
func TestGatewayReaderThatNeverReads(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{}, 10)
	up := newUpstream(t, pouring(ended))
	routes := up.routesYAML(slowRoutes)
	h := start(t, routes)
	over, _ := secure(t, routes)
	wait := func(what string) {
		t.Helper()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the upstream still sends", what)
		}
	}
	ask := func(host, credential string) net.Conn {
		c := h.dial()
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, crlf("GET /big HTTP/1.1\nHost: "+host+"\n"+credential+"\n\n")); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReaderSize(c, 16).ReadSlice(' '); err != nil || string(line) != "HTTP/1.1 " {
			t.Fatalf("%q, %v", line, err)
		}
		return c
	}
	ask("api.localhost", "Authorization: Bearer "+h.service("deployments:write"))
	wait("HTTP/1.1 by the route's idle")

	// Over HTTP/2 the client's windows fill.
	req, err := http.NewRequest(http.MethodGet, over.at("api", "/big"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+over.service("deployments:write"))
	c := over.browser().client
	c.Transport.(*http.Transport).ForceAttemptHTTP2 = true
	resp, err := c.Do(req)
	if err != nil || resp.ProtoMajor != 2 {
		t.Fatalf("%v, %v", resp, err)
	}
	defer resp.Body.Close()
	wait("HTTP/2 by the route's idle")
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("HTTP/2: cut, but ended as if whole")
	}

	b := h.visit(h.at("patient", "/"))
	conn := ask("patient.localhost", "Cookie: gatehouse-console="+b.cookie(h.at("patient", "/"), "gatehouse-console"))
	page := b.get("/signout")
	b.follow(b.post("/signout", url.Values{"token": {field(t, tokenField, page)}}))
	wait("by the end of the session")
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open after the end of the session")
	}
}
