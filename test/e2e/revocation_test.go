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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// operate calls the operator's API on the private listener with data/admin.token.
func (g *gatehouse) operate(method, path string, body any) (int, map[string]any) {
	g.t.Helper()
	token, err := os.ReadFile(filepath.Join(g.dir, "data", "admin.token"))
	if err != nil {
		g.t.Fatal(err)
	}
	var in io.Reader
	if body != nil {
		js, err := json.Marshal(body)
		if err != nil {
			g.t.Fatal(err)
		}
		in = bytes.NewReader(js)
	}
	req, err := http.NewRequest(method, g.Admin+"/api/v1"+path, in)
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	if len(raw) > 0 && json.Unmarshal(raw, &out) != nil {
		out = map[string]any{"body": string(raw)}
	}
	return resp.StatusCode, out
}

// lend lends a console to the demo's group.
func (g *gatehouse) lend(id, upstream, kind string) {
	g.t.Helper()
	status, said := g.operate(http.MethodPut, "/consoles/"+id, map[string]any{"node": "node-" + id, "upstream": upstream, "kind": kind,
		"groups": []string{"gpu-users"}, "ttl": "1h"})
	if status != http.StatusOK && status != http.StatusCreated {
		g.t.Fatalf("PUT consoles/%s: %d %v", id, status, said)
	}
}

// chatter is an upstream whose sockets talk without end, or say nothing until
// they are asked, by path.
func chatter(t *testing.T) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			_, _ = io.WriteString(w, "a console")
			return
		}
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // the gateway has looked at Origin
		if err != nil {
			return
		}
		defer conn.CloseNow()
		ctx := conn.CloseRead(r.Context())
		if !strings.HasPrefix(r.Host, "busy-") {
			<-ctx.Done()
			return
		}
		for line := bytes.Repeat([]byte("x"), 100); conn.Write(ctx, websocket.MessageText, line) == nil; {
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// Revoked on replica A while the socket is open on replica B, with traffic and
// without, by the lease and by the session: 200 trials, each with the close
// code of its cause, the slowest within a second (docs/security.md GW-9).
func TestRevocationCutsSockets(t *testing.T) {
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", "")
	upstream := chatter(t)
	took := map[string][]time.Duration{}
	trial := func(i int, by, kind string, code int) {
		id := fmt.Sprintf("%s-%d", kind, i)
		a.lend(id, upstream, "terminal")
		p := enterBy(t, a, "local", "demo", "demo")
		p.at(b)
		s := p.consoleOf(t, b, id)
		if kind == "busy" { // traffic flows when it is cut
			if _, _, err := s.frame(3 * time.Second); err != nil {
				t.Fatal(err)
			}
		}
		revoke := func() { a.operate(http.MethodDelete, "/consoles/"+id, nil) }
		if by == "session" {
			p.at(a)
			form := p.signOutForm()
			revoke = func() { p.send(http.MethodPost, "/signout", form) }
		}
		began := time.Now()
		revoke()
		if got := s.closed(3 * time.Second); got != code {
			t.Errorf("trial %d, %s ended by its %s: closed with %d, not %d", i, kind, by, got, code)
		}
		took[by+", "+kind] = append(took[by+", "+kind], time.Since(began))
		s.conn.Close()
	}
	for i := range 50 {
		for _, kind := range []string{"idle", "busy"} {
			trial(2*i, "lease", kind, 4403)
			trial(2*i+1, "session", kind, 4401)
		}
	}
	for what, all := range took {
		slices.Sort(all)
		worst := all[len(all)-1]
		t.Logf("%-14s %d trials, median %v, worst %v", what, len(all), all[len(all)/2].Round(time.Millisecond), worst.Round(time.Millisecond))
		if worst > time.Second { // the bound that surface and docs promise, not a benchmark
			t.Errorf("%s: the slowest took %v", what, worst)
		}
	}
}
