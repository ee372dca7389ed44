//go:build e2e && full

package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// alert is one of those that Alertmanager posts to a webhook.
type alert struct {
	Status              string
	Labels, Annotations map[string]string
}

// A rule goes all the way, as it is shipped: the server dies, Prometheus notices,
// Alertmanager tells a webhook, with what to do about it, and once more when the
// server is back.
func TestAlertArrives(t *testing.T) {
	var mu sync.Mutex
	var got []alert
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		var m struct{ Alerts []alert }
		if err != nil || json.Unmarshal(body, &m) != nil {
			t.Errorf("Alertmanager sent %v %s", err, body)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, m.Alerts...)
	}))
	t.Cleanup(sink.Close)
	of := func(status string) []alert {
		mu.Lock()
		defer mu.Unlock()
		var out []alert
		for _, a := range got {
			if a.Labels["alertname"] == "GatehouseDown" && a.Status == status {
				out = append(out, a)
			}
		}
		return out
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "config"), 0o755); err != nil {
		t.Fatal(err)
	}
	g := serve(t, dir, []string{"--dev"})
	rules := filepath.Join(root(t), "config", "prometheus")
	prom := startPeer(t, "prometheus", freePorts(t, 2), "TARGET="+g.Admin+"/metrics", "RULES="+rules+"/rules.yml "+rules+"/alerts.yml", "INTERVAL=1s", "WEBHOOK="+sink.URL)["PROMETHEUS_URL"]
	eventually(t, 30*time.Second, "Prometheus scrapes", func() bool {
		resp, err := http.Get(prom + "/api/v1/query?query=" + url.QueryEscape(`up{job="gatehouse"} == 1`)) // it may answer 503 for a moment yet
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var a asked
		return json.NewDecoder(resp.Body).Decode(&a) == nil && len(a.Data.Result) == 1
	})

	g.stop(syscall.SIGKILL)
	eventually(t, 4*time.Minute, "the alert arrives", func() bool { return len(of("firing")) > 0 }) // for: 2m
	a := of("firing")[0]
	if a.Labels["severity"] != "critical" || a.Labels["instance"] == "" || a.Annotations["summary"] == "" || a.Annotations["description"] == "" || a.Annotations["runbook"] == "" {
		t.Errorf("it says %+v", a)
	}
	g.start()
	eventually(t, time.Minute, "its end arrives", func() bool { return len(of("resolved")) > 0 })
	if n := len(of("firing")); n != 1 {
		t.Errorf("it was told %d times", n)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, a := range got {
		if a.Labels["alertname"] != "GatehouseDown" {
			t.Errorf("another alert: %+v", a)
		}
	}
}
