package broker_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
)

// doubtful is an upstream that takes 100-continue in its own way, by path, and
// notes what it read.
type doubtful struct {
	mu   sync.Mutex
	read map[string]string // by path: "=" and the body, or why there was none
}

func (d *doubtful) serve(c net.Conn, r *bufio.Reader) {
	say := func(s string) { _, _ = io.WriteString(c, crlf(s)) }
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		switch path := req.URL.Path; path {
		case "/refuse":
			say("HTTP/1.1 413 Content Too Large\nConnection: close\nContent-Length: 3\n\nbig")
			return
		case "/refuse-open": // whatever of the body comes is read as another request
			say("HTTP/1.1 422 Unprocessable Content\nContent-Length: 2\n\nno")
			continue
		case "/continue", "/never":
			say("HTTP/1.1 100 Continue\n\n")
		case "/hints":
			say("HTTP/1.1 103 Early Hints\nLink: </x.css>\n\nHTTP/1.1 102 Processing\n\nHTTP/1.1 100 Continue\n\nHTTP/1.1 100 Continue\n\n")
		}
		body, err := io.ReadAll(req.Body)
		d.mu.Lock()
		d.read[req.URL.Path] = "=" + string(body)
		if err != nil {
			d.read[req.URL.Path] = "broken off"
		}
		d.mu.Unlock()
		if err != nil {
			return
		}
		say(fmt.Sprintf("HTTP/1.1 200 OK\nContent-Length: %d\n\n%s", len(body), body))
	}
}

func (d *doubtful) got(path string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	said := d.read[path]
	delete(d.read, path)
	return said
}

// askedFor is a body that notes that somebody wanted it.
type askedFor struct {
	io.Reader
	once sync.Once
	was  chan struct{}
}

func (b *askedFor) Read(p []byte) (int, error) {
	b.once.Do(func() { close(b.was) })
	return b.Reader.Read(p)
}

// GW-7: a client that waits for 100-continue hears it when the upstream wants the
// body, once, and the final answer alone when it does not; one that then sends
// nothing holds nobody up. In both versions, on routes and consoles.
func TestGatewayContinue(t *testing.T) {
	t.Parallel()
	up := &doubtful{read: map[string]string{}}
	addr := rawUpstream(t, up.serve)
	h, _ := secure(t, strings.ReplaceAll(`
routes:
  - {name: api, host: api.localhost, upstream: UP, audience: demo-api}
  - {name: brief, host: brief.localhost, upstream: UP, audience: demo-api, timeouts: {idle: 700ms}}
  - {name: console, host: "{node}.console.localhost", lease: true}
  - {name: brief-console, host: "{node}.brief.localhost", lease: true, timeouts: {idle: 700ms}}
`, "UP", addr), "brief.localhost", "*.brief.localhost")
	h.lend(console.Lease{ID: "n7", Upstream: addr, Owner: "x", Groups: []string{"gpu-users"}})
	tok, b := h.service("deployments:write"), h.browser()
	b.enter("demo", "demo")
	cookie := func(host string) http.Header {
		b.open(h.at(host, "/"))
		return http.Header{"Cookie": {"__Host-gatehouse-console=" + b.cookie(h.at(host, "/"), "__Host-gatehouse-console")}, "Sec-Fetch-Site": {"same-origin"}}
	}
	for _, two := range []bool{false, true} {
		tr := &http.Transport{TLSClientConfig: h.tls.Clone(), ExpectContinueTimeout: time.Minute, Protocols: new(http.Protocols), DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", h.host)
		}}
		tr.Protocols.SetHTTP1(!two)
		tr.Protocols.SetHTTP2(two)
		t.Cleanup(tr.CloseIdleConnections)
		for _, to := range []struct {
			host, brief string
			auth        func(host string) http.Header // nil for a stranger
		}{
			{"api", "brief", func(string) http.Header { return http.Header{"Authorization": {"Bearer " + tok}} }},
			{"n7.console", "n7.brief", cookie},
			{"api", "brief", nil},
		} {
			for what, c := range map[string]struct {
				path, body string
				status     int
				asked      bool // for the body
				may        bool // be asked for it
			}{
				"wanted":                {"/continue", "hello", 200, true, false},
				"wanted with hints":     {"/hints", "hello", 200, true, false},
				"wanted without a word": {"/silent", "hello", 200, true, false},
				// net/http keeps from the handler that a client of HTTP/2 waits.
				"refused, closed": {"/refuse", "hello", 413, false, two},
				// A connection that is kept needs the body to be read to its end.
				"refused, kept open": {"/refuse-open", "hello", 422, false, true},
				"wanted, not sent":   {"/never", "", 408, true, false},
			} {
				host := to.host
				if c.path == "/never" {
					host = to.brief
				}
				name, header := fmt.Sprintf("HTTP/2 %v, %s: %s", two, host, what), http.Header{}
				if to.auth != nil {
					header = to.auth(host)
				} else {
					name, c.status, c.asked, c.may = name+", a stranger", http.StatusUnauthorized, false, false
				}
				header.Set("Expect", "100-continue")
				var heard []int
				ctx, cancel := context.WithTimeout(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
					heard = append(heard, code)
					return nil
				}}), 20*time.Second)
				silent, end := io.Pipe() // says nothing
				body := &askedFor{Reader: io.MultiReader(strings.NewReader(c.body), silent), was: make(chan struct{})}
				if c.body != "" {
					end.Close()
				}
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.at(host, c.path), io.NopCloser(body))
				if err != nil {
					t.Fatal(err)
				}
				req.ContentLength, req.Header = 5, header
				status, answer := 0, []byte(nil)
				resp, err := tr.RoundTrip(req)
				if err == nil {
					status = resp.StatusCode
					answer, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				end.Close()
				cancel()
				if err != nil || status != c.status || status == http.StatusOK && string(answer) != "hello" {
					t.Errorf("%s: %d %q, %v; want %d", name, status, answer, err, c.status)
				}
				if want := map[bool][]int{true: {http.StatusContinue}}[c.asked]; !slices.Equal(heard, want) && !(c.may && slices.Equal(heard, []int{http.StatusContinue})) {
					t.Errorf("%s: heard %v, want %v", name, heard, want)
				}
				asked := false
				select {
				case <-body.was:
					asked = true
				default:
				}
				if asked != c.asked && !c.may {
					t.Errorf("%s: the body was asked for: %v, want %v", name, asked, c.asked)
				}
				if got := up.got(c.path); (got == "=hello") != (status == http.StatusOK) || got != "" && got != "=hello" && got != "broken off" {
					t.Errorf("%s: the upstream read %q", name, got)
				}
			}
		}
	}
}

