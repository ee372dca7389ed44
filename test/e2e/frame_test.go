//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// The platform's own page, on another site, frames a console by a ticket, in
// Chromium over https with third-party cookies as browsers have them.
func TestFramedConsole(t *testing.T) {
	port, upstream := freePort(t), freePort(t)
	app := fmt.Sprintf("http://127.0.0.1:%d", port)
	demo := exec.Command(filepath.Join(root(t), "bin", "gatehouse"), "demo-upstream", "--listen", fmt.Sprintf("127.0.0.1:%d", upstream))
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = demo.Process.Signal(os.Interrupt); _ = demo.Wait() })
	eventually(t, 10*time.Second, "the demo upstream listens", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", upstream))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	g := serveTLSWith(t, fmt.Sprintf("frame_ancestors: [%q]", app), fmt.Sprintf(`
clients: [{client_id: app, client_secret: app-secret-of-a-test, redirect_uris: [%q], scope: "openid gatehouse:consoles", audiences: [ISSUER], trusted: true}]
`, app+"/callback"))
	g.lend("demo", fmt.Sprintf("http://127.0.0.1:%d", upstream), "terminal")
	browser(t, nil, "frame.mjs", g.URL, fmt.Sprintf("gpu.localhost:%d", g.port), "demo", "demo", "demo", "app", "app-secret-of-a-test", fmt.Sprint(port))
}
