package broker_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
)

// A console that does not listen yet is waking up: a page that asks again by
// itself, 503 for programs and sockets; after a while its node does not answer.
func TestConsoleWakesUp(t *testing.T) {
	t.Parallel()
	spare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := spare.Addr().String()
	spare.Close()
	h, _ := gate(t, `
routes: [{name: console, host: "{node}.console.localhost", lease: true}]
consoles: {networks: [127.0.0.0/8]}
`, nil)
	h.lend(console.Lease{ID: "n7", Node: "gpu-17", Title: "Training run", Upstream: "http://" + address, Owner: "x", Groups: []string{"gpu-users"}})
	b := h.browser()
	b.enter("demo", "demo")
	at := h.at("n7.console", "/")
	page := b.follow(b.get(at, "Accept-Language", "en"))
	if page.StatusCode != http.StatusServiceUnavailable || page.Header.Get("Refresh") == "" || page.Header.Get("Retry-After") == "" || !strings.Contains(page.Body, "Waking up your console Training run") || !strings.Contains(page.Body, "gpu-17") {
		t.Fatalf("%d %v %s", page.StatusCode, page.Header, page.Body)
	}
	js := b.get(at, "Accept", "application/json", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Site", "same-origin")
	if js.StatusCode != http.StatusServiceUnavailable || js.Header.Get("Refresh") != "" || js.Header.Get("Retry-After") == "" || js.json(t)["code"] != "node.waking" {
		t.Errorf("a program: %d %v %s", js.StatusCode, js.Header, js.Body)
	}
	if _, resp, err := b.socket(h.at("n7.console", "/ws")); err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a socket: %v %v", resp, err)
	}
	home := b.get("/", "Accept-Language", "en")
	if !strings.Contains(home.Body, "Not answering yet") || !strings.Contains(home.Body, "Lent until") {
		t.Errorf("the portal: %s", home.Body)
	}
	// One without node and kind is a console, too.
	h.lend(console.Lease{ID: "n8", Upstream: "http://" + address, Owner: "x", Groups: []string{"gpu-users"}})
	if home := b.get("/", "Accept-Language", "en"); !strings.Contains(home.Body, `muted wrap">Console</p>`) {
		t.Errorf("a lease that says little: %s", home.Body)
	}
	h.wait(6 * time.Minute)
	if late := b.get(at, "Accept-Language", "en"); late.StatusCode != http.StatusBadGateway || late.Header.Get("Refresh") != "" || !strings.Contains(late.Body, "gpu-17 does not answer") {
		t.Errorf("after six minutes: %d %v %s", late.StatusCode, late.Header, late.Body)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "awake") })}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	if up := b.get(at); up.StatusCode != http.StatusOK || up.Body != "awake" {
		t.Errorf("awake: %d %s", up.StatusCode, up.Body)
	}
	h.wait(20 * time.Second)
	if home := b.get("/", "Accept-Language", "en"); !strings.Contains(home.Body, "Ready") {
		t.Errorf("the portal of a console that is up: %s", home.Body)
	}
	// Asleep again: the waiting begins anew.
	srv.Close()
	if again := b.get(at, "Accept-Language", "en"); again.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("asleep again: %d", again.StatusCode)
	}
}
