package broker_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/config"
)

// logBook keeps what a broker logs.
type logBook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// load reads a folder as `serve` does, on free ports and with a data folder of its
// own.
func load(t *testing.T, dir string, dev bool, env ...string) (*config.Config, broker.Listeners) {
	t.Helper()
	l := broker.Listeners{Public: listen(t, "127.0.0.1:0"), Admin: listen(t, "127.0.0.1:0")}
	vars := map[string]string{"GATEHOUSE_LISTEN": l.Public.Addr().String(), "GATEHOUSE_ADMIN_LISTEN": l.Admin.Addr().String(), "GATEHOUSE_DATA": filepath.Join(t.TempDir(), "data")}
	for i := 0; i+1 < len(env); i += 2 {
		vars[env[i]] = env[i+1]
	}
	cfg, _, err := config.Load(dir, config.LoadOptions{Types: broker.Types(), Dev: dev, Env: func(k string) (string, bool) { v, ok := vars[k]; return v, ok }})
	if err != nil {
		t.Fatal(err)
	}
	return cfg, l
}

// serveConfig runs a broker of a configuration until the test ends.
func serveConfig(t *testing.T, cfg *config.Config, l broker.Listeners, log *slog.Logger) {
	t.Helper()
	key, err := broker.NewSecretKey()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b, err := broker.New(ctx, cfg, broker.Options{Version: "test", Log: log, SecretKeys: redact.String(key)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.Close()
	})
}

// copyFolder copies the files of a folder and writes one more.
func copyFolder(t *testing.T, from, name, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

type readiness struct {
	Ready      bool `json:"ready"`
	Connectors []struct {
		ID         string `json:"id"`
		Served, Up bool
		Reason     string
	} `json:"connectors"`
}

// The broker starts with the requirements' configuration although no host of it can
// be reached, and says of each method what it is: on the sign-in page and to the
// operator, and no secret to anybody.
func TestStartsWithoutAnyUpstream(t *testing.T) {
	t.Parallel()
	// A proxy that refuses makes GitHub unreachable wherever this runs; the
	// directory's name does not resolve anywhere.
	dir := copyFolder(t, "../config/testdata/requirements", "outgoing.yml", "outgoing: {proxy: \"http://127.0.0.1:1\"}\n")
	cfg, l := load(t, dir, false)
	var book logBook
	serveConfig(t, cfg, l, broker.NewLogger(&book, config.LogConfig{Level: "debug", Format: "json"}))
	get := func(url, host, accept string) answer {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		req.Header.Set("Accept", accept)
		req.Header.Set("Accept-Language", "en")
		b := (&harness{t: t, host: l.Public.Addr().String()}).browser()
		b.Header = http.Header{}
		return b.do(req)
	}
	admin := "http://" + l.Admin.Addr().String() + "/readyz"
	var state readiness
	down := func() bool {
		a := get(admin, "", "application/json")
		if a.StatusCode != http.StatusOK {
			t.Fatalf("readyz: %d %s", a.StatusCode, a.Body)
		}
		state = readiness{}
		if err := json.Unmarshal([]byte(a.Body), &state); err != nil {
			t.Fatal(err)
		}
		if !state.Ready || len(state.Connectors) != 3 {
			t.Fatalf("%s", a.Body)
		}
		return !state.Connectors[0].Up && !state.Connectors[1].Up && !state.Connectors[2].Up
	}
	for deadline := time.Now().Add(time.Minute); !down(); {
		if time.Now().After(deadline) {
			t.Fatalf("GitHub, Google or LDAP is still up: %+v", state)
		}
		time.Sleep(50 * time.Millisecond)
	}
	for i, want := range []struct {
		id     string
		served bool
	}{{"github", true}, {"google", true}, {"ldap", true}} {
		if c := state.Connectors[i]; c.ID != want.id || c.Served != want.served || c.Up || want.served && c.Reason == "" {
			t.Errorf("%+v", c)
		}
	}
	text := get(admin, "", "text/plain").Body
	for _, want := range []string{`(?m)^connector github down since `, `(?m)^connector ldap down since `, `(?m)^connector google down since `} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("readyz says nothing like %s:\n%s", want, text)
		}
	}
	page := get("http://"+l.Public.Addr().String()+"/signin", "remotegpu.example.com", "text/html")
	if page.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", page.StatusCode, page.Body)
	}
	plain := regexp.MustCompile(`<[^>]*>|\s+`).ReplaceAllString(page.Body, " ")
	for _, says := range []string{`GitHub +Not reachable since`, `Google +Not reachable since`, `We cannot reach LDAP right now`} {
		if !regexp.MustCompile(says).MatchString(plain) {
			t.Errorf("the page says nothing like %q:\n%s", says, plain)
		}
	}
	for _, secret := range []string{"your_github_client_secret", "your_google_client_secret", "your_password", "your_secret_key", "access_token=xxx"} {
		if strings.Contains(book.String()+page.Body+text, secret) {
			t.Errorf("%s was told", secret)
		}
	}
	if !strings.Contains(book.String(), "a connector is unavailable") {
		t.Errorf("the log does not say that a connector is unavailable:\n%s", book.String())
	}
}

