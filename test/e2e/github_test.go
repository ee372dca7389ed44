//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// github is the double of test/peers/github-api, and the program in front of it.
type github struct {
	t    *testing.T
	g    *gatehouse
	vars map[string]string
}

func startGitHub(t *testing.T, section string) *github {
	t.Helper()
	port := freePort(t)
	vars := startPeer(t, "github-api", port)
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(`
roles: {admin: ["local:admin"]}
sessions: {recheck: 1s, recheck_grace: 4h}
github:
  client_id: %s
  client_secret: %s
  base_url: %s
%s`, vars["GITHUB_CLIENT_ID"], vars["GITHUB_CLIENT_SECRET"], vars["GITHUB_URL"], section)})
	return &github{t, serve(t, dir, []string{"--dev"}), vars}
}

// hostile makes the double misbehave; without a name it behaves again.
func (h *github) hostile(names string) {
	h.t.Helper()
	resp, err := http.Post(h.vars["GITHUB_CONTROL_URL"]+"?hostile="+names, "text/plain", nil)
	if err != nil {
		h.t.Fatal(err)
	}
	resp.Body.Close()
}

type githubState struct {
	Tokens   int `json:"live_tokens"`
	Requests []struct{ Method, Path, Query, UA, Version string }
}

func (h *github) state() githubState {
	h.t.Helper()
	_, body := get(h.t, h.vars["GITHUB_CONTROL_URL"])
	var s githubState
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		h.t.Fatal(err)
	}
	return s
}

var githubButton = regexp.MustCompile(`href="(/signin/github\?attempt=[A-Z2-7]{26})"`)

// leave begins a sign-in and returns GitHub's page and the way back from it.
func (h *github) leave(p *person) *url.URL {
	h.t.Helper()
	a := p.follow(p.send(http.MethodGet, "/", nil))
	m := githubButton.FindStringSubmatch(a.Body)
	if m == nil {
		h.t.Fatalf("GitHub is not on the page (%d):\n%s", a.StatusCode, a.Body)
	}
	to, err := p.send(http.MethodGet, m[1], nil).Location()
	if err != nil {
		h.t.Fatal(err)
	}
	return to
}

// away signs in at GitHub and returns the address that GitHub sends back to.
func (h *github) away(to *url.URL, form url.Values) string {
	h.t.Helper()
	c := &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.PostForm(to.String(), form)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	back, err := resp.Location()
	if err != nil {
		h.t.Fatalf("GitHub: %d: %v", resp.StatusCode, err)
	}
	return back.String()
}

// enter signs in as a user of the double and returns the page where it ended.
func (h *github) enter(p *person, user string) page {
	h.t.Helper()
	return p.follow(p.send(http.MethodGet, h.away(h.leave(p), url.Values{"login": {user}, "password": {user + "-pw"}}), nil))
}

// me is the person as the portal's own page knows them; nil when signed out.
func (h *github) me(p *person) map[string]any {
	h.t.Helper()
	a := p.send(http.MethodGet, "/api/v1/me", nil, "Sec-Fetch-Site", "same-origin")
	if a.StatusCode != http.StatusOK {
		return nil
	}
	m := map[string]any{}
	if err := json.Unmarshal([]byte(a.Body), &m); err != nil {
		h.t.Fatal(err)
	}
	return m
}

