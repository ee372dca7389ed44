//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"syscall"
	"testing"
	"time"
)

// finding is a detection.raised as `audit search` gives it.
type finding struct{ Details map[string]string }

// raised is what a replica finds of a rule in the log, newest first.
func (g *gatehouse) raised(rule string) (out []finding) {
	g.t.Helper()
	var found []finding
	if err := json.Unmarshal([]byte(g.run("audit", "search", "--json", "--name", "detection.raised")), &found); err != nil {
		g.t.Fatal(err)
	}
	for _, f := range found {
		if f.Details["rule"] == rule {
			out = append(out, f)
		}
	}
	return out
}

// A spray that is spread over two replicas on one Redis is one spray, whichever of
// them reads the log, and is said once: also when the one that said it is killed
// and the other reads the same window again.
func TestSprayingOverTwoReplicas(t *testing.T) {
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0",
		"trusted_proxies: [127.0.0.1/32]\ndetection: {password_spraying: {accounts: 8}}\nrate_limits: {address_failures: 1000, network_failures: 1000}\n")
	n := 0
	spray := func(from string, times int, gs ...*gatehouse) {
		t.Helper()
		for range times {
			for _, g := range gs {
				n++
				p := newPerson(t, a)
				p.at(g)
				form := p.send(http.MethodGet, "/signin/local", nil)
				m := attemptField.FindStringSubmatch(form.Body)
				if m == nil {
					t.Fatalf("no form: %d", form.StatusCode)
				}
				p.send(http.MethodPost, "/signin/local", url.Values{"username": {fmt.Sprintf("nobody-%d", n)}, "password": {"wrong"}, "attempt": {m[1]}}, "X-Forwarded-For", from)
			}
		}
	}
	networks := func(g *gatehouse) map[string]int {
		t.Helper()
		times := map[string]int{}
		for _, f := range g.raised("password_spraying") {
			times[f.Details["scope"]+" "+f.Details["network"]]++
		}
		return times
	}
	spray("198.51.100.7", 6, a, b) // neither sees eight
	for _, g := range []*gatehouse{a, b} {
		eventually(t, 40*time.Second, "the spray is found on either", func() bool { return networks(g)["address 198.51.100.7/32"] > 0 })
	}
	// One of the two is the one that read. The other finds the next spray, and has
	// by then judged the window that the first is in.
	for _, round := range []struct {
		dies, stays *gatehouse
		from        string
	}{{a, b, "203.0.113.1"}, {b, a, "203.0.113.2"}} {
		round.dies.stop(syscall.SIGKILL)
		spray(round.from, 12, round.stays)
		eventually(t, 60*time.Second, "the one that is left finds another spray", func() bool { return networks(round.stays)["address "+round.from+"/32"] > 0 })
		round.dies.start()
	}
	for _, g := range []*gatehouse{a, b} {
		var got map[string]int
		eventually(t, 40*time.Second, "all three", func() bool { got = networks(g); return len(got) == 3 })
		for network, times := range got {
			if times != 1 {
				t.Errorf("the spray from %s was said %d times", network, times)
			}
		}
	}
}
