package userclient

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is a time that moves when somebody sleeps.
type clock struct {
	mu    sync.Mutex
	at    time.Time
	slept []time.Duration
	hook  func(n int) // told of every sleep
}

func newClock() *clock { return &clock{at: time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	c.at = c.at.Add(d)
	c.slept = append(c.slept, d)
	n, hook := len(c.slept), c.hook
	c.mu.Unlock()
	if hook != nil {
		hook(n)
	}
	return ctx.Err()
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// fake is an issuer whose refresh tokens are good once, without any grace, and
// that can be made to misbehave.
type fake struct {
	t     *testing.T
	srv   *httptest.Server
	clock *clock

	mu        sync.Mutex
	meta      map[string]any
	requests  []url.Values // of the token endpoint
	revoked   []string
	answers   []answer // of the token endpoint, in place of its own
	device    map[string]any
	form      url.Values // of the device authorization
	challenge string
	nonce     string
	refresh   string // the good one; "" after a reuse
	n         int
	life      int
	api       map[string]answer
	calls     []string
}

type answer struct {
	status int
	body   any
	after  func() // runs before the answer is sent
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, clock: newClock(), life: 600, api: map[string]answer{}}
	f.srv = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.srv.Close)
	f.meta = map[string]any{"issuer": f.srv.URL, "grant_types_supported": []string{"authorization_code", "refresh_token", grantDevice, grantExchange},
		"scopes_supported": []string{"openid", "email", "offline_access", "gatehouse:account"}}
	for name, path := range map[string]string{"token": "/token", "authorization": "/authorize", "device_authorization": "/device_authorization", "revocation": "/revoke", "userinfo": "/userinfo"} {
		f.meta[name+"_endpoint"] = f.srv.URL + path
	}
	f.device = map[string]any{"device_code": "device-secret", "user_code": "WDJB-MJHT", "verification_uri": f.srv.URL + "/device",
		"verification_uri_complete": f.srv.URL + "/device?user_code=WDJB-MJHT", "expires_in": 600, "interval": 5}
	return f
}

func (f *fake) client() *Client {
	f.t.Helper()
	c, err := New(Options{Issuer: f.srv.URL, Version: "test", Now: f.clock.now, Sleep: f.clock.sleep})
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := r.ParseForm(); err != nil {
		f.t.Error(err)
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		reply(w, answer{status: 200, body: f.meta})
	case "/device_authorization":
		f.form = r.PostForm
		f.challenge = r.PostForm.Get("code_challenge")
		reply(w, answer{status: 200, body: f.device})
	case "/token":
		f.requests = append(f.requests, r.PostForm)
		if len(f.answers) > 0 {
			a := f.answers[0]
			f.answers = f.answers[1:]
			if a.status != 0 {
				reply(w, a)
				return
			}
		}
		f.token(w, r.PostForm)
	case "/revoke":
		f.revoked = append(f.revoked, r.PostForm.Get("token"))
		w.WriteHeader(200)
	case "/userinfo":
		reply(w, answer{status: 200, body: map[string]any{"sub": "u1", "email": "li@example.com"}})
	default:
		f.calls = append(f.calls, r.Method+" "+r.URL.Path)
		a, ok := f.api[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		reply(w, a)
	}
}

func reply(w http.ResponseWriter, a answer) {
	if a.after != nil {
		a.after()
	}
	switch b := a.body.(type) {
	case http.Header:
		for k, v := range b {
			w.Header()[k] = v
		}
		w.WriteHeader(a.status)
	case string:
		w.WriteHeader(a.status)
		fmt.Fprint(w, b)
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(a.status)
		_ = json.NewEncoder(w).Encode(b)
	}
}

func oauth(code string) answer { return answer{status: 400, body: map[string]any{"error": code}} }

// token is an honest token endpoint.
func (f *fake) token(w http.ResponseWriter, form url.Values) {
	if form.Get("client_id") != ClientID {
		f.t.Errorf("client_id %q", form.Get("client_id"))
	}
	out := map[string]any{"token_type": "Bearer", "expires_in": f.life, "scope": "openid email"}
	f.n++
	out["access_token"] = fmt.Sprintf("access-%d", f.n)
	switch form.Get("grant_type") {
	case "refresh_token":
		if form.Get("refresh_token") != f.refresh || f.refresh == "" {
			f.refresh = "" // reuse ends the family
			reply(w, oauth("invalid_grant"))
			return
		}
		if form.Get("resource") != "" {
			out["access_token"] = "for-" + form.Get("resource")
		}
	case grantExchange:
		reply(w, answer{status: 200, body: map[string]any{"access_token": "exchanged-for-" + form.Get("audience"), "issued_token_type": typeAccess, "token_type": "Bearer", "expires_in": f.life}})
		return
	case "authorization_code", grantDevice:
		sum := sha256.Sum256([]byte(form.Get("code_verifier")))
		if base64.RawURLEncoding.EncodeToString(sum[:]) != f.challenge || f.challenge == "" {
			f.t.Error("the verifier does not fit the challenge")
			reply(w, oauth("invalid_grant"))
			return
		}
		out["id_token"] = idToken(map[string]any{"iss": f.srv.URL, "aud": ClientID, "exp": f.clock.now().Add(time.Hour).Unix(), "sub": "u1", "email": "li@example.com", "nonce": f.nonce, "gatehouse:connector": "acme"})
	}
	f.refresh = fmt.Sprintf("refresh-%d", f.n)
	out["refresh_token"] = f.refresh
	reply(w, answer{status: 200, body: out})
}

func idToken(claims map[string]any) string {
	js, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	return strings.Join([]string{"e30", base64.RawURLEncoding.EncodeToString(js), "c2ln"}, ".")
}

// grants counts the requests of a grant type.
func (f *fake) grants(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if r.Get("grant_type") == name {
			n++
		}
	}
	return n
}

// script has the token endpoint answer so next; a zero answer is its own.
func (f *fake) script(a ...answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers = append(f.answers, a...)
}

// signedIn is a session whose profile is kept in a file.
func (f *fake) signedIn() *Session {
	f.t.Helper()
	s := &Session{Store: &Store{Dir: f.t.TempDir()}, Client: f.client(), Name: "work"}
	f.refresh = "refresh-0"
	t := Tokens{Access: "access-0", Refresh: f.refresh, Issued: f.clock.now(), Expires: f.clock.now().Add(10 * time.Minute), Who: Identity{Subject: "u1"}, Scope: "openid"}
	if _, why, err := s.SignIn(f.t.Context(), t, "", Ends{}, false); err != nil || why != nil {
		f.t.Fatal(err, why)
	}
	return s
}
