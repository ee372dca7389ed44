package github

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
)

const (
	testToken = "gho_16C7e42F292c6912E7710c838347Ae178B4a"
	callback  = "https://login.example.com/connectors/github/callback"
)

// fake is a GitHub Enterprise Server with one person. Its fields may be changed
// between calls, not during them.
type fake struct {
	t   *testing.T
	srv *httptest.Server

	mu        sync.Mutex
	user      map[string]any
	emails    []map[string]any
	orgs      []map[string]any
	states    []map[string]any
	teams     []map[string]any
	scope     string            // granted, with commas
	noHeader  bool              // X-OAuth-Scopes is left out
	page      int               // size of a page, whatever was asked for
	revoked   []string          // tokens that were given back
	calls     []string          // method and path of every call
	challenge string            // PKCE, from the departure, of the code "good"
	codes     map[string]string // other codes with their challenges, each good once
	form      url.Values        // of the last code exchange
	override  map[string]any    // path: http.HandlerFunc or the text of an answer with status 200
}

func newFake(t *testing.T) *fake {
	f := &fake{
		t: t, scope: "read:org,read:user,user:email", page: 100, override: map[string]any{}, codes: map[string]string{},
		user: map[string]any{"id": 583231, "login": "octocat", "name": "The Octocat", "email": "public@elsewhere.example",
			"avatar_url": "https://avatars.example/u/583231", "two_factor_authentication": true},
		emails: []map[string]any{
			{"email": "old@example.com", "primary": false, "verified": true},
			{"email": "octocat@example.com", "primary": true, "verified": true},
		},
		orgs:   []map[string]any{{"id": 1, "login": "acme"}, {"id": 2, "login": "hobby"}},
		states: []map[string]any{stateOf(1, "acme", "active"), stateOf(2, "hobby", "active")},
		teams:  []map[string]any{teamOf("ml", 1, "acme"), teamOf("ops", 1, "acme"), teamOf("chess", 2, "hobby")},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login/oauth/access_token", f.token)
	mux.HandleFunc("GET /api/v3/rate_limit", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the check sent credentials")
		}
		w.WriteHeader(http.StatusNotFound) // as a server without limits does
	})
	mux.HandleFunc("GET /api/v3/user", f.api(func() any { return f.user }))
	mux.HandleFunc("GET /api/v3/user/emails", f.api(func() any { return f.emails }))
	mux.HandleFunc("GET /api/v3/user/orgs", f.api(func() any { return f.orgs }))
	mux.HandleFunc("GET /api/v3/user/memberships/orgs", f.api(func() any { return f.states }))
	mux.HandleFunc("GET /api/v3/user/teams", f.api(func() any { return f.teams }))
	mux.HandleFunc("DELETE /api/v3/applications/{id}/token", f.revoke)
	f.srv = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.calls = append(f.calls, r.Method+" "+r.URL.Path)
		switch o := f.override[r.URL.Path].(type) {
		case http.HandlerFunc:
			o(w, r)
		case string:
			_, _ = io.WriteString(w, o)
		default:
			mux.ServeHTTP(w, r)
		}
	}))
	f.srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(f.srv.Close)
	return f
}

func stateOf(id int, login, state string) map[string]any {
	return map[string]any{"state": state, "organization": map[string]any{"id": id, "login": login}}
}

func teamOf(slug string, id int, login string) map[string]any {
	return map[string]any{"slug": slug, "name": strings.ToUpper(slug), "organization": map[string]any{"id": id, "login": login}}
}

func (f *fake) token(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	f.form = r.PostForm
	if r.Header.Get("Accept") != "application/json" {
		f.t.Error("the exchange did not ask for JSON")
	}
	sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
	answer := map[string]string{"access_token": testToken, "token_type": "bearer", "scope": f.scope}
	switch {
	case r.PostForm.Get("client_id") != "app" || r.PostForm.Get("client_secret") != "s3cret":
		answer = map[string]string{"error": "incorrect_client_credentials"}
	case f.codes[r.PostForm.Get("code")] != "":
		challenge := f.codes[r.PostForm.Get("code")]
		delete(f.codes, r.PostForm.Get("code"))
		if base64.RawURLEncoding.EncodeToString(sum[:]) != challenge {
			answer = map[string]string{"error": "bad_verification_code"}
		}
	case r.PostForm.Get("code") != "good" || base64.RawURLEncoding.EncodeToString(sum[:]) != f.challenge:
		answer = map[string]string{"error": "bad_verification_code", "error_description": "<b>expired</b>"}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// api serves one object or, in pages, one list.
func (f *fake) api(what func() any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+testToken || slices.Contains(f.revoked, testToken) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"message":"Bad credentials"}`)
			return
		}
		if !f.noHeader {
			w.Header().Set("X-OAuth-Scopes", strings.ReplaceAll(f.scope, ",", ", "))
		}
		v := what()
		if l, ok := v.([]map[string]any); ok {
			n, _ := strconv.Atoi(r.URL.Query().Get("page"))
			n = max(n, 1)
			if n*f.page < len(l) {
				// Another host than ours, as behind a reverse proxy.
				w.Header().Set("Link", fmt.Sprintf(`<https://elsewhere.example%s?per_page=50&page=%d>; rel="next", <https://elsewhere.example/x?page=99>; rel="last"`, r.URL.Path, n+1))
			}
			l = l[min((n-1)*f.page, len(l)):min(n*f.page, len(l))]
			if l == nil {
				l = []map[string]any{}
			}
			v = l
		}
		_ = json.NewEncoder(w).Encode(v)
	}
}

func (f *fake) revoke(w http.ResponseWriter, r *http.Request) {
	if id, secret, _ := r.BasicAuth(); id != "app" || secret != "s3cret" || r.PathValue("id") != "app" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	var body struct {
		Token string `json:"access_token"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	f.revoked = append(f.revoked, body.Token)
	w.WriteHeader(http.StatusNoContent)
}

// set changes the fake between two calls.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) revokedTokens() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.revoked)
}

func (f *fake) called(call string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.calls, call)
}

func (f *fake) config(orgs ...Organization) Config {
	return Config{ClientID: "app", ClientSecret: "s3cret", BaseURL: f.srv.URL + "/", Organizations: orgs}
}

func (f *fake) open(cfg Config) *Connector {
	f.t.Helper()
	c, err := Open(connectors.Env{ID: "github", Log: slog.New(slog.DiscardHandler), Now: time.Now,
		HTTP: func(string, string, ...string) (*http.Client, error) { return f.srv.Client(), nil }}, cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	return c.(*Connector)
}

var attempt = connectors.Attempt{ID: "ABCDEFGHIJKLMNOPQRSTUVWXY2", CallbackURL: callback}

// signIn goes to the sign-in page and comes back with a code.
func (f *fake) signIn(ctx context.Context, c *Connector) (connectors.Identity, error) {
	f.t.Helper()
	d, err := c.Begin(ctx, attempt)
	if err != nil {
		f.t.Fatal(err)
	}
	u, err := url.Parse(d.URL)
	if err != nil {
		f.t.Fatal(err)
	}
	f.set(func() { f.challenge = u.Query().Get("code_challenge") })
	return c.Finish(ctx, attempt, d.Secret, connectors.Return{Method: http.MethodGet, Params: url.Values{"code": {"good"}, "state": {attempt.ID}}})
}