// The built program against GitHub's double without organizations: PKCE, the
// verified primary address, the numeric id, and a token that is given back.
func TestGitHubSignIn(t *testing.T) {
	h := startGitHub(t, "")
	p := newPerson(t, h.g)
	to := h.leave(p)
	q := to.Query()
	if q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43 || q.Get("redirect_uri") != h.g.URL+"/auth/github/callback" || len(q.Get("state")) != 26 || q.Get("scope") != "read:user user:email" {
		t.Errorf("departure to %s", to)
	}
	back := h.away(to, url.Values{"login": {"alice"}, "password": {"alice-pw"}})
	if a := p.follow(p.send(http.MethodGet, back, nil)); a.StatusCode != http.StatusOK || a.Request.URL.Path != "/" {
		t.Fatalf("back at %s: %d", a.Request.URL, a.StatusCode)
	}
	me := h.me(p)
	if me["email"] != "alice@example.org" || me["email_verified"] != true || me["connector"] != "github" || fmt.Sprint(me["groups"]) != "[]" {
		t.Errorf("me: %v", me)
	}
	if ids := me["identities"].([]any); ids[0].(map[string]any)["subject"] != "583231" {
		t.Errorf("identity %v", ids)
	}
	state := h.state()
	if state.Tokens != 0 {
		t.Errorf("%d tokens were kept (docs/security.md UP-9)", state.Tokens)
	}
	for _, r := range state.Requests {
		if strings.HasPrefix(r.Path, "/user") && (r.Version == "" || !strings.HasPrefix(r.UA, "Gatehouse/")) {
			t.Errorf("%s %s by %q, version %q", r.Method, r.Path, r.UA, r.Version)
		}
	}
	// The same answer again, here and in another browser: our sign-in page.
	for _, who := range []*person{p, newPerson(t, h.g)} {
		a := who.send(http.MethodGet, back, nil)
		if a.StatusCode != http.StatusOK || a.Header.Get("Location") != "" {
			t.Errorf("a second time: %d to %q", a.StatusCode, a.Header.Get("Location"))
		}
	}
	// Whoever took over the name and the address is somebody else.
	other := newPerson(t, h.g)
	if a := h.enter(other, "renamed"); a.StatusCode != http.StatusOK {
		t.Fatalf("renamed: %d", a.StatusCode)
	}
	if o := h.me(other); o["id"] == me["id"] || o["email"] != "alice@example.org" {
		t.Errorf("the one who took the name: %v", o)
	}
	nomail := newPerson(t, h.g)
	h.enter(nomail, "nomail")
	if n := h.me(nomail); n == nil || n["email"] != nil {
		t.Errorf("an address that is not verified: %v", n)
	}
	cancelled := newPerson(t, h.g)
	if a := cancelled.send(http.MethodGet, h.away(h.leave(cancelled), url.Values{"cancel": {"1"}}), nil); a.StatusCode != http.StatusOK || h.me(cancelled) != nil {
		t.Errorf("turned back: %d", a.StatusCode)
	}
}

// What GitHub may answer instead: nobody gets in, and the page says so.
func TestGitHubTrouble(t *testing.T) {
	h := startGitHub(t, "  organizations: [{name: acme}]\n")
	for hostile, want := range map[string]int{
		"code-expired": 502, "token-500": 503, "token-empty": 502, "token-string-status": 502, "wrong-state": 200, "server-error": 503, "rate-limit-primary": 503,
		"rate-limit-secondary": 503, "rate-limit-429": 503, "teams-error": 503, "fewer-scopes": 403, "left-orgs": 403, "pending": 403, "bad-credentials": 403, "link-loop": 502,
	} {
		h.hostile(hostile)
		p := newPerson(t, h.g)
		a := h.enter(p, "alice")
		if a.StatusCode != want || h.me(p) != nil {
			t.Errorf("%s: %d, want %d; signed in: %v", hostile, a.StatusCode, want, h.me(p))
		}
		if strings.Contains(a.Body, "Unicorn") || strings.Contains(a.Body, "gho_") {
			t.Errorf("%s: the page quotes GitHub", hostile)
		}
	}
	h.hostile("")
	if n := h.state().Tokens; n > 3 { // those that could not be given back while it was down
		t.Errorf("%d tokens of people who did not get in were kept", n)
	}
	for user, want := range map[string]int{"suspended": 403, "bob": 403, "alice": 200} {
		if a := h.enter(newPerson(t, h.g), user); a.StatusCode != want {
			t.Errorf("%s: %d, want %d", user, a.StatusCode, want)
		}
	}
	// An old server that ignores PKCE, and links that lead elsewhere.
	for _, hostile := range []string{"no-pkce", "more-scopes"} {
		h.hostile(hostile)
		if a := h.enter(newPerson(t, h.g), "alice"); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", hostile, a.StatusCode)
		}
	}
}

