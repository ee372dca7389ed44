package broker_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
)

// upstream is what stands behind the gateway: it remembers what it was asked.
type upstream struct {
	*httptest.Server
	mu   sync.Mutex
	seen []received
	// answer is what it does; nil says "ok".
	answer http.HandlerFunc
}

// received is one request as the upstream saw it.
type received struct {
	Method, URI, Host, Body string
	Header                  http.Header
	Trailer                 http.Header
}

func newUpstream(t testing.TB, answer http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{answer: answer}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := received{Method: r.Method, URI: r.RequestURI, Host: r.Host, Header: r.Header.Clone()}
		if u.answer == nil {
			body, _ := io.ReadAll(r.Body)
			rec.Body, rec.Trailer = string(body), r.Trailer.Clone()
		}
		u.mu.Lock()
		u.seen = append(u.seen, rec)
		u.mu.Unlock()
		if u.answer != nil {
			u.answer(w, r)
			return
		}
		_, _ = io.WriteString(w, "ok")
	}))
	t.Cleanup(u.Close)
	return u
}

// requests returns what has come so far.
func (u *upstream) requests() []received {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]received(nil), u.seen...)
}

// last returns the latest request and forgets all.
func (u *upstream) last(t testing.TB) received {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.seen) == 0 {
		t.Fatal("nothing reached the upstream")
	}
	r := u.seen[len(u.seen)-1]
	u.seen = nil
	return r
}

// routesYAML writes routes; UP stands for the upstream's URL.
func (u *upstream) routesYAML(routes string) string {
	return strings.ReplaceAll(routes, "UP", u.URL)
}

// plainRoutes are an API and consoles in front of one upstream.
const plainRoutes = `
routes:
  - {name: api, host: api.localhost, upstream: UP, audience: demo-api, cors: {origins: ["http://app.localhost"]}}
  - {name: console, host: "{node}.console.localhost", lease: true}
`

// gate starts a broker with routes before an upstream.
func gate(t testing.TB, routes string, answer http.HandlerFunc) (*harness, *upstream) {
	t.Helper()
	u := newUpstream(t, answer)
	return start(t, u.routesYAML(routes)), u
}

// at is a URL on a gateway host: h.at("api", "/x").
func (h *harness) at(name, path string) string {
	return strings.NewReplacer("127.0.0.1", name+".localhost", "sso.localhost", name+".localhost").Replace(h.URL) + path
}

// lend puts a lease of the upstream.
func (h *harness) lend(l console.Lease) {
	h.t.Helper()
	if l.Expires.IsZero() {
		l.Expires = h.now().Add(100 * time.Hour)
	}
	if _, err := h.b.Consoles().Put(h.t.Context(), l); err != nil {
		h.t.Fatal(err)
	}
}

// visit signs demo in and opens a gateway host, whose cookie the browser then has.
func (h *harness) visit(u string) *browser {
	h.t.Helper()
	b := h.browser()
	b.enter("demo", "demo")
	b.open(u)
	return b
}

func (b *browser) open(u string) {
	b.h.t.Helper()
	if a := b.follow(b.get(u)); a.StatusCode != http.StatusOK || a.Request.URL.String() != u {
		b.h.t.Fatalf("%s: %d at %s\n%s", u, a.StatusCode, a.Request.URL, a.Body)
	}
}

// cookie returns the value of a cookie that the browser has for a URL.
func (b *browser) cookie(u, name string) string {
	b.h.t.Helper()
	at, err := url.Parse(u)
	if err != nil {
		b.h.t.Fatal(err)
	}
	for _, c := range b.client.Jar.Cookies(at) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// access returns an access token of demo for demo-api.
func (h *harness) access(scope string) string {
	h.t.Helper()
	b := h.browser()
	b.enter("demo", "demo")
	q := authRequest()
	q.Set("scope", scope)
	a := h.redeem(b.code(q))
	tok, _ := a.json(h.t)["access_token"].(string)
	if tok == "" {
		h.t.Fatalf("no access token: %s", a.Body)
	}
	return tok
}

// service returns an access token of the client itself.
func (h *harness) service(scope string) string {
	h.t.Helper()
	a := h.token(url.Values{"grant_type": {"client_credentials"}, "scope": {scope}})
	tok, _ := a.json(h.t)["access_token"].(string)
	if tok == "" {
		h.t.Fatalf("no access token: %s", a.Body)
	}
	return tok
}

// wire sends bytes to the public listener as they are and reads one answer; nil
// means that the connection was closed without one.
func (h *harness) wire(raw string) *http.Response {
	h.t.Helper()
	c := h.dial()
	defer c.Close()
	if _, err := io.WriteString(c, strings.ReplaceAll(raw, "\n", "\r\n")); err != nil {
		h.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return resp
}

func (h *harness) dial() net.Conn {
	h.t.Helper()
	c, err := net.Dial("tcp", h.host)
	if err != nil {
		h.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func status(r *http.Response) int {
	if r == nil {
		return 0
	}
	return r.StatusCode
}

// refused checks that an answer is an error with this status and code.
func (h *harness) refused(what string, a answer, code int, word string) {
	h.t.Helper()
	got := ""
	if strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") {
		got = fmt.Sprint(a.json(h.t)["code"])
	} else if strings.Contains(a.Body, word) {
		got = word
	}
	if a.StatusCode != code || got != word || a.Header.Get("Cache-Control") != "no-store" {
		h.t.Errorf("%s: %d %s (%s), want %d %s\n%.300s", what, a.StatusCode, got, a.Header.Get("Cache-Control"), code, word, a.Body)
	}
}

// header reads a JWT's JOSE header.
func header(t testing.TB, raw string) map[string]any {
	t.Helper()
	head, _, _ := strings.Cut(raw, ".")
	js, err := base64.RawURLEncoding.DecodeString(head)
	m := map[string]any{}
	if err == nil {
		err = json.Unmarshal(js, &m)
	}
	if err != nil {
		t.Fatalf("%q is not a JWT: %v", raw, err)
	}
	return m
}
