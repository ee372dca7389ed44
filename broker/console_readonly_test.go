package broker_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/remotegpu/gatehouse/broker/console"
)

// A read-only lease: guests see and cannot act, the owner can.
func TestReadOnlyLease(t *testing.T) {
	t.Parallel()
	h, up := gate(t, `
routes: [{name: console, host: "{node}.console.localhost", lease: true}]
consoles: {networks: [127.0.0.0/8]}
`, nil)
	b := h.browser()
	b.enter("demo", "demo")
	h.lend(console.Lease{ID: "ro", Upstream: up.URL, Owner: "x", Groups: []string{"gpu-users"}, ReadOnly: true})
	b.open(h.at("ro.console", "/"))
	me := up.last(t).Header.Get("X-Gatehouse-User")
	post := func() int {
		return b.post(h.at("ro.console", "/run"), nil, "Sec-Fetch-Site", "same-origin").StatusCode
	}
	n := len(up.requests())
	if got := post(); got != http.StatusForbidden || len(up.requests()) != n {
		t.Errorf("a guest acts: %d", got)
	}
	h.lend(console.Lease{ID: "ro", Upstream: up.URL, Owner: me, Groups: []string{"gpu-users"}, ReadOnly: true})
	if got := post(); got != http.StatusOK {
		t.Errorf("the owner: %d", got)
	}
}

// A guest's socket hears the console and says nothing to it.
func TestReadOnlySocket(t *testing.T) {
	t.Parallel()
	said := make(chan string, 10)
	h, up := gate(t, `
routes: [{name: console, host: "{node}.console.localhost", lease: true}]
consoles: {networks: [127.0.0.0/8]}
`, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			return
		}
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		_ = c.Write(r.Context(), websocket.MessageText, []byte("hello"))
		for {
			_, m, err := c.Read(r.Context())
			if err != nil {
				return
			}
			said <- string(m)
		}
	})
	h.lend(console.Lease{ID: "ro", Upstream: up.URL, Owner: "x", Groups: []string{"gpu-users"}, ReadOnly: true})
	b := h.visit(h.at("ro.console", "/"))
	c := b.opensSocket(h.at("ro.console", "/ws"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, m, err := c.Read(ctx); err != nil || string(m) != "hello" {
		t.Fatalf("the guest hears %q, %v", m, err)
	}
	if err := c.Write(ctx, websocket.MessageText, []byte("rm -rf")); err != nil {
		t.Fatal(err)
	}
	reading := c.CloseRead(ctx)
	if err := c.Ping(reading); err != nil {
		t.Errorf("a ping does not pass: %v", err)
	}
	select {
	case m := <-said:
		t.Errorf("the console was told %q", m)
	default:
	}
}
