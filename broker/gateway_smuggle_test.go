package broker_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// tap is an upstream that notes each request that net/http finds whole in what
// it is sent, and answers it.
type tap struct {
	mu    sync.Mutex
	lines []string
}

func (p *tap) serve(c net.Conn, r *bufio.Reader) {
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil { // broken off
			return
		}
		p.mu.Lock()
		p.lines = append(p.lines, req.Method+" "+req.RequestURI+" "+string(body))
		p.mu.Unlock()
		_, _ = io.WriteString(c, crlf("HTTP/1.1 200 OK\nContent-Length: 2\n\nok"))
	}
}

func (p *tap) about(path string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, l := range p.lines {
		if strings.Contains(l, path) {
			out = append(out, l)
		}
	}
	return out
}

// GW-7: however a request is framed, no second one is born of its bytes that was
// not authenticated by itself.
func TestGatewayNoRequestIsSmuggled(t *testing.T) {
	t.Parallel()
	up := &tap{}
	h := start(t, strings.ReplaceAll(plainRoutes, "UP", rawUpstream(t, up.serve)))
	tok := h.service("deployments:write")
	const evil = "GET /evil HTTP/1.1\nHost: api.localhost\nConnection: close\n\n"
	n := 0
	for name, c := range map[string]struct {
		raw    string
		status int    // of the first answer; -1: any refusal
		sent   string // what the upstream may have been asked; "" for nothing
	}{
		"CL and TE":                    {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 5\nTransfer-Encoding: chunked\n\n" + "0\n\n" + evil, 200, "POST /a "},
		"CL 0 and TE":                  {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 0\nTransfer-Encoding: chunked\n\n1\nx\n0\n\n" + evil, 200, "POST /a x"},
		"two CL, different":            {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 0\nContent-Length: 40\n\n" + evil, 400, ""},
		"CL list":                      {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 0, 40\n\n" + evil, 400, ""},
		"CL with a sign":               {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: +0\n\n" + evil, 400, ""},
		"CL in hex":                    {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 0x0\n\n" + evil, 400, ""},
		"TE unknown":                   {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: xchunked\n\n0\n\n" + evil, -1, ""},
		"TE twice":                     {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\nTransfer-Encoding: identity\n\n0\n\n" + evil, -1, ""},
		"TE list":                      {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: gzip, chunked\n\n0\n\n" + evil, -1, ""},
		"TE with a tab":                {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding:\tchunked\n\n0\n\n" + evil, 200, "POST /a "},
		"TE with a space before":       {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding : chunked\nContent-Length: 3\n\n0\n\n" + evil, 400, ""},
		"TE in HTTP/1.0":               {"POST /a HTTP/1.0\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n0\n\n" + evil, 200, "POST /a "},
		"TE folded":                    {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding:\n chunked\nContent-Length: 3\n\n0\n\n" + evil, -1, "POST /a "},
		"bad chunk size":               {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n0x1\nx\n0\n\n" + evil, 400, ""},
		"negative chunk size":          {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n-1\nx\n0\n\n" + evil, 400, ""},
		"chunk size too large":         {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n10000000000000000\nx\n0\n\n" + evil, 400, ""},
		"chunk without its end":        {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1\nxx\n0\n\n" + evil, 400, ""},
		"two Host":                     {"GET /a HTTP/1.1\nHost: api.localhost\nHost: evil.localhost\nAUTH\n\n" + evil, 400, ""},
		"no Host":                      {"GET /a HTTP/1.1\nAUTH\n\n" + evil, 400, ""},
		"absolute form":                {"GET http://api.localhost/a HTTP/1.1\nHost: api.localhost\nAUTH\n\n" + evil, 400, ""},
		"CONNECT":                      {"CONNECT api.localhost:80 HTTP/1.1\nHost: api.localhost:80\nAUTH\n\n" + evil, 405, ""},
		"h2c":                          {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAAP__\n\n" + evil, 200, "GET /a "},
		"HTTP/2 preface":               {"PRI * HTTP/2.0\n\nSM\n\n", -1, ""},
		"GET with a body":              {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 4\n\nbody" + evil, 200, "GET /a body"},
		"bare LF":                      {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX: aLFContent-Length: 4\n\nbody" + evil, 200, "GET /a body"},
		"chunk extension":              {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1;a=\"b\"\nx\n0\n\n" + evil, 200, "POST /a x"},
		"chunk extension too long":     {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1;" + strings.Repeat("a", 20<<10) + "\nx\n0\n\n" + evil, 400, ""},
		"bare LF in a chunk extension": {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1;LF2\nx\n0\n\n" + evil, 400, ""},
		"bare LF after a chunk size":   {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1LFx\n0\n\n" + evil, 400, ""},
		"bare CR after a chunk size":   {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1\rx\n0\n\n" + evil, 400, ""},
		"chunk size with a space":      {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n 1\nx\n0\n\n" + evil, 400, ""},
		"no chunk size":                {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n\nx\n0\n\n" + evil, 400, ""},
		"trailer that is ours":         {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\nTrailer: X-Gatehouse-User\n\n1\nx\n0\nX-Gatehouse-User: root\n\n" + evil, 200, "POST /a x"},
		"trailer that frames":          {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\nTrailer: Content-Length\n\n1\nx\n0\nContent-Length: 40\n\n" + evil, 400, ""},
		"CL twice, the same":           {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 1\nContent-Length: 1\n\nx" + evil, 200, "POST /a x"},
		"CL negative":                  {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: -1\n\n" + evil, 400, ""},
		"CL too large":                 {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 99999999999999999999\n\n" + evil, 400, ""},
		"TE in capitals":               {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: CHUNKED\n\n0\n\n" + evil, 200, "POST /a "},
		"TE chunked twice":             {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked, chunked\n\n0\n\n" + evil, -1, ""},
		"TE quoted":                    {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: \"chunked\"\nContent-Length: 3\n\n0\n\n" + evil, -1, ""},
		"TE with a vertical tab":       {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: \vchunked\nContent-Length: 3\n\n0\n\n" + evil, 400, ""},
		"TE named in Connection":       {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nConnection: Transfer-Encoding, Content-Length\nTransfer-Encoding: chunked\n\n1\nx\n0\n\n" + evil, 200, "POST /a x"},
		"folded header":                {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX: a\n Content-Length: 40\n\n" + evil, 200, "GET /a "},
		"folded first header":          {"GET /a HTTP/1.1\n Host: evil.localhost\nHost: api.localhost\nAUTH\n\n" + evil, 400, ""},
		"header without a name":        {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\n: x\n\n" + evil, 400, ""},
		"header without a colon":       {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX\n\n" + evil, 400, ""},
		"HTTP/1.2":                     {"GET /a HTTP/1.2\nHost: api.localhost\nAUTH\n\n" + evil, 200, "GET /a "},
		"HTTP/0.9":                     {"GET /a\n\n", 400, ""},
		"CR in a value":                {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX: a\rContent-Length: 44\n\n" + evil, 400, ""},
		"NUL in a value":               {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX: a\x00b\n\n" + evil, 400, ""},
		"NUL in a name":                {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX\x00: b\n\n" + evil, 400, ""},
		"space in the target":          {"GET /a HTTP/1.1 /b HTTP/1.1\nHost: api.localhost\nAUTH\n\n" + evil, 400, ""},
		"header too large":             {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX: " + strings.Repeat("x", 64<<10) + "\n\n", 431, ""},
		"pipelined":                    {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\n\n" + evil, 200, "GET /a "},
	} {
		n++
		path := fmt.Sprintf("/case%d.", n)
		raw := crlf(strings.NewReplacer("AUTH", "Authorization: Bearer "+tok, "/a ", path+" ", "/evil", path+"evil").Replace(c.raw))
		raw = strings.ReplaceAll(raw, "LF", "\n") // bare
		conn := h.dial()
		if _, err := io.WriteString(conn, raw); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		first, err := http.ReadResponse(r, nil)
		if err == nil {
			_, _ = io.Copy(io.Discard, first.Body)
		}
		if got := status(first); got != c.status && !(c.status == -1 && got != http.StatusOK) && !(c.status == -1 && c.sent != "") {
			t.Errorf("%s: %d, %v; want %d", name, got, err, c.status)
		}
		for { // whatever was born of the rest is not let in
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				break
			}
			switch {
			case resp.StatusCode == http.StatusOK:
				t.Errorf("%s: a second request was let in", name)
			case status(first) == http.StatusBadRequest && name != "absolute form": // nobody can say where the next one begins
				t.Errorf("%s: the connection goes on with what follows: %d", name, resp.StatusCode)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
		}
		conn.Close()
		want := strings.Replace(c.sent, "/a ", path+" ", 1)
		if got := strings.Join(up.about(path), "\n"); got != want && !(got == "" && c.status == -1) {
			t.Errorf("%s: the upstream was asked %q, want %q", name, got, want)
		}
	}
}