// SE-2, AD-11, SC-6: what a minimal configuration serves, by its answers.
func TestSecureDefaultsServed(t *testing.T) {
	t.Parallel()
	dir := copyFolder(t, "../config/testdata/requirements", "outgoing.yml", "outgoing: {proxy: \"http://127.0.0.1:1\"}\n")
	cfg, l := load(t, dir, false)
	serveConfig(t, cfg, l, slog.New(slog.DiscardHandler))
	b := (&harness{t: t, host: l.Public.Addr().String()}).browser()
	b.Header = http.Header{}
	ask := func(method, path, host string) answer {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+l.Public.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		return b.do(req)
	}
	const host = "remotegpu.example.com"
	page := ask(http.MethodGet, "/signin", host)
	cookies := page.Header.Values("Set-Cookie")
	if len(cookies) == 0 {
		t.Fatal("no attempt cookie")
	}
	for _, c := range cookies {
		if !strings.HasPrefix(c, "__Host-") || !strings.Contains(c, "; Secure") || !strings.Contains(c, "; HttpOnly") || !strings.Contains(c, "; SameSite=Lax") || strings.Contains(c, "Domain=") {
			t.Errorf("cookie %s", c)
		}
	}
	if page.Header.Get("Strict-Transport-Security") == "" {
		t.Error("no Strict-Transport-Security")
	}
	doc := ask(http.MethodGet, "/.well-known/openid-configuration", host).json(t)
	if _, offered := doc["registration_endpoint"]; offered {
		t.Error("registration is offered")
	}
	for _, path := range []string{"/oauth2/register", "/metrics", "/readyz", "/debug/pprof/", "/signin/local"} {
		if a := ask(http.MethodGet, path, host); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, a.StatusCode)
		}
	}
	// Nobody but the issuer's host is answered, and nobody is redirected.
	for _, other := range []string{"127.0.0.1", "localhost", "api.localhost", "evil.example"} {
		if a := ask(http.MethodGet, "/", other); a.StatusCode != http.StatusMisdirectedRequest || a.Header.Get("Location") != "" {
			t.Errorf("%s: %d %s", other, a.StatusCode, a.Header.Get("Location"))
		}
	}
	if a := ask(http.MethodGet, "/healthz", "10.1.2.3"); a.StatusCode != http.StatusOK || a.Body != "ok\n" {
		t.Errorf("healthz: %d %q", a.StatusCode, a.Body)
	}
}

// In --dev a GET by another loopback name goes to the issuer's; nothing else does.
func TestDevRedirectsLoopbackNames(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	port := strings.Split(h.host, ":")[1]
	for _, c := range []struct {
		method, host, path string
		status             int
		location           string
	}{
		{http.MethodGet, "localhost:" + port, "/signin?x=%2F&y", http.StatusSeeOther, h.URL + "/signin?x=%2F&y"},
		{http.MethodGet, "[::1]:" + port, "/", http.StatusSeeOther, h.URL + "/"},
		{http.MethodGet, "127.0.0.2:" + port, "/account", http.StatusSeeOther, h.URL + "/account"},
		{http.MethodGet, "LOCALHOST", "/", http.StatusSeeOther, h.URL + "/"},
		{http.MethodPost, "localhost:" + port, "/oauth2/token", http.StatusMisdirectedRequest, ""},
		{http.MethodPost, "localhost:" + port, "/signin/local", http.StatusMisdirectedRequest, ""},
		{http.MethodGet, "evil.example:" + port, "/", http.StatusMisdirectedRequest, ""},
		{http.MethodGet, "evil.localhost:" + port, "/", http.StatusMisdirectedRequest, ""},
		{http.MethodGet, "10.0.0.1:" + port, "/", http.StatusMisdirectedRequest, ""},
	} {
		req, err := http.NewRequest(c.method, h.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = c.host
		a := b.do(req)
		if got := a.Header.Get("Location"); a.StatusCode/100 != c.status/100 || c.status >= 400 && a.StatusCode != c.status || got != c.location {
			t.Errorf("%s %s%s: %d %q", c.method, c.host, c.path, a.StatusCode, got)
		}
	}
}
