package broker_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/remotegpu/gatehouse/broker/event"
)

// reload has the broker read other YAML, by the API.
func (h *harness) reload(yaml string) answer {
	h.t.Helper()
	h.mu.Lock()
	h.yaml = yaml
	h.mu.Unlock()
	return h.operator(http.MethodPost, "/api/v1/reload", "")
}

// reloads fails the test unless the reload changed just these keys.
func (h *harness) reloads(yaml, changed, restart string) {
	h.t.Helper()
	a := h.reload(yaml)
	m := a.json(h.t)
	if got := fmt.Sprintln(m["changed"], m["restart"]); a.StatusCode != http.StatusOK || got != fmt.Sprintf("[%s] [%s]\n", changed, restart) {
		h.t.Fatalf("reload: %d %s, want [%s] [%s]", a.StatusCode, a.Body, changed, restart)
	}
}

// One rule is changed while a socket and a request are open: what may go on does,
// what may not ends with its code, and no request fails.
func TestReloadOfRoutesDecidesAgainWhatIsOpen(t *testing.T) {
	t.Parallel()
	const routes = `
routes:
  - {name: api, host: api.localhost, upstream: UP, audience: demo-api}
  - {name: other, host: other.localhost, upstream: UP}
  - {name: gone, host: gone.localhost, upstream: UP}
`
	entered, answerNow := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(answerNow) })
	defer release()
	h, up := gate(t, routes, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(entered)
			<-answerNow
			_, _ = io.WriteString(w, "slow")
			return
		}
		echoes(w, r)
	})
	sock := func(host string) *websocket.Conn {
		b := h.visit(h.at(host, "/plain"))
		return b.opensSocket(h.at(host, "/ws"), "Origin", h.at(host, ""))
	}
	stays, refused, gone := sock("api"), sock("other"), sock("gone")
	b := h.visit(h.at("api", "/plain"))
	slow := make(chan answer)
	go func() { slow <- b.get(h.at("api", "/slow")) }()
	<-entered
	h.reloads(up.routesYAML(`
routes:
  - {name: api2, host: api.localhost, upstream: UP, audience: demo-api}
  - {name: other, host: other.localhost, upstream: UP, allow: "'nobody' in user.groups"}
`), "routes", "")
	closes(t, "its route now refuses", refused, 4403)
	closes(t, "its route is gone", gone, 4403)
	says(t, stays, []byte("still here"))
	release()
	if a := <-slow; a.StatusCode != http.StatusOK || a.Body != "slow" {
		t.Errorf("a request under way at the reload: %d %s", a.StatusCode, a.Body)
	}
	if a := b.get(h.at("other", "/plain")); a.StatusCode == http.StatusOK {
		t.Error("the new rule does not hold")
	}
	if a := b.get(h.at("gone", "/plain")); a.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("a host without a route: %d", a.StatusCode)
	}
}

// A configuration with a fault is refused whole, with every problem and its
// place, and is an event; what waits for a restart is named and not applied.
func TestReloadRefusesWhole(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: "brand: Before\n", wrap: w.watch})
	a := h.reload("brand: After\nroutes:\n  - {name: x, host: x.localhost, upstream: 'nonsense'}\n  - {name: y, host: y.localhost, upstream: 'http://127.0.0.1:1', allow: '1 +'}\n")
	h.refused("two faults", a, http.StatusUnprocessableEntity, "config.rejected")
	lines := map[any]bool{}
	for _, f := range a.json(t)["findings"].([]any) {
		m := f.(map[string]any)
		if m["severity"] == "error" && m["file"] == "test.yml" && m["column"] != nil {
			lines[m["line"]] = true
		}
	}
	if !lines[3.0] || !lines[4.0] {
		t.Errorf("not every problem has its place: %s", a.Body)
	}
	page := func() string { b := h.browser(); return b.follow(b.get("/")).Body }
	if p := page(); !strings.Contains(p, "Before") || strings.Contains(p, "After") {
		t.Error("a refused configuration changed the pages")
	}
	h.reloads("brand: After\nstore: sqlite:elsewhere.db\nlog: {format: json}\n", "brand log", "store log.format")
	if p := page(); !strings.Contains(p, "After") {
		t.Error("the brand was not changed")
	}
	if a := h.operator(http.MethodGet, "/api/v1/connectors", ""); a.StatusCode != http.StatusOK {
		t.Errorf("after it: %d", a.StatusCode)
	}
	rejected, reloaded := w.named(event.ConfigRejected), w.named(event.ConfigReloaded)
	if len(rejected) != 1 || rejected[0].Actor != "operator" || !strings.Contains(rejected[0].Details["reason"], "test.yml:4:") {
		t.Errorf("config.rejected: %+v", rejected)
	}
	if len(reloaded) != 1 || reloaded[0].Details["changed"] != "brand log" || reloaded[0].Details["restart"] != "store log.format" {
		t.Errorf("config.reloaded: %+v", reloaded)
	}
}

