package broker_test

import (
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/remotegpu/gatehouse/broker/console"
)

// GW-9: a socket that is being opened while its session ends is refused or
// ended; none slips between the look and the registration.
func TestGatewaySocketsOpenedWhileTheSessionEnds(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, plainRoutes, echoes)
	for range 3 {
		b := h.visit(h.at("api", "/"))
		page := b.get("/signout")
		var open []*websocket.Conn
		var mu sync.Mutex
		var all sync.WaitGroup
		begin := make(chan struct{})
		for range 16 {
			all.Go(func() {
				<-begin
				for range 3 {
					if c, _, err := b.socket(h.at("api", "/ws")); err == nil {
						mu.Lock()
						open = append(open, c)
						mu.Unlock()
					}
				}
			})
		}
		close(begin)
		b.follow(b.post("/signout", url.Values{"token": {field(t, tokenField, page)}}))
		all.Wait()
		for i, c := range open {
			closes(t, fmt.Sprintf("socket %d of %d", i, len(open)), c, 4401)
		}
		if _, resp, err := b.socket(h.at("api", "/ws")); err == nil || status(resp) != http.StatusUnauthorized {
			t.Errorf("afterwards: %d, %v", status(resp), err)
		}
	}
}

// GW-9, GW-13: the same with a lease that goes to somebody else.
func TestGatewaySocketsOpenedWhileTheLeaseEnds(t *testing.T) {
	t.Parallel()
	h, up := gate(t, plainRoutes, echoes)
	h.lend(console.Lease{ID: "n1", Upstream: up.URL, Owner: "a", Groups: []string{"gpu-users"}})
	b := h.visit(h.at("n1.console", "/"))
	var open []*websocket.Conn
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 3 {
				if c, _, err := b.socket(h.at("n1.console", "/ws")); err == nil {
					mu.Lock()
					open = append(open, c)
					mu.Unlock()
				}
			}
		})
	}
	h.lend(console.Lease{ID: "n1", Upstream: up.URL, Owner: "b"})
	all.Wait()
	for i, c := range open {
		closes(t, fmt.Sprintf("socket %d of %d", i, len(open)), c, 4403)
	}
}

// GW-14: one session cannot have everything open; another one is not held up.
func TestGatewayLimitsWhatIsOpen(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, plainRoutes, echoes)
	b, other := h.visit(h.at("api", "/")), h.visit(h.at("api", "/"))
	const most = 128
	for range most {
		b.opensSocket(h.at("api", "/ws"))
	}
	if _, resp, err := b.socket(h.at("api", "/ws")); err == nil || status(resp) != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("one more: %d, %v", status(resp), err)
	}
	if a := b.get(h.at("api", "/")); a.StatusCode != http.StatusOK {
		t.Errorf("a plain request: %d", a.StatusCode)
	}
	c := other.opensSocket(h.at("api", "/ws"))
	says(t, c, []byte("x"))
}
