package broker_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/config"
)

// harness is a whole broker with its own embedded store, listening on loopback.
// Time can be moved.
type harness struct {
	t       testing.TB
	URL     string // the issuer
	Admin   string // the private listener
	dir     string
	host    string // address of the public listener
	yaml    string
	mu      sync.Mutex
	ahead   time.Duration
	stop    func()
	log     slog.Handler                  // nil discards
	own     bool                          // it opens its listeners itself, as `serve` does; see secure
	tls     *tls.Config                   // how clients know the listener; nil for http
	gateway string                        // address of gateway_listen, of one that is own
	wrap    func(store.Store) store.Store // see broker.Options.Store
	b       *broker.Broker
}

// start starts a broker with the demo's sections under the given YAML; a key of
// yaml replaces the demo's.
func start(t testing.TB, yaml string) *harness {
	t.Helper()
	return startIn(t, t.TempDir(), yaml)
}

func startIn(t testing.TB, dir, yaml string) *harness {
	t.Helper()
	return startWith(t, &harness{dir: dir, yaml: yaml})
}

// startWith starts a harness whose log or store a test looks into.
func startWith(t testing.TB, h *harness) *harness {
	t.Helper()
	h.t = t
	if h.dir == "" {
		h.dir = t.TempDir()
	}
	if h.log == nil {
		h.log = slog.DiscardHandler
	}
	h.log = requestLines{Handler: h.log, t: t}
	h.run()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *harness) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Add(h.ahead)
}

// wait moves the broker's clock.
func (h *harness) wait(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ahead += d
}

func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// load reads h.yaml for a broker whose private listener is admin.
func (h *harness) load(admin string) (*config.Config, config.Findings, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	env := map[string]string{"GATEHOUSE_LISTEN": h.host, "GATEHOUSE_ADMIN_LISTEN": admin, "GATEHOUSE_DATA": filepath.Join(h.dir, "data")}
	return config.Parse([]config.Document{{Name: "test.yml", YAML: []byte(h.yaml)}}, config.LoadOptions{Types: broker.Types(), Dev: true,
		Env: func(k string) (string, bool) { v, ok := env[k]; return v, ok }})
}

func (h *harness) run() {
	h.t.Helper()
	var doors broker.Listeners
	admin := "127.0.0.1:0"
	if h.own {
		h.host = "127.0.0.1:0"
	} else {
		doors = broker.Listeners{Public: listen(h.t, cmp.Or(h.host, "127.0.0.1:0")), Admin: listen(h.t, admin)}
		h.host, admin = doors.Public.Addr().String(), doors.Admin.Addr().String()
	}
	cfg, findings, err := h.load(admin)
	if err != nil {
		h.t.Fatalf("configuration: %v\n%v", err, findings)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b, err := broker.New(ctx, cfg, broker.Options{Version: "test", Log: slog.New(h.log), Now: h.now, Store: h.wrap,
		Load: func() (*config.Config, config.Findings, error) { return h.load(admin) }})
	if err != nil {
		h.t.Fatal(err)
	}
	if h.own {
		if doors, err = b.Listen(); err != nil {
			h.t.Fatal(err)
		}
		h.host = doors.Public.Addr().String()
		if doors.Gateway != nil {
			h.gateway = doors.Gateway.Addr().String()
		}
	}
	h.b = b
	h.URL, h.Admin = cfg.Issuer, "http://"+doors.Admin.Addr().String()
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx, doors) }()
	var once sync.Once
	h.stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					h.t.Errorf("serve: %v", err)
				}
			case <-time.After(40 * time.Second):
				h.t.Error("the broker does not stop")
			}
			b.Close()
		})
	}
}

// restart stops the broker and starts it again on the same store and address.
func (h *harness) restart() {
	h.t.Helper()
	h.stop()
	h.run()
}

// browser keeps cookies and follows no redirects; every host is the broker's.
type browser struct {
	h      *harness
	client *http.Client
	Header http.Header // sent with every request
}

