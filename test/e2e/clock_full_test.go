//go:build e2e && full

package e2e

import (
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// wrongClock answers every POST with 204, by a clock of its own.
const wrongClock = `
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(204)
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
`

// A server whose machine's clock is five minutes ahead is noticed by its answers
// alone, and that it is theirs.
func TestClockOfAnotherMachine(t *testing.T) {
	port := strconv.Itoa(freePort(t))
	server := exec.Command("faketime", "-f", "+5m", "python3", "-c", wrongClock, port)
	if err := server.Start(); err != nil {
		t.Fatalf("%v: install it with test/e2e/install.sh full", err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	eventually(t, 20*time.Second, "the server listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf("webhooks: [{name: off, url: \"http://127.0.0.1:%s/hook\", secret: %s, events: [signin.*]}]\n", port, hookSecret)})
	g := serve(t, dir, []string{"--dev"})
	for range 5 {
		newPerson(t, g).code("openid")
	}
	var found []finding
	eventually(t, 3*time.Minute, "the clock is noticed", func() bool { found = g.raised("clock_skew"); return len(found) > 0 })
	d := found[0].Details
	ahead, err := time.ParseDuration(d["ahead"])
	if len(found) != 1 || err != nil || ahead < 4*time.Minute || ahead > 6*time.Minute || d["whose"] != "theirs" || !strings.Contains(d["clock"], "127.0.0.1") {
		t.Errorf("raised %v", found)
	}
}