// Organizations and teams over many pages; membership is looked at again; all
// sessions of a person renew by the newest token, of which GitHub keeps ten.
func TestGitHubOrganizations(t *testing.T) {
	h := startGitHub(t, "  organizations: [{name: acme, teams: [sre]}, {name: org-130}]\n")
	many := newPerson(t, h.g)
	if a := h.enter(many, "many"); a.StatusCode != http.StatusOK || fmt.Sprint(h.me(many)["groups"]) != "[github:org-130]" {
		t.Fatalf("many: %d %v", a.StatusCode, h.me(many))
	}
	first := newPerson(t, h.g)
	h.enter(first, "alice")
	if got := fmt.Sprint(h.me(first)["groups"]); got != "[github:acme github:acme/platform github:acme/sre]" {
		t.Fatalf("groups %s", got)
	}
	for range 11 {
		h.enter(newPerson(t, h.g), "alice")
	}
	_, tokens := first.redeem(first.code("openid offline_access groups"))
	time.Sleep(1200 * time.Millisecond) // older than sessions.recheck: a refresh asks first
	status, tokens := first.refresh(tokens["refresh_token"])
	if status != http.StatusOK || h.me(first) == nil {
		t.Fatalf("the first session ended because GitHub dropped its own token: %d %v", status, tokens)
	}
	// Unreachable keeps it; refused ends it, everywhere.
	h.hostile("server-error")
	time.Sleep(1200 * time.Millisecond)
	if status, tokens = first.refresh(tokens["refresh_token"]); status != http.StatusOK || h.me(first) == nil {
		t.Fatalf("an outage of GitHub ended a session within recheck_grace: %d %v", status, tokens)
	}
	h.hostile("left-orgs")
	// One who was being asked about when the outage ended may be excused once more.
	for range 5 {
		if status, tokens = first.refresh(tokens["refresh_token"]); status != http.StatusOK {
			break
		}
		time.Sleep(300 * time.Millisecond)
	}
	if status != http.StatusBadRequest || tokens["error"] != "invalid_grant" {
		t.Errorf("who left the organization: %d %v", status, tokens)
	}
	if h.me(first) != nil {
		t.Error("the browser of somebody who left the organization is still in")
	}
}

// GitHub is hard to reach from some countries: its own proxy carries every call,
// and resolves the names.
func TestGitHubByProxy(t *testing.T) {
	vars := startPeer(t, "github-api", freePort(t))
	real, err := url.Parse(vars["GITHUB_URL"])
	if err != nil {
		t.Fatal(err)
	}
	var hosts sync.Map
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		hosts.Store(r.In.URL.Host, true) // a proxy is asked by absolute URL
		r.SetURL(real)
	}})
	t.Cleanup(proxy.Close)
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf("github: {client_id: %s, client_secret: %s, base_url: \"http://github.nowhere.test\", proxy: %q}\n",
		vars["GITHUB_CLIENT_ID"], vars["GITHUB_CLIENT_SECRET"], proxy.URL)})
	h := &github{t, serve(t, dir, []string{"--dev"}), vars}
	p := newPerson(t, h.g)
	to := h.leave(p)
	if to.Host != "github.nowhere.test" {
		t.Fatalf("departure to %s", to)
	}
	to.Host = real.Host // the browser has its own way there
	if a := p.follow(p.send(http.MethodGet, h.away(to, url.Values{"login": {"alice"}, "password": {"alice-pw"}}), nil)); a.StatusCode != http.StatusOK || h.me(p) == nil {
		t.Fatalf("by proxy: %d", a.StatusCode)
	}
	if _, ok := hosts.Load("github.nowhere.test"); !ok || h.state().Tokens != 0 {
		t.Errorf("the proxy saw nothing of it, or %d tokens were kept", h.state().Tokens)
	}
}