func (h *harness) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		h.t.Fatal(err)
	}
	host := h.host
	tr := &http.Transport{TLSClientConfig: h.tls.Clone(), DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasSuffix(strings.Split(addr, ":")[0], "localhost") {
			addr = host
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	h.t.Cleanup(tr.CloseIdleConnections)
	return &browser{h: h, client: &http.Client{Jar: jar, Transport: tr, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Header: http.Header{"Accept": {"text/html"}, "Accept-Language": {"en"}, "User-Agent": {"Mozilla/5.0 (X11; Linux x86_64) Chrome/156.0"}}}
}

// answer is a response with its body read.
type answer struct {
	*http.Response
	Body string
}

func (a answer) location() *url.URL {
	u, err := a.Response.Location()
	if err != nil {
		return &url.URL{}
	}
	return u
}

// json decodes the body.
func (a answer) json(t testing.TB) map[string]any {
	t.Helper()
	m := map[string]any{}
	if err := json.Unmarshal([]byte(a.Body), &m); err != nil {
		t.Fatalf("%s is not JSON: %v", a.Body, err)
	}
	return m
}

func (b *browser) do(req *http.Request) answer {
	b.h.t.Helper()
	for k, v := range b.Header {
		if _, set := req.Header[k]; !set {
			req.Header[k] = v
		}
	}
	resp, err := b.client.Do(req)
	if err != nil {
		b.h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.h.t.Fatal(err)
	}
	return answer{resp, string(body)}
}

func (b *browser) absolute(u string) string {
	if strings.HasPrefix(u, "/") {
		return b.h.URL + u
	}
	return u
}

// get fetches a page; a path is the issuer's.
func (b *browser) get(u string, headers ...string) answer {
	b.h.t.Helper()
	req, err := http.NewRequest(http.MethodGet, b.absolute(u), nil)
	if err != nil {
		b.h.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return b.do(req)
}

// post sends a form as a browser on the same origin does.
func (b *browser) post(u string, form url.Values, headers ...string) answer {
	b.h.t.Helper()
	u = b.absolute(u)
	req, err := http.NewRequest(http.MethodPost, u, strings.NewReader(form.Encode()))
	if err != nil {
		b.h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", req.URL.Scheme+"://"+req.URL.Host)
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
		} else {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	return b.do(req)
}

// follow follows redirects and hop pages until a page or another host.
func (b *browser) follow(a answer) answer {
	b.h.t.Helper()
	for range 15 {
		next := ""
		if a.StatusCode >= 300 && a.StatusCode < 400 {
			next = a.location().String()
		} else if _, to, elsewhere := strings.Cut(a.Header.Get("Refresh"), "url="); elsewhere {
			next = to
			u, err := a.Request.URL.Parse(next)
			if err != nil {
				b.h.t.Fatal(err)
			}
			next = u.String()
		}
		u, err := url.Parse(next)
		if next == "" || err != nil || u.Port() != strings.Split(b.h.host, ":")[1] && (b.h.tls == nil || u.Port() != "") {
			return a
		}
		a = b.get(next)
	}
	b.h.t.Fatal("redirects without end")
	return a
}

var attemptField = regexp.MustCompile(`name="attempt" value="([A-Z2-7]{26})"`)
var tokenField = regexp.MustCompile(`name="token" value="([^"]+)"`)

func field(t testing.TB, re *regexp.Regexp, a answer) string {
	t.Helper()
	m := re.FindStringSubmatch(a.Body)
	if m == nil {
		t.Fatalf("no %s on the page (%d):\n%s", re, a.StatusCode, a.Body)
	}
	return m[1]
}

// signIn fills in the sign-in page that a is, and follows to where it leads.
func (b *browser) signIn(a answer, user, password string) answer {
	b.h.t.Helper()
	return b.follow(b.post("/signin/local", url.Values{"username": {user}, "password": {password}, "attempt": {field(b.h.t, attemptField, a)}}))
}

// enter signs in on the portal.
func (b *browser) enter(user, password string) {
	b.h.t.Helper()
	a := b.signIn(b.follow(b.get("/")), user, password)
	if a.StatusCode != http.StatusOK || a.Request.URL.Path != "/" {
		b.h.t.Fatalf("sign-in ended at %s with %d", a.Request.URL, a.StatusCode)
	}
}

const verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

// challenge is the S256 challenge of a verifier.
func challenge(v string) string {
	sum := sha256.Sum256([]byte(v))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

const callback = "http://127.0.0.1:5555/callback"

// authRequest is a good authorization request of demo-app; change what a test
// is about.
func authRequest() url.Values {
	return url.Values{"response_type": {"code"}, "client_id": {"demo-app"}, "redirect_uri": {callback}, "scope": {"openid profile email groups offline_access"},
		"state": {"st&ate="}, "nonce": {"n-1"}, "code_challenge": {challenge(verifier)}, "code_challenge_method": {"S256"}}
}

// code runs an authorization request in a browser that is signed in, and returns
// the code.
func (b *browser) code(q url.Values) string {
	b.h.t.Helper()
	a := b.follow(b.get("/oauth2/authorize?" + q.Encode()))
	c := a.location().Query().Get("code")
	if c == "" {
		b.h.t.Fatalf("no code: %d %s\n%s", a.StatusCode, a.location(), a.Body)
	}
	return c
}

// token calls the token endpoint as demo-app.
func (h *harness) token(form url.Values) answer {
	h.t.Helper()
	return h.tokenAs("demo-app", "demo-secret", form)
}

func (h *harness) tokenAs(id, secret string, form url.Values) answer {
	h.t.Helper()
	req, err := http.NewRequest(http.MethodPost, h.URL+"/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	b := h.browser()
	b.Header = http.Header{}
	return b.do(req)
}

// redeem exchanges a code of authRequest.
func (h *harness) redeem(code string) answer {
	h.t.Helper()
	return h.token(url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {verifier}})
}

// tokens signs demo in and returns the token response.
func (h *harness) tokens() map[string]any {
	h.t.Helper()
	b := h.browser()
	b.enter("demo", "demo")
	a := h.redeem(b.code(authRequest()))
	if a.StatusCode != http.StatusOK {
		h.t.Fatalf("token endpoint: %d %s", a.StatusCode, a.Body)
	}
	return a.json(h.t)
}

// claims reads a JWT's payload without verifying it.
func claims(t testing.TB, raw any) map[string]any {
	t.Helper()
	parts := strings.Split(fmt.Sprint(raw), ".")
	if len(parts) != 3 {
		t.Fatalf("%v is not a JWT", raw)
	}
	js, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	if err := json.Unmarshal(js, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// bearer fetches a URL with a token.
func (h *harness) bearer(u string, tok any) answer {
	h.t.Helper()
	b := h.browser()
	b.Header = http.Header{}
	return b.get(u, "Authorization", "Bearer "+fmt.Sprint(tok))
}
