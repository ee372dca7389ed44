package broker_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/remotegpu/gatehouse/broker/console"
)

// tap is an upstream that notes each request that net/http finds whole in what
// it is sent, and answers it.
type tap struct {
	mu    sync.Mutex
	lines []string
	late  []string // names of trailers
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
		for name := range req.Trailer {
			p.late = append(p.late, name)
		}
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
	addr := rawUpstream(t, up.serve)
	h := start(t, strings.ReplaceAll(plainRoutes, "UP", addr))
	tok := h.service("deployments:write")
	h.lend(console.Lease{ID: "n7", Upstream: addr, Owner: "x", Groups: []string{"gpu-users"}})
	at := h.at("n7.console", "/")
	cookie := h.visit(at).cookie(at, "gatehouse-console")
	const evil = "GET /evil HTTP/1.1\nHost: api.localhost\nConnection: close\n\n"
	cases := map[string]struct {
		raw    string
		status int    // of the first answer; -1: any refusal
		sent   string // what the upstream may have been asked; "" for nothing
	}{
		"CL and TE":                      {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 5\nTransfer-Encoding: chunked\n\n" + "0\n\n" + evil, 200, "POST /a "},
		"CL 0 and TE":                    {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 0\nTransfer-Encoding: chunked\n\n1\nx\n0\n\n" + evil, 200, "POST /a x"},
		"two CL, different":              {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 0\nContent-Length: 40\n\n" + evil, 400, ""},
		"CL list":                        {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 0, 40\n\n" + evil, 400, ""},
		"CL with a sign":                 {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: +0\n\n" + evil, 400, ""},
		"CL in hex":                      {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 0x0\n\n" + evil, 400, ""},
		"TE unknown":                     {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: xchunked\n\n0\n\n" + evil, -1, ""},
		"TE twice":                       {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\nTransfer-Encoding: identity\n\n0\n\n" + evil, -1, ""},
		"TE list":                        {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: gzip, chunked\n\n0\n\n" + evil, -1, ""},
		"TE with a tab":                  {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding:\tchunked\n\n0\n\n" + evil, 200, "POST /a "},
		"TE with a space before":         {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding : chunked\nContent-Length: 3\n\n0\n\n" + evil, 400, ""},
		"TE in HTTP/1.0":                 {"POST /a HTTP/1.0\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n0\n\n" + evil, 200, "POST /a "},
		"TE folded":                      {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding:\n chunked\nContent-Length: 3\n\n0\n\n" + evil, -1, "POST /a "},
		"bad chunk size":                 {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n0x1\nx\n0\n\n" + evil, 400, ""},
		"negative chunk size":            {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n-1\nx\n0\n\n" + evil, 400, ""},
		"chunk size too large":           {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n10000000000000000\nx\n0\n\n" + evil, 400, ""},
		"chunk without its end":          {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1\nxx\n0\n\n" + evil, 400, ""},
		"two Host":                       {"GET /a HTTP/1.1\nHost: api.localhost\nHost: evil.localhost\nAUTH\n\n" + evil, 400, ""},
		"no Host":                        {"GET /a HTTP/1.1\nAUTH\n\n" + evil, 400, ""},
		"absolute form":                  {"GET http://api.localhost/a HTTP/1.1\nHost: api.localhost\nAUTH\n\n" + evil, 400, ""},
		"CONNECT":                        {"CONNECT api.localhost:80 HTTP/1.1\nHost: api.localhost:80\nAUTH\n\n" + evil, 405, ""},
		"h2c":                            {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAAP__\n\n" + evil, 200, "GET /a "},
		"HTTP/2 preface":                 {"PRI * HTTP/2.0\n\nSM\n\n", -1, ""},
		"GET with a body":                {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 4\n\nbody" + evil, 200, "GET /a body"},
		"bare LF":                        {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX: aLFContent-Length: 4\n\nbody" + evil, 200, "GET /a body"},
		"chunk extension":                {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1;a=\"b\"\nx\n0\n\n" + evil, 200, "POST /a x"},
		"chunk extension too long":       {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1;" + strings.Repeat("a", 20<<10) + "\nx\n0\n\n" + evil, 400, ""},
		"bare LF in a chunk extension":   {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1;LF2\nx\n0\n\n" + evil, 400, ""},
		"bare LF after a chunk size":     {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1LFx\n0\n\n" + evil, 400, ""},
		"bare CR after a chunk size":     {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1\rx\n0\n\n" + evil, 400, ""},
		"chunk size with a space":        {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n 1\nx\n0\n\n" + evil, 400, ""},
		"no chunk size":                  {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n\nx\n0\n\n" + evil, 400, ""},
		"trailer that is ours":           {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\nTrailer: X-Gatehouse-User\n\n1\nx\n0\nX-Gatehouse-User: root\n\n" + evil, 200, "POST /a x"},
		"trailer that frames":            {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\nTrailer: Content-Length\n\n1\nx\n0\nContent-Length: 40\n\n" + evil, 400, ""},
		"CL twice, the same":             {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 1\nContent-Length: 1\n\nx" + evil, 200, "POST /a x"},
		"CL negative":                    {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: -1\n\n" + evil, 400, ""},
		"CL too large":                   {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length: 99999999999999999999\n\n" + evil, 400, ""},
		"TE in capitals":                 {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: CHUNKED\n\n0\n\n" + evil, 200, "POST /a "},
		"TE chunked twice":               {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked, chunked\n\n0\n\n" + evil, -1, ""},
		"TE quoted":                      {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: \"chunked\"\nContent-Length: 3\n\n0\n\n" + evil, -1, ""},
		"TE with a vertical tab":         {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: \vchunked\nContent-Length: 3\n\n0\n\n" + evil, 400, ""},
		"TE named in Connection":         {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nConnection: Transfer-Encoding, Content-Length\nTransfer-Encoding: chunked\n\n1\nx\n0\n\n" + evil, 200, "POST /a x"},
		"folded header":                  {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX: a\n Content-Length: 40\n\n" + evil, 200, "GET /a "},
		"folded first header":            {"GET /a HTTP/1.1\n Host: evil.localhost\nHost: api.localhost\nAUTH\n\n" + evil, 400, ""},
		"header without a name":          {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\n: x\n\n" + evil, 400, ""},
		"header without a colon":         {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX\n\n" + evil, 400, ""},
		"HTTP/1.2":                       {"GET /a HTTP/1.2\nHost: api.localhost\nAUTH\n\n" + evil, 200, "GET /a "},
		"HTTP/0.9":                       {"GET /a\n\n", 400, ""},
		"CR in a value":                  {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX: a\rContent-Length: 44\n\n" + evil, 400, ""},
		"NUL in a value":                 {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX: a\x00b\n\n" + evil, 400, ""},
		"NUL in a name":                  {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX\x00: b\n\n" + evil, 400, ""},
		"space in the target":            {"GET /a HTTP/1.1 /b HTTP/1.1\nHost: api.localhost\nAUTH\n\n" + evil, 400, ""},
		"header too large":               {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\nX: " + strings.Repeat("x", 64<<10) + "\n\n", 431, ""},
		"TE twice, one in small letters": {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\ntransfer-encoding: cow\nContent-Length: 3\n\n0\n\n" + evil, -1, ""},
		"TE that is another word":        {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked-not\nContent-Length: 3\n\n0\n\n" + evil, -1, ""},
		"TE with a parameter":            {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked;q=1\nContent-Length: 3\n\n0\n\n" + evil, -1, ""},
		"TE identity":                    {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: identity\nContent-Length: 3\n\n0\n\n" + evil, -1, ""},
		"TE empty":                       {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding:\nContent-Length: 1\n\nx" + evil, -1, ""},
		"TE behind a bare CR":            {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nX: a\rTransfer-Encoding: chunked\nContent-Length: 3\n\n0\n\n" + evil, 400, ""},
		"TE with an underscore":          {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer_Encoding: chunked\nContent-Length: 1\n\nx" + evil, 200, "POST /a x"},
		"CL folded":                      {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nContent-Length:\n 1\n\nx" + evil, 200, "POST /a x"},
		"CL in a folded line":            {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nX: a\n\tContent-Length: 40\nContent-Length: 1\n\nx" + evil, 200, "POST /a x"},
		"chunk size in capitals":         {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\nA\n0123456789\n0\n\n" + evil, 200, "POST /a 0123456789"},
		"chunk size with leading zeros":  {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n0001\nx\n0\n\n" + evil, 200, "POST /a x"},
		"chunk size with a plus":         {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n+1\nx\n0\n\n" + evil, 400, ""},
		"chunk size with an underscore":  {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1_0\nx\n0\n\n" + evil, 400, ""},
		"chunk size that is a word":      {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\ng\nx\n0\n\n" + evil, 400, ""},
		"last chunk with an extension":   {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1\nx\n0;a=b\n\n" + evil, 200, "POST /a x"},
		"chunk too short":                {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n5\nx\n0\n\n" + evil, 400, ""},
		"chunk extensions without end":   {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n" + strings.Repeat("1;"+strings.Repeat("a", 3000)+"\nx\n", 60) + "0\n\n" + evil, 400, ""},
		"trailer that encodes":           {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\nTrailer: Transfer-Encoding\n\n1\nx\n0\nTransfer-Encoding: chunked\n\n" + evil, 400, ""},
		"trailer about trailers":         {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\nTrailer: Trailer\n\n1\nx\n0\nTrailer: X\n\n" + evil, 400, ""},
		"trailers nobody may send":       {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\nTrailer: Authorization, Cookie, Host, X-Forwarded-For, X_Gatehouse_User, X.Gatehouse.Email, Connection\n\n1\nx\n0\nAuthorization: Bearer x\nCookie: a=b\nHost: evil\nX-Forwarded-For: 1.1.1.1\nX_Gatehouse_User: root\nX.Gatehouse.Email: root\nConnection: close\n\n" + evil, 200, "POST /a x"},
		"trailers that were not said":    {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\n\n1\nx\n0\nX-Gatehouse-User: root\nContent-Length: 40\n\n" + evil, 200, "POST /a x"},
		"a trailer that is folded":       {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\nTrailer: X-Sum\n\n1\nx\n0\nX-Sum: a\n Content-Length: 40\n\n" + evil, 200, "POST /a x"},
		"a trailer that is no field":     {"POST /a HTTP/1.1\nHost: api.localhost\nAUTH\nTransfer-Encoding: chunked\nTrailer: X-Sum\n\n1\nx\n0\nGET /evil HTTP/1.1\n\n" + evil, 400, ""},
		"pipelined":                      {"GET /a HTTP/1.1\nHost: api.localhost\nAUTH\n\n" + evil, 200, "GET /a "},
	}
	for _, to := range []struct{ kind, host, auth string }{
		{"route", "api.localhost", "Authorization: Bearer " + tok},
		{"lease", "n7.console.localhost", "Cookie: gatehouse-console=" + cookie + "\nSec-Fetch-Site: same-origin"},
	} {
		n := 0
		for name, c := range cases {
			n++
			name, path := to.kind+": "+name, fmt.Sprintf("/%s%d.", to.kind, n)
			raw := crlf(strings.NewReplacer("AUTH", to.auth, "api.localhost", to.host, "/a ", path+" ", "/evil", path+"evil").Replace(c.raw))
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
				case status(first) == http.StatusBadRequest && !strings.HasSuffix(name, "absolute form"): // nobody can say where the next one begins
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
	up.mu.Lock()
	defer up.mu.Unlock()
	slices.Sort(up.late)
	if late := slices.Compact(up.late); !slices.Equal(late, []string{"X-Sum"}) {
		t.Errorf("trailers that reached the upstream: %q, want X-Sum alone", late)
	}
}
