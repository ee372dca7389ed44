package broker_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/remotegpu/gatehouse/broker/console"
)

// consoles.ca_file is read again when it changes, for requests and for sockets; a
// file that holds no certificate leaves those from before in use.
func TestConsolesAuthorityIsReadAgain(t *testing.T) {
	t.Parallel()
	was, is := newAuthority(t), newAuthority(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	begin := time.Now().Add(-time.Hour)
	put := func(from string, at time.Duration) {
		t.Helper()
		pem := []byte("half of it")
		if from != "" {
			var err error
			if pem, err = os.ReadFile(from); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(ca, pem, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(ca, begin.Add(at), begin.Add(at)); err != nil { // however fast this runs
			t.Fatal(err)
		}
	}
	put(was.File, 0)
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // the gateway has looked at Origin
		if err != nil {
			return
		}
		defer c.CloseNow()
		if kind, b, err := c.Read(r.Context()); err == nil {
			_ = c.Write(r.Context(), kind, b)
			_, _, _ = c.Read(r.Context()) // until it is closed
		}
	}))
	up.TLS = &tls.Config{Certificates: []tls.Certificate{is.pair("console", "gpu.internal")}}
	up.StartTLS()
	defer up.Close()
	h := start(t, `
routes: [{name: console, host: "{node}.console.localhost", lease: true}]
consoles: {networks: [127.0.0.0/8], ca_file: `+ca+`}
`)
	h.lend(console.Lease{ID: "n7", Upstream: up.URL, TLS: console.TLS{ServerName: "gpu.internal"}, Owner: "x", Groups: []string{"gpu-users"}})
	h.lend(console.Lease{ID: "n8", Upstream: up.URL, Owner: "x", Groups: []string{"gpu-users"}}) // goes by another name
	b := h.browser()
	b.enter("demo", "demo")
	at := h.at("n7.console", "/")
	opens := func(what string, want int) {
		t.Helper()
		if a := b.follow(b.get(at)); a.StatusCode != want {
			t.Errorf("%s: %d, want %d", what, a.StatusCode, want)
		}
		c, resp, err := b.socket(h.at("n7.console", "/ws"))
		if want == http.StatusNoContent && err == nil {
			says(t, c, []byte("x"))
		} else if want == http.StatusNoContent || status(resp) != want {
			t.Errorf("%s, a socket: %d, %v, want %d", what, status(resp), err, want)
		}
	}
	opens("another authority", http.StatusBadGateway)
	put(is.File, time.Minute)
	h.wait(2 * time.Second)
	opens("the new authority", http.StatusNoContent)
	if a := b.follow(b.get(h.at("n8.console", "/"))); a.StatusCode != http.StatusBadGateway {
		t.Errorf("a certificate of another name: %d", a.StatusCode)
	}
	put("", 2*time.Minute)
	h.wait(2 * time.Second)
	opens("a file that is half written", http.StatusNoContent)
	put(was.File, 3*time.Minute)
	h.wait(2 * time.Second)
	if _, resp, err := b.socket(h.at("n7.console", "/ws")); err == nil || status(resp) != http.StatusBadGateway { // requests may use a connection that is there
		t.Errorf("the old authority, a socket: %d, %v", status(resp), err)
	}
}
