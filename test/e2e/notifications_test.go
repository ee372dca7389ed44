//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/test/peers/robots"
)

const hookSecret = "whsec_d2ViaG9vay1zZWNyZXQtd2ViaG9vay1zZWNyZXQ="

// listener is a receiver of webhooks that verifies each message and keeps what
// came, repetitions too. after runs when the answer has been written.
type listener struct {
	URL   string
	inner robots.Webhook
	after func(n int) // n counts the messages from 1

	mu      sync.Mutex
	targets []string // of each message, in order of coming
	bad     []string
}

func listenForHooks(t *testing.T) *listener {
	t.Helper()
	l := &listener{inner: robots.Webhook{Secret: hookSecret}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil { // the sender died in the middle
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		answer := httptest.NewRecorder()
		l.inner.ServeHTTP(answer, r)
		var m struct {
			Data struct {
				Events []struct{ Target string }
			}
		}
		l.mu.Lock()
		if err := json.Unmarshal(body, &m); err != nil || answer.Code/100 != 2 || len(m.Data.Events) != 1 {
			l.bad = append(l.bad, fmt.Sprintf("%d %s: %s", answer.Code, answer.Body, body))
		} else {
			l.targets = append(l.targets, m.Data.Events[0].Target)
		}
		n := len(l.targets)
		l.mu.Unlock()
		w.WriteHeader(answer.Code)
		_ = http.NewResponseController(w).Flush()
		if l.after != nil {
			l.after(n)
		}
	}))
	t.Cleanup(s.Close)
	l.URL = s.URL
	return l
}

func (l *listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.targets)
}

// told waits until a console that is lent now is told of: a notifier follows the
// log from its end as it is when it starts, and tells in order, so that afterwards
// nothing older comes.
func (l *listener) told(t *testing.T, g *gatehouse, from int) (lent int) {
	t.Helper()
	n := 0
	eventually(t, 60*time.Second, "the log is followed", func() bool {
		lend(t, g, from+n, 1)
		n++
		last := fmt.Sprintf("c%04d", from+n-1)
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			l.mu.Lock()
			here := len(l.targets) > 0 && l.targets[len(l.targets)-1] == last
			l.mu.Unlock()
			if here {
				return true
			}
		}
		return false
	})
	return n
}

// forget lets the counting begin.
func (l *listener) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.targets = nil
}

// check fails the test unless the first n consoles were told in their order, and
// none but those under way at a kill twice.
func (l *listener) check(t *testing.T, n, kills int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.bad) > 0 {
		t.Errorf("%d messages did not verify, for example %s", len(l.bad), l.bad[0])
	}
	times, next := map[string]int{}, 0
	for _, target := range l.targets {
		if times[target]++; times[target] > 1 {
			continue
		}
		if want := fmt.Sprintf("c%04d", next); target != want {
			t.Fatalf("message %d is about %s, not %s: lost or out of order", next+1, target, want)
		}
		next++
	}
	twice := 0
	for target, k := range times {
		if k > 2 {
			t.Errorf("%s was told %d times", target, k)
		}
		if k > 1 {
			twice++
		}
	}
	if next != n || twice > kills {
		t.Errorf("%d of %d told, %d of them twice with %d kills", next, n, twice, kills)
	}
	t.Logf("%d told in order, %d of them twice, %d kills", next, twice, kills)
}

// lend lends n consoles at once: as many events.
func lend(t *testing.T, g *gatehouse, from, n int) {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(g.dir, "data", "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	var items []string
	for i := from; i < from+n; i++ {
		items = append(items, fmt.Sprintf(`{"id":"c%04d","upstream":"http://127.0.0.1:9","groups":["gpu-users"],"ttl":"1h"}`, i))
	}
	req, err := http.NewRequest(http.MethodPost, g.Admin+"/api/v1/consoles", strings.NewReader(`{"items":[`+strings.Join(items, ",")+`]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || strings.Contains(string(body), `"error"`) {
		t.Fatalf("lend: %d %v %.300s", resp.StatusCode, err, body)
	}
}

func hookConfig(l *listener) string {
	return fmt.Sprintf("consoles: {networks: [127.0.0.0/8]}\nwebhooks: [{name: siem, url: %q, secret: %s, events: [console.leased]}]\n", l.URL, hookSecret)
}

// NO-3: kill -9 in a burst of 1,000 events, each time right after the receiver
// has answered: none is lost, the order is kept, and at most the one under way
// comes twice.
func TestNotificationsThroughKills(t *testing.T) {
	l := listenForHooks(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": hookConfig(l)})
	g := serve(t, dir, []string{"--dev"})
	l.told(t, g, 5000)
	l.forget()
	at := map[int]bool{100: true, 400: true, 700: true}
	died := make(chan struct{}, len(at))
	l.after = func(n int) {
		if at[n] {
			_ = g.cmd.Process.Signal(syscall.SIGKILL)
			died <- struct{}{}
		}
	}
	lend(t, g, 0, 1000)
	for range at {
		select {
		case <-died:
		case <-time.After(90 * time.Second):
			t.Fatalf("only %d messages came", l.count())
		}
		g.stop(syscall.SIGKILL)
		g.start()
	}
	eventually(t, 90*time.Second, "all are told", func() bool { return l.count() >= 1000 })
	l.check(t, 1000+l.told(t, g, 1000), len(at))
}

// Two replicas on one Redis: where the one that sends is killed the other goes
// on, whichever it is.
func TestNotificationsTakenOver(t *testing.T) {
	l := listenForHooks(t)
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", hookConfig(l))
	l.told(t, a, 5000)
	l.forget()
	reached := func(n int) func() bool { return func() bool { return l.count() >= n } }
	lend(t, a, 0, 1000)
	eventually(t, 60*time.Second, "a part of it is told", reached(200))
	a.stop(syscall.SIGKILL)
	eventually(t, 90*time.Second, "the other goes on", reached(500))
	a.start()
	b.stop(syscall.SIGKILL)
	eventually(t, 120*time.Second, "the first goes on again", reached(1000))
	l.check(t, 1000+l.told(t, a, 1000), 2)
}
