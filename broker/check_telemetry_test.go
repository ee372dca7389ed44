package broker_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/config"
)

// probesOf checks a configuration as the command does.
func probesOf(t *testing.T, yaml string, send bool) map[string]broker.Probe {
	t.Helper()
	dir := t.TempDir()
	cfg, findings, err := config.Parse([]config.Document{{Name: "test.yml", YAML: []byte(yaml)}}, config.LoadOptions{Types: broker.Types(), Dev: true,
		Env: func(k string) (string, bool) { return filepath.Join(dir, "data"), k == "GATEHOUSE_DATA" }})
	if err != nil {
		t.Fatalf("%v\n%v", err, findings)
	}
	out := map[string]broker.Probe{}
	for _, p := range broker.Check(t.Context(), cfg, broker.Options{Version: "test", Log: slog.New(slog.DiscardHandler), Send: send}) {
		out[p.Name] = p
	}
	return out
}

// check asks the collector and, only when it may send, the push monitor; what it
// says of either holds no secret and what to do.
func TestCheckTelemetry(t *testing.T) {
	t.Parallel()
	var beats, exports atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v1/traces" && r.Header.Get("Authorization") == "Bearer k3y-of-ours" && r.Header.Get("Content-Type") == "application/x-protobuf":
			exports.Add(1)
		case strings.HasPrefix(r.URL.Path, "/v1/traces"):
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/api/push/t0ken":
			beats.Add(1)
			fmt.Fprint(w, `{"ok":true}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer srv.Close()
	good := "sentry: {dsn: \"https://k3y@sentry.example.com/1\"}\ntracing: {otlp_endpoint: \"" + srv.URL + "\", headers: {authorization: Bearer k3y-of-ours}}\nuptime_kuma: {push_url: \"" + srv.URL + "/api/push/t0ken\"}\n"
	ps := probesOf(t, good, false)
	if p := ps["sentry"]; !p.OK || p.Required || p.Detail != "sentry.example.com" {
		t.Errorf("%+v", p)
	}
	if p := ps["tracing"]; !p.OK || p.Required || exports.Load() != 1 {
		t.Errorf("%+v", p)
	}
	if p := ps["uptime_kuma"]; !p.Skipped || !strings.Contains(p.Detail, "--send") || beats.Load() != 0 {
		t.Errorf("%+v", p)
	}
	if p := probesOf(t, good, true)["uptime_kuma"]; !p.OK || p.Skipped || beats.Load() != 1 {
		t.Errorf("%+v", p)
	}
	bad := probesOf(t, "tracing: {otlp_endpoint: \""+srv.URL+"\", headers: {authorization: k3y-that-is-wrong}}\nuptime_kuma: {push_url: \""+srv.URL+"/api/push/t0ken-that-is-wrong\"}\n", true)
	if p := bad["tracing"]; p.OK || !strings.Contains(p.Detail, "tracing.headers") || strings.Contains(p.Detail, "k3y") {
		t.Errorf("%+v", p)
	}
	if p := bad["uptime_kuma"]; p.OK || !strings.Contains(p.Detail, "copy its push URL") || strings.Contains(p.Detail, "t0ken") {
		t.Errorf("%+v", p)
	}
	if p := probesOf(t, "tracing: {otlp_endpoint: \""+srv.URL+"/elsewhere\"}\n", false)["tracing"]; p.OK || !strings.Contains(p.Detail, "4318") {
		t.Errorf("%+v", p)
	}
	if p := probesOf(t, "tracing: {otlp_endpoint: \"http://127.0.0.1:1\"}\n", false)["tracing"]; p.OK || !strings.Contains(p.Detail, "refused") {
		t.Errorf("%+v", p)
	}
}
