package broker_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/config"
)

// The metrics of docs/ that this version serves, with labels that are known
// beforehand, and nothing of a user or a stranger in them (ST-6).
func TestMetrics(t *testing.T) {
	t.Parallel()
	h := start(t, staff())
	b := h.in("demo")
	h.browser().try("demo", "wrong")
	tokens := h.redeem(b.code(authRequest())).json(t)
	h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"no-such-token"}})
	h.token(url.Values{"grant_type": {"urn:stranger:grant"}})
	api := strings.Replace(h.URL, "127.0.0.1", "api.localhost", 1)
	h.bearer(api+"/echo", tokens["access_token"])
	for i := range 20 {
		h.browser().get(fmt.Sprintf("/stranger-%d", i))
		h.browser().get(fmt.Sprintf("/signin/stranger-%d", i))
		h.bearer(h.URL+fmt.Sprintf("/api/v1/users/stranger-%d", i), "x")
	}
	m := h.browser().get(h.Admin + "/metrics").Body
	for _, want := range []string{
		`gatehouse_http_request_duration_seconds_count{code="401",handler="api /users/{id}"} 20`,
		`gatehouse_signins_total{connector="local",result="succeeded"} 1`, `gatehouse_signins_total{connector="local",result="failed"} 1`,
		`gatehouse_signin_duration_seconds_count{connector="local"} 2`,
		`gatehouse_tokens_issued_total{grant="authorization_code"} 1`,
		`gatehouse_token_errors_total{error="invalid_grant",grant="refresh_token"} 1`,
		`gatehouse_token_errors_total{error="unsupported_grant_type",grant="other"} 1`,
		`gatehouse_sessions_active 2`, `gatehouse_gateway_requests_total{code="200",route="demo-api"} 1`,
		`gatehouse_gateway_request_duration_seconds_count{route="demo-api"} 1`, `gatehouse_gateway_websockets_open{route="demo-console"} 0`,
		`gatehouse_connector_up{connector="local"} 1`, `gatehouse_store_operation_duration_seconds_count{op="append"}`,
		`gatehouse_events_total{event="signin.succeeded"} 1`, `gatehouse_build_info{go="go1.`,
	} {
		if !strings.Contains(m, want) {
			t.Errorf("there is no %s", want)
		}
	}
	for _, want := range []string{`gatehouse_gateway_upstream_up\{route="demo-api",upstream="127\.0\.0\.1:\d+"\} 1`, `(?m)^gatehouse_signing_key_age_seconds \d`} {
		if !regexp.MustCompile(want).MatchString(m) {
			t.Errorf("there is no %s", want)
		}
	}
	for _, private := range []string{"stranger", "demo@", "example.com", h.userID("demo"), "Surname", "DEMO"} {
		if strings.Contains(m, private) {
			t.Errorf("the metrics hold %q", private)
		}
	}
}

// AD-11: the public listener says that the process lives, the private one the
// rest, and profiling is there only where it was asked for.
func TestHealth(t *testing.T) {
	t.Parallel()
	h := start(t, "ldap: {host: 127.0.0.1, port: 1, base_dn: \"dc=x\", bind_dn: \"cn=x\", bind_password: x}\n")
	public := h.browser()
	if a := public.get("/healthz"); a.StatusCode != http.StatusOK || a.Body != "ok\n" {
		t.Errorf("healthz: %d %q", a.StatusCode, a.Body)
	}
	if a := public.get("/healthz", "Accept", "application/json"); a.json(t)["status"] != "ok" || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("healthz as JSON: %q", a.Body)
	}
	if a := public.get("/healthz", "Accept", "text/html,application/xhtml+xml,application/json;q=0.9,*/*;q=0.8"); a.Body != "ok\n" {
		t.Errorf("healthz for a browser: %q", a.Body)
	}
	req, err := http.NewRequest(http.MethodGet, h.URL+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "status.example"
	if a := public.do(req); a.StatusCode != http.StatusOK {
		t.Errorf("healthz by another name: %d", a.StatusCode)
	}
	for _, p := range []string{"/readyz", "/metrics", "/debug/pprof/", "/debug/pprof/cmdline"} {
		if a := public.get(p); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s in public: %d", p, a.StatusCode)
		}
	}
	for _, p := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/signin", "/oauth2/token", "/"} {
		if a := public.get(h.Admin + p); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s in private: %d", p, a.StatusCode)
		}
	}
	if a := public.get(h.Admin + "/healthz"); a.StatusCode != http.StatusOK {
		t.Errorf("healthz in private: %d", a.StatusCode)
	}
	// A connector that is down degrades, and no more.
	var ready map[string]any
	down := false
	for range 100 {
		a := public.get(h.Admin+"/readyz", "Accept", "application/json")
		if ready = a.json(t); a.StatusCode != http.StatusOK || ready["ready"] != true || a.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("readyz: %d %s", a.StatusCode, a.Body)
		}
		for _, c := range ready["connectors"].([]any) {
			down = down || c.(map[string]any)["id"] == "ldap" && c.(map[string]any)["up"] == false
		}
		if down {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !down {
		t.Errorf("the directory that is not there is up: %v", ready)
	}
	names := fmt.Sprint(ready["checks"])
	if !strings.Contains(names, "store") || !strings.Contains(names, "keys") {
		t.Errorf("checks %s", names)
	}
	if a := public.get(h.Admin+"/readyz", "Accept", "*/*"); a.StatusCode != http.StatusOK || !strings.Contains(a.Body, "store ok\n") || !strings.Contains(a.Body, "connector ldap down since ") {
		t.Errorf("readyz as text: %s", a.Body)
	}
	profiled := start(t, "debug: true\n")
	if a := profiled.browser().get(profiled.Admin + "/debug/pprof/"); a.StatusCode != http.StatusOK {
		t.Errorf("pprof with debug: %d", a.StatusCode)
	}
	if a := profiled.browser().get("/debug/pprof/"); a.StatusCode != http.StatusNotFound {
		t.Errorf("pprof in public with debug: %d", a.StatusCode)
	}
}

// The operator's token is for its owner's eyes.
func TestAdminTokenFile(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	fi, err := os.Stat(filepath.Join(h.dir, "data", "admin.token"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
	if len(h.adminToken()) < 52 {
		t.Error("the token is short")
	}
	for _, guess := range []string{"", " ", h.adminToken()[:51], h.adminToken() + "x"} {
		if a := h.as(guess, http.MethodGet, h.Admin+"/api/v1/users", ""); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%q: %d", guess, a.StatusCode)
		}
	}
}

// A token that others could have written is nobody's proof.
func TestAdminTokenOthersCanWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "data", "admin.token")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("a", 52)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := config.Parse([]config.Document{{Name: "test.yml", YAML: []byte("")}}, config.LoadOptions{Types: broker.Types(), Dev: true,
		Env: func(k string) (string, bool) { return filepath.Join(dir, "data"), k == "GATEHOUSE_DATA" }})
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.New(t.Context(), cfg, broker.Options{Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		b.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("started: %v", err)
	}
}
