package userclient

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// BrowserTime is how long a sign-in in the browser may take.
const BrowserTime = 10 * time.Minute

// Prompt is what a person must be shown to sign in.
type Prompt struct {
	// URL is the address to open. Nobody else's than the issuer's.
	URL string
	// Complete is the address with the code in it, where there is one.
	Complete string
	// Code is what to type there; "" when signing in with this machine's browser.
	Code string
	// Expires is when it is over.
	Expires time.Time
}

// ErrDenied means that the person, or the issuer, said no.
var ErrDenied = errors.New("it was not allowed")

// ErrExpired means that nobody finished the sign-in in time.
var ErrExpired = errors.New("nobody signed in before the time was over")

// ErrNoListener means that this machine's loopback cannot be listened on, so that
// the browser has nowhere to come back to.
var ErrNoListener = errors.New("no port of this machine can be listened on")

// pkce makes a verifier and its S256 challenge (RFC 7636 section 4).
func pkce() (verifier, challenge string) {
	verifier = secret()
	sum := sha256.Sum256([]byte(verifier))
	return verifier, base64.RawURLEncoding.EncodeToString(sum[:])
}

// secret is 256 random bits as text.
func secret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// Pages are the texts that the browser shows at the end, in the language of the
// terminal.
type Pages struct{ Lang, Title, Done, Failed string }

// Wanted is what a sign-in asks for.
type Wanted struct {
	Scopes []string
	// Fresh has the person prove anew who they are.
	Fresh bool
}

// InBrowser signs in by authorization code with PKCE and a loopback redirect
// (RFC 8252 section 7.3): a port of 127.0.0.1 that is open until the one right
// answer has come, told apart by state; iss must name the issuer (RFC 9207).
// show is told where to go before anything else happens; an error of it ends the
// sign-in.
func (c *Client) InBrowser(ctx context.Context, want Wanted, pages Pages, show func(Prompt) error) (Tokens, error) {
	m, err := c.discover(ctx)
	if err != nil {
		return Tokens{}, err
	}
	if m.Authorization == "" {
		return Tokens{}, fmt.Errorf("%s has no authorization_endpoint: %w", c.opts.Issuer, ErrHostile)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		if l, err = net.Listen("tcp", "[::1]:0"); err != nil {
			return Tokens{}, fmt.Errorf("%w: %w", ErrNoListener, err)
		}
	}
	verifier, challenge := pkce()
	a := &arrival{c: c, pages: pages, host: l.Addr().String(), state: secret(), nonce: secret(), verifier: verifier, done: make(chan result, 1)}
	ctx, cancel := context.WithTimeoutCause(ctx, BrowserTime, ErrExpired)
	defer cancel()
	a.ctx = ctx
	srv := &http.Server{Handler: a, ReadTimeout: 10 * time.Second, WriteTimeout: callTime * 3, MaxHeaderBytes: 16 << 10, ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	defer func() {
		last, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer stop()
		if srv.Shutdown(last) != nil {
			_ = srv.Close()
		}
		<-served
	}()
	to, err := c.own(m.Authorization)
	if err != nil {
		return Tokens{}, err
	}
	q := to.Query()
	for k, v := range map[string]string{"response_type": "code", "client_id": ClientID, "redirect_uri": a.redirect(), "scope": strings.Join(want.Scopes, " "), "state": a.state,
		"nonce": a.nonce, "code_challenge": challenge, "code_challenge_method": "S256"} {
		q.Set(k, v)
	}
	if want.Fresh {
		q.Set("prompt", "login") // OpenID Connect Core section 3.1.2.1
	}
	to.RawQuery = q.Encode()
	if err := show(Prompt{URL: to.String(), Expires: c.opts.Now().Add(BrowserTime)}); err != nil {
		return Tokens{}, err
	}
	select {
	case r := <-a.done:
		return r.tokens, r.err
	case <-ctx.Done():
		return Tokens{}, context.Cause(ctx)
	}
}

type result struct {
	tokens Tokens
	err    error
}

// arrival waits for the browser to come back. The first request with the right
// state is the answer; others are strangers and change nothing.
type arrival struct {
	c                            *Client
	ctx                          context.Context
	pages                        Pages
	host, state, nonce, verifier string
	once                         atomic.Bool
	done                         chan result
}

func (a *arrival) redirect() string { return "http://" + a.host + "/callback" }

// ServeHTTP answers the browser.
func (a *arrival) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	// Another name that leads here is a page's attempt to read the answer.
	if r.Host != a.host || r.URL.Path != "/callback" || r.Method != http.MethodGet {
		http.NotFound(w, r)
		return
	}
	q := r.URL.Query()
	if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(a.state)) != 1 || len(q["state"]) != 1 {
		a.page(w, http.StatusBadRequest, a.pages.Failed)
		return
	}
	if a.once.Swap(true) { // a second answer: the first one counts
		a.page(w, http.StatusBadRequest, a.pages.Failed)
		return
	}
	t, err := a.tokens(q)
	if err != nil {
		a.page(w, http.StatusBadRequest, a.pages.Failed)
	} else {
		a.page(w, http.StatusOK, a.pages.Done)
	}
	a.done <- result{t, err}
}

func (a *arrival) tokens(q url.Values) (Tokens, error) {
	if len(q["iss"]) != 1 || q.Get("iss") != a.c.opts.Issuer {
		return Tokens{}, fmt.Errorf("the answer is of another issuer, %q (RFC 9207): %w", Printable(q.Get("iss"), 200), ErrHostile)
	}
	if e := q.Get("error"); e != "" {
		err := &AnswerError{Status: http.StatusBadRequest, Code: Printable(e, 60), Text: Printable(q.Get("error_description"), 300)}
		if e == "access_denied" {
			return Tokens{}, fmt.Errorf("%w: %w", ErrDenied, err)
		}
		return Tokens{}, err
	}
	if len(q["code"]) != 1 || !opaque(q.Get("code"), 4096) {
		return Tokens{}, fmt.Errorf("the answer holds no code: %w", ErrHostile)
	}
	return a.c.signedIn(a.ctx, url.Values{"grant_type": {"authorization_code"}, "code": {q.Get("code")}, "redirect_uri": {a.redirect()}, "code_verifier": {a.verifier}}, a.nonce)
}

func (a *arrival) page(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<!doctype html><html lang=\"%s\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\"><title>%s</title><main><h1>%s</h1><p>%s</p></main></html>\n",
		html.EscapeString(a.pages.Lang), html.EscapeString(a.pages.Title), html.EscapeString(a.pages.Title), html.EscapeString(text))
}
