package broker_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
)

// A console that refuses connections is waited for: the page loads itself again
// without a script, ever less often, and gives up; who answers is waited for anew.
func TestGatewayConsoleWakes(t *testing.T) {
	t.Parallel()
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	l.Close()
	h := start(t, "routes:\n  - {name: console, host: \"{node}.console.localhost\", lease: true}\n")
	h.lend(console.Lease{ID: "n7", Upstream: "http://" + addr, Owner: "x", Groups: []string{"gpu-users"}})
	b, u := h.browser(), h.at("n7.console", "/")
	b.enter("demo", "demo")
	seconds := func(a answer) int {
		t.Helper()
		h.refused("waking", a, http.StatusServiceUnavailable, "node.waking")
		n, err := strconv.Atoi(a.Header.Get("Refresh"))
		if err != nil || a.Header.Get("Retry-After") != a.Header.Get("Refresh") {
			t.Fatalf("Refresh %q, Retry-After %q", a.Header.Get("Refresh"), a.Header.Get("Retry-After"))
		}
		return n
	}
	first := b.follow(b.get(u))
	soon := seconds(first)
	if !strings.Contains(first.Body, "n7 is waking up") {
		t.Errorf("page: %s", first.Body)
	}
	if zh := b.get(u, "Accept-Language", "zh-CN"); !strings.Contains(zh.Body, "n7 正在启动") {
		t.Errorf("Chinese page: %s", zh.Body)
	}
	seconds(b.get(u, "Accept", "application/json"))
	h.wait(2 * time.Minute)
	if later := seconds(b.get(u)); later <= soon {
		t.Errorf("retried every %d s, then every %d s", soon, later)
	}
	h.wait(3 * time.Minute)
	if a := b.get(u); a.StatusCode != http.StatusBadGateway || a.Header.Get("Refresh") != "" || !strings.Contains(a.Body, "n7") {
		t.Errorf("after five minutes: %d, Refresh %q", a.StatusCode, a.Header.Get("Refresh"))
	}
	up := &httptest.Server{Listener: listen(t, addr), Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })}}
	up.Start()
	if a := b.get(u); a.StatusCode != http.StatusNoContent {
		t.Errorf("awake: %d", a.StatusCode)
	}
	up.Close()
	seconds(b.get(u))
}