// Connectors, clients, limits and accounts: those of the new configuration hold
// at once, and who came by a connector that is gone is signed out.
func TestReloadOfConnectorsAndClients(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	b := h.browser()
	b.enter("demo", "demo")
	const client = "clients: [{client_id: another, client_secret: another-secret-of-32-characters!, grant_types: [client_credentials], scope: 'deployments:write', audiences: [demo-api]}]\n"
	if a := h.tokenAs("another", "another-secret-of-32-characters!", map[string][]string{"grant_type": {"client_credentials"}}); a.StatusCode != http.StatusUnauthorized {
		t.Fatalf("before: %d", a.StatusCode)
	}
	h.reloads(client, "clients", "")
	if a := h.tokenAs("another", "another-secret-of-32-characters!", map[string][]string{"grant_type": {"client_credentials"}}); a.StatusCode == http.StatusUnauthorized {
		t.Errorf("a new client: %d %s", a.StatusCode, a.Body)
	}
	if a := b.get("/account"); a.StatusCode != http.StatusOK {
		t.Errorf("an unconcerned session: %d", a.StatusCode)
	}
	h.reloads("local: {disabled: true}\nldap: {host: 127.0.0.1, port: 1, use_ssl: true, base_dn: 'dc=example,dc=com'}\n", "clients connectors.ldap connectors.local", "")
	if _, ok := h.connector("local"); ok {
		t.Error("the connector that is gone is there")
	}
	if a := b.get("/account"); a.StatusCode == http.StatusOK {
		t.Error("the session of a connector that is gone goes on")
	}
	if _, ok := h.connector("ldap"); !ok {
		t.Error("the new connector is not there")
	}
}

// connector is a connector as the API shows it.
func (h *harness) connector(id string) (map[string]any, bool) {
	for _, it := range h.operator(http.MethodGet, "/api/v1/connectors", "").json(h.t)["items"].([]any) {
		if m := it.(map[string]any); m["id"] == id {
			return m, true
		}
	}
	return nil, false
}

// A hundred reloads under load: no request fails, an open socket goes on, and
// nothing of what was replaced stays behind.
func TestReloadUnderLoad(t *testing.T) {
	h, up := gate(t, plainRoutes, echoes)
	b := h.visit(h.at("api", "/plain"))
	sock := b.opensSocket(h.at("api", "/ws"), "Origin", h.at("api", ""))
	ctx, stop := context.WithCancel(t.Context())
	var failed, done atomic.Int64
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				if a := b.get(h.at("api", "/plain")); a.StatusCode != http.StatusOK {
					failed.Add(1)
				}
				done.Add(1)
			}
		})
	}
	once := func(i int) {
		h.mu.Lock()
		h.yaml = up.routesYAML(plainRoutes) + fmt.Sprintf("brand: Number %d\n", i)
		h.mu.Unlock()
		if _, err := h.b.Reload(t.Context(), "test"); err != nil {
			t.Error(err)
		}
	}
	once(0)
	before := runtime.NumGoroutine()
	var callers sync.WaitGroup
	for w := range 2 {
		callers.Go(func() {
			for i := range 50 {
				once(1 + w*50 + i)
			}
		})
	}
	callers.Wait()
	stop()
	load.Wait()
	if failed.Load() > 0 || done.Load() == 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), done.Load())
	}
	says(t, sock, []byte("still here"))
	const slack = 50 // connections come and go
	for until := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before+slack; runtime.Gosched() {
		if time.Now().After(until) {
			t.Fatalf("%d goroutines, %d before a hundred reloads", runtime.NumGoroutine(), before)
		}
	}
}
