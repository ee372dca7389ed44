//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// person is a browser without a screen. Every host name leads to the server it
// is pointed at, as behind a load balancer.
type person struct {
	t      testing.TB
	client *http.Client
	issuer string
	addr   string
	roams  bool // host names lead to this machine, each at the port of its URL
}

func newPerson(t testing.TB, g *gatehouse) *person {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, issuer: g.URL}
	p.at(g)
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
		at := p.addr
		if _, port, err := net.SplitHostPort(to); p.roams && err == nil {
			at = net.JoinHostPort("127.0.0.1", port)
		}
		return (&net.Dialer{}).DialContext(ctx, network, at)
	}}
	p.client = &http.Client{Jar: jar, Transport: tr, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return p
}

// at points the person at a replica.
func (p *person) at(g *gatehouse) { p.addr = g.listening() }

// listening is where this process really listens.
func (g *gatehouse) listening() string {
	return "127.0.0.1:" + strconv.Itoa(g.port)
}

type page struct {
	*http.Response
	Body string
}

func (p *person) send(method, u string, form url.Values, header ...string) page {
	p.t.Helper()
	if strings.HasPrefix(u, "/") {
		u = p.issuer + u
	}
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequest(method, u, body)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", req.URL.Scheme+"://"+req.URL.Host)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := p.client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return page{resp, string(raw)}
}

// follow goes on until a page that leads nowhere, or another port.
func (p *person) follow(a page) page {
	p.t.Helper()
	for range 15 {
		next := a.Header.Get("Location")
		if r := a.Header.Get("Refresh"); next == "" && r != "" {
			_, next, _ = strings.Cut(r, "url=")
		}
		if next == "" {
			return a
		}
		u, err := a.Request.URL.Parse(next)
		if err != nil {
			p.t.Fatal(err)
		}
		iss, _ := url.Parse(p.issuer)
		if u.Port() != iss.Port() && !p.roams {
			return a
		}
		a = p.send(http.MethodGet, u.String(), nil)
	}
	p.t.Fatal("redirects without end")
	return a
}

var attemptField = regexp.MustCompile(`name="attempt" value="([A-Z2-7]{26})"`)

// signIn signs in by a password connector's form, wherever a sign-in page came.
func (p *person) signIn(a page, connector, user, password string) page {
	p.t.Helper()
	m := attemptField.FindStringSubmatch(a.Body)
	if m == nil {
		if l := regexp.MustCompile(`href="(/signin/` + connector + `\?attempt=[A-Z2-7]{26})"`).FindStringSubmatch(a.Body); l != nil {
			a = p.send(http.MethodGet, l[1], nil)
			m = attemptField.FindStringSubmatch(a.Body)
		}
	}
	if m == nil {
		p.t.Fatalf("no form on the page (%d at %s):\n%s", a.StatusCode, a.Request.URL, a.Body)
	}
	return p.follow(p.send(http.MethodPost, "/signin/"+connector, url.Values{"username": {user}, "password": {password}, "attempt": {m[1]}}))
}

const (
	testVerifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	testChallenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
	testCallback  = "http://127.0.0.1:5555/callback"
)

// code gets an authorization code of demo-app, signing in as demo if needed.
func (p *person) code(scope string) string {
	p.t.Helper()
	return p.codeFor(scope, "")
}

// codeFor is code for a resource; "" is the client's own.
func (p *person) codeFor(scope, resource string) string {
	p.t.Helper()
	q := url.Values{"response_type": {"code"}, "client_id": {"demo-app"}, "redirect_uri": {testCallback}, "scope": {scope}, "state": {"s"},
		"code_challenge": {testChallenge}, "code_challenge_method": {"S256"}}
	if resource != "" {
		q.Set("resource", resource)
	}
	a := p.follow(p.send(http.MethodGet, "/oauth2/authorize?"+q.Encode(), nil))
	if a.StatusCode == http.StatusOK {
		a = p.signIn(a, "local", "demo", "demo")
	}
	u, err := a.Response.Location()
	if err != nil {
		p.t.Fatalf("no code: %d at %s\n%s", a.StatusCode, a.Request.URL, a.Body)
	}
	return u.Query().Get("code")
}

// token calls the token endpoint as demo-app.
func (p *person) token(form url.Values) (int, map[string]any) {
	p.t.Helper()
	form.Set("client_id", "demo-app")
	form.Set("client_secret", "demo-secret")
	a := p.send(http.MethodPost, "/oauth2/token", form)
	m := map[string]any{}
	if err := json.Unmarshal([]byte(a.Body), &m); err != nil {
		p.t.Fatalf("%d %s: %v", a.StatusCode, a.Body, err)
	}
	return a.StatusCode, m
}

func (p *person) redeem(code string) (int, map[string]any) {
	p.t.Helper()
	return p.token(url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {testCallback}, "code_verifier": {testVerifier}})
}

func (p *person) refresh(token any) (int, map[string]any) {
	p.t.Helper()
	s, _ := token.(string)
	return p.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {s}})
}

// trySignIn posts the sign-in form and returns the status.
func (p *person) trySignIn(user, password string) int {
	p.t.Helper()
	a := p.send(http.MethodGet, "/signin/local", nil)
	m := attemptField.FindStringSubmatch(a.Body)
	if m == nil {
		p.t.Fatalf("no form: %d at %s\n%s", a.StatusCode, a.Request.URL, a.Body)
	}
	return p.send(http.MethodPost, "/signin/local", url.Values{"username": {user}, "password": {password}, "attempt": {m[1]}}).StatusCode
}