// What a client sends after an early answer, in place of the body that it said it
// would send, is no request, and what it says that nobody knows is refused.
func TestGatewayContinueOnTheWire(t *testing.T) {
	t.Parallel()
	up := &doubtful{read: map[string]string{}}
	h := start(t, strings.ReplaceAll(plainRoutes, "UP", rawUpstream(t, up.serve)))
	auth := "Authorization: Bearer " + h.service("deployments:write") + "\n"
	const evil = "GET /evil HTTP/1.1\nHost: api.localhost\nAUTHConnection: close\n\n"
	for what, c := range map[string]struct {
		head, then string // then is sent when the first answer is there
		first      string // status line
		answers    int
		evil       bool // it is a request of its own, rightly
	}{
		"refused, another request in place of the body": {"POST /refuse HTTP/1.1\nHost: api.localhost\nAUTHExpect: 100-continue\nContent-Length: 100\n\n", evil, "413", 1, false},
		"refused, connection kept by the upstream":      {"POST /refuse-open HTTP/1.1\nHost: api.localhost\nAUTHExpect: 100-continue\nContent-Length: 100\n\n", evil, "422", 1, false},
		"refused, chunks":                      {"POST /refuse-open HTTP/1.1\nHost: api.localhost\nAUTHExpect: 100-continue\nTransfer-Encoding: chunked\n\n", evil, "422", 1, false},
		"a stranger, another request in place": {"POST /continue HTTP/1.1\nHost: api.localhost\nExpect: 100-continue\nContent-Length: 100\n\n", evil, "401", 1, false},
		"wanted, the request is the body":      {"POST /continue HTTP/1.1\nHost: api.localhost\nAUTHExpect: 100-continue\nContent-Length: 18\nConnection: close\n\n", "GET /evil HTTP/x.x", "100", 2, false},
		"no body":                              {"POST /silent HTTP/1.1\nHost: api.localhost\nAUTHExpect: 100-continue\nContent-Length: 0\n\n", evil, "200", 2, true},
		"HTTP/1.0 does not wait":               {"POST /silent HTTP/1.0\nHost: api.localhost\nAUTHExpect: 100-continue\nContent-Length: 1\n\nx", "", "200", 1, false},
		"in capitals":                          {"POST /continue HTTP/1.1\nHost: api.localhost\nAUTHExpect: 100-Continue\nContent-Length: 1\nConnection: close\n\n", "x", "100", 2, false},
		"another word":                         {"POST /continue HTTP/1.1\nHost: api.localhost\nAUTHExpect: 200-maybe\nContent-Length: 1\n\n", "x", "417", 1, false},
		"another word beside it":               {"POST /continue HTTP/1.1\nHost: api.localhost\nAUTHExpect: 100-continue\nExpect: 200-maybe\nContent-Length: 1\n\n", "x", "417", 1, false},
		"a list":                               {"POST /continue HTTP/1.1\nHost: api.localhost\nAUTHExpect: 100-continue, 200-maybe\nContent-Length: 1\n\n", "x", "417", 1, false},
		"with a GET":                           {"GET /silent HTTP/1.1\nHost: api.localhost\nAUTHExpect: 100-continue\n\n", evil, "200", 2, true},
	} {
		conn := h.dial()
		raw := func(s string) string { return crlf(strings.ReplaceAll(s, "AUTH", auth)) }
		if _, err := io.WriteString(conn, raw(c.head)); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		line, err := r.ReadString('\n')
		if !strings.HasPrefix(line, "HTTP/1.1 "+c.first+" ") && !strings.HasPrefix(line, "HTTP/1.0 "+c.first+" ") {
			t.Errorf("%s: %q, %v; want %s", what, line, err, c.first)
		}
		_, _ = io.WriteString(conn, raw(c.then)) // it may be closed already
		rest, _ := io.ReadAll(r)
		if n := 1 + strings.Count(string(rest), "HTTP/1."); n != c.answers {
			t.Errorf("%s: %d answers, want %d: %q", what, n, c.answers, rest)
		}
		conn.Close()
		if asked := up.got("/evil") != ""; asked != c.evil {
			t.Errorf("%s: the upstream was asked for what followed: %v, want %v", what, asked, c.evil)
		}
	}
}
